"""Trend family: directional movement, moving averages, slope (rows 16–22)."""

from __future__ import annotations

import math

from kernels.compile import kernel
from kernels.rolling import ema, ln, push, slope20, window
from kernels.state import (
    ADX,
    DM_MINUS,
    DM_PLUS,
    DM_RANGE,
    EMA20,
    EMA50,
    LN_CLOSE,
    MEDIUM,
    PREV_HIGH,
    PREV_LOW,
)


@kernel()
def step_direction(state, i, true_range, h, low, row):
    """Step TA-Lib's ADX, PLUS_DI and MINUS_DI (14), with 0 only while nothing has moved since the first bar."""
    row[16] = math.nan
    row[17] = math.nan
    row[18] = math.nan
    if i == 0:
        return
    up = h - state[PREV_HIGH]
    down = state[PREV_LOW] - low
    if i >= 14:
        state[DM_PLUS] -= state[DM_PLUS] / 14.0
        state[DM_MINUS] -= state[DM_MINUS] / 14.0
        state[DM_RANGE] -= state[DM_RANGE] / 14.0
    if down > 0.0 and up < down:
        state[DM_MINUS] += down
    elif up > 0.0 and up > down:
        state[DM_PLUS] += up
    state[DM_RANGE] += true_range
    if i < 14:
        return
    moved = state[DM_RANGE]
    plus = 100.0 * (state[DM_PLUS] / moved) if moved != 0.0 else 0.0
    minus = 100.0 * (state[DM_MINUS] / moved) if moved != 0.0 else 0.0
    row[17] = plus
    row[18] = minus
    both = plus + minus
    dx = 100.0 * (abs(minus - plus) / both) if both != 0.0 else 0.0
    if i < 27:
        state[ADX] += dx
        return
    state[ADX] = (state[ADX] + dx) / 14.0 if i == 27 else (state[ADX] * 13.0 + dx) / 14.0
    row[16] = state[ADX]


@kernel()
def step_averages(state, i, c, row):
    """Step EMA20, EMA50 and the regression slope of ln c."""
    fast = ema(state, EMA20, i, 20, c)
    slow = ema(state, EMA50, i, 50, c)
    row[19] = side_of(c, fast, slow)
    row[20] = fast / slow - 1.0
    row[21] = c / slow - 1.0
    push(state, LN_CLOSE, MEDIUM, i, ln(c))
    row[22] = slope20(window(state, LN_CLOSE, MEDIUM, i, 20))


@kernel()
def side_of(c, fast, slow):
    """Return +1 if c and fast are above slow, −1 if both are below, else 0; NaN while slow is not defined."""
    if math.isnan(slow):
        return math.nan
    if c > slow and fast > slow:
        return 1.0
    if c < slow and fast < slow:
        return -1.0
    return 0.0
