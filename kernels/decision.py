"""One decision on a complete vector: model row, record of the book, predictions, gates and size, record of the signal.

`decide` does all of it where nobody else is to be asked; `sign` does the last step by itself, for a decision on which
Python has more to say: the venue's gates, the correlation cap. `engine.core.Core` is the caller of both, and
`kernels.minute` calls `decide` on a vector that a closed bar has just completed.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels import journal
from kernels.addresses import array_at
from kernels.compile import kernel
from kernels.decide import FACTS, LIMITS, PLAN
from kernels.decide import decide as decide_facts
from kernels.histogram import BUCKETS, STAGES, add
from kernels.native import call_at, monotonic_ns
from kernels.records import BOOK_ROW, FEATURE_COUNT, GATES, RECORDS, TARGET_COUNT, Kind, Stage
from kernels.risk import size as size_order

CONSTANT = np.dtype(
    [
        (name, "<f8")
        for name in (
            "tick_size", "step_size", "min_qty", "max_qty", "min_notional_usdt", "maintenance_rate",
            "funding_interval_ms", "delivery_ms",
        )
    ]
)  # fmt: skip
"""What a decision takes from an instrument; max_qty is infinite where the exchange states none."""

# What a call is told of the state of things, a bit each; the facts of the same names (`kernels.decide.FACTS`).
FLAGS = (
    "late", "input_late", "ready", "filled", "has_model", "session", "reduce_only", "journal_full", "symbol_halted",
    "unknown_order", "gap", "audit_failed", "clock_bad", "flat",
)  # fmt: skip

DECIDED, SIGNED = 5, 6  # what `decide` did (`kernels.closing` has the lower codes): SIGNED: the signal is written
ALL_SIGNED, REFUSED_SIGNED, NONE_SIGNED = range(3)  # which decisions `decide` may sign: those with a gate; none

# The table of all calls: addresses (see `decide`), then the model's function and its argument (0: none), and the
# number of symbols.
(
    BOOKS, MARKS, MARK_MS, RATES, NEXT_MS, CONSTANTS, PREDICTIONS, FACTS_ROW, LIMITS_ROW, PLAN_ROW, ROW, HAD_NO_NAN,
    MODEL, COUNTS, SUMS, SIGNALS, OUT, COUNTED, POSITIONS, PREDICT, ARGUMENT, SYMBOLS,
) = range(22)  # fmt: skip
SIDE, REFUSALS, OUTS = range(3)  # of OUT: what was decided
VECTORS, LATE_VECTORS, SIGNALS_MADE, BY_GATE = range(4)  # of COUNTED; from BY_GATE on: refusals by gate
COUNTED_WORDS = BY_GATE + len(GATES)

_WORDS = numba.uint64[::1]
_TABLE = numba.int64[::1]

BOOK, SIGNAL = int(Kind.BOOK), int(Kind.SIGNAL)
_BOOK_SLOTS, _SIGNAL_SLOTS = journal.slots_of(Kind.BOOK), journal.slots_of(Kind.SIGNAL)
_BOOK_EVENT, _BOOK_BID = journal.word_of(Kind.BOOK, "event_ms"), journal.word_of(Kind.BOOK, "bid")
_BOOK_UPDATE, _BOOK_SYMBOL = journal.word_of(Kind.BOOK, "update_id"), journal.word_of(Kind.BOOK, "symbol")
_S_SYMBOL = journal.word_of(Kind.SIGNAL, "symbol")  # and side, entered and late in its upper bytes
_S_TIME, _S_PREDICTIONS = journal.word_of(Kind.SIGNAL, "decision_ms"), journal.word_of(Kind.SIGNAL, "predictions")
_S_GATES, _S_HASH = journal.word_of(Kind.SIGNAL, "gates"), journal.word_of(Kind.SIGNAL, "vector_hash")
_S_MODEL, _S_CLOSE = journal.word_of(Kind.SIGNAL, "model_id"), journal.word_of(Kind.SIGNAL, "close")
_S_QTY, _S_FRAME = journal.word_of(Kind.SIGNAL, "qty"), journal.word_of(Kind.SIGNAL, "frame_ns")
_S_FIRST, _S_END = journal.word_of(Kind.SIGNAL, "first_1m_ms"), journal.word_of(Kind.SIGNAL, "first_1h_ms") + 1
_MODEL_WORDS = _S_CLOSE - _S_MODEL
_PREDICT_STAGE, _DECIDE_STAGE, _JOURNAL_STAGE = int(Stage.PREDICT), int(Stage.DECIDE), int(Stage.JOURNAL)
_FRAME_TO_DECISION = int(Stage.FRAME_TO_DECISION)
_S_WORDS = RECORDS[Kind.SIGNAL].itemsize // 8


BOOK_WORDS, SIGNAL_WORDS = _BOOK_SLOTS * journal.WORDS_PER_SLOT, _SIGNAL_SLOTS * journal.WORDS_PER_SLOT
STANDING = (
    numba.int64, numba.int64, numba.int64, numba.float64, numba.float64, numba.float64, numba.float64, numba.int64,
    numba.int64, numba.float64, numba.int64,
)  # fmt: skip
"""What the caller states of itself, as `Core.standing` gives it: hold, flags, cooldown_until_ms, equity_usdt,
day_start_equity_usdt, peak_equity_usdt, total_notional_usdt, open_positions, losing_streak, notional_cap_usdt, signs.
"""


@kernel()
def _write_row(table, vector):
    """Write the model's float32 row; return 1 if a NaN is new to the model."""
    row = array_at(table[ROW], FEATURE_COUNT, np.float32)
    had_no_nan = array_at(table[HAD_NO_NAN], FEATURE_COUNT, np.uint8)
    unseen = 0
    for f in range(FEATURE_COUNT):
        x = vector[f]
        row[f] = x
        unseen |= (x != x) & (had_no_nan[f] != 0)
    return np.int64(unseen)


@kernel()
def _write_book(table, symbol, words, at, seq, mono_ns, now_ms, hold):
    """Write the BOOK record of a decision: the quote that it is made on, and the `engine.timers.Hold` bits."""
    b = array_at(table[BOOKS], table[SYMBOLS], BOOK_ROW)[symbol]
    values = words.view(np.float64)
    journal.head(words, at, BOOK, _BOOK_SLOTS, mono_ns, now_ms)
    words[at + _BOOK_EVENT] = np.uint64(b.event_ms)
    values[at + _BOOK_BID] = b.bid
    values[at + _BOOK_BID + 1] = b.bid_qty
    values[at + _BOOK_BID + 2] = b.ask
    values[at + _BOOK_BID + 3] = b.ask_qty
    words[at + _BOOK_UPDATE] = np.uint64(0)
    words[at + _BOOK_SYMBOL] = np.uint64(symbol) | (np.uint64(hold) << np.uint64(16))
    journal.seal(words, at, BOOK_WORDS, seq)


@kernel()
def _funding_due(rate, due_ms, now_ms, interval_ms, time_limit_ms):
    """Return the funding that a position opened now would pay before its time limit, a fraction; > 0: longs pay."""
    left_ms = time_limit_ms - (due_ms - now_ms)
    if rate != rate or due_ms <= 0 or left_ms < 0:
        return 0.0
    return rate * (1 + left_ms // interval_ms)


@kernel()
def _state(facts, now_ms, flags, close, atr_15m):
    """Write what the caller states in bits: the facts of `FLAGS`."""
    f = facts[0]
    f.now_ms, f.close, f.atr_15m = now_ms, close, atr_15m
    f.late, f.input_late, f.ready, f.filled = flags & 1, flags >> 1 & 1, flags >> 2 & 1, flags >> 3 & 1
    f.has_model, f.session, f.reduce_only = flags >> 4 & 1, flags >> 5 & 1, flags >> 6 & 1
    f.journal_full, f.symbol_halted, f.unknown_order = flags >> 7 & 1, flags >> 8 & 1, flags >> 9 & 1
    f.gap, f.audit_failed, f.clock_bad, f.flat = flags >> 10 & 1, flags >> 11 & 1, flags >> 12 & 1, flags >> 13 & 1


@kernel()
def decide_on(
    table, symbol, now_ms, unseen, flags, close, atr_15m, cooldown_until_ms, equity_usdt, day_start_equity_usdt,
    peak_equity_usdt, total_notional_usdt, open_positions, losing_streak, notional_cap_usdt,
):  # fmt: skip
    """State the facts of a decision, decide and size it; return (side, gate bits). flags: a bit for each of `FLAGS`."""
    size = table[SYMBOLS]
    b = array_at(table[BOOKS], size, BOOK_ROW)[symbol]
    c = array_at(table[CONSTANTS], size, CONSTANT)[symbol]
    facts, limits = array_at(table[FACTS_ROW], 1, FACTS), array_at(table[LIMITS_ROW], 1, LIMITS)
    f = facts[0]
    _state(facts, now_ms, flags, close, atr_15m)
    f.cooldown_until_ms, f.equity_usdt, f.day_start_equity_usdt = cooldown_until_ms, equity_usdt, day_start_equity_usdt
    f.peak_equity_usdt, f.total_notional_usdt = peak_equity_usdt, total_notional_usdt
    f.open_positions, f.losing_streak = open_positions, losing_streak
    f.mark_price = array_at(table[MARKS], size, np.float64)[symbol]
    f.mark_age_ms = now_ms - array_at(table[MARK_MS], size, np.int64)[symbol]
    f.bid, f.bid_qty, f.ask, f.ask_qty = b.bid, b.bid_qty, b.ask, b.ask_qty
    f.book_age_ms = now_ms - b.event_ms
    f.complete = 1.0
    f.nan_unseen = unseen
    f.rate_exhausted = 0.0
    f.delivery_ms = c.delivery_ms
    f.tick_size, f.step_size, f.min_qty = c.tick_size, c.step_size, c.min_qty
    f.max_qty = min(c.max_qty, notional_cap_usdt / close)
    f.min_notional_usdt, f.maintenance_rate = c.min_notional_usdt, c.maintenance_rate
    f.funding_due = _funding_due(
        array_at(table[RATES], size, np.float64)[symbol], array_at(table[NEXT_MS], size, np.int64)[symbol], now_ms,
        np.int64(c.funding_interval_ms), np.int64(limits[0].time_limit_ms),
    )  # fmt: skip
    side, gates = decide_facts(array_at(table[PREDICTIONS], TARGET_COUNT, np.float64), facts, limits)
    return side, gates | size_order(side, facts, limits, array_at(table[PLAN_ROW], 1, PLAN))


@kernel()
def _count(table, late, gates):
    counted = array_at(table[COUNTED], COUNTED_WORDS, np.int64)
    counted[VECTORS] += 1
    counted[LATE_VECTORS] += late
    counted[SIGNALS_MADE] += 1
    for gate in range(len(GATES)):
        counted[BY_GATE + gate] += gates >> gate & 1


@kernel(
    numba.void(
        _TABLE, _WORDS, numba.int64, numba.uint64, numba.int64, numba.int64, numba.int64, numba.int64, numba.int64,
        numba.uint64, numba.int64, numba.int64, numba.int64, numba.int64, numba.int64,
    ),
    nogil=False,
)  # fmt: skip
def sign(
    table, words, at, seq, now_ms, symbol, side, close_ms, gates, vector_hash, first_1m_ms, first_15m_ms, first_1h_ms,
    frame_ns, decided_ns,
):  # fmt: skip
    """Write the SIGNAL record of a decision at word `at` of the journal (at < 0: dropped), a copy for the snapshot, and
    count it.

    table: see `decide`. first_…_ms: the bars that the vector's states were folded from. Monotonic times: the frame's
    arrival, after the decision.
    """
    facts, plan = array_at(table[FACTS_ROW], 1, FACTS), array_at(table[PLAN_ROW], 1, PLAN)
    predictions, model = (
        array_at(table[PREDICTIONS], TARGET_COUNT, np.float64),
        array_at(table[MODEL], _MODEL_WORDS, np.uint64),
    )
    counts = array_at(table[COUNTS], (STAGES, BUCKETS), np.int64)
    sums = array_at(table[SUMS], (STAGES, 3), np.int64)
    values = words.view(np.float64)
    f, p = facts[0], plan[0]
    if at >= 0:
        journal.head(words, at, SIGNAL, _SIGNAL_SLOTS, decided_ns, now_ms)
        entered = np.uint64(1 if gates == 0 else 0)
        words[at + _S_SYMBOL] = (
            np.uint64(symbol) | (np.uint64(side & 0xFF) << np.uint64(16)) | (entered << np.uint64(24))
            | (np.uint64(1 if f.late != 0.0 else 0) << np.uint64(32))
        )  # fmt: skip
        words[at + _S_TIME] = np.uint64(close_ms)
        for k in range(TARGET_COUNT):
            values[at + _S_PREDICTIONS + k] = predictions[k]
        words[at + _S_GATES] = np.uint64(gates)
        words[at + _S_HASH] = vector_hash
        for k in range(_MODEL_WORDS):
            words[at + _S_MODEL + k] = model[k]
        values[at + _S_CLOSE] = f.close
        values[at + _S_CLOSE + 1] = f.mark_price
        values[at + _S_CLOSE + 2] = f.atr_15m
        values[at + _S_CLOSE + 3] = f.bid
        values[at + _S_CLOSE + 4] = f.ask
        values[at + _S_QTY] = p.qty
        values[at + _S_QTY + 1] = p.tp_price
        values[at + _S_QTY + 2] = p.sl_price
        words[at + _S_FRAME] = np.uint64(frame_ns)
        words[at + _S_FRAME + 1] = np.uint64(decided_ns - frame_ns)
        words[at + _S_FIRST] = np.uint64(first_1m_ms)
        words[at + _S_FIRST + 1] = np.uint64(first_15m_ms)
        words[at + _S_FIRST + 2] = np.uint64(first_1h_ms)
        journal.seal(words, at, SIGNAL_WORDS, seq)
        newest = array_at(table[SIGNALS], (table[SYMBOLS], _S_WORDS), np.uint64)
        for k in range(_S_END):
            newest[symbol, k] = words[at + k]
    _count(table, np.int64(f.late), gates)
    add(counts, sums, _FRAME_TO_DECISION, decided_ns - frame_ns)
    add(counts, sums, _JOURNAL_STAGE, monotonic_ns() - decided_ns)


@kernel(
    numba.int64(
        _TABLE, numba.float64[::1], numba.int64, _WORDS, numba.int64, numba.uint64, numba.int64, numba.int64,
        numba.int64, numba.int64, numba.int64, numba.uint64, numba.float64, numba.float64, numba.int64, numba.int64,
        numba.int64, *STANDING,
    ),
    nogil=False,
)  # fmt: skip
def decide(
    table, vector, symbol, words, at, seq, dropped, now_ms, frame_ns, begun_ns, close_ms, vector_hash, close,
    atr_15m, first_1m_ms, first_15m_ms, first_1h_ms, hold, flags, cooldown_until_ms, equity_usdt, day_start_equity_usdt,
    peak_equity_usdt, total_notional_usdt, open_positions, losing_streak, notional_cap_usdt, signs,
):  # fmt: skip
    """Predict, decide and size; journal the BOOK record and, if `signs` lets it, the SIGNAL record behind it.

    Returns SIGNED, or DECIDED when the signal is left to the caller; out: side, gate bits and the plan.

    vector float64[132]; words: the journal's, the records go to word `at` and on with `seq` and on, but for those of
    `dropped` (`kernels.journal`'s NO_… bits); frame_ns, begun_ns: monotonic, its arrival and the
    beginning of the decision; the rest is `STANDING`.

    table int64[22], addresses of: by symbol BOOK_ROW, mark prices float64, their times int64, funding rates float64,
    next funding times int64, CONSTANT; predictions float64[8]; FACTS[1], out; LIMITS[1]; PLAN[1], out; the model's row
    float32[132]; uint8[132], features without a NaN in training; model_id as 5 words; counts and sums of the latencies;
    the newest SIGNAL by symbol, out; OUT, out; COUNTED; POSITION[…] (`kernels.mark`).
    """
    unseen = _write_row(table, vector)
    if not dropped & journal.NO_BOOK:
        _write_book(table, symbol, words, at, seq, begun_ns, now_ms, hold)
        at, seq = at + BOOK_WORDS, seq + np.uint64(1)
    if table[PREDICT]:
        call_at(table[PREDICT], table[ARGUMENT])
    predicted_ns = monotonic_ns()
    side, gates = decide_on(
        table, symbol, now_ms, unseen, flags, close, atr_15m, cooldown_until_ms, equity_usdt, day_start_equity_usdt,
        peak_equity_usdt, total_notional_usdt, open_positions, losing_streak, notional_cap_usdt,
    )  # fmt: skip
    decided_ns = monotonic_ns()
    counts = array_at(table[COUNTS], (STAGES, BUCKETS), np.int64)
    sums = array_at(table[SUMS], (STAGES, 3), np.int64)
    add(counts, sums, _PREDICT_STAGE, predicted_ns - begun_ns)
    add(counts, sums, _DECIDE_STAGE, decided_ns - predicted_ns)
    out = array_at(table[OUT], OUTS, np.int64)
    out[SIDE], out[REFUSALS] = side, gates
    if signs == NONE_SIGNED or (signs == REFUSED_SIGNED and gates == 0):
        return DECIDED
    if dropped & journal.NO_SIGNAL:
        at = -1
    sign(
        table, words, at, seq, now_ms, symbol, side, close_ms, gates, vector_hash, first_1m_ms, first_15m_ms,
        first_1h_ms, frame_ns, decided_ns,
    )  # fmt: skip
    return SIGNED
