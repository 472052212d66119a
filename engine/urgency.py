"""Ask the kernel to run the engine's thread as soon as a frame wakes it, whatever else the machine is doing.

Linux (6.12 and later) gives each thread a slice, and a thread that wakes takes the core from one whose slice is longer.
With the usual one (1.4 ms on two cores) for everybody a frame may wait until API, store or job have used theirs up.
What the others leave behind in the core's caches is felt all the same: a core of its own (`cpu`) is without that too.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import ConfigError

SLICE_NS = 100_000  # the shortest that the kernel accepts
SWITCH_S = 0.0005  # how long a thread that loads market data or a model may hold up the loop
_CALL = {"x86_64": 314, "aarch64": 274}  # the number of sched_setattr; the C library has no function for it
_OTHER, _RESET_ON_FORK = 0, 1


class _Attributes(ctypes.Structure):
    """struct sched_attr of the kernel, first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def short_slice() -> bool:
    """Give the calling thread the shortest slice; threads and processes that it starts keep the usual one.

    Needs no privilege and leaves its share of a core as it was. Returns False where the kernel does not know the call,
    or the thread has a policy of its own (a real-time one is better yet). An older kernel takes it and does nothing.
    """
    number = _CALL.get(platform.machine())
    if number is None or sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    thread = threading.get_native_id()
    wanted = _read(library, number + 1, thread)
    if wanted is None or wanted.policy != _OTHER:
        return False
    wanted.flags, wanted.runtime_ns = _RESET_ON_FORK, SLICE_NS
    return bool(library.syscall(number, thread, ctypes.byref(wanted), 0) == 0)


@contextmanager
def impatient() -> Iterator[None]:
    """Let a thread that loads something beside the loop have the interpreter for no longer than SWITCH_S at a time."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


def check_cpu(cpu: int) -> None:
    """Raise ConfigError unless this process may use core `cpu` (-1: whichever)."""
    allowed = os.sched_getaffinity(0)
    if cpu >= 0 and cpu not in allowed:
        raise ConfigError([f"cpu: this process may use the cores {', '.join(map(str, sorted(allowed)))}, got {cpu}"])


def take_core(cpu: int) -> None:
    """Run the calling thread on core `cpu` alone (-1: any); threads that it starts later stay there with it."""
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})


def leave_core(cpu: int) -> None:
    """Keep the calling thread and what it starts off core `cpu`, if that leaves one; -1: nothing to keep off."""
    others = os.sched_getaffinity(0) - {cpu}
    if others:
        os.sched_setaffinity(0, others)


def _read(library: ctypes.CDLL, number: int, thread: int) -> _Attributes | None:
    found = _Attributes()
    found.size = ctypes.sizeof(_Attributes)
    failed = library.syscall(number, thread, ctypes.byref(found), ctypes.sizeof(_Attributes), 0)
    return None if failed else found
