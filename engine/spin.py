"""When the engine rehearses: around each minute's end while it waits in epoll, and always while it polls."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.clock import Clock
from engine.rehearsal import Rehearsal
from kernels.records import TIMEFRAME_MS

PAUSE_NS = 200_000  # in epoll the loop sleeps in between: a fifth of a core in the window, 0.5 % over a minute
COARSE_S = 0.001  # where there is no such timer: the shortest that the loop's own sleeps
LOOK_S = 0.02  # between looks at the clock; shorter than the window before a minute's end
BEFORE_MS, AFTER_MS = 60, 1_500  # of a minute's end: most closing frames come within a second
MINUTE_MS = TIMEFRAME_MS[0]
_MONOTONIC, _TICKS_BYTES = 1, 8


def spare_core() -> bool:
    """Return whether this process may use more than one core."""
    return len(os.sched_getaffinity(0)) > 1


def near_minute(clock: Clock) -> bool:
    """Return whether closing frames are about to come, or coming."""
    return (clock.now_ms() + BEFORE_MS) % MINUTE_MS < BEFORE_MS + AFTER_MS


async def rehearse(rehearsal: Rehearsal, stop: asyncio.Event, due: Callable[[], bool]) -> None:
    """Rehearse every `PAUSE_NS` while it is `due`, until `stop`; the loop sleeps in epoll in between."""
    while not stop.is_set():
        if due():
            with every(PAUSE_NS, rehearsal.run) as ticking:
                while due() and not stop.is_set():
                    if not ticking:
                        rehearsal.run()
                    await asyncio.sleep(COARSE_S if not ticking else LOOK_S)
        await asyncio.sleep(LOOK_S)


@contextmanager
def every(pause_ns: int, action: Callable[[], object]) -> Iterator[bool]:
    """Call `action` from the running loop every `pause_ns`; False where the kernel has no such timer (Linux: timerfd).

    The loop's own timers count in whole milliseconds and take a shorter sleep for none at all: they would spin.
    """
    if sys.platform != "linux":
        yield False
        return
    library = ctypes.CDLL(None, use_errno=True)
    timer = library.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if timer < 0:
        yield False
        return

    def tick() -> None:
        os.read(timer, _TICKS_BYTES)
        try:
            action()
        except Exception:
            loop.remove_reader(timer)  # a fault is told once, not at every tick
            raise

    loop = asyncio.get_running_loop()
    try:
        library.timerfd_settime(timer, 0, struct.pack("qqqq", 0, pause_ns, 0, pause_ns), None)
        loop.add_reader(timer, tick)
        yield True
    finally:
        loop.remove_reader(timer)
        os.close(timer)


async def spin(rehearsal: Rehearsal, stop: asyncio.Event, due: Callable[[], bool] = lambda: True) -> None:
    """Keep the loop polling until `stop`, and rehearse every `PAUSE_NS`: for a machine with a core to spare."""
    due_ns = 0
    while not stop.is_set():
        await asyncio.sleep(0)
        if time.monotonic_ns() >= due_ns and due():
            rehearsal.run()
            due_ns = time.monotonic_ns() + PAUSE_NS
