"""Asynchrony: every part of the exchange answers after its own seeded delay; without it no race can occur in a test."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

# name: (shortest, typical, longest) in ms; exponential between the first two, one in fifty up to the longest
DELAYS_MS: dict[str, tuple[float, float, float]] = {
    "request": (0.5, 2.0, 20.0),  # gateway to matching
    "reply": (0.3, 1.5, 15.0),  # matching to the reply
    "ORDER_TRADE_UPDATE": (0.5, 4.0, 60.0),
    "ACCOUNT_UPDATE": (0.5, 5.0, 80.0),
    "TRADE_LITE": (0.2, 2.0, 30.0),
    "ALGO_UPDATE": (1.0, 12.0, 250.0),
    "other": (1.0, 5.0, 50.0),
    "algo_sees": (15.0, 80.0, 600.0),  # a fill to the algo service's own picture of positions
    "algo_request": (1.0, 4.0, 40.0),
    "trigger": (2.0, 15.0, 200.0),  # TRIGGERING to the child order in the matching engine
    "gone": (50.0, 300.0, 2_000.0),  # a flat position to the expiry of its closePosition orders
    "view": (2.0, 30.0, 5_000.0),  # state to what REST queries show
}
RARE = 0.02


class Scheduler:
    """Calls due functions in time order. It owns no clock: `now` is given, and `run` is told the time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.wake: Callable[[float], None] | None = None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, time_ms: float, call: Callable[[], None]) -> None:
        """Call at `time_ms` of the scheduler's clock, or as soon after as it is run."""
        heapq.heappush(self._heap, (time_ms, next(self._order), call))
        if self.wake is not None and self._heap[0][0] == time_ms:
            self.wake(time_ms)

    def after(self, delay_ms: float, call: Callable[[], None]) -> None:
        """Call after a delay."""
        self.at(self.now() + delay_ms, call)

    def run(self, time_ms: float) -> None:
        """Call everything that is due by `time_ms`."""
        while self._heap and self._heap[0][0] <= time_ms:
            heapq.heappop(self._heap)[2]()

    @property
    def next_ms(self) -> float | None:
        """When the next call is due, or None."""
        return self._heap[0][0] if self._heap else None


class Delays:
    """Seeded delays, all multiplied by `scale`, none ever 0."""

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        self.scale = max(scale, 1e-6)
        self._random = random.Random(seed)
        self._last: dict[object, float] = {}

    def draw(self, name: str) -> float:
        """Return one delay in ms."""
        shortest, typical, longest = DELAYS_MS[name]
        if self._random.random() < RARE:
            value = self._random.uniform(typical, longest)
        else:
            value = min(longest, shortest + self._random.expovariate(1.0 / (typical - shortest)))
        return value * self.scale

    def in_order(self, lane: object, now_ms: float, name: str) -> float:
        """Return a due time that is never earlier than the lane's last one: what one sender sends stays in order."""
        due = max(now_ms + self.draw(name), self._last.get(lane, 0.0))
        self._last[lane] = due
        return due
