"""One closed bar in one call: its journal record, the step of its series, the bar file, the vector that it completes.

What is out of the ordinary (a hole, a bar before BTCUSDT's, a copy, a bad value, the first bar of a series, several
minutes at once) is left untouched for `engine.market.panel`, which knows every case; both step by `step_bar`.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from kernels import journal
from kernels.bars import check_bar, check_order
from kernels.compile import kernel
from kernels.features import complete, step_bar
from kernels.histogram import COUNTS_T, SUMS_T, add
from kernels.records import BAR, SAMPLE, TIMEFRAME_MS, BarFlag, Kind, Stage

UNUSUAL = 0  # nothing but the journal record was written: the panel's own door must take the bar
STEPPED = 1  # stepped; no vector is complete by it
VECTOR = 2  # stepped, and the vector of `out` is complete
WAITS = 3  # stepped; the vector waits for a sample
SEVERAL = 4  # stepped; the panel must look which vectors are complete

DEPTH, MARKET_DEPTH = 16, 512  # rows kept per series, closes of BTCUSDT kept: as `engine.market.states` allocates them
DECISION_MS, BITS = 0, 1  # of `out`
LATE, INPUT_LATE, NOT_READY, IS_FILLED = 1, 2, 4, 8  # as `engine.market.panel.VectorBit`

_BAR = nb.from_dtype(BAR)
_BARS = nb.types.Array(_BAR, 1, "C")
_SAMPLES = nb.types.Array(nb.from_dtype(SAMPLE), 1, "C")
_WORDS = nb.uint64[::1]
_TIMES = nb.int64[::1]
_TABLE = nb.int64[:, ::1]

_MINUTE_MS, _QUARTER_MS, _HOUR_MS = TIMEFRAME_MS
_OI_GRID_MS, _DELAY_MS = 300_000, 300_000
_FILLED = np.uint32(BarFlag.FILLED)
_KIND, _SLOTS = int(Kind.BAR), journal.slots_of(Kind.BAR)
_R_SYMBOL, _R_OPEN_MS = journal.word_of(Kind.BAR, "symbol"), journal.word_of(Kind.BAR, "open_ms")
_R_OPEN, _R_TRADE = journal.word_of(Kind.BAR, "open"), journal.word_of(Kind.BAR, "last_trade_id")
_FILE_CAPACITY, _FILE_COUNT = 1, 2  # words of a bar file's header
_DECODE = int(Stage.DECODE)


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
    journal.seal(words, at, _SLOTS * journal.WORDS_PER_SLOT, seq)


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
def _finish(
    symbol, now_ms, rows, filled, newest_ms, next_ms, ready_ms, settled_ms, deadline_ms, open_interest, funding, known,
    vectors, out, out_hash,
):  # fmt: skip
    """Complete the symbol's vector if everything due at its time is in: `Panel._finish` for a single minute."""
    closed_ms = newest_ms[0, symbol] + _MINUTE_MS
    decision_ms = next_ms[symbol]
    if decision_ms > closed_ms:
        return STEPPED
    if decision_ms != closed_ms:
        return SEVERAL
    quarter, hour = decision_ms - decision_ms % _QUARTER_MS, decision_ms - decision_ms % _HOUR_MS
    if newest_ms[1, symbol] + _QUARTER_MS < quarter or newest_ms[2, symbol] + _HOUR_MS < hour:
        return STEPPED
    bits = LATE if now_ms > decision_ms + deadline_ms else 0
    if not _samples_in(known, settled_ms[symbol], decision_ms):
        if now_ms < decision_ms + deadline_ms:
            return WAITS
        bits |= INPUT_LATE
    if decision_ms < ready_ms[symbol]:
        bits |= NOT_READY
    if filled[(decision_ms // _MINUTE_MS - 1) % DEPTH, symbol]:
        bits |= IS_FILLED
    out_hash[0] = complete(
        rows[0, (decision_ms // _MINUTE_MS - 1) % DEPTH], rows[1, (quarter // _QUARTER_MS - 1) % DEPTH],
        rows[2, (hour // _HOUR_MS - 1) % DEPTH], symbol, decision_ms, open_interest, known[0], funding, known[1],
        vectors,
    )  # fmt: skip
    next_ms[symbol] = decision_ms + _MINUTE_MS
    out[DECISION_MS], out[BITS] = decision_ms, bits
    return VECTOR


@kernel(
    nb.int64(
        nb.int64, nb.int64, nb.int64, nb.int64, nb.int64, nb.int64, nb.boolean, nb.boolean, _BAR,  # this bar
        _WORDS, nb.int64, nb.uint64, COUNTS_T, SUMS_T,  # journal, latencies
        nb.float64[:, :, ::1], nb.float64[:, :, :, ::1], nb.float64[:, :, ::1], _TABLE, nb.uint8[:, ::1],  # states
        _TABLE, _TABLE, _TIMES, _TIMES, _TIMES, nb.int64, _BARS, _TIMES,  # times, bar file
        _SAMPLES, _SAMPLES, _TIMES, nb.float64[:, ::1], _TIMES, nb.uint64[::1],  # samples, out
    ),
    lanes=True,
)  # fmt: skip
def close_bar(
    symbol, timeframe, now_ms, late_ms, mono_ns, begun_ns, is_btc, simple, bar, words, at, seq, counts, sums, states,
    rows, market, market_open_ms, filled, newest_ms, staged_ms, next_ms, ready_ms, settled_ms, deadline_ms, slots,
    header, open_interest, funding, known, vectors, out, out_hash,
):  # fmt: skip
    """Journal a closed bar and, in the ordinary case, step it and complete its symbol's vector. Returns a code above.

    bar BAR, stamped with now_ms; its record goes to word `at` of the journal with `seq` (at < 0: dropped); simple:
    the caller knows of nothing unusual. states float64[3, symbols, STATE_SIZE]; rows float64[3, DEPTH, symbols, 44];
    market float64[3, MARKET_DEPTH, 3] with the open times market_open_ms; filled uint8[DEPTH, symbols]; newest_ms and
    staged_ms int64[3, symbols]; next_ms, ready_ms, settled_ms int64[symbols]; slots, header: its bar file; vectors
    float64[symbols, 132]; out int64[2] and out_hash uint64[1]: decision time and bits, the vector's hash.
    """
    bar["arrived_ms"] = now_ms
    add(counts, sums, _DECODE, begun_ns - mono_ns)
    if at >= 0:
        _write_bar(words, at, seq, mono_ns, now_ms, symbol, timeframe, late_ms, bar)
    step_ms = _MINUTE_MS if timeframe == 0 else (_QUARTER_MS if timeframe == 1 else _HOUR_MS)
    open_ms = bar["open_ms"]
    newest = newest_ms[timeframe, symbol]
    if not simple or newest < 0 or open_ms != newest + step_ms or staged_ms[timeframe, symbol] == open_ms:
        return UNUSUAL
    slot = open_ms // step_ms % MARKET_DEPTH
    state = states[timeframe, symbol]
    if not is_btc and market_open_ms[timeframe, slot] != open_ms:
        return UNUSUAL
    if check_bar(bar, step_ms) != 0 or check_order(state, open_ms, step_ms) != 0:
        return UNUSUAL
    row = rows[timeframe, open_ms // step_ms % DEPTH, symbol]
    m = market[timeframe, slot]
    step_bar(state, bar, m[0], m[1], m[2], is_btc, row)
    if is_btc:
        m[0], m[1], m[2] = row[4], row[3], row[40]
        market_open_ms[timeframe, slot] = open_ms
    _append(slots, header, bar)
    newest_ms[timeframe, symbol] = open_ms
    if timeframe == 0:
        filled[open_ms // _MINUTE_MS % DEPTH, symbol] = 1 if bar["flags"] & _FILLED else 0
    return _finish(
        symbol, now_ms, rows, filled, newest_ms, next_ms, ready_ms, settled_ms, deadline_ms, open_interest, funding,
        known, vectors, out, out_hash,
    )  # fmt: skip
