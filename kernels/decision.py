"""One decision on a complete vector, from its float32 row to its journal records; the steps between them are Python's.

The order of calls is `engine.core.Core.on_vector`: `quote`, the model, `decide_on`, `sign`.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels import journal
from kernels.compile import kernel
from kernels.decide import FACTS_T, LIMITS_T, PLAN_T, decide
from kernels.histogram import COUNTS_T, SUMS_T, add
from kernels.records import BOOK_ROW, FEATURE_COUNT, TARGET_COUNT, Kind, Stage
from kernels.risk import size

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

BOOKS_T = numba.from_dtype(BOOK_ROW)[::1]
CONSTANTS_T = numba.from_dtype(CONSTANT)[::1]
_WORDS = numba.uint64[::1]
_ROW = numba.float64[::1]
_TIMES = numba.int64[::1]

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
_PREDICT, _DECIDE, _JOURNAL = int(Stage.PREDICT), int(Stage.DECIDE), int(Stage.JOURNAL)
_FRAME_TO_DECISION = int(Stage.FRAME_TO_DECISION)


@kernel(
    numba.int64(
        _ROW, numba.boolean[::1], numba.float32[::1], BOOKS_T, numba.int64, _WORDS, numba.int64, numba.uint64,
        numba.int64, numba.int64, numba.int64,
    )
)  # fmt: skip
def quote(vector, had_no_nan, row, books, symbol, words, at, seq, mono_ns, now_ms, hold):
    """Write the model's float32 row and the BOOK record of this decision; return 1 if a NaN is new to the model.

    vector float64[132]; had_no_nan bool[132]: features without a NaN in training; row float32[132], out; words: the
    journal's, the record goes to word `at` with `seq` (at < 0: it is dropped); hold: `engine.timers.Hold` bits.
    """
    unseen = 0
    for f in range(FEATURE_COUNT):
        x = vector[f]
        row[f] = x
        if x != x and had_no_nan[f]:
            unseen = 1
    if at >= 0:
        b = books[symbol]
        values = words.view(np.float64)
        journal.head(words, at, BOOK, _BOOK_SLOTS, mono_ns, now_ms)
        words[at + _BOOK_EVENT] = np.uint64(b.event_ms)
        values[at + _BOOK_BID] = b.bid
        values[at + _BOOK_BID + 1] = b.bid_qty
        values[at + _BOOK_BID + 2] = b.ask
        values[at + _BOOK_BID + 3] = b.ask_qty
        words[at + _BOOK_UPDATE] = np.uint64(0)
        words[at + _BOOK_SYMBOL] = np.uint64(symbol) | (np.uint64(hold) << np.uint64(16))
        journal.seal(words, at, _BOOK_SLOTS * journal.WORDS_PER_SLOT, seq)
    return unseen


@kernel()
def _funding_due(rate, due_ms, now_ms, interval_ms, time_limit_ms):
    """Return the funding that a position opened now would pay before its time limit, a fraction; > 0: longs pay."""
    left_ms = time_limit_ms - (due_ms - now_ms)
    if rate != rate or due_ms <= 0 or left_ms < 0:
        return 0.0
    return rate * (1 + left_ms // interval_ms)


@kernel(
    numba.types.UniTuple(numba.int64, 2)(
        numba.int64, numba.int64, numba.int64, BOOKS_T, _ROW, _TIMES, _ROW, _TIMES, CONSTANTS_T, _ROW, FACTS_T,
        LIMITS_T, PLAN_T,
    )
)  # fmt: skip
def decide_on(
    symbol, now_ms, unseen, books, marks, mark_ms, funding_rate, next_funding_ms, constants, predictions, facts,
    limits, plan,
):  # fmt: skip
    """Complete the facts of a decision, decide and size it; return (side, gate bits).

    facts FACTS[1]: the caller has written those up to `losing_streak`; books, marks, mark_ms, funding_rate,
    next_funding_ms and constants are by symbol; plan PLAN[1], out. The venue's own gates are the caller's.
    """
    f, b, c = facts[0], books[symbol], constants[symbol]
    f.mark_price = marks[symbol]
    f.mark_age_ms = now_ms - mark_ms[symbol]
    f.bid, f.bid_qty, f.ask, f.ask_qty = b.bid, b.bid_qty, b.ask, b.ask_qty
    f.book_age_ms = now_ms - b.event_ms
    f.complete = 1.0
    f.nan_unseen = unseen
    f.rate_exhausted = 0.0
    f.delivery_ms = c.delivery_ms
    f.tick_size, f.step_size, f.min_qty, f.max_qty = c.tick_size, c.step_size, c.min_qty, c.max_qty
    f.min_notional_usdt, f.maintenance_rate = c.min_notional_usdt, c.maintenance_rate
    f.funding_due = _funding_due(
        funding_rate[symbol], next_funding_ms[symbol], now_ms, np.int64(c.funding_interval_ms),
        np.int64(limits[0].time_limit_ms),
    )  # fmt: skip
    side, gates = decide(predictions, facts, limits)
    return side, gates | size(side, facts, limits, plan)


@kernel(
    numba.void(
        _WORDS, numba.int64, numba.uint64, numba.int64, numba.int64, numba.int64, numba.int64, numba.uint64,
        numba.uint64, _ROW, _WORDS, FACTS_T, PLAN_T, _TIMES, _TIMES, COUNTS_T, SUMS_T, _WORDS, numba.int64,
    )
)  # fmt: skip
def sign(
    words, at, seq, now_ms, symbol, side, close_ms, gates, vector_hash, predictions, model, facts, plan, times,
    first_ms, counts, sums, newest, keep_at,
):  # fmt: skip
    """Write the SIGNAL record of a decision at word `at` of the journal, a copy for the snapshot, and its latencies.

    times int64[5], monotonic ns: the frame's arrival, before the model, after it, after the decision, now; model:
    model_id as 5 words; first_ms int64[3]; newest: words in which the copy goes to word `keep_at`.
    """
    values = words.view(np.float64)
    f, p = facts[0], plan[0]
    if at >= 0:
        journal.head(words, at, SIGNAL, _SIGNAL_SLOTS, times[4], now_ms)
        entered = np.uint64(1 if gates == 0 else 0)
        words[at + _S_SYMBOL] = (
            np.uint64(symbol) | (np.uint64(side & 0xFF) << np.uint64(16)) | (entered << np.uint64(24))
            | (np.uint64(1 if f.late != 0.0 else 0) << np.uint64(32))
        )  # fmt: skip
        words[at + _S_TIME] = np.uint64(close_ms)
        for k in range(TARGET_COUNT):
            values[at + _S_PREDICTIONS + k] = predictions[k]
        words[at + _S_GATES] = gates
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
        words[at + _S_FRAME] = np.uint64(times[0])
        words[at + _S_FRAME + 1] = np.uint64(times[3] - times[0])
        for k in range(3):
            words[at + _S_FIRST + k] = np.uint64(first_ms[k])
        journal.seal(words, at, _SIGNAL_SLOTS * journal.WORDS_PER_SLOT, seq)
        for k in range(_S_END):
            newest[keep_at + k] = words[at + k]
    add(counts, sums, _PREDICT, times[2] - times[1])
    add(counts, sums, _DECIDE, times[3] - times[2])
    add(counts, sums, _FRAME_TO_DECISION, times[3] - times[0])
    add(counts, sums, _JOURNAL, times[4] - times[3])
