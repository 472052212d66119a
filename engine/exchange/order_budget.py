"""The account's order counts: entries leave room for exits, and are charged for the orders they will cause."""

from __future__ import annotations

from typing import Any

ORDERS_PER_ENTRY = 3  # the entry, its protective stop, its exit
KEPT_FOR_EXITS = 0.30


class OrderBudget:
    """Orders in the windows of 10 s and 1 min. Times are exchange ms; the exchange's own counts correct ours.

    Exits and protection are counted but never refused here: the exchange decides on those.
    """

    def __init__(self, limit_10s: int = 300, limit_1m: int = 1_200) -> None:
        self._limits = {10_000: limit_10s, 60_000: limit_1m}
        self._used = {10_000: 0, 60_000: 0}
        self._window = {10_000: -1, 60_000: -1}
        self._banned_until_ms = 0

    def count(self, now_ms: int, orders: int = 1) -> None:
        """Count orders that were handed to a socket."""
        self._turn(now_ms)
        for span in self._used:
            self._used[span] += orders

    def correct(self, ten_s: int, minute: int, now_ms: int) -> None:
        """Take the exchange's counts; ours never go below them within a window."""
        self._turn(now_ms)
        self._used[10_000] = max(self._used[10_000], ten_s)
        self._used[60_000] = max(self._used[60_000], minute)

    def take_limits(self, limits: list[dict[str, Any]], now_ms: int) -> None:
        """Read the `rateLimits` list of a WS API answer."""
        counts = dict(self._used)
        for row in limits:
            if row.get("rateLimitType") != "ORDERS":
                continue
            span = int(row.get("intervalNum", 1)) * (1_000 if row.get("interval") == "SECOND" else 60_000)
            if span in counts:
                self._limits[span] = int(row.get("limit", self._limits[span]))
                counts[span] = int(row.get("count", 0))
        self.correct(counts[10_000], counts[60_000], now_ms)

    def ban(self, until_ms: int) -> None:
        """Refuse entries until then (429, 418, −1015)."""
        self._banned_until_ms = max(self._banned_until_ms, until_ms)

    def room_for_entry(self, now_ms: int) -> bool:
        """Whether one more entry, with the orders it will cause, leaves 30 % for exits and protection."""
        self._turn(now_ms)
        if now_ms < self._banned_until_ms:
            return False
        return all(
            self._used[span] + ORDERS_PER_ENTRY <= (1.0 - KEPT_FOR_EXITS) * limit
            for span, limit in self._limits.items()
        )

    def _turn(self, now_ms: int) -> None:
        for span in self._used:
            window = now_ms // span
            if window != self._window[span]:
                self._window[span], self._used[span] = window, 0
