"""One row by pointer doubling in AVX-512 VBMI registers: no data-dependent branch, no pointer chase.

Import only where `kernels.simd.has_vbmi()`: importing compiles, and compiling for another target ends the process.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels.addresses import array_at
from kernels.blocks import DOUBLINGS, ROOTS
from kernels.compile import c_function, kernel
from kernels.quantise import MAX_SLOTS, USED, USED_TYPE, quantise_row
from kernels.simd import block_sum

TOGETHER = 2


def _sum_kind(doublings, roots):
    some, one = block_sum(doublings, roots, TOGETHER), block_sum(doublings, roots, 1)

    @kernel(forceinline=True)
    def total(tables, ranks, leaves, first, end):
        """Return the sum over blocks first…end−1."""
        value = 0.0
        block = first
        while block + TOGETHER <= end:
            value += some(tables, ranks, leaves, block)
            block += TOGETHER
        while block < end:
            value += one(tables, ranks, leaves, block)
            block += 1
        return value

    return total


_K0, _K1, _K2, _K3, _K4, _K5, _K6, _K7, _K8, _K9, _K10, _K11 = (
    _sum_kind(doublings, roots) for roots in ROOTS for doublings in DOUBLINGS
)


@kernel(forceinline=True)
def _total(kind, tables, ranks, leaves, first, end):
    if kind == 0:
        return _K0(tables, ranks, leaves, first, end)
    if kind == 1:
        return _K1(tables, ranks, leaves, first, end)
    if kind == 2:
        return _K2(tables, ranks, leaves, first, end)
    if kind == 3:
        return _K3(tables, ranks, leaves, first, end)
    if kind == 4:
        return _K4(tables, ranks, leaves, first, end)
    if kind == 5:
        return _K5(tables, ranks, leaves, first, end)
    if kind == 6:
        return _K6(tables, ranks, leaves, first, end)
    if kind == 7:
        return _K7(tables, ranks, leaves, first, end)
    if kind == 8:
        return _K8(tables, ranks, leaves, first, end)
    if kind == 9:
        return _K9(tables, ranks, leaves, first, end)
    if kind == 10:
        return _K10(tables, ranks, leaves, first, end)
    return _K11(tables, ranks, leaves, first, end)


@kernel(
    numba.void(
        USED_TYPE[::1],
        numba.float32[::1],
        numba.uint8[::1],
        numba.int32[:, ::1],
        numba.float64[::1],
        numba.float64[::1],
        numba.uint8[::1],
        numba.float32[::1],
        numba.float64[::1],
    )
)
def vbmi_row(used, levels, tables, segments, constants, leaves, ranks, row, out):
    """Write float64[k] predictions of one row.

    tables: uint8[blocks · 192], leaves: float64[blocks · 64]: `simd.block_sum`; segments: int32[s, 4]: target, kind,
    first block, last + 1; constants: float64[k], the sums of trees without a split; ranks: uint8[256] scratch. Tables
    and ranks begin on a cache line. Another order of summation than LightGBM's: within 1e-12 of the largest prediction.
    """
    quantise_row(used, levels, row, ranks)
    for k in range(constants.size):
        out[k] = constants[k]
    for s in range(segments.shape[0]):
        target, kind, first, end = segments[s]
        out[target] += _total(kind, tables, ranks, leaves, np.int64(first), np.int64(end))


@kernel(numba.void(numba.int64[::1]))
def vbmi_at(table):
    """Do the same by address: the nine arrays of `vbmi_row`, then the sizes of the first six and of the row."""
    used, levels = array_at(table[0], table[9], USED), array_at(table[1], table[10], np.float32)
    tables, segments = array_at(table[2], table[11], np.uint8), array_at(table[3], (table[12], 4), np.int32)
    constants, leaves = array_at(table[4], table[13], np.float64), array_at(table[5], table[14], np.float64)
    ranks, row = array_at(table[6], MAX_SLOTS, np.uint8), array_at(table[7], table[15], np.float32)
    out = array_at(table[8], table[13], np.float64)
    vbmi_row(used, levels, tables, segments, constants, leaves, ranks, row, out)


TABLE_WORDS = 16


@c_function
def vbmi_c(address):
    """Do the same for compiled callers: the address of such a table."""
    vbmi_at(array_at(address, TABLE_WORDS, np.int64))
