"""The clock and functions by their address, as compiled code asks for them, against Python's own."""

from __future__ import annotations

import ctypes
import time

from kernels.compile import kernel
from kernels.native import FUNCTION, call_at, monotonic_ns


@kernel("int64()")
def now():
    return monotonic_ns()


@kernel("void(int64, int64)")
def call(function, argument):
    call_at(function, argument)


def test_compiled_code_reads_the_clock_that_python_reads() -> None:
    readings = []
    for _ in range(100):
        readings += [time.monotonic_ns(), now()]
    assert readings == sorted(readings)


def test_a_function_is_called_by_its_address_with_its_argument() -> None:
    seen: list[int] = []
    function = FUNCTION(seen.append)
    address = ctypes.cast(function, ctypes.c_void_p).value
    for number in (0, 42, -1, (1 << 63) - 1, -(1 << 63)):
        call(address, number)
    assert seen == [0, 42, -1, (1 << 63) - 1, -(1 << 63)]
