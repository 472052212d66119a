"""Exchange time over a sleep of the machine."""

from __future__ import annotations

import time

import pytest

from engine import clock
from engine.clock import WallClock

T0_MS = 1_800_000_000_000


def test_exchange_time_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {time.CLOCK_BOOTTIME: 5_000_000_000, time.CLOCK_MONOTONIC: 5_000_000_000}
    monkeypatch.setattr(clock.time, "clock_gettime_ns", lambda number: clocks[number])
    monkeypatch.setattr(clock.time, "monotonic_ns", lambda: clocks[time.CLOCK_MONOTONIC])
    wall = WallClock()
    wall.fit.add(5_000_000_000, 5_000_000_000, T0_MS)
    clocks[time.CLOCK_MONOTONIC] += 10_000_000
    clocks[time.CLOCK_BOOTTIME] += 10_000_000 + 600_000_000_000  # ten minutes suspended
    wall.look()
    wall.look()
    assert wall.now_ms() == T0_MS + 10 + 600_000, "what is stamped now is inside recvWindow"
    now_ns = clocks[time.CLOCK_MONOTONIC]
    wall.fit.add(now_ns, now_ns, T0_MS + 10 + 600_000)
    assert wall.fit.steps == 0 and wall.good()
