"""One row by pointer doubling in AVX-512 VBMI registers: no data-dependent branch, no pointer chase.

Import only where `kernels.simd.has_vbmi()`: importing compiles, and compiling for another target ends the process.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels.addresses import array_at
from kernels.compile import c_function, kernel
from kernels.quantise import MAX_SLOTS, USED, USED_TYPE, quantise_row
from kernels.simd import pair_leaves

BLOCK_BYTES = 256  # four byte tables of 64 lanes
LANES = 64
_D0, _D1, _D2, _D3, _D4, _D5 = pair_leaves


def _sum_class(pair):
    @kernel()
    def total(tables, ranks, leaves, first, end):
        """Return the sum over blocks first…end−1; a single tree's second half adds leaf values of 0."""
        even = odd = 0.0
        for block in range(first, end):
            both = pair(tables, ranks, block * BLOCK_BYTES)
            even += leaves[block * LANES + (both & 63)]
            odd += leaves[block * LANES + (both >> 8)]
        return even + odd

    return total


def _sum_single(pair):
    @kernel()
    def total(tables, ranks, leaves, first, end):
        """Return the sum over blocks first…end−1 that hold one tree of up to 64 leaves each."""
        even = 0.0
        for block in range(first, end):
            even += leaves[block * LANES + (pair(tables, ranks, block * BLOCK_BYTES) & 63)]
        return even

    return total


_P0, _P1, _P2, _P3, _P4, _P5 = (_sum_class(pair) for pair in pair_leaves)
_S0, _S1, _S2, _S3, _S4, _S5 = (_sum_single(pair) for pair in pair_leaves)


@kernel(
    numba.void(
        USED_TYPE[::1],
        numba.float32[::1],
        numba.uint8[::1],
        numba.int32[:, ::1],
        numba.float64[::1],
        numba.uint8[::1],
        numba.float32[::1],
        numba.float64[::1],
    )
)
def vbmi_row(used, levels, tables, spans, leaves, ranks, row, out):
    """Write float64[k] predictions of one row.

    tables: uint8[blocks · 256]; spans: int32[k, 13]: first blocks of the depth classes 0…5 of paired trees, then of
    single trees, then the end; leaves: float64[blocks · 64]; ranks: uint8[256] scratch. Another order of summation than
    LightGBM's: within 1e-12 of the largest prediction.
    """
    quantise_row(used, levels, row, ranks)
    for k in range(spans.shape[0]):
        s = spans[k]
        total = _P0(tables, ranks, leaves, s[0], s[1])
        total += _P1(tables, ranks, leaves, s[1], s[2])
        total += _P2(tables, ranks, leaves, s[2], s[3])
        total += _P3(tables, ranks, leaves, s[3], s[4])
        total += _P4(tables, ranks, leaves, s[4], s[5])
        total += _P5(tables, ranks, leaves, s[5], s[6])
        total += _S0(tables, ranks, leaves, s[6], s[7])
        total += _S1(tables, ranks, leaves, s[7], s[8])
        total += _S2(tables, ranks, leaves, s[8], s[9])
        total += _S3(tables, ranks, leaves, s[9], s[10])
        total += _S4(tables, ranks, leaves, s[10], s[11])
        total += _S5(tables, ranks, leaves, s[11], s[12])
        out[k] = total


@kernel(numba.void(numba.int64[::1]))
def vbmi_at(table):
    """Do the same by address: the eight arrays of `vbmi_row`, then the sizes of the first five and of the row."""
    used, levels = array_at(table[0], table[8], USED), array_at(table[1], table[9], np.float32)
    tables, leaves = array_at(table[2], table[10], np.uint8), array_at(table[4], table[12], np.float64)
    spans = array_at(table[3], (table[11], 13), np.int32)
    ranks, row = array_at(table[5], MAX_SLOTS, np.uint8), array_at(table[6], table[13], np.float32)
    vbmi_row(used, levels, tables, spans, leaves, ranks, row, array_at(table[7], table[11], np.float64))


TABLE_WORDS = 14


@c_function
def vbmi_c(address):
    """Do the same for compiled callers: the address of such a table."""
    vbmi_at(array_at(address, TABLE_WORDS, np.int64))
