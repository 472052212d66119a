"""A closed bar on memory of its own: what a rehearsal of the path from frame to decision copies and reads.

The copy of a symbol's state and the reading of what its next bar will touch bring the real memory into the caches; what
the rehearsed bar writes goes to the copies alone.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from kernels import frames
from kernels.addresses import array_at
from kernels.closing import (
    BRIEF,
    BRIEF_DTYPE,
    COUNTS,
    DEPTH,
    FIRST,
    FUNDING_SLOTS,
    LATE_BUCKETS,
    LATENESS,
    MARKET,
    MARKET_DEPTH,
    MARKET_OPENS,
    NEWEST,
    NEXT,
    OI_SLOTS,
    READY,
    ROWS,
    SAMPLES,
    SERIES,
    SETTLED,
    STAGED,
    STATES,
    SUMS,
    SYMBOLS,
    VECTORS,
)
from kernels.compile import kernel
from kernels.decision import SIGNALS
from kernels.histogram import BUCKETS, COUNT, STAGES, SUM, bucket_of
from kernels.names import NAME_WORDS, find
from kernels.records import BAR, FEATURE_COUNT, FEATURES_PER_TIMEFRAME, RECORDS, SAMPLE, TIMEFRAME_MS, Kind
from kernels.state import OPEN_MS, STATE_SIZE

_MINUTE_MS = TIMEFRAME_MS[0]
_LINE = 8  # words of a cache line
_FAR_MS = 1 << 60
_FILE_COUNT = 2  # word of a bar file's header
_BRIEF_WORDS, _SIGNAL_WORDS = BRIEF_DTYPE.itemsize // 8, RECORDS[Kind.SIGNAL].itemsize // 8


@kernel()
def _read(values):
    """Return the sum of one value of each cache line: the reading is what counts."""
    total = 0.0
    for k in range(0, len(values), _LINE):
        total += values[k]
    return total


@kernel()
def _copy_surroundings(table, copies, symbol, open_ms):
    """Copy what the minute from open_ms on is seen beside: the newest 15m and 1h rows, BTCUSDT's newest minute.

    The rehearsed vector is then much like the real one, and takes the same ways through the forest.
    """
    size, read = table[SYMBOLS], 0.0
    newest = array_at(table[NEWEST], (3, size), np.int64)
    rows = array_at(table[ROWS], (3, DEPTH, size, FEATURES_PER_TIMEFRAME), np.float64)
    mine = array_at(copies[ROWS], (3, DEPTH, 1, FEATURES_PER_TIMEFRAME), np.float64)
    for t in range(3):
        row = rows[t, newest[t, symbol] // TIMEFRAME_MS[t] % DEPTH, symbol]
        slot = ((open_ms + _MINUTE_MS) // TIMEFRAME_MS[t] - 1) % DEPTH
        for k in range(FEATURES_PER_TIMEFRAME):
            mine[t, slot, 0, k] = row[k]
        read += _read(rows[t, slot, symbol])
    market = array_at(table[MARKET], (3, MARKET_DEPTH, 3), np.float64)
    opens = array_at(table[MARKET_OPENS], (3, MARKET_DEPTH), np.int64)
    slot = open_ms // _MINUTE_MS % MARKET_DEPTH
    before = (slot - 1) % MARKET_DEPTH
    seen = array_at(copies[MARKET], (3, MARKET_DEPTH, 3), np.float64)[0, slot]
    for k in range(3):
        seen[k] = market[0, before, k]
        read += market[0, slot, k]
    return read + opens[0, slot]


@kernel(nb.float64(nb.int64[::1], nb.int64[::1], nb.int64, nb.types.Array(nb.from_dtype(BAR), 1, "C")), nogil=False)
def prepare(table, copies, symbol, bars):
    """Make `copies`, tables of one symbol, ready for the bar that follows the newest of `symbol`; write it to bars[0].

    table, copies: `kernels.closing.close_bar`'s of the engine and of the rehearsal. bars BAR[1] holds a bar for a
    symbol that has none yet. Returns a sum of what it read of the symbol's memory, without meaning.
    """
    size = table[SYMBOLS]
    newest = array_at(table[NEWEST], (3, size), np.int64)[0, symbol]
    file = array_at(table[SERIES], (3, size, 3), np.int64)[0, symbol]
    slots, header = array_at(file[0], file[1], BAR), array_at(file[2], _FILE_COUNT + 1, np.int64)
    read = 0.0
    if newest >= 0 and header[_FILE_COUNT] > 0:
        bars[0] = slots[(header[_FILE_COUNT] - 1) % file[1]]
        read += slots[header[_FILE_COUNT] % file[1]].close
    open_ms = max(newest, 0) + _MINUTE_MS
    bars[0].open_ms = open_ms
    state = array_at(table[STATES], (3, size, STATE_SIZE), np.float64)[0, symbol]
    mine = array_at(copies[STATES], (3, 1, STATE_SIZE), np.float64)[0, 0]
    for k in range(STATE_SIZE):
        mine[k] = state[k]
    mine[OPEN_MS] = open_ms - _MINUTE_MS
    read += _copy_surroundings(table, copies, symbol, open_ms)
    read += _read(array_at(table[VECTORS], (size, FEATURE_COUNT), np.float64)[symbol])
    newest_copy = array_at(copies[NEWEST], (3, 1), np.int64)
    newest_copy[0, 0], newest_copy[1, 0], newest_copy[2, 0] = open_ms - _MINUTE_MS, open_ms, open_ms  # the larger: in
    array_at(copies[NEXT], 1, np.int64)[0] = open_ms + _MINUTE_MS
    array_at(copies[MARKET_OPENS], (3, MARKET_DEPTH), np.int64)[0, open_ms // _MINUTE_MS % MARKET_DEPTH] = open_ms
    held = array_at(table[SAMPLES], (size, 3), np.int64)[symbol]
    held_copy = array_at(copies[SAMPLES], (1, 3), np.int64)[0]
    known, known_copy = array_at(held[2], 4, np.int64), array_at(held_copy[2], 4, np.int64)
    held_copy[0], held_copy[1] = held[0], held[1]  # samples are only read
    known_copy[0], known_copy[1], known_copy[2], known_copy[3] = known[0], known[1], _FAR_MS, _FAR_MS
    copies[OI_SLOTS], copies[FUNDING_SLOTS] = table[OI_SLOTS], table[FUNDING_SLOTS]
    if known[0] > 0:
        read += array_at(held[0], table[OI_SLOTS], SAMPLE)[known[0] - 1].value
    return read


@kernel()
def _words(address, first, count):
    """Read `count` words from word `first` on, one of each cache line and the last."""
    words = array_at(address, first + count, np.int64)
    total = words[first + count - 1]
    for k in range(first, first + count, _LINE):
        total += words[k]
    return total


@kernel()
def _counted(table, typical):
    """Read where the latencies of a decision will be counted: the buckets about what the rehearsed ones took."""
    counts, sums = array_at(table[COUNTS], (STAGES, BUCKETS), np.int64), array_at(table[SUMS], (STAGES, 3), np.int64)
    total = np.int64(0)
    for stage in range(STAGES):
        if typical[stage, COUNT]:
            bucket = bucket_of(typical[stage, SUM] // typical[stage, COUNT])
            total += sums[stage, SUM] + counts[stage, bucket] + counts[stage, max(bucket - _LINE, 0)]
    return total


@kernel(nb.int64(nb.int64[::1], nb.int64[::1], nb.int64[::1], nb.int64[::1], nb.int64, nb.int64[:, ::1]), nogil=False)
def warm(panel, core, memory, source, symbol, typical):
    """Read what the next real bar of `symbol` meets and a rehearsed one does not: what stands behind the copies.

    panel, core: the engine's tables (`kernels.closing`, `kernels.decision`); memory, source: the decoder's words and a
    connection's (`kernels.frames`); typical: the rehearsal's own sums of latencies. Returns a sum without meaning.
    """
    size, at = memory[frames.SYMBOLS], memory.ctypes.data
    states = frames.BOOKS + size * frames.BOOK_WORDS
    series = states + size * frames.STATE_WORDS
    bars = series + 3 * size * frames.SERIES_WORDS
    names = bars + 3 * size * frames.BAR_WORDS
    name = names + symbol * NAME_WORDS
    read = _words(at, 0, frames.SYMBOLS) + _words(at, states + symbol * frames.STATE_WORDS, frames.STATE_WORDS)
    read += _words(at, series + 3 * symbol * frames.SERIES_WORDS, frames.SERIES_WORDS)
    read += _words(at, bars + 3 * symbol * frames.BAR_WORDS, frames.BAR_WORDS)
    read += find(at + 8 * frames.TABLE, at + 8 * names, at + 8 * name)
    read += source[frames.FRAMES] + source[frames.NEWEST + symbol]
    read += _words(panel.ctypes.data, 0, len(panel)) + _words(core.ctypes.data, 0, len(core))
    read += _words(core[SIGNALS], symbol * _SIGNAL_WORDS, _SIGNAL_WORDS)
    read += _words(panel[BRIEF], 0, _BRIEF_WORDS)
    read += array_at(panel[LATENESS], (size, 3, LATE_BUCKETS), np.int64)[symbol, 0, 0]
    for table in (NEXT, READY, SETTLED):
        read += array_at(panel[table], size, np.int64)[symbol]
    for table in (STAGED, FIRST):
        for t in range(3):
            read += array_at(panel[table], (3, size), np.int64)[t, symbol]
    return read + _counted(panel, typical)
