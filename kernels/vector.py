"""The vector of 132 float64: its assembly from three rows, and its 64-bit hash."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from kernels.compile import kernel
from kernels.records import FEATURES_PER_TIMEFRAME, TIMEFRAME_MS

WIDTH = FEATURES_PER_TIMEFRAME
_MINUTE_MS, _QUARTER_MS, _HOUR_MS = TIMEFRAME_MS
_ROW = nb.float64[::1]
_ROWS = nb.float64[:, ::1]


@kernel()
def known(x):
    """Return x, or the one NaN (0x7FF8000000000000) for anything that is not finite."""
    return x if abs(x) < math.inf else np.nan


@kernel(nb.void(_ROW, _ROW, _ROW, _ROW))
def assemble(row_1m, row_15m, row_1h, vector):
    """Write the vector float64[132]: the three rows in order, every non-finite value as the one NaN."""
    for k in range(WIDTH):
        vector[k] = known(row_1m[k])
        vector[WIDTH + k] = known(row_15m[k])
        vector[2 * WIDTH + k] = known(row_1h[k])


@kernel(nb.void(nb.int64[::1], nb.int64[::1], _ROWS, nb.int64[::1], _ROWS, _ROWS))
def spread(open_1m_ms, open_15m_ms, rows_15m, open_1h_ms, rows_1h, vectors):
    """Complete vectors float64[n, 132] whose 1m columns are written: join the 15m and 1h bars that closed last.

    Where the larger bar that closed last is not there, its columns are NaN.
    """
    j, m = 0, 0
    for k in range(len(open_1m_ms)):
        t = open_1m_ms[k] + _MINUTE_MS
        vector = vectors[k]
        quarter = t - t % _QUARTER_MS - _QUARTER_MS
        hour = t - t % _HOUR_MS - _HOUR_MS
        while j < len(open_15m_ms) and open_15m_ms[j] < quarter:
            j += 1
        while m < len(open_1h_ms) and open_1h_ms[m] < hour:
            m += 1
        has_quarter = j < len(open_15m_ms) and open_15m_ms[j] == quarter
        has_hour = m < len(open_1h_ms) and open_1h_ms[m] == hour
        for f in range(WIDTH):
            vector[f] = known(vector[f])
            vector[WIDTH + f] = known(rows_15m[j, f]) if has_quarter else np.nan
            vector[2 * WIDTH + f] = known(rows_1h[m, f]) if has_hour else np.nan


_P1 = np.uint64(11400714785074694791)
_P2 = np.uint64(14029467366897019727)
_P3 = np.uint64(1609587929392839161)
_P4 = np.uint64(9650029242287828579)
_P5 = np.uint64(2870177450012600261)


@kernel()
def _turn(x, bits):
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@kernel()
def _mix(lane, word):
    return _turn(lane + word * _P2, 31) * _P1


@kernel(nb.uint64(_ROW))
def vector_hash(vector):
    """Return XXH64 (seed 0) over the little-endian bytes of float64[132]: ClickHouse's xxHash64 of the same bytes.

    The length must be a multiple of 4 values.
    """
    words = vector.view(np.uint64)
    a, b, c, d = _P1 + _P2, _P2, np.uint64(0), np.uint64(0) - _P1
    for k in range(0, len(words), 4):
        a = _mix(a, words[k])
        b = _mix(b, words[k + 1])
        c = _mix(c, words[k + 2])
        d = _mix(d, words[k + 3])
    h = _turn(a, 1) + _turn(b, 7) + _turn(c, 12) + _turn(d, 18)
    h = (h ^ _mix(np.uint64(0), a)) * _P1 + _P4
    h = (h ^ _mix(np.uint64(0), b)) * _P1 + _P4
    h = (h ^ _mix(np.uint64(0), c)) * _P1 + _P4
    h = (h ^ _mix(np.uint64(0), d)) * _P1 + _P4
    h += np.uint64(8 * len(words))
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@kernel(nb.void(_ROWS, nb.uint64[::1]))
def vector_hashes(vectors, hashes):
    """Write `vector_hash` of each row of float64[n, 132] into uint64[n]."""
    for k in range(len(vectors)):
        hashes[k] = vector_hash(vectors[k])
