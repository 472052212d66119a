"""Momentum family: RSI, stochastic, MACD, CCI, MFI (rows 23–31)."""

from __future__ import annotations

import math

from kernels.compile import kernel
from kernels.rolling import deviation_sum, ema, highest, lowest, push, shift, square_sum, total, window
from kernels.state import (
    EMA9,
    EMA12,
    EMA26,
    FAST_K1,
    FAST_K2,
    FLOW_DOWN,
    FLOW_UP,
    HIGH,
    LONG,
    LOW,
    MEDIUM,
    PREV_CLOSE,
    PREV_TYPICAL,
    RSI,
    RSI_GAIN,
    RSI_LOSS,
    SHORT,
    SLOW_K1,
    SLOW_K2,
    TYPICAL,
)


@kernel()
def step_rsi(state, i, c, row):
    """Step TA-Lib's RSI(14) and its z-score over 60 bars."""
    value = math.nan
    if i > 0:
        change = c - state[PREV_CLOSE]
        gain = max(change, 0.0)
        loss = max(-change, 0.0)
        if i <= 14:
            state[RSI_GAIN] += gain
            state[RSI_LOSS] += loss
            if i == 14:
                state[RSI_GAIN] /= 14.0
                state[RSI_LOSS] /= 14.0
        else:
            state[RSI_GAIN] = (state[RSI_GAIN] * 13.0 + gain) / 14.0
            state[RSI_LOSS] = (state[RSI_LOSS] * 13.0 + loss) / 14.0
        if i >= 14:
            moved = state[RSI_GAIN] + state[RSI_LOSS]
            value = 100.0 * (state[RSI_GAIN] / moved) if moved != 0.0 else 0.0
    row[23] = value
    push(state, RSI, LONG, i, value)
    w = window(state, RSI, LONG, i, 60)
    mean_shift = shift(w, 60)
    deviation = math.sqrt(square_sum(w, 60, mean_shift) / 60.0)
    row[24] = -mean_shift / deviation if deviation >= 1e-9 else math.nan


@kernel()
def step_stochastic(state, i, h, low, c, row):
    """Step TA-Lib's STOCH(14, 3, 3), both averages simple."""
    push(state, HIGH, SHORT, i, h)
    push(state, LOW, SHORT, i, low)
    row[25] = math.nan
    row[26] = math.nan
    if i < 13:
        return
    top = highest(window(state, HIGH, SHORT, i, 14), 14)
    bottom = lowest(window(state, LOW, SHORT, i, 14), 14)
    fast = (c - bottom) / ((top - bottom) / 100.0) if top != bottom else 0.0
    slow = fast + ((state[FAST_K2] - fast) + (state[FAST_K1] - fast)) / 3.0
    if i >= 17:
        row[25] = slow
        row[26] = slow + ((state[SLOW_K2] - slow) + (state[SLOW_K1] - slow)) / 3.0
    state[FAST_K2] = state[FAST_K1]
    state[FAST_K1] = fast
    state[SLOW_K2] = state[SLOW_K1]
    state[SLOW_K1] = slow


@kernel()
def step_macd(state, i, c, row):
    """Step TA-Lib's MACD(12, 26, 9) over c: both averages start at bar 25, EMA12 from the mean of bars 14…25."""
    fast = ema(state, EMA12, i - 14, 12, c) if i >= 14 else math.nan
    slow = ema(state, EMA26, i, 26, c)
    signal = ema(state, EMA9, i - 25, 9, fast - slow) if i >= 25 else math.nan
    if i >= 33:
        row[27] = (fast - slow) / c
        row[28] = signal / c
        row[29] = ((fast - slow) - signal) / c
    else:
        row[27] = math.nan
        row[28] = math.nan
        row[29] = math.nan


@kernel()
def step_typical(state, i, h, low, c, v, row):
    """Step TA-Lib's CCI(20) and MFI(14), both on the typical price."""
    typical = (h + low + c) / 3.0
    push(state, TYPICAL, MEDIUM, i, typical)
    w = window(state, TYPICAL, MEDIUM, i, 20)
    mean_shift = shift(w, 20)
    mean_deviation = deviation_sum(w, 20, mean_shift) / 20.0
    row[30] = -mean_shift / (0.015 * mean_deviation) if mean_deviation != 0.0 else 0.0

    up = math.nan
    down = math.nan
    if i > 0:
        previous = state[PREV_TYPICAL]
        change = typical - previous
        flow = typical * v
        still = abs(change) <= 1e-14 * (abs(typical) + abs(previous))
        up = flow if change > 0.0 and not still else flow * 0.0
        down = flow if change < 0.0 and not still else flow * 0.0
    push(state, FLOW_UP, SHORT, i, up)
    push(state, FLOW_DOWN, SHORT, i, down)
    ups = total(window(state, FLOW_UP, SHORT, i, 14), 14)
    flows = ups + total(window(state, FLOW_DOWN, SHORT, i, 14), 14)
    row[31] = 100.0 * (ups / flows) if flows != 0.0 else 0.0
    state[PREV_TYPICAL] = typical
