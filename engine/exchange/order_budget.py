"""The account's order counts: entries leave room for exits, and are charged for the orders they will cause."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

ORDERS_PER_ENTRY = 3  # the entry, its protective stop, its exit
KEPT_FOR_EXITS = 0.30
SPANS_MS = (10_000, 60_000)
WORDS = 7  # per span limit, used, window; then the time until which entries rest


class OrderBudget:
    """Orders in the windows of 10 s and 1 min. Times are exchange ms; the exchange's own counts correct ours.

    path: a small mapped file that the processes of one account share (engine and watchdog); None: this process alone.
    It is not locked, since it is written on the way of every order: what two processes count at the very same moment
    may be one too few until the next answer's count corrects it. Exits and protection are counted but never refused
    here: the exchange decides on those.
    """

    def __init__(self, limit_10s: int = 300, limit_1m: int = 1_200, path: Path | None = None) -> None:
        self._map: mmap.mmap | None = None
        if path is None:
            self._words = memoryview(bytearray(8 * WORDS)).cast("q")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if os.fstat(file).st_size < 8 * WORDS:
                os.posix_fallocate(file, 0, 8 * WORDS)  # a full disk is an error here, not a SIGBUS later
            self._map = mmap.mmap(file, 8 * WORDS)
            os.close(file)
            self._words = memoryview(self._map).cast("q")
        self._words[0], self._words[3] = limit_10s, limit_1m

    def count(self, now_ms: int, orders: int = 1) -> None:
        """Count orders that were handed to a socket."""
        self._turn(now_ms)
        self._words[1] += orders
        self._words[4] += orders

    def correct(self, ten_s: int, minute: int, now_ms: int) -> None:
        """Take the exchange's counts; ours never go below them within a window."""
        self._turn(now_ms)
        self._words[1] = max(self._words[1], ten_s)
        self._words[4] = max(self._words[4], minute)

    def take_limits(self, limits: list[dict[str, Any]], now_ms: int) -> None:
        """Read the `rateLimits` list of a WS API answer."""
        counts = [self._words[1], self._words[4]]
        for row in limits:
            if row.get("rateLimitType") != "ORDERS":
                continue
            span = int(row.get("intervalNum", 1)) * (1_000 if row.get("interval") == "SECOND" else 60_000)
            if span in SPANS_MS:
                at = SPANS_MS.index(span)
                self._words[3 * at] = int(row.get("limit", self._words[3 * at]))
                counts[at] = int(row.get("count", 0))
        self.correct(counts[0], counts[1], now_ms)

    def ban(self, until_ms: int) -> None:
        """Refuse entries until then (429, 418, −1015)."""
        self._words[6] = max(self._words[6], until_ms)

    def room_for_entry(self, now_ms: int) -> bool:
        """Whether one more entry, with the orders it will cause, leaves 30 % for exits and protection."""
        self._turn(now_ms)
        if now_ms < self._words[6]:
            return False
        return all(
            self._words[3 * at + 1] + ORDERS_PER_ENTRY <= (1.0 - KEPT_FOR_EXITS) * self._words[3 * at]
            for at in range(len(SPANS_MS))
        )

    def _turn(self, now_ms: int) -> None:
        words, ten_s, minute = self._words, now_ms // SPANS_MS[0], now_ms // SPANS_MS[1]
        if words[2] != ten_s:
            words[2], words[1] = ten_s, 0
        if words[5] != minute:
            words[5], words[4] = minute, 0
