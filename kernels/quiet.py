"""Minutes in which nothing happens: the backtest's compiled stride over what the core would only have looked at.

A minute is quiet when no position meets a barrier, its time limit or a settlement, and every decision is refused. Its
effects (marks, excursions, equity, the day's roll, refusals) are the core's, by the same kernels; the first minute that
is not quiet is left untouched for the core itself.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels.compile import kernel
from kernels.decide import FACTS_T, LIMITS_T, PLAN_T, decide
from kernels.risk import size
from kernels.stops import POSITION_T, check, exposure

WALLET, EQUITY, PEAK, DAY_START, DAY_MS, STREAK = range(6)  # of the account vector
OPEN, HIGH, LOW, CLOSE = range(4)  # of a path's minute
HAS_BAR, HAS_VECTOR, READY, FILLED, NAN_UNSEEN = 1, 2, 4, 8, 16  # bits of a minute's flags
INSTRUMENT_FACTS, FUNDING_INTERVAL_MS, DELIVERY_MS = 6, 6, 7  # columns of `constants`: kernels.decision.CONSTANT
MINUTE_MS, LAST_TICK_MS, A_DAY_MS = 60_000, 59_999, 86_400_000

_MATRIX = numba.float64[:, ::1]
_CUBE = numba.float64[:, :, ::1]
_TIMES = numba.int64[:, ::1]


@kernel()
def _untouched(positions, count, at, flags, path, next_ms, known_next_ms, open_ms):
    """Return whether no position meets a barrier, its time limit or a settlement in minute `at`."""
    for slot in range(count):
        p = positions[slot]
        s = p.symbol
        if not flags[s, at] & HAS_BAR:
            continue
        worst = path[s, at, LOW] if p.side > 0 else path[s, at, HIGH]
        best = path[s, at, HIGH] if p.side > 0 else path[s, at, LOW]
        if p.side * (worst - p.sl_price) <= 0.0 or p.side * (best - p.tp_price) >= 0.0:
            return False
        if p.deadline_ms <= open_ms + LAST_TICK_MS:
            return False
        due_ms = known_next_ms[s]
        if 0 < due_ms < next_ms[s, at] and due_ms <= open_ms:
            return False
    return True


@kernel()
def _mark(account, profit, now_ms):
    """Revalue the equity as `Account.mark` does."""
    account[EQUITY] = account[WALLET] + profit
    account[PEAK] = max(account[PEAK], account[EQUITY])
    day_ms = float(now_ms - now_ms % A_DAY_MS)
    if day_ms > account[DAY_MS]:
        account[DAY_MS] = day_ms
        account[DAY_START] = account[EQUITY]


@kernel()
def _fill_facts(f, s, at, now_ms, flags, closes, atr, marks, half_spread, depth, account, flat, cooldown_ms,
                notional, count, constants, rate, due_ms, time_limit_ms):  # fmt: skip
    """Write the facts of one decision: what `Core._state_facts` and `decide_on` write on the backtest's book."""
    close, bits = closes[s, at, 1], flags[s, at]
    f.now_ms = float(now_ms)
    f.close = close
    f.mark_price = marks[s]
    f.mark_age_ms = float(MINUTE_MS - LAST_TICK_MS)  # a minute with a vector has a bar, and so a last tick
    f.bid = close * (1.0 - half_spread)
    f.ask = close * (1.0 + half_spread)
    f.bid_qty = f.ask_qty = depth
    f.book_age_ms = 0.0
    f.atr_15m = atr[s, at]
    f.complete = 1.0
    f.late = f.input_late = 0.0
    f.ready = 1.0 if bits & READY else 0.0
    f.filled = 1.0 if bits & FILLED else 0.0
    f.nan_unseen = 1.0 if bits & NAN_UNSEEN else 0.0
    f.has_model = f.session = 1.0
    f.reduce_only = f.journal_full = f.symbol_halted = f.unknown_order = f.gap = f.audit_failed = 0.0
    f.clock_bad = f.rate_exhausted = 0.0
    f.flat = 1.0 if flat else 0.0
    f.cooldown_until_ms = cooldown_ms
    f.delivery_ms = constants[s, DELIVERY_MS]
    f.equity_usdt, f.day_start_equity_usdt = account[EQUITY], account[DAY_START]
    f.peak_equity_usdt, f.losing_streak = account[PEAK], account[STREAK]
    f.total_notional_usdt, f.open_positions = notional, float(count)
    f.tick_size, f.step_size, f.min_qty = constants[s, 0], constants[s, 1], constants[s, 2]
    f.max_qty, f.min_notional_usdt, f.maintenance_rate = constants[s, 3], constants[s, 4], constants[s, 5]
    left_ms = time_limit_ms - (due_ms - now_ms)
    f.funding_due = 0.0
    if rate == rate and due_ms > 0 and left_ms >= 0:
        f.funding_due = rate * (1 + left_ms // np.int64(constants[s, FUNDING_INTERVAL_MS]))


@kernel(
    numba.int64(
        numba.int64, numba.int64, numba.int64,  # at, end, first_ms
        numba.uint8[:, ::1], _CUBE, _CUBE, _CUBE, _MATRIX, _MATRIX, _TIMES,  # the history
        numba.float64[::1], numba.int64[::1], numba.int64[::1], numba.float64[::1],  # what the core knows per symbol
        POSITION_T, numba.int64, numba.int64[::1], numba.float64[::1],  # positions, account
        _MATRIX, LIMITS_T, numba.float64, numba.float64, numba.int64,  # instruments, limits, costs
        FACTS_T, PLAN_T, POSITION_T,  # scratch
        numba.int8[:, ::1], numba.uint64[:, ::1], numba.float64[::1],  # out
    )
)  # fmt: skip
def stride(
    at, end, first_ms, flags, path, closes, predictions, atr, rates, next_ms, marks, mark_ms, known_next_ms,
    cooldown_ms, positions, count, slot_of, account, constants, limits, half_spread, depth, time_limit_ms, facts, plan,
    kept, sides, gates, equity,
):  # fmt: skip
    """Pass over quiet minutes from `at` on and return the first one that is not (or `end`).

    flags uint8[S, N]; path float64[S, N, 4] open, high, low, close of the mark; closes float64[S, N, 2] last open and
    close; predictions float64[S, N, 8]; atr, rates (of the minute's last tick) float64[S, N]; next_ms int64[S, N];
    account float64[6]. Written: marks, mark_ms, known_next_ms, positions, account, and per minute sides, gates, equity.
    """
    symbols = flags.shape[0]
    before = account.copy()
    marks_before = marks.copy()
    while at < end:
        open_ms = first_ms + at * MINUTE_MS
        now_ms = open_ms + MINUTE_MS
        if not _untouched(positions, count, at, flags, path, next_ms, known_next_ms, open_ms):
            return at
        kept[:count] = positions[:count]
        before[:] = account
        marks_before[:] = marks
        for slot in range(count):
            s = positions[slot].symbol
            if flags[s, at] & HAS_BAR:
                first, second = (LOW, HIGH) if positions[slot].side > 0 else (HIGH, LOW)
                check(positions, slot, path[s, at, OPEN], open_ms)
                check(positions, slot, path[s, at, first], open_ms)
                check(positions, slot, path[s, at, second], open_ms)
                check(positions, slot, path[s, at, CLOSE], open_ms)
        quiet = True
        for s in range(symbols):
            if flags[s, at] & HAS_BAR:
                marks[s] = path[s, at, CLOSE]
        for s in range(symbols):
            if not flags[s, at] & HAS_VECTOR:
                continue
            profit, notional = exposure(positions, count)
            _mark(account, profit, now_ms)
            _fill_facts(
                facts[0], s, at, now_ms, flags, closes, atr, marks, half_spread, depth, account, slot_of[s] < 0,
                cooldown_ms[s], notional, count, constants, rates[s, at], next_ms[s, at], time_limit_ms,
            )  # fmt: skip
            side, bits = decide(predictions[s, at], facts, limits)
            bits |= size(side, facts, limits, plan)
            if bits == 0:
                quiet = False
                break
            sides[s, at] = side
            gates[s, at] = bits
        if not quiet:
            positions[:count] = kept[:count]
            account[:] = before
            marks[:] = marks_before
            return at
        for s in range(symbols):
            if flags[s, at] & HAS_BAR:
                mark_ms[s] = open_ms + LAST_TICK_MS
                known_next_ms[s] = next_ms[s, at]
        equity[at] = account[EQUITY]
        at += 1
    return at
