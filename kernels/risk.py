"""Size and account limits of an entry: how much, or which refusals."""

from __future__ import annotations

import math

import numba

from kernels.compile import kernel
from kernels.decide import BIT, FACTS_T, LIMITS_T, PLAN_T

B_MIN_SIZE, B_POSITIONS, B_NOTIONAL = BIT["min_size"], BIT["max_positions"], BIT["max_notional"]
B_LEVERAGE, B_DAY_LOSS, B_DRAWDOWN = BIT["leverage"], BIT["day_loss"], BIT["drawdown"]
B_STREAK, B_BOOK, B_FUNDING, B_LIQUIDATION = BIT["losing_streak"], BIT["book_size"], BIT["funding"], BIT["liquidation"]


@kernel()
def nearest(x):
    return math.floor(x + 0.5)


@kernel()
def from_units(whole, step):
    """Return whole × step as the double nearest to the decimal: divided by 1/step where that is a whole number."""
    inverse = nearest(1.0 / step)
    if step < 1.0 and abs(inverse * step - 1.0) < 1e-12:
        return whole / inverse
    return whole * step


@kernel("float64(float64, float64)")
def floor_to(value, step):
    """Return `value` rounded down to a multiple of `step`, in integers so that 0.3 stays 3 steps of 0.1."""
    if step <= 0.0:
        return value
    units = value / step
    close = nearest(units)
    whole = close if abs(units - close) <= 1e-9 * max(1.0, abs(units)) else math.floor(units)
    return from_units(whole, step)


@kernel("float64(float64, float64)")
def round_to(value, step):
    """Return `value` rounded to the nearest multiple of `step`."""
    return from_units(nearest(value / step), step) if step > 0.0 else value


@kernel(numba.int64(numba.int64, FACTS_T, LIMITS_T, PLAN_T))
def size(side, facts, limits, plan):
    """Write the order that `side` would send into plan[0] and return the gate bits of the account's limits.

    Quantity = risk_fraction × equity / atr_15m (one ATR against us costs the fraction), capped by notional, leverage
    and the book, rounded down to the step. The take profit and stop levels hang on the last close, as the labels do.
    """
    f, m, p = facts[0], limits[0], plan[0]
    gates = 0
    touch = f.ask if side >= 0 else f.bid
    level = f.ask_qty if side >= 0 else f.bid_qty
    direction = 1.0 if side >= 0 else -1.0
    p.tp_price = round_to(f.close + direction * m.tp_atr * f.atr_15m, f.tick_size)
    p.sl_price = round_to(f.close - direction * m.sl_atr * f.atr_15m, f.tick_size)
    p.limit_price = round_to(touch * (1.0 + direction * m.max_slip_bps * 1e-4), f.tick_size)
    qty = 0.0
    if f.atr_15m > 0.0 and touch > 0.0 and f.equity_usdt > 0.0:
        qty = m.risk_fraction * f.equity_usdt / f.atr_15m
        qty = min(qty, m.max_notional_usdt / touch, f.max_qty)
        total_room = m.max_total_notional_usdt - f.total_notional_usdt
        leverage_room = m.max_leverage * f.equity_usdt - f.total_notional_usdt
        if total_room < f.min_notional_usdt or total_room <= 0.0:
            gates |= B_NOTIONAL
        if leverage_room < f.min_notional_usdt or leverage_room <= 0.0:
            gates |= B_LEVERAGE
        qty = min(qty, max(total_room, 0.0) / touch, max(leverage_room, 0.0) / touch)
        book_cap = m.book_share * level
        if book_cap < f.min_qty or book_cap * touch < f.min_notional_usdt:
            gates |= B_BOOK
        qty = min(qty, book_cap)
    p.qty = max(floor_to(qty, f.step_size), 0.0)
    p.notional_usdt = p.qty * touch
    if p.qty <= 0.0 or p.qty < f.min_qty or p.notional_usdt < f.min_notional_usdt:
        gates |= B_MIN_SIZE
    if f.open_positions >= m.max_positions:
        gates |= B_POSITIONS
    if f.equity_usdt < f.day_start_equity_usdt * (1.0 - m.max_day_loss):
        gates |= B_DAY_LOSS
    if f.equity_usdt < f.peak_equity_usdt * (1.0 - m.max_drawdown):
        gates |= B_DRAWDOWN
    if f.losing_streak >= m.max_losing_streak:
        gates |= B_STREAK
    if direction * f.funding_due > m.max_funding:
        gates |= B_FUNDING
    # cross margin: the loss at the stop must leave more than twice the maintenance margin of everything open
    loss_at_stop = p.qty * abs(touch - p.sl_price)
    if f.equity_usdt - loss_at_stop < 2.0 * f.maintenance_rate * (f.total_notional_usdt + p.notional_usdt):
        gates |= B_LIQUIDATION
    return gates
