"""The engine's thread takes the core as soon as it wakes; what it starts does not inherit that."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading

import pytest

from engine import urgency
from engine.errors import ConfigError

KERNEL = tuple(int(part) for part in platform.release().split(".")[:2]) if sys.platform == "linux" else (0, 0)


def slice_ns() -> int:
    found = urgency._read(ctypes.CDLL(None), urgency._CALL[platform.machine()] + 1, threading.get_native_id())
    assert found is not None
    return int(found.runtime_ns)


def check() -> None:
    """Run in a process of its own: a thread cannot give its slice back."""
    nice = os.nice(3)
    usual = slice_ns()
    assert usual > urgency.SLICE_NS
    assert urgency.short_slice() and slice_ns() == urgency.SLICE_NS
    assert os.getpriority(os.PRIO_PROCESS, 0) == nice
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(slice_ns()))
    thread.start()
    thread.join()
    assert found == [usual]
    assert urgency.short_slice()  # a second time does no harm


@pytest.mark.skipif(KERNEL < (6, 12) or platform.machine() not in urgency._CALL, reason="no slices before Linux 6.12")
def test_the_calling_thread_alone_gets_the_shortest_slice() -> None:
    subprocess.run([sys.executable, "-c", f"from {__name__} import check; check()"], check=True, timeout=60)


def stay() -> None:
    """Run in a process of its own: which cores it may use is what changes."""
    cores = sorted(os.sched_getaffinity(0))
    urgency.take_core(-1)
    urgency.leave_core(-1)
    assert sorted(os.sched_getaffinity(0)) == cores
    urgency.leave_core(cores[-1])
    assert sorted(os.sched_getaffinity(0)) == (cores[:-1] or cores)  # the only one is shared
    urgency.take_core(cores[0])
    assert os.sched_getaffinity(0) == {cores[0]}


def test_engine_and_control_part_the_cores_between_them() -> None:
    subprocess.run([sys.executable, "-c", f"from {__name__} import stay; stay()"], check=True, timeout=60)


def test_a_core_that_is_not_ours_is_refused() -> None:
    urgency.check_cpu(-1)
    urgency.check_cpu(min(os.sched_getaffinity(0)))
    with pytest.raises(ConfigError, match=r"cpu: this process may use the cores .*, got 4096"):
        urgency.check_cpu(4_096)


def test_a_machine_that_does_not_know_the_call_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "unheard-of")
    assert urgency.short_slice() is False
