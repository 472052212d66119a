"""A closed bar on memory of its own: what a rehearsal of the path from frame to decision copies and reads.

The copy of a symbol's state and the reading of what its next bar will touch bring the real memory into the caches; what
the rehearsed bar writes goes to the copies alone.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from kernels.addresses import array_at
from kernels.closing import (
    DEPTH,
    FUNDING_SLOTS,
    MARKET_DEPTH,
    MARKET_OPENS,
    NEWEST,
    NEXT,
    OI_SLOTS,
    ROWS,
    SAMPLES,
    SERIES,
    STATES,
    SYMBOLS,
    VECTORS,
)
from kernels.compile import kernel
from kernels.records import BAR, FEATURE_COUNT, FEATURES_PER_TIMEFRAME, SAMPLE, TIMEFRAME_MS
from kernels.state import OPEN_MS, STATE_SIZE

_MINUTE_MS = TIMEFRAME_MS[0]
_LINE = 8  # words of a cache line
_FAR_MS = 1 << 60
_FILE_COUNT = 2  # word of a bar file's header


@kernel()
def _read(values):
    """Return the sum of one value of each cache line: the reading is what counts."""
    total = 0.0
    for k in range(0, len(values), _LINE):
        total += values[k]
    return total


@kernel(nb.float64(nb.int64[::1], nb.int64[::1], nb.int64, nb.types.Array(nb.from_dtype(BAR), 1, "C")))
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
    rows = array_at(table[ROWS], (3, DEPTH, size, FEATURES_PER_TIMEFRAME), np.float64)
    for t in range(3):
        read += _read(rows[t, open_ms // TIMEFRAME_MS[t] % DEPTH, symbol])
        read += _read(rows[t, (open_ms // TIMEFRAME_MS[t] - 1) % DEPTH, symbol])
    read += _read(array_at(table[VECTORS], (size, FEATURE_COUNT), np.float64)[symbol])
    newest_copy = array_at(copies[NEWEST], (3, 1), np.int64)
    newest_copy[0, 0], newest_copy[1, 0], newest_copy[2, 0] = open_ms - _MINUTE_MS, _FAR_MS, _FAR_MS
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
