"""Stop loss, take profit and time limit of every open position, on each mark-price tick."""

from __future__ import annotations

import numba
import numpy as np

from kernels.compile import kernel
from kernels.records import POSITION_FIELDS, Reason

POSITION = np.dtype(POSITION_FIELDS)
POSITION_T = numba.from_dtype(POSITION)[::1]
SL, TP, TIME = int(Reason.SL), int(Reason.TP), int(Reason.TIME)


@kernel(numba.int64(POSITION_T, numba.int64, numba.float64, numba.int64), nogil=False)
def check(positions, at, mark_price, now_ms):
    """Mark position `at` to `mark_price` and return why it must be closed now: a Reason, or 0.

    Updates its mark price and both excursions (fractions of the entry price, never negative). The stop is examined
    first, as in the labels.
    """
    p = positions[at]
    p.mark_price = mark_price
    gain = p.side * (mark_price - p.entry_price) / p.entry_price
    if gain > p.mfe:
        p.mfe = gain
    if -gain > p.mae:
        p.mae = -gain
    if p.side * (mark_price - p.sl_price) <= 0.0:
        return SL
    if p.side * (mark_price - p.tp_price) >= 0.0:
        return TP
    if now_ms >= p.deadline_ms:
        return TIME
    return 0


@kernel(numba.int64(POSITION_T, numba.int64, numba.float64[::1], numba.int64, numba.int64[::1], numba.int64[::1]))
def check_all(positions, count, mark_prices, now_ms, slots, reasons):
    """Check the first `count` positions against `mark_prices` (by symbol, NaN: skip); return how many must close.

    Their slots and reasons are written into the out-arrays. Used after a restart, a stall, and by the backtest.
    """
    hits = 0
    for at in range(count):
        mark_price = mark_prices[positions[at].symbol]
        if mark_price > 0.0:
            reason = check(positions, at, mark_price, now_ms)
            if reason != 0:
                slots[hits] = at
                reasons[hits] = reason
                hits += 1
    return hits


@kernel(numba.types.UniTuple(numba.float64, 2)(POSITION_T, numba.int64), nogil=False)
def exposure(positions, count):
    """Return (unrealised profit, notional) in USDT of the first `count` positions at their last mark."""
    profit = 0.0
    notional = 0.0
    for at in range(count):
        p = positions[at]
        profit += p.side * p.qty * (p.mark_price - p.entry_price)
        notional += p.qty * p.mark_price
    return profit, notional
