"""When the engine rehearses: around each minute's end while it waits in epoll, and always while it polls."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from engine.clock import Clock
from engine.rehearsal import Rehearsal
from kernels.records import TIMEFRAME_MS

SPIN_NS = 500_000  # a frame that comes meanwhile waits for half a rehearsal in one case of forty
PAUSE_S = 0.000_5
LOOK_S = 0.02  # between looks at the clock; shorter than the window before a minute's end
BEFORE_MS, AFTER_MS = 60, 1_500  # of a minute's end: most closing frames come within a second
MINUTE_MS = TIMEFRAME_MS[0]


def spare_core() -> bool:
    """Return whether this process may use more than one core."""
    return len(os.sched_getaffinity(0)) > 1


def near_minute(clock: Clock) -> bool:
    """Return whether closing frames are about to come, or coming."""
    return (clock.now_ms() + BEFORE_MS) % MINUTE_MS < BEFORE_MS + AFTER_MS


async def rehearse(rehearsal: Rehearsal, stop: asyncio.Event, due: Callable[[], bool]) -> None:
    """Rehearse every `PAUSE_S` while it is `due`, until `stop`; the loop sleeps in epoll in between."""
    while not stop.is_set():
        if due():
            rehearsal.run()
        await asyncio.sleep(PAUSE_S if due() else LOOK_S)


async def spin(rehearsal: Rehearsal, stop: asyncio.Event, due: Callable[[], bool] = lambda: True) -> None:
    """Keep the loop polling until `stop`, and rehearse every `SPIN_NS`: for a machine with a core to spare."""
    due_ns = 0
    while not stop.is_set():
        await asyncio.sleep(0)
        if time.monotonic_ns() >= due_ns and due():
            rehearsal.run()
            due_ns = time.monotonic_ns() + SPIN_NS
