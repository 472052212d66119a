"""Primitives on a window: a contiguous array view in time order, oldest first. Every sum runs in four lanes by age.

Lane j adds the values whose position in the window is j modulo 4, the lanes are joined as (0 + 1) + (2 + 3): one fixed
order for every caller, so equal windows give equal bits. Values are taken relative to the newest one, which makes the
statistics of a flat window exactly 0.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.compile import kernel

_LN2_HI = 6.93147180369123816490e-01
_LN2_LO = 1.90821492927058770002e-10
_L1 = 6.666666666666735130e-01
_L2 = 3.999999999940941908e-01
_L3 = 2.857142874366239149e-01
_L4 = 2.222219843214978396e-01
_L5 = 1.818357216161805012e-01
_L6 = 1.531383769920937332e-01
_L7 = 1.479819860511658591e-01
_HALF_SQRT2_HIGH = np.int64(0x3FE6A09E00000000)
_ONE_BITS = np.int64(0x3FF0000000000000)
_MANTISSA = np.int64(0x000FFFFFFFFFFFFF)
_TINY = 2.2250738585072014e-308
_TWO54 = 18014398509481984.0


@kernel()
def ln(x):
    """Return the natural logarithm of x > 0 within 1 ulp, by + − × ÷ alone: the same bits on every CPU.

    Reduction to 2^k (1 + f), sqrt(2)/2 < 1 + f < sqrt(2), and the minimax polynomial of fdlibm's e_log.c (Sun
    Microsystems, 1993). libm's own `log` differs between CPUs in the last bit. NaN and x ≤ 0 give NaN, inf gives inf.
    """
    if not (x > 0.0) or x == math.inf:
        return x if x == math.inf else math.nan
    k = 0
    if x < _TINY:
        x *= _TWO54
        k = -54
    bits = np.float64(x).view(np.int64) + (_ONE_BITS - _HALF_SQRT2_HIGH)
    k += (bits >> 52) - 1023
    f = np.int64((bits & _MANTISSA) + _HALF_SQRT2_HIGH).view(np.float64) - 1.0
    half_square = 0.5 * f * f
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = z * (_L1 + w * (_L3 + w * (_L5 + w * _L7)))
    even = w * (_L2 + w * (_L4 + w * _L6))
    scale = float(k)
    return s * (half_square + (even + odd)) + scale * _LN2_LO - half_square + f + scale * _LN2_HI


@kernel()
def push(state, ring, capacity, count, x):
    """Write x as value number `count` of a ring; see `kernels.state` for the layout."""
    at = ring + (count & (capacity - 1))
    state[at] = x
    state[at + capacity] = x


@kernel()
def window(state, ring, capacity, count, size):
    """Return a view of the newest `size` values of a ring whose newest value is number `count`, oldest first."""
    end = ring + (count & (capacity - 1)) + capacity + 1
    return state[end - size : end]


@kernel()
def total(w, size):
    """Return the sum of w[0:size]."""
    a = b = c = d = 0.0
    whole = size & ~3
    for k in range(0, whole, 4):
        a += w[k]
        b += w[k + 1]
        c += w[k + 2]
        d += w[k + 3]
    if size - whole > 0:
        a += w[whole]
    if size - whole > 1:
        b += w[whole + 1]
    if size - whole > 2:
        c += w[whole + 2]
    return (a + b) + (c + d)


@kernel()
def shift(w, size):
    """Return the mean of w − newest; the mean itself is newest + shift."""
    newest = w[size - 1]
    a = b = c = d = 0.0
    whole = size & ~3
    for k in range(0, whole, 4):
        a += w[k] - newest
        b += w[k + 1] - newest
        c += w[k + 2] - newest
        d += w[k + 3] - newest
    if size - whole > 0:
        a += w[whole] - newest
    if size - whole > 1:
        b += w[whole + 1] - newest
    if size - whole > 2:
        c += w[whole + 2] - newest
    return ((a + b) + (c + d)) / size


@kernel()
def square_sum(w, size, mean_shift):
    """Return Σ ((w − newest) − mean_shift)², the second pass of a variance."""
    newest = w[size - 1]
    a = b = c = d = 0.0
    whole = size & ~3
    for k in range(0, whole, 4):
        x0 = (w[k] - newest) - mean_shift
        x1 = (w[k + 1] - newest) - mean_shift
        x2 = (w[k + 2] - newest) - mean_shift
        x3 = (w[k + 3] - newest) - mean_shift
        a += x0 * x0
        b += x1 * x1
        c += x2 * x2
        d += x3 * x3
    if size - whole > 0:
        x0 = (w[whole] - newest) - mean_shift
        a += x0 * x0
    if size - whole > 1:
        x1 = (w[whole + 1] - newest) - mean_shift
        b += x1 * x1
    if size - whole > 2:
        x2 = (w[whole + 2] - newest) - mean_shift
        c += x2 * x2
    return (a + b) + (c + d)


@kernel()
def deviation_sum(w, size, mean_shift):
    """Return Σ |(w − newest) − mean_shift|; `size` is a multiple of 4."""
    newest = w[size - 1]
    a = b = c = d = 0.0
    for k in range(0, size, 4):
        a += abs((w[k] - newest) - mean_shift)
        b += abs((w[k + 1] - newest) - mean_shift)
        c += abs((w[k + 2] - newest) - mean_shift)
        d += abs((w[k + 3] - newest) - mean_shift)
    return (a + b) + (c + d)


@kernel()
def product_sum(w, v, size, w_shift, v_shift):
    """Return Σ ((w − newest w) − w_shift) ((v − newest v) − v_shift); `size` is a multiple of 4."""
    w0, v0 = w[size - 1], v[size - 1]
    a = b = c = d = 0.0
    for k in range(0, size, 4):
        a += ((w[k] - w0) - w_shift) * ((v[k] - v0) - v_shift)
        b += ((w[k + 1] - w0) - w_shift) * ((v[k + 1] - v0) - v_shift)
        c += ((w[k + 2] - w0) - w_shift) * ((v[k + 2] - v0) - v_shift)
        d += ((w[k + 3] - w0) - w_shift) * ((v[k + 3] - v0) - v_shift)
    return (a + b) + (c + d)


@kernel()
def slope20(w):
    """Return the least-squares slope of w[0:20] over its index: Σ (k − 9.5)(w[k] − newest) / 665."""
    newest = w[19]
    a = b = c = d = 0.0
    for k in range(0, 20, 4):
        centre = k - 9.5
        a += centre * (w[k] - newest)
        b += (centre + 1.0) * (w[k + 1] - newest)
        c += (centre + 2.0) * (w[k + 2] - newest)
        d += (centre + 3.0) * (w[k + 3] - newest)
    return ((a + b) + (c + d)) / 665.0


@kernel()
def highest(w, size):
    """Return max(w[0:size]); no value is NaN."""
    best = w[0]
    for k in range(1, size):
        best = max(best, w[k])
    return best


@kernel()
def lowest(w, size):
    """Return min(w[0:size]); no value is NaN."""
    best = w[0]
    for k in range(1, size):
        best = min(best, w[k])
    return best


@kernel()
def ema(state, slot, index, period, x):
    """Step TA-Lib's EMA(period) kept in `slot` with value number `index` (from 0) and return it.

    NaN before it is defined. The seed is the mean of the first `period` values; until then the slot holds their sum.
    """
    if index < period - 1:
        state[slot] += x
        return math.nan
    if index == period - 1:
        state[slot] = (state[slot] + x) / period
    else:
        state[slot] = (x - state[slot]) * (2.0 / (period + 1)) + state[slot]
    return state[slot]
