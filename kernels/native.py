"""What compiled code asks of the outside: the monotonic clock, and a function of which only the address is known.

Whoever hands an address over keeps the function alive and promises its signature, `void(int64)`; nothing checks it.
"""

from __future__ import annotations

import ctypes

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

CLOCK_MONOTONIC = 1  # the clock of time.monotonic_ns
FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_int64)
_I32, _I64 = ir.IntType(32), ir.IntType(64)

if numba_config.DISABLE_JIT:

    def monotonic_ns():
        timespec = (ctypes.c_int64 * 2)()
        ctypes.CDLL(None).clock_gettime(CLOCK_MONOTONIC, timespec)
        return timespec[0] * 1_000_000_000 + timespec[1]

    def call_at(function, argument):
        FUNCTION(int(function))(int(argument))

else:

    @intrinsic
    def monotonic_ns(typing_context):
        """Return the time of the monotonic clock, read without Python: 25 ns."""

        def generate(context, builder, signature, arguments):
            timespec = ir.ArrayType(_I64, 2)
            out = cgutils.alloca_once(builder, timespec)
            function = ir.FunctionType(_I32, [_I32, timespec.as_pointer()])
            read = cgutils.get_or_insert_function(builder.module, function, "clock_gettime")
            builder.call(read, [ir.Constant(_I32, CLOCK_MONOTONIC), out])
            seconds, nanoseconds = (builder.extract_value(builder.load(out), at) for at in range(2))
            return builder.add(builder.mul(seconds, ir.Constant(_I64, 1_000_000_000)), nanoseconds)

        return types.int64(), generate

    @intrinsic
    def call_at(typing_context, function, argument):
        """Call the C function `void(int64)` that stands at an address."""

        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.VoidType(), [_I64]).as_pointer()
            builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate
