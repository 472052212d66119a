"""Price family: returns, body and wicks (rows 0–7)."""

from __future__ import annotations

import math

from kernels.compile import kernel
from kernels.rolling import ln, push
from kernels.state import CLOSE, LONG, PREV_CLOSE


@kernel()
def step_price(state, i, o, h, low, c, row):
    """Step the price family with bar number i and return log_ret."""
    newest = CLOSE + (i & (LONG - 1)) + LONG
    push(state, CLOSE, LONG, i, c)
    row[0] = c / state[newest - 1] - 1.0
    row[1] = c / state[newest - 5] - 1.0
    row[2] = c / state[newest - 15] - 1.0
    row[3] = c / state[newest - 60] - 1.0
    log_ret = ln(c / state[PREV_CLOSE]) if i > 0 else math.nan
    row[4] = log_ret
    row[5] = (c - o) / o
    row[6] = (h - max(o, c)) / c
    row[7] = (min(o, c) - low) / c
    return log_ret
