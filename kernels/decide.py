"""Eight predictions and what is known of the market and the account → side and gate bits. Every test is evaluated."""

from __future__ import annotations

import math

import numba
import numpy as np

from kernels.compile import kernel
from kernels.records import GATES

FACTS = np.dtype(
    [
        (name, "<f8")
        for name in (
            # what the engine states, in this order
            "now_ms", "close", "atr_15m", "late", "input_late", "ready", "filled", "has_model", "session",
            "reduce_only", "journal_full", "symbol_halted", "unknown_order", "gap", "audit_failed", "clock_bad",
            "flat", "cooldown_until_ms", "equity_usdt", "day_start_equity_usdt", "peak_equity_usdt",
            "total_notional_usdt", "open_positions", "losing_streak",
            # market and vector, as `kernels.decision.decide_on` finds them
            "mark_price", "mark_age_ms", "bid", "bid_qty", "ask", "ask_qty", "book_age_ms", "complete", "nan_unseen",
            "rate_exhausted",
            # instrument
            "delivery_ms", "tick_size", "step_size", "min_qty", "max_qty", "min_notional_usdt", "maintenance_rate",
            # funding due before the time limit, as a fraction of notional, positive: longs pay
            "funding_due",
        )
    ]
)  # fmt: skip
"""What a decision depends on besides the predictions; one row per decision. A boolean is 0.0 or not."""

LIMITS = np.dtype(
    [
        (name, "<f8")
        for name in (
            "min_er", "max_tail", "max_mae_atr", "min_hold_minutes", "max_hold_minutes", "tp_atr", "sl_atr",
            "time_limit_ms", "max_slip_bps", "max_spread_bps", "max_data_age_ms", "risk_fraction", "max_notional_usdt",
            "max_total_notional_usdt", "max_leverage", "max_positions", "book_share", "max_day_loss", "max_drawdown",
            "max_losing_streak", "max_funding",
        )
    ]
)  # fmt: skip
"""The configuration's numbers, one row, fixed for a run."""

PLAN = np.dtype(
    [("qty", "<f8"), ("limit_price", "<f8"), ("tp_price", "<f8"), ("sl_price", "<f8"), ("notional_usdt", "<f8")]
)
"""What to send when no gate refuses."""

BIT: dict[str, int] = {name: 1 << i for i, name in enumerate(GATES)}

FACTS_T = numba.from_dtype(FACTS)[::1]
LIMITS_T = numba.from_dtype(LIMITS)[::1]
PLAN_T = numba.from_dtype(PLAN)[::1]

B_NO_SESSION, B_NO_MODEL, B_NO_SIDE = BIT["no_session"], BIT["no_model"], BIT["no_side"]
B_ER, B_TAIL, B_MAE, B_HOLD, B_NOT_FLAT = BIT["er_low"], BIT["tail"], BIT["mae"], BIT["hold"], BIT["not_flat"]
B_INCOMPLETE, B_LATE, B_INPUT_LATE = BIT["incomplete"], BIT["late"], BIT["input_late"]
B_NAN, B_NOT_READY, B_FILLED, B_BEYOND = (
    BIT["nan_unseen"],
    BIT["not_ready"],
    BIT["filled_bar"],
    BIT["mark_beyond_barrier"],
)
B_STALE, B_SPREAD, B_HALTED, B_FULL = BIT["stale_data"], BIT["spread"], BIT["symbol_halted"], BIT["journal_full"]
B_UNKNOWN, B_GAP, B_AUDIT, B_CLOCK = BIT["unknown_order"], BIT["gap"], BIT["audit_failed"], BIT["clock"]
B_RATE, B_REDUCE, B_COOLDOWN, B_DELIVERY = BIT["rate_budget"], BIT["reduce_only"], BIT["cooldown"], BIT["delivery"]
DAY_MS = 86_400_000.0


@kernel(numba.int64(FACTS_T))
def _state_gates(facts):
    """Return the gates that ask nothing of the predictions."""
    f = facts[0]
    gates = 0
    if f.session == 0.0:
        gates |= B_NO_SESSION
    if f.has_model == 0.0:
        gates |= B_NO_MODEL
    if f.flat == 0.0:
        gates |= B_NOT_FLAT
    if f.complete == 0.0:
        gates |= B_INCOMPLETE
    if f.late != 0.0:
        gates |= B_LATE
    if f.input_late != 0.0:
        gates |= B_INPUT_LATE
    if f.ready == 0.0:
        gates |= B_NOT_READY
    if f.filled != 0.0:
        gates |= B_FILLED
    if f.nan_unseen != 0.0:
        gates |= B_NAN
    if f.symbol_halted != 0.0:
        gates |= B_HALTED
    if f.journal_full != 0.0:
        gates |= B_FULL
    if f.unknown_order != 0.0:
        gates |= B_UNKNOWN
    if f.gap != 0.0:
        gates |= B_GAP
    if f.audit_failed != 0.0:
        gates |= B_AUDIT
    if f.clock_bad != 0.0:
        gates |= B_CLOCK
    if f.rate_exhausted != 0.0:
        gates |= B_RATE
    if f.reduce_only != 0.0:
        gates |= B_REDUCE
    if f.now_ms < f.cooldown_until_ms:
        gates |= B_COOLDOWN
    return gates


@kernel(numba.types.UniTuple(numba.int64, 2)(numba.float64[::1], FACTS_T, LIMITS_T))
def decide(predictions, facts, limits):
    """Return (side, gate bits) of one decision.

    predictions: float64[8] in the order of kernels.schema.TARGETS (er, q05, mae, hold; long then short each);
    facts: FACTS[1]; limits: LIMITS[1]. Side is +1, −1, or 0 on a tie or a prediction that is not finite.
    """
    f, m = facts[0], limits[0]
    gates = _state_gates(facts)
    side = 0
    if math.isfinite(predictions[0]) and math.isfinite(predictions[1]):
        if predictions[0] > predictions[1]:
            side = 1
        elif predictions[1] > predictions[0]:
            side = -1
    if side == 0:
        gates |= B_NO_SIDE
    at = 1 if side < 0 else 0
    if not predictions[at] >= m.min_er:
        gates |= B_ER
    if not predictions[2 + at] >= -m.max_tail:
        gates |= B_TAIL
    if not predictions[4 + at] <= m.max_mae_atr * f.atr_15m / f.close:
        gates |= B_MAE
    if not (m.min_hold_minutes <= predictions[6 + at] <= m.max_hold_minutes):
        gates |= B_HOLD
    if not (f.mark_age_ms <= m.max_data_age_ms and f.book_age_ms <= m.max_data_age_ms and f.bid > 0.0 < f.ask):
        gates |= B_STALE
    elif not 2e4 * (f.ask - f.bid) / (f.ask + f.bid) <= m.max_spread_bps:
        gates |= B_SPREAD
    tp = f.close + side * m.tp_atr * f.atr_15m
    sl = f.close - side * m.sl_atr * f.atr_15m
    if side != 0 and not (side * (tp - f.mark_price) > 0.0 and side * (f.mark_price - sl) > 0.0):
        gates |= B_BEYOND
    if f.delivery_ms > 0.0 and f.delivery_ms < f.now_ms + m.time_limit_ms + DAY_MS:
        gates |= B_DELIVERY
    return side, gates
