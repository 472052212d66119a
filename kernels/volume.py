"""Volume family: volume, taker and trade-count ratios (rows 32–37)."""

from __future__ import annotations

import math

from kernels.compile import kernel
from kernels.rolling import push, shift, square_sum, total, window
from kernels.state import LONG, MEDIUM, QUOTE, SHORT, TAKER_NET, TRADES, VOLUME


@kernel()
def ratio(a, b):
    """Return a / b, NaN where b is 0."""
    return a / b if b != 0.0 else math.nan


@kernel()
def step_volume(state, i, c, v, q, taker, trades, row):
    """Step the volume family."""
    push(state, VOLUME, LONG, i, v)
    push(state, QUOTE, LONG, i, q)
    push(state, TAKER_NET, SHORT, i, 2.0 * taker - v)
    push(state, TRADES, MEDIUM, i, trades)

    w = window(state, VOLUME, LONG, i, 20)
    mean_shift = shift(w, 20)
    mean = v + mean_shift
    row[32] = ratio(v, mean)
    row[33] = ratio(math.sqrt(square_sum(w, 20, mean_shift) / 20.0), mean)

    quote = total(window(state, QUOTE, LONG, i, 60), 60)
    vwap = ratio(quote, total(window(state, VOLUME, LONG, i, 60), 60))
    row[34] = ratio(c, vwap) - 1.0

    row[35] = ratio(taker, v)
    net = total(window(state, TAKER_NET, SHORT, i, 15), 15)
    row[36] = ratio(net, total(window(state, VOLUME, LONG, i, 15), 15))
    w = window(state, TRADES, MEDIUM, i, 20)
    row[37] = ratio(trades, trades + shift(w, 20))
