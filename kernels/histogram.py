"""Latency histograms with logarithmic buckets: one value costs a shift and a few additions, in the caller's kernel."""

from __future__ import annotations

import numba
import numpy as np

from kernels.addresses import array_at
from kernels.compile import kernel
from kernels.records import Stage

SUB_BITS = 3  # 8 buckets per power of two: a percentile is at most 12.5 % too high
BUCKETS = 64 << SUB_BITS
STAGES = len(Stage)
COUNT, SUM, MAX = 0, 1, 2  # columns of `sums`

COUNTS_T = numba.int64[:, ::1]
SUMS_T = numba.int64[:, ::1]


@kernel(numba.int64(numba.int64))
def bucket_of(value):
    """Return the bucket of a value; a negative one (a clock that stepped) counts as 0."""
    if value < 8:
        return max(value, 0)
    shift = 0
    while value >> (shift + 4):
        shift += 1
    return ((shift + 1) << SUB_BITS) | ((value >> shift) & 7)


@kernel(numba.void(COUNTS_T, SUMS_T, numba.int64, numba.int64))
def add(counts, sums, stage, value):
    """Count one value of a stage.

    counts int64[stages, BUCKETS], sums int64[stages, 3] = number, sum and largest of its values.
    """
    counts[stage, bucket_of(value)] += 1
    sums[stage, COUNT] += 1
    sums[stage, SUM] += value
    if value > sums[stage, MAX]:
        sums[stage, MAX] = value


@kernel(numba.void(numba.int64, numba.int64, numba.int64, numba.int64), nogil=False)
def add_at(counts_address, sums_address, stage, value):
    """Count one value of a stage as `add` does, in the arrays at these addresses: Python hands over two numbers in a
    third of the time of two arrays.
    """
    counts = array_at(counts_address, (STAGES, BUCKETS), np.int64)
    add(counts, array_at(sums_address, (STAGES, 3), np.int64), stage, value)
