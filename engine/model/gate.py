"""May this candidate replace the production model? Paired, on days that neither has seen, net of costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.model.policy import DAY_MS, Earned, bootstrap

EMBARGO_MS = DAY_MS
MIN_DAYS = 14
MIN_TRADES = 200
QUANTILE = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found; `verdict` is 'pass', 'not better' or 'insufficient evidence'."""

    verdict: str
    detail: str
    from_ms: int
    to_ms: int
    days: int
    trades: int
    net: float
    net_production: float
    difference_q05: float

    def evidence(self) -> dict[str, Any]:
        """Return the figures for the registry's event."""
        return asdict(self)


def unseen_from(manifests: list[dict[str, Any]]) -> int:
    """Return the first decision time that is later than every model's last training or stop label + 24 h."""
    return max(int(manifest["labels_to_ms"]) for manifest in manifests) + EMBARGO_MS


def judge(candidate: Earned | None, production: Earned | None, seed: int = 7) -> Verdict:
    """Compare what two models earned on the same period later than `unseen_from` of both (None: there is no such bar).

    Without a production model the comparison is with not trading. Passes if the 5 % quantile of the paired day-block
    bootstrap of the net difference is above 0 and the candidate's net is too, on at least 14 days and 200 trades of the
    candidate.
    """
    if candidate is None:
        detail = "no stored bar is later than both models' training"
        return Verdict("insufficient evidence", detail, 0, 0, 0, 0, 0.0, 0.0, 0.0)
    other = np.zeros(len(candidate.days)) if production is None else production.pnl
    low = float(np.quantile(bootstrap(candidate.pnl - other, seed), QUANTILE))
    net, net_other, days = float(candidate.pnl.sum()), float(other.sum()), candidate.whole_days
    verdict, detail = "pass", f"net {net:+.4f} against {net_other:+.4f} of equity"
    if days < MIN_DAYS or candidate.trades < MIN_TRADES:
        verdict = "insufficient evidence"
        detail = f"{days} days and {candidate.trades} trades unseen by both models; needed {MIN_DAYS} and {MIN_TRADES}"
    elif low <= 0 or net <= 0:
        verdict = "not better"
        detail += f"; the 5 % quantile of the difference is {low:+.4f}, needed above 0 with a net above 0"
    return Verdict(verdict, detail, candidate.from_ms, candidate.to_ms - 1, days, candidate.trades, net, net_other, low)
