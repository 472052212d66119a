"""Exchange time, for limits, cooldowns, funding and the day's roll; latency and freshness use the monotonic clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Exchange time in milliseconds."""

    def now_ms(self) -> int:
        """Return the exchange's time now."""
        ...

    def observe(self, event_ms: int) -> None:
        """Tell the clock the time of an event that has just arrived."""
        ...


class WallClock:
    """This machine's clock plus the fitted offset to the exchange's."""

    def __init__(self) -> None:
        self.offset_ms = 0.0

    def now_ms(self) -> int:
        """Return the exchange's time now."""
        return int(time.time() * 1_000.0 + self.offset_ms)

    def observe(self, event_ms: int) -> None:
        """Event times do not move the wall clock."""


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
