"""Which frames a minute has and when: one sorted list of (time, code, symbol, argument) per minute."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.simulator.jit import compiled
from engine.simulator.path import MINUTE_MS, SLOT_MS, SLOTS, TRADES, uniform

INTERVALS = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
INTERVAL_MINUTES = (1, 3, 5, 15, 30, 60, 120, 240, 360, 480, 720, 1_440, 4_320, 10_080, 0)
MARK_1S, MARK_3S, BOOK, TRADE, AGG_TRADE = range(15, 20)
KINDS = 20
CLOSING = 32  # code of a closing kline frame: CLOSING + interval
WEEK_OFFSET_MINUTES = 4 * 1_440  # epoch was a Thursday, weeks open on Monday


def interval_open_ms(interval: int, time_ms: int) -> int:
    """Return the open time of the candle of INTERVALS[interval] that holds `time_ms`."""
    length = INTERVAL_MINUTES[interval] * MINUTE_MS
    if INTERVALS[interval] == "1w":
        offset = WEEK_OFFSET_MINUTES * MINUTE_MS
        return (time_ms - offset) // length * length + offset
    if length:
        return time_ms // length * length
    month = np.datetime64(time_ms, "ms").astype("datetime64[M]")
    return int(month.astype("datetime64[ms]").astype(np.int64))


def interval_next_ms(interval: int, open_ms: int) -> int:
    """Return the open time of the candle after the one that opens at `open_ms`."""
    length = INTERVAL_MINUTES[interval] * MINUTE_MS
    if length:
        return open_ms + length
    month = np.datetime64(open_ms, "ms").astype("datetime64[M]") + 1
    return int(month.astype("datetime64[ms]").astype(np.int64))


@compiled
def close_delay_ms(key: Any, open_ms: Any, interval: Any, idle: Any) -> Any:
    """Return how late the closing frame is: busy symbols at the next trade, quiet ones on the 2 s timer."""
    draw = uniform(key, open_ms, 20 + interval)
    if idle or uniform(key, open_ms, 40 + interval) < 0.2:
        return 2_000 + int(100 * draw)
    return 100 + int(900 * draw * draw)


@compiled
def build(
    bars: Any, index: Any, begin: Any, open_ms: Any, keys: Any, wanted: Any, closed: Any, rates: Any, run: Any, out: Any
) -> Any:
    """Fill `out` int64[4, capacity] with the minute's events, unsorted: time, code, symbol, argument. Returns
    their number.

    wanted uint8[KINDS, S]: streams somebody listens to; closed uint8[15]: candles that ended at the minute's start;
    rates int64[2]: kline/trade updates and book updates per minute; run int64[5, S, SLOTS]: the minute itself.
    The argument is the slot, for the book its number in the minute. A candle's first open frame never precedes
    the last one's close.
    """
    updates, books = rates[0], rates[1]
    count = 0
    for s in range(bars.shape[1]):
        if index < begin[s]:
            continue
        ready = np.zeros(15, np.int64)
        for i in range(15):
            if closed[i] and index > begin[s]:
                idle = bars[TRADES, s, index - 1] == 0
                ready[i] = open_ms + close_delay_ms(keys[s], open_ms, i, idle)
                if wanted[i, s]:
                    out[0, count], out[1, count], out[2, count], out[3, count] = ready[i], CLOSING + i, s, 0
                    count += 1
        trades = bars[TRADES, s, index]
        before = 0
        for j in range(updates):
            slot = ((j + 1) * SLOTS) // updates - 1
            time = open_ms + slot * SLOT_MS + int(SLOT_MS * uniform(keys[s], open_ms // SLOT_MS + slot, 15))
            done = int(trades * (run[4, s, slot] / 1e9))
            if done == before:
                continue
            for i in range(15):
                if wanted[i, s] and time > ready[i]:
                    out[0, count], out[1, count], out[2, count], out[3, count] = time, i, s, slot
                    count += 1
            for kind in (TRADE, AGG_TRADE):
                if wanted[kind, s]:
                    out[0, count], out[1, count], out[2, count] = time - 1, kind, s
                    out[3, count] = slot * 1_000_000_000 + before
                    count += 1
            before = done
        for second in range(60):
            for kind in (MARK_1S, MARK_3S):
                if wanted[kind, s] and (kind == MARK_1S or second % 3 == 0):
                    out[0, count], out[1, count] = open_ms + second * 1_000, kind
                    out[2, count], out[3, count] = s, second * 10
                    count += 1
        if wanted[BOOK, s]:
            for j in range(books):
                out[0, count], out[1, count] = open_ms + (j * MINUTE_MS) // books, BOOK
                out[2, count], out[3, count] = s, j
                count += 1
    return count


def capacity(symbols: int, rates: Any) -> int:
    """Return the most events that one minute can have."""
    return symbols * (15 + int(rates[0]) * 17 + 120 + int(rates[1]))
