"""Exchange time, for limits, cooldowns, funding and the day's roll; latency and freshness use the monotonic clock."""

from __future__ import annotations

import time
from typing import Protocol

from engine.market.clockfit import ClockFit


class Clock(Protocol):
    """Exchange time in milliseconds."""

    def now_ms(self) -> int:
        """Return the exchange's time now."""
        ...

    def observe(self, event_ms: int) -> None:
        """Tell the clock the time of an event that has just arrived."""
        ...

    def good(self) -> bool:
        """Whether orders may rely on the time."""
        ...


SLEPT_NS = 50_000_000


def _asleep_ns() -> int:
    """Return how long this machine has been suspended since it started."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class WallClock:
    """The exchange's clock, fitted against our monotonic one; this machine's wall clock until the first sample.

    A correction never turns the time back, it makes it stand still; only a step of the exchange's clock does.
    """

    def __init__(self) -> None:
        self.fit = ClockFit()
        self._newest_ms = 0
        self._steps = 0
        self._asleep_ns = _asleep_ns()

    def look(self) -> None:
        """Notice a sleep of the machine: orders would be stamped too old until three samples have said so."""
        asleep_ns = _asleep_ns()
        if asleep_ns - self._asleep_ns > SLEPT_NS:
            self.fit.slept(asleep_ns - self._asleep_ns)
            self._asleep_ns = asleep_ns

    def now_ms(self) -> int:
        """Return the exchange's time now."""
        if not self.fit.samples:
            return int(time.time() * 1_000.0)
        now_ms = int(self.fit.exchange_ms(time.monotonic_ns()))
        if now_ms < self._newest_ms and self.fit.steps == self._steps:
            return self._newest_ms
        self._newest_ms, self._steps = now_ms, self.fit.steps
        return now_ms

    def observe(self, event_ms: int) -> None:
        """Event times do not move the wall clock."""

    def good(self) -> bool:
        """Whether orders may rely on the time."""
        return self.fit.good(time.monotonic_ns())


class EventClock:
    """The newest event's time: for replay, backtest and a sped-up simulator, so that results do not depend on speed."""

    def __init__(self) -> None:
        self._now_ms = 0

    def now_ms(self) -> int:
        """Return the newest event's time."""
        return self._now_ms

    def observe(self, event_ms: int) -> None:
        """Move forward to `event_ms`; an older event does not move it back."""
        if event_ms > self._now_ms:
            self._now_ms = event_ms

    def good(self) -> bool:
        """Event time is what it is."""
        return True
