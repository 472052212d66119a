"""One closed bar: its journal record, the step of its series, the bar file, the vector that it completes.

What is out of the ordinary (a hole, a bar before BTCUSDT's, a copy, a bad value, the first bar of a series, several
minutes at once) is left untouched for `engine.market.panel`, which knows every case; both step by `step_bar`.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from kernels import journal
from kernels.addresses import array_at
from kernels.bars import check_bar, check_order
from kernels.compile import kernel
from kernels.features import complete, step_bar
from kernels.histogram import BUCKETS, STAGES, add
from kernels.records import BAR, FEATURE_COUNT, FEATURES_PER_TIMEFRAME, SAMPLE, TIMEFRAME_MS, BarFlag, Kind, Stage
from kernels.schema import FEATURES
from kernels.state import STATE_SIZE

UNUSUAL = 0  # nothing but the journal record was written: the panel's own door must take the bar
STEPPED = 1  # stepped; no vector is complete by it
VECTOR = 2  # stepped, and the vector of `out` is complete
WAITS = 3  # stepped; the vector waits for a sample
SEVERAL = 4  # stepped; the panel must look which vectors are complete

DEPTH, MARKET_DEPTH = 16, 512  # rows kept per series, closes of BTCUSDT kept: as `engine.market.states` allocates them
LATE, INPUT_LATE, NOT_READY, IS_FILLED = 1, 2, 4, 8  # as `engine.market.panel.VectorBit`
LATE_EDGES_MS = (25, 50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 2_500, 5_000, 10_000, 30_000, 60_000)
LATE_BUCKETS = len(LATE_EDGES_MS) + 1
MAX_LATE_MS = (1 << 31) - 1
STREAMED = 1 << 40  # for late_ms: as late as the clock says now, and counted
RELEASED = 1 << 41  # for late_ms: stamped, counted and journalled when it arrived

# The table of `close_bar`: addresses (see there), then numbers.
(
    STATES, ROWS, MARKET, MARKET_OPENS, FILLED_ROWS, NEWEST, STAGED, NEXT, READY, SETTLED, VECTORS, BRIEF, SERIES,
    SAMPLES, FIRST, COUNTS, SUMS, LATENESS, SYMBOLS, DEADLINE_MS, OI_SLOTS, FUNDING_SLOTS,
) = range(22)  # fmt: skip

BRIEF_DTYPE = np.dtype(
    [
        ("close_ms", "<i8"), ("hash", "<u8"), ("close", "<f8"), ("atr_15m", "<f8"), ("bits", "<i8"),
    ]
)  # fmt: skip
"""What `close_bar` says of a complete vector: its decision time, hash, the 1m close, the ATR, `VectorBit`s."""

_ATR_15M = FEATURES.index("atr_15m")

_MINUTE_MS, _QUARTER_MS, _HOUR_MS = TIMEFRAME_MS
_QUARTERS_KEPT_MS, _HOURS_KEPT_MS = (DEPTH - 2) * _QUARTER_MS, (DEPTH - 2) * _HOUR_MS  # from a close to the newest open
_OI_GRID_MS, _DELAY_MS = 300_000, 300_000
_FILLED = np.uint32(BarFlag.FILLED)
_KIND, _SLOTS = int(Kind.BAR), journal.slots_of(Kind.BAR)
BAR_WORDS = _SLOTS * journal.WORDS_PER_SLOT
_R_SYMBOL, _R_OPEN_MS = journal.word_of(Kind.BAR, "symbol"), journal.word_of(Kind.BAR, "open_ms")
_R_OPEN, _R_TRADE = journal.word_of(Kind.BAR, "open"), journal.word_of(Kind.BAR, "last_trade_id")
_FILE_CAPACITY, _FILE_COUNT = 1, 2  # words of a bar file's header
_DECODE, _LATE_STAGE = int(Stage.DECODE), int(Stage.LATE_1M)  # LATE_15M and LATE_1H follow


@kernel()
def _write_bar(words, at, seq, mono_ns, now_ms, symbol, timeframe, late_ms, bar):
    values = words.view(np.float64)
    journal.head(words, at, _KIND, _SLOTS, mono_ns, now_ms)
    words[at + _R_SYMBOL] = (
        np.uint64(symbol) | (np.uint64(timeframe) << np.uint64(16)) | (np.uint64(late_ms & 0xFFFFFFFF) << np.uint64(32))
    )
    words[at + _R_OPEN_MS] = np.uint64(bar["open_ms"])
    values[at + _R_OPEN] = bar["open"]
    values[at + _R_OPEN + 1] = bar["high"]
    values[at + _R_OPEN + 2] = bar["low"]
    values[at + _R_OPEN + 3] = bar["close"]
    values[at + _R_OPEN + 4] = bar["volume"]
    values[at + _R_OPEN + 5] = bar["quote_volume"]
    values[at + _R_OPEN + 6] = bar["taker_volume"]
    values[at + _R_OPEN + 7] = bar["trades"]
    words[at + _R_TRADE] = np.uint64(bar["last_trade_id"])
    words[at + _R_TRADE + 1] = np.uint64(bar["arrived_ms"])
    words[at + _R_TRADE + 2] = np.uint64(bar["flags"]) | (np.uint64(bar["spare"]) << np.uint64(32))
    journal.seal(words, at, BAR_WORDS, seq)


@kernel()
def _append(slots, header, bar):
    """Append to a bar file: the bar before the count that makes it visible."""
    count = header[_FILE_COUNT]
    slots[count % header[_FILE_CAPACITY]] = bar
    journal.stores_done()
    header[_FILE_COUNT] = count + 1


@kernel()
def _samples_in(known, settled_ms, decision_ms):
    """Return whether the newest due samples have arrived. A symbol without any open interest owes none.

    known int64[4]: numbers and newest stamps of open interest and funding samples (engine.market.samples).
    """
    if known[0] and known[2] < (decision_ms - _DELAY_MS) // _OI_GRID_MS * _OI_GRID_MS:
        return False
    settled = settled_ms // _MINUTE_MS * _MINUTE_MS
    if not settled or settled + _DELAY_MS > decision_ms:
        return True
    return known[3] >= settled


@kernel()
def _finish(table, symbol, now_ms, rows, newest_ms, closes):
    """Complete the symbol's vector if everything due at its time is in: `Panel._finish` for a single minute."""
    size = table[SYMBOLS]
    next_ms = array_at(table[NEXT], size, np.int64)
    closed_ms = newest_ms[0, symbol] + _MINUTE_MS
    decision_ms = next_ms[symbol]
    if decision_ms > closed_ms:
        return STEPPED
    if decision_ms != closed_ms:
        return SEVERAL
    quarter, hour = decision_ms - decision_ms % _QUARTER_MS, decision_ms - decision_ms % _HOUR_MS
    if newest_ms[1, symbol] + _QUARTER_MS < quarter or newest_ms[2, symbol] + _HOUR_MS < hour:
        return STEPPED
    if newest_ms[1, symbol] - quarter > _QUARTERS_KEPT_MS or newest_ms[2, symbol] - hour > _HOURS_KEPT_MS:
        return SEVERAL  # the larger bars are so far ahead that the rows due here are overwritten
    late_from_ms = decision_ms + table[DEADLINE_MS]
    bits = LATE if now_ms > late_from_ms else 0
    held = array_at(table[SAMPLES], (size, 3), np.int64)[symbol]
    known = array_at(held[2], 4, np.int64)
    if not _samples_in(known, array_at(table[SETTLED], size, np.int64)[symbol], decision_ms):
        if now_ms < late_from_ms:
            return WAITS
        bits |= INPUT_LATE
    if decision_ms < array_at(table[READY], size, np.int64)[symbol]:
        bits |= NOT_READY
    if array_at(table[FILLED_ROWS], (DEPTH, size), np.uint8)[(decision_ms // _MINUTE_MS - 1) % DEPTH, symbol]:
        bits |= IS_FILLED
    vectors = array_at(table[VECTORS], (size, FEATURE_COUNT), np.float64)
    brief = array_at(table[BRIEF], 1, BRIEF_DTYPE)[0]
    brief.hash = complete(
        rows[0, (decision_ms // _MINUTE_MS - 1) % DEPTH], rows[1, (quarter // _QUARTER_MS - 1) % DEPTH],
        rows[2, (hour // _HOUR_MS - 1) % DEPTH], symbol, decision_ms, array_at(held[0], table[OI_SLOTS], SAMPLE),
        known[0], array_at(held[1], table[FUNDING_SLOTS], SAMPLE), known[1], vectors,
    )  # fmt: skip
    next_ms[symbol] = decision_ms + _MINUTE_MS
    brief.close_ms, brief.bits, brief.atr_15m = decision_ms, bits, vectors[symbol, _ATR_15M]
    header = array_at(closes[2], _FILE_COUNT + 1, np.int64)
    slots = array_at(closes[0], closes[1], BAR)
    brief.close = slots[(header[_FILE_COUNT] - 1) % closes[1]].close
    return VECTOR


@kernel(nb.void(nb.int64[:, :, ::1], nb.int64, nb.int64, nb.int64))
def count_late(lateness, symbol, timeframe, late_ms):
    """Count a closed bar in its series' histogram: lateness int64[symbols, 3, LATE_BUCKETS]."""
    k = 0
    while k < len(LATE_EDGES_MS) and LATE_EDGES_MS[k] < late_ms:
        k += 1
    lateness[symbol, timeframe, k] += 1


@kernel()
def _count_late(table, symbol, timeframe, late_ms):
    count_late(array_at(table[LATENESS], (table[SYMBOLS], 3, LATE_BUCKETS), np.int64), symbol, timeframe, late_ms)
    counts = array_at(table[COUNTS], (STAGES, BUCKETS), np.int64)
    add(counts, array_at(table[SUMS], (STAGES, 3), np.int64), _LATE_STAGE + timeframe, late_ms * 1_000_000)


@kernel()
def close_bar(table, symbol, timeframe, now_ms, late_ms, mono_ns, begun_ns, is_btc, simple, bars, words, at, seq):
    """Journal a closed bar and, in the ordinary case, step it and complete its symbol's vector. Returns a code above.

    bars BAR[1], stamped with now_ms unless RELEASED; its record goes to word `at` of the journal with `seq` (at < 0:
    dropped), saying late_ms; simple: the caller knows of nothing unusual.

    table int64[22], addresses of: states float64[3, symbols, STATE_SIZE]; rows float64[3, DEPTH, symbols, 44];
    market float64[3, MARKET_DEPTH, 3] and its open times; filled uint8[DEPTH, symbols]; newest and staged open times
    int64[3, symbols]; next, ready and settled times int64[symbols]; vectors float64[symbols, 132]; the brief
    BRIEF_DTYPE[1], out; series int64[3, symbols, 3]: address of a bar file's slots, its capacity, address of its
    header; samples int64[symbols, 3]: addresses of both series and of what is known of them; first open times
    int64[3, symbols]; counts and sums of the latencies; lateness int64[symbols, 3, LATE_BUCKETS].
    """
    size = table[SYMBOLS]
    bar = bars[0]
    if late_ms != RELEASED:
        bar["arrived_ms"] = now_ms
    step_ms = _MINUTE_MS if timeframe == 0 else (_QUARTER_MS if timeframe == 1 else _HOUR_MS)
    open_ms = bar["open_ms"]
    if late_ms == STREAMED:
        late_ms = now_ms - open_ms - step_ms
        _count_late(table, symbol, timeframe, late_ms)
        counts = array_at(table[COUNTS], (STAGES, BUCKETS), np.int64)
        add(counts, array_at(table[SUMS], (STAGES, 3), np.int64), _DECODE, begun_ns - mono_ns)
    if at >= 0:
        late_ms = min(max(late_ms, -MAX_LATE_MS), MAX_LATE_MS)
        _write_bar(words, at, seq, mono_ns, now_ms, symbol, timeframe, late_ms, bar)
    newest_ms = array_at(table[NEWEST], (3, size), np.int64)
    newest = newest_ms[timeframe, symbol]
    staged_ms = array_at(table[STAGED], (3, size), np.int64)[timeframe, symbol]
    if not simple or newest < 0 or open_ms != newest + step_ms or staged_ms == open_ms:
        return UNUSUAL
    slot = open_ms // step_ms % MARKET_DEPTH
    state = array_at(table[STATES], (3, size, STATE_SIZE), np.float64)[timeframe, symbol]
    market_open_ms = array_at(table[MARKET_OPENS], (3, MARKET_DEPTH), np.int64)
    if not is_btc and market_open_ms[timeframe, slot] != open_ms:
        return UNUSUAL
    if check_bar(bar, step_ms) != 0 or check_order(state, open_ms, step_ms) != 0:
        return UNUSUAL
    rows = array_at(table[ROWS], (3, DEPTH, size, FEATURES_PER_TIMEFRAME), np.float64)
    row = rows[timeframe, open_ms // step_ms % DEPTH, symbol]
    m = array_at(table[MARKET], (3, MARKET_DEPTH, 3), np.float64)[timeframe, slot]
    step_bar(state, bar, m[0], m[1], m[2], is_btc, row)
    if is_btc:
        m[0], m[1], m[2] = row[4], row[3], row[40]
        market_open_ms[timeframe, slot] = open_ms
    series = array_at(table[SERIES], (3, size, 3), np.int64)
    file = series[timeframe, symbol]
    _append(array_at(file[0], file[1], BAR), array_at(file[2], _FILE_COUNT + 1, np.int64), bar)
    newest_ms[timeframe, symbol] = open_ms
    if timeframe == 0:
        filled = array_at(table[FILLED_ROWS], (DEPTH, size), np.uint8)
        filled[open_ms // _MINUTE_MS % DEPTH, symbol] = 1 if bar["flags"] & _FILLED else 0
    return _finish(table, symbol, now_ms, rows, newest_ms, series[0, symbol])
