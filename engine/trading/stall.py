"""Did the loop stand still? A look that the order side takes at each tick and before each decision."""

from __future__ import annotations

import time

STALL_NS = 2_000_000_000


class Stall:
    """Call it: true once when more than STALL_NS have passed since the last call, a sleep of the machine included."""

    def __init__(self) -> None:
        self._last_ns = 0

    def __call__(self) -> bool:
        """Look now."""
        last_ns, self._last_ns = self._last_ns, time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return last_ns > 0 and self._last_ns - last_ns > STALL_NS
