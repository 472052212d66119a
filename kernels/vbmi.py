"""One row by pointer doubling in AVX-512 VBMI registers: no data-dependent branch, no pointer chase.

Import only where `kernels.simd.has_vbmi()`: importing compiles, and compiling for another target ends the process.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels.addresses import array_at
from kernels.blocks import DOUBLINGS, ROOTS
from kernels.compile import c_function, kernel
from kernels.quantise import MAX_SLOTS, USED, quantise_lanes
from kernels.simd import block_sum

TOGETHER = 2


def _sum_kind(doublings, roots):
    some, one = block_sum(doublings, roots, TOGETHER), block_sum(doublings, roots, 1)

    @kernel(forceinline=True)
    def total(tables, ranks, leaves, first, end):
        """Return the sum over blocks first…end−1."""
        value = 0
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


WORDS = 27  # of a table: 14 addresses, 10 sizes; then, where they are bound, those of the row and the answer


@kernel(numba.void(numba.int64[::1], numba.float32[::1], numba.float64[::1]), nogil=False)
def vbmi_row(table, row, out):
    """Write float64[k] predictions of one row.

    table: int64[24], the addresses of fourteen arrays (`engine.model.layout`): `quantise_lanes`' used, picked, copied,
    pivots, thresholds; tables uint8[blocks · 192] (`simd.block_sum`), segments int32[s, 4] (target, kind, first block,
    last + 1), leaves int64[blocks · 64] and constants int64[k] (the sums of trees without a split) in units float64[k],
    a power of two; scratch values, starts, ranks uint8[256], sums int64[k]. Then the sizes of the first ten. The sum is
    exact but for what a leaf has below its target's unit: within 1e-12 of the largest prediction of LightGBM's.
    """
    used, picked = array_at(table[0], table[14], USED), array_at(table[1], table[15], np.uint16)
    copied, pivots = array_at(table[2], table[16], np.uint8), array_at(table[3], table[17], np.float32)
    thresholds, tables = array_at(table[4], table[18], np.float32), array_at(table[5], table[19], np.uint8)
    segments, leaves = array_at(table[6], (table[20], 4), np.int32), array_at(table[7], table[21], np.int64)
    constants, units = array_at(table[8], table[22], np.int64), array_at(table[9], table[23], np.float64)
    values, starts = array_at(table[10], MAX_SLOTS, np.float32), array_at(table[11], MAX_SLOTS, np.int32)
    ranks, sums = array_at(table[12], MAX_SLOTS, np.uint8), array_at(table[13], table[22], np.int64)
    quantise_lanes(used, picked, copied, pivots, thresholds, row, values, starts, ranks)
    for k in range(constants.size):
        sums[k] = constants[k]
    for s in range(segments.shape[0]):
        target, kind, first, end = segments[s]
        sums[target] += _total(kind, tables, ranks, leaves, np.int64(first), np.int64(end))
    for k in range(constants.size):
        out[k] = sums[k] * units[k]


@c_function
def vbmi_c(address):
    """Do the same for compiled callers: the address of such a table, longer by the row's address, the answer's, and the
    row's size."""
    table = array_at(address, WORDS, np.int64)
    vbmi_row(table, array_at(table[24], table[26], np.float32), array_at(table[25], table[22], np.float64))
