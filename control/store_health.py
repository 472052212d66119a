"""How the store and the tail are, as their keeper last said."""

from __future__ import annotations

from dataclasses import dataclass

from control.shapes import StoreStatus


@dataclass
class StoreHealth:
    """What the store's keeper (the tail) last said; updated by it, read by handlers."""

    ok: bool = False
    kind: str = "embedded"
    detail: str = "not opened yet"
    tail_seq: int | None = None
    tail_rows: int = 0
    behind_s: float = 0.0
    audit_compared: int | None = None  # of the newest `ta audit`: vectors, stored values and candles looked at
    audit_differing: int | None = None  # and how many of them were not reproduced bit for bit

    def status(self, journal_seq: int | None) -> StoreStatus:
        """Return the API's view; the lag is known when both ends are."""
        lag = None if self.tail_seq is None or journal_seq is None else max(0, journal_seq - self.tail_seq)
        return StoreStatus(ok=self.ok, kind=self.kind, detail=self.detail, lag_records=lag)
