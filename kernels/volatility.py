"""Volatility family: ranges, standard deviations, bands (rows 8–15)."""

from __future__ import annotations

import math

from kernels.compile import kernel
from kernels.rolling import ln, push, shift, square_sum, window
from kernels.state import ATR, CLOSE, LN_RANGE_SQ, LOG_RET, LONG, MEDIUM

_FOUR_LN2 = 2.772588722239781


@kernel()
def step_volatility(state, i, true_range, h, low, c, log_ret, row):
    """Step the volatility family; CLOSE already holds c. Push log_ret and return (mean shift, Σ²) of its 60 bars."""
    if i < 14:
        if i > 0:
            state[ATR] += true_range
        row[8] = math.nan
        row[9] = math.nan
    else:
        if i == 14:
            state[ATR] = (state[ATR] + true_range) / 14.0
        else:
            state[ATR] = (state[ATR] * 13.0 + true_range) / 14.0
        row[8] = state[ATR]
        row[9] = state[ATR] / c

    push(state, LOG_RET, LONG, i, log_ret)
    w = window(state, LOG_RET, LONG, i, 60)
    shift60 = shift(w, 60)
    sum60 = square_sum(w, 60, shift60)
    row[10] = math.sqrt(sum60 / 59.0)
    row[11] = (h - low) / c

    ln_range = ln(h / low)
    push(state, LN_RANGE_SQ, MEDIUM, i, ln_range * ln_range)
    w = window(state, LN_RANGE_SQ, MEDIUM, i, 20)
    row[12] = math.sqrt((w[19] + shift(w, 20)) / _FOUR_LN2)

    w = window(state, LOG_RET, LONG, i, 15)
    sum15 = square_sum(w, 15, shift(w, 15))
    row[13] = math.sqrt(sum15 / 14.0) / row[10] if sum60 != 0.0 else math.nan

    # With mean m and deviation s: upper − lower = 4 s and c − lower = (c − m) + 2 s, without the cancellation.
    w = window(state, CLOSE, LONG, i, 20)
    mean_shift = shift(w, 20)
    deviation = math.sqrt(square_sum(w, 20, mean_shift) / 20.0)
    row[14] = 4.0 * deviation / (c + mean_shift)
    row[15] = (2.0 * deviation - mean_shift) / (4.0 * deviation) if deviation != 0.0 else math.nan
    return shift60, sum60
