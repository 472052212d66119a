"""Arrays by address: a table of addresses is one argument of a call. Unpacking an array object costs 45 ns each, and
two more misses when the caches have moved on.

Whoever fills a table keeps the arrays alive and in place as long as it is used; nothing checks an address.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from kernels.compile import kernel

if numba_config.DISABLE_JIT:

    def array_at(address, shape, dtype):
        count = int(np.prod(shape))
        memory = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(int(address))
        return np.frombuffer(memory, dtype).reshape(shape)

    def bytes_at(text):
        return ctypes.cast(text, ctypes.c_void_p).value

else:

    @intrinsic
    def bytes_at(typing_context, text):
        """Return the address of a bytes object's first byte."""

        def generate(context, builder, signature, arguments):
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=arguments[0]).data
            return builder.ptrtoint(data, cgutils.intp_t)

        return types.int64(text), generate

    @intrinsic
    def _as_pointer(typing_context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], cgutils.voidptr_t)

        return types.voidptr(address), generate

    @kernel()
    def array_at(address, shape, dtype):
        """Return the array of a shape (a size or a tuple) and dtype that stands at an address."""
        return numba.carray(_as_pointer(address), shape, dtype)


def table_of(*arrays: npt.NDArray[Any] | int) -> npt.NDArray[np.int64]:
    """Return int64[n]: the address of each array, numbers as they are. The table does not keep the arrays alive.

    Raises ValueError for an array that is not C-contiguous.
    """
    out = np.zeros(len(arrays), np.int64)
    for at, array in enumerate(arrays):
        if isinstance(array, int):
            out[at] = array
            continue
        if not array.flags.c_contiguous:
            raise ValueError(f"array {at}: expected C-contiguous memory, got strides {array.strides}")
        out[at] = array.ctypes.data
    return out
