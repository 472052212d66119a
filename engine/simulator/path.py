"""What happens inside a minute, as pure functions of (candle, seed): prices, marks, cumulative trades, the best book.

A minute has `SLOTS` slots of 100 ms. Prices are integers (see instruments), marks integers of 10^-8 USDT.
Nothing here knows a clock or a socket: the same minute always looks the same, whoever asks first, a stream or REST.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.simulator.jit import compiled, compiled_as

SLOTS = 600
SLOT_MS = 100
MINUTE_MS = 60_000
OPEN, HIGH, LOW, CLOSE, VOLUME, QUOTE, TAKER, TAKER_QUOTE, TRADES, FIRST_ID = range(10)
COLUMNS = 10

_GOLD = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)


@compiled_as("float64(uint64, int64, int64)")
def uniform(key: Any, index: Any, salt: Any) -> Any:
    """Return a double in [0, 1) that depends on nothing but its three integers (splitmix64)."""
    x = np.uint64(key) + np.uint64(index) * _GOLD + np.uint64(salt) * _MIX_A
    x = (x ^ (x >> np.uint64(30))) * _MIX_A
    x = (x ^ (x >> np.uint64(27))) * _MIX_B
    x = x ^ (x >> np.uint64(31))
    return np.float64(x >> np.uint64(11)) / 9007199254740992.0


@compiled_as("float64(uint64, int64, int64, int64)")
def smooth(key: Any, time_ms: Any, period_ms: Any, salt: Any) -> Any:
    """Return value noise in [-1, 1]: hashed knots every `period_ms`, cubic between them."""
    knot = time_ms // period_ms
    x = (time_ms - knot * period_ms) / period_ms
    left = 2.0 * uniform(key, knot, salt) - 1.0
    right = 2.0 * uniform(key, knot + 1, salt) - 1.0
    return left + (right - left) * x * x * (3.0 - 2.0 * x)


@compiled
def prices(candle: Any, tick: Any, key: Any, open_ms: Any, out: Any) -> None:
    """Fill `out` int64[SLOTS] with last prices: from open through high and low (in hashed order) to close."""
    first, high, low, last = candle[OPEN], candle[HIGH], candle[LOW], candle[CLOSE]
    if high == low:
        out[:] = last
        return
    turn_a = 20 + int(uniform(key, open_ms, 1) * 260)
    turn_b = 310 + int(uniform(key, open_ms, 2) * 260)
    up_first = uniform(key, open_ms, 3) < 0.5 + 0.35 * (first - last) / (high - low)
    point_a, point_b = (high, low) if up_first else (low, high)
    span = float(high - low)
    for slot in range(SLOTS):
        if slot <= turn_a:
            begin, end, start, stop = 0, turn_a, first, point_a
        elif slot <= turn_b:
            begin, end, start, stop = turn_a, turn_b, point_a, point_b
        else:
            begin, end, start, stop = turn_b, SLOTS - 1, point_b, last
        x = (slot - begin) / (end - begin)
        wander = 0.5 * span * x * (1.0 - x) * smooth(key, open_ms * 10 + slot, 17, 4)
        price = start + (stop - start) * x + wander
        level = low + int(np.rint((price - low) / tick)) * tick
        out[slot] = min(max(level, low), high)
    out[0], out[turn_a], out[turn_b], out[SLOTS - 1] = first, point_a, point_b, last


@compiled_as("float64(uint64, int64)")
def basis(key: Any, time_ms: Any) -> Any:
    """Return the mark's distance from the last price as a fraction: smooth, a few basis points, a function of time."""
    return 1.5e-4 * smooth(key, time_ms, 480_000, 5) + 1.0e-4 * smooth(key, time_ms, 5_820_000, 6)


@compiled
def marks(candle: Any, path: Any, key: Any, open_ms: Any, unit: Any, out: Any) -> None:
    """Fill `out` int64[SLOTS] with mark prices (10^-8 USDT) at 10 Hz; slots 0, 10, 20 … are what the stream shows.

    `unit`: 10^-8 USDT per price integer.
    """
    for slot in range(SLOTS):
        line = candle[OPEN] + (candle[CLOSE] - candle[OPEN]) * (slot / (SLOTS - 1))
        level = (0.7 * path[slot] + 0.3 * line) * unit
        out[slot] = int(np.rint(level * (1.0 + basis(key, open_ms + slot * SLOT_MS))))


@compiled
def progress(key: Any, open_ms: Any, out: Any) -> None:
    """Fill `out` float64[SLOTS] with the share of the minute's trades done by the end of each slot; the last is 1."""
    total = 0.0
    for slot in range(SLOTS):
        total += 0.02 + uniform(key, open_ms * 10 + slot, 7) ** 3
        out[slot] = total
    for slot in range(SLOTS):
        out[slot] /= total


@compiled
def book(price: Any, tick: Any, typical: Any, key: Any, index: Any, out: Any) -> None:
    """Fill `out` int64[4] with bid, bid quantity, ask, ask quantity around the last price.

    `typical`: median minute volume in steps; `index`: anything that numbers the book's updates.
    """
    spread = tick
    if uniform(key, index, 8) < 0.08:
        spread = tick * (2 + int(uniform(key, index, 9) * 2))
    if uniform(key, index // 3, 10) < 0.5 or price <= spread:
        out[0], out[2] = price, price + spread
    else:
        out[0], out[2] = price - spread, price
    out[1] = max(1, int(typical * (0.02 + 0.4 * uniform(key, index, 11) ** 3)))
    out[3] = max(1, int(typical * (0.02 + 0.4 * uniform(key, index, 12) ** 3)))


@compiled
def mark_candles(bars: Any, first_ms: Any, tick: Any, key: Any, unit: Any, last_slot: Any, out: Any) -> None:
    """Fill `out` int64[4, n] with OHLC of the streamed mark ticks of the n minutes `bars` int64[COLUMNS, n].

    `last_slot`: slot up to which the newest minute has run (SLOTS − 1: complete).
    """
    path = np.empty(SLOTS, np.int64)
    mark = np.empty(SLOTS, np.int64)
    count = bars.shape[1]
    for index in range(count):
        open_ms = first_ms + index * MINUTE_MS
        prices(bars[:, index], tick, key, open_ms, path)
        marks(bars[:, index], path, key, open_ms, unit, mark)
        end = last_slot if index == count - 1 else SLOTS - 1
        out[0, index] = out[1, index] = out[2, index] = mark[0]
        for slot in range(0, end + 1, 10):
            out[1, index] = max(out[1, index], mark[slot])
            out[2, index] = min(out[2, index], mark[slot])
            out[3, index] = mark[slot]


@compiled
def aggregate(bars: Any, begins: Any, out: Any) -> None:
    """Fold minutes `bars` int64[COLUMNS, n] into `out` int64[COLUMNS, m]; candle j begins at minute index begins[j]."""
    total = bars.shape[1]
    for j in range(len(begins)):
        begin = begins[j]
        end = begins[j + 1] if j + 1 < len(begins) else total
        for column in range(COLUMNS):
            out[column, j] = bars[column, begin]
        for index in range(begin + 1, end):
            out[HIGH, j] = max(out[HIGH, j], bars[HIGH, index])
            out[LOW, j] = min(out[LOW, j], bars[LOW, index])
            out[CLOSE, j] = bars[CLOSE, index]
            for column in range(VOLUME, FIRST_ID):
                out[column, j] += bars[column, index]


@compiled
def aggregate_marks(rows: Any, begins: Any, out: Any) -> None:
    """The same for mark OHLC: `rows` int64[4, n] into `out` int64[4, m]."""
    total = rows.shape[1]
    for j in range(len(begins)):
        begin = begins[j]
        end = begins[j + 1] if j + 1 < len(begins) else total
        out[:, j] = rows[:, begin]
        for index in range(begin + 1, end):
            out[1, j] = max(out[1, j], rows[1, index])
            out[2, j] = min(out[2, j], rows[2, index])
            out[3, j] = rows[3, index]


@compiled
def fold_minute(base: Any, bars: Any, index: Any, begin: Any, fresh: Any, done: Any) -> None:
    """Move on by one minute: fold minute `index` into every running candle.

    `base` int64[I, COLUMNS, S] holds the candles without the running minute; where `fresh` uint8[I] is set,
    minute `index` was the candle's last: the finished candle goes to `done` and the base is cleared (TRADES −1
    says "nothing yet").
    """
    intervals, _, symbols = base.shape
    for i in range(intervals):
        for s in range(symbols):
            if index < begin[s]:
                continue
            if base[i, TRADES, s] < 0:
                for column in range(COLUMNS):
                    base[i, column, s] = bars[column, s, index]
            else:
                base[i, HIGH, s] = max(base[i, HIGH, s], bars[HIGH, s, index])
                base[i, LOW, s] = min(base[i, LOW, s], bars[LOW, s, index])
                base[i, CLOSE, s] = bars[CLOSE, s, index]
                for column in range(VOLUME, FIRST_ID):
                    base[i, column, s] += bars[column, s, index]
            if fresh[i]:
                for column in range(COLUMNS):
                    done[i, column, s] = base[i, column, s]
                base[i, TRADES, s] = -1


@compiled
def run_minute(bars: Any, index: Any, begin: Any, open_ms: Any, keys: Any, ticks: Any, units: Any, out: Any) -> None:
    """Fill the running minute of every symbol: `out` int64[5, S, SLOTS] = price, high, low, mark, share of
    trades (ppb)."""
    share = np.empty(SLOTS)
    for s in range(bars.shape[1]):
        if index < begin[s]:
            out[:, s] = 0
            continue
        candle = bars[:, s, index]
        prices(candle, ticks[s], keys[s], open_ms, out[0, s])
        marks(candle, out[0, s], keys[s], open_ms, units[s], out[3, s])
        progress(keys[s], open_ms, share)
        high = low = out[0, s, 0]
        for slot in range(SLOTS):
            high, low = max(high, out[0, s, slot]), min(low, out[0, s, slot])
            out[1, s, slot], out[2, s, slot] = high, low
            out[4, s, slot] = int(share[slot] * 1e9)
        out[4, s, SLOTS - 1] = 1_000_000_000


@compiled
def held_back(candle: Any, key: Any, open_ms: Any) -> Any:
    """Return 1 where the last open frame of this minute still lacks the last trade (one close in four), else 0."""
    return 1 if candle[TRADES] >= 2 and uniform(key, open_ms, 13) < 0.25 else 0


@compiled
def running(candle: Any, run: Any, s: Any, slot: Any, key: Any, open_ms: Any, out: Any) -> None:
    """Fill `out` int64[COLUMNS] with the still-open minute of symbol `s` as it stands at the end of `slot`."""
    share = run[4, s, slot] / 1e9
    held = held_back(candle, key, open_ms)
    trades = int(candle[TRADES] * share)
    volume = int(candle[VOLUME] * share)
    if held and slot == SLOTS - 1:
        volume -= max(1, candle[VOLUME] // candle[TRADES])
    out[TRADES] = min(trades, candle[TRADES] - held)
    out[VOLUME] = volume
    out[TAKER] = min(int(candle[TAKER] * share), volume)
    ratio = volume / max(candle[VOLUME], 1)
    out[QUOTE] = candle[QUOTE] if volume == candle[VOLUME] else int(candle[QUOTE] * ratio)
    out[TAKER_QUOTE] = min(int(candle[TAKER_QUOTE] * share), out[QUOTE])
    out[FIRST_ID] = candle[FIRST_ID]
    out[OPEN], out[HIGH], out[LOW], out[CLOSE] = run[0, s, 0], run[1, s, slot], run[2, s, slot], run[0, s, slot]
