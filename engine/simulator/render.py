"""Frames and rows as bytes: integers to JSON without a JSON library, whole WebSocket frames ready to send."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.simulator.events import AGG_TRADE, BOOK, CLOSING, INTERVALS, MARK_1S, MARK_3S, TRADE
from engine.simulator.jit import compiled, compiled_as
from engine.simulator.path import (
    CLOSE,
    COLUMNS,
    FIRST_ID,
    HIGH,
    LOW,
    MINUTE_MS,
    OPEN,
    QUOTE,
    SLOTS,
    TAKER,
    TAKER_QUOTE,
    TRADES,
    VOLUME,
    basis,
    book,
    running,
)

NAME_BYTES = 24
FRAME_BYTES = 640  # no frame rendered here is longer
PREFIX_BYTES = 96


def _text(value: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(value.encode(), np.uint8).copy()


def table(texts: list[str], width: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return texts as (uint8[n, width], lengths int64[n])."""
    rows = np.zeros((len(texts), width), np.uint8)
    for row, value in zip(rows, texts, strict=True):
        data = value.encode()
        row[: len(data)] = np.frombuffer(data, np.uint8)
    return rows, np.array([len(value.encode()) for value in texts], np.int64)


_K_HEAD, _K_SYMBOL, _K_OPEN = _text('{"e":"kline","E":'), _text(',"s":"'), _text('","k":{"t":')
_K_CLOSE, _K_NAME, _K_INTERVAL, _K_FIRST = _text(',"T":'), _text(',"s":"'), _text('","i":"'), _text('","f":')
_K_LAST, _K_O, _K_C, _K_H, _K_L = _text(',"L":'), _text(',"o":"'), _text('","c":"'), _text('","h":"'), _text('","l":"')
_K_V, _K_N, _K_TRUE, _K_FALSE = _text('","v":"'), _text('","n":'), _text(',"x":true,"q":"'), _text(',"x":false,"q":"')
_K_TAKER, _K_TAKER_QUOTE, _K_END = _text('","V":"'), _text('","Q":"'), _text('","B":"0"}}')
_M_HEAD, _M_P, _M_AP = _text('{"e":"markPriceUpdate","E":'), _text('","p":"'), _text('","ap":"')
_M_SETTLE, _M_INDEX, _M_RATE = _text('","P":"'), _text('","i":"'), _text('","r":"')
_M_NEXT, _M_END = _text('","T":'), _text(',"st":1}')
_B_HEAD, _B_EVENT, _B_TIME, _B_PAIR = _text('{"e":"bookTicker","u":'), _text(',"E":'), _text(',"T":'), _text('","ps":"')
_B_BID, _B_BIDQ, _B_ASK, _B_ASKQ = _text('","b":"'), _text('","B":"'), _text('","a":"'), _text('","A":"')
_B_END = _text('","st":1}')
_T_HEAD, _T_ID, _T_P, _T_Q = _text('{"e":"trade","E":'), _text('","t":'), _text(',"p":"'), _text('","q":"')
_T_END_BUY, _T_END_SELL = _text('","X":"MARKET","m":false}'), _text('","X":"MARKET","m":true}')
_A_HEAD, _A_ID, _A_NQ, _A_F = _text('{"e":"aggTrade","E":'), _text('","a":'), _text('","nq":"'), _text('","f":')
_A_L, _A_T, _A_M, _A_TRUE, _A_FALSE = _text(',"l":'), _text(',"T":'), _text(',"m":'), _text("true"), _text("false")
_INTERVAL_ROWS, _INTERVAL_LENGTHS = table(list(INTERVALS), 4)


@compiled
def put(out: Any, at: Any, text: Any) -> Any:
    """Copy bytes; return the position behind them. All `put_*` do."""
    for i in range(len(text)):
        out[at + i] = text[i]
    return at + len(text)


@compiled_as("int64(uint8[::1], int64, int64)")
def put_int(out: Any, at: Any, value: Any) -> Any:
    """Write a decimal integer."""
    if value < 0:
        out[at] = 45
        at += 1
        value = -value
    digits = 1
    rest = value // 10
    while rest:
        digits += 1
        rest //= 10
    for i in range(digits - 1, -1, -1):
        out[at + i] = 48 + value % 10
        value //= 10
    return at + digits


@compiled_as("int64(uint8[::1], int64, int64, int64)")
def put_decimal(out: Any, at: Any, value: Any, decimals: Any) -> Any:
    """Write `value` of 10^-decimals with all its decimals."""
    if value < 0:
        out[at] = 45
        at += 1
        value = -value
    if decimals == 0:
        return put_int(out, at, value)
    scale = 1
    for _ in range(decimals):
        scale *= 10
    whole = value // scale
    part = value - whole * scale
    at = put_int(out, at, whole)
    out[at] = 46
    for i in range(decimals, 0, -1):
        out[at + i] = 48 + part % 10
        part //= 10
    return at + decimals + 1


@compiled
def put_kline(out: Any, at: Any, row: Any, meta: Any, name: Any, interval: Any, final: Any) -> Any:
    """Write a kline payload. `row` int64[COLUMNS]; `meta` int64[5]: event, open, close ms, price and quantity
    decimals."""
    event_ms, open_ms, close_ms, places, lots = meta[0], meta[1], meta[2], meta[3], meta[4]
    empty = row[TRADES] == 0
    at = put(out, put_int(out, put(out, at, _K_HEAD), event_ms), _K_SYMBOL)
    at = put_int(out, put(out, put(out, at, name), _K_OPEN), open_ms)
    at = put(out, put(out, put_int(out, put(out, at, _K_CLOSE), close_ms), _K_NAME), name)
    at = put(out, put(out, put(out, at, _K_INTERVAL), interval), _K_FIRST)
    at = put(out, put_int(out, at, -1 if empty else row[FIRST_ID]), _K_LAST)
    at = put(out, put_int(out, at, -1 if empty else row[FIRST_ID] + row[TRADES] - 1), _K_O)
    at = put(out, put_decimal(out, at, row[OPEN], places), _K_C)
    at = put(out, put_decimal(out, at, row[CLOSE], places), _K_H)
    at = put(out, put_decimal(out, at, row[HIGH], places), _K_L)
    at = put(out, put_decimal(out, at, row[LOW], places), _K_V)
    at = put(out, put_decimal(out, at, row[VOLUME], lots), _K_N)
    at = put_int(out, at, row[TRADES])
    at = put(out, at, _K_TRUE) if final else put(out, at, _K_FALSE)
    at = put(out, put_decimal(out, at, row[QUOTE], places + lots), _K_TAKER)
    at = put(out, put_decimal(out, at, row[TAKER], lots), _K_TAKER_QUOTE)
    return put(out, put_decimal(out, at, row[TAKER_QUOTE], places + lots), _K_END)


@compiled
def put_mark(out: Any, at: Any, run: Any, s: Any, slot: Any, event_ms: Any, key: Any, funding: Any, name: Any) -> Any:
    """Write a markPriceUpdate. `funding` int64[2]: rate in 10^-8, next time in ms."""
    mark = run[3, s, slot]
    total, seen = 0, 0
    for earlier in range(max(0, slot - 290), slot + 1, 10):
        total += run[3, s, earlier]
        seen += 1
    index = int(np.rint(mark / (1.0 + basis(key, event_ms))))
    at = put(out, put_int(out, put(out, at, _M_HEAD), event_ms), _K_SYMBOL)
    at = put_decimal(out, put(out, put(out, at, name), _M_P), mark, 8)
    at = put_decimal(out, put(out, at, _M_AP), total // seen, 8)
    at = put_decimal(out, put(out, at, _M_SETTLE), index, 8)
    at = put_decimal(out, put(out, at, _M_INDEX), index, 8)
    at = put_decimal(out, put(out, at, _M_RATE), funding[0], 8)
    return put(out, put_int(out, put(out, at, _M_NEXT), funding[1]), _M_END)


@compiled
def put_book(out: Any, at: Any, best: Any, update_id: Any, event_ms: Any, places: Any, lots: Any, name: Any) -> Any:
    """Write a bookTicker. `best` int64[4]: bid, quantity, ask, quantity."""
    at = put_int(out, put(out, at, _B_HEAD), update_id)
    at = put_int(out, put(out, at, _B_EVENT), event_ms)
    at = put(out, put_int(out, put(out, at, _B_TIME), event_ms - 2), _K_SYMBOL)
    at = put(out, put(out, put(out, at, name), _B_PAIR), name)
    at = put(out, put_decimal(out, put(out, at, _B_BID), best[0], places), _B_BIDQ)
    at = put(out, put_decimal(out, at, best[1], lots), _B_ASK)
    at = put(out, put_decimal(out, at, best[2], places), _B_ASKQ)
    return put(out, put_decimal(out, at, best[3], lots), _B_END)


@compiled
def put_trade(out: Any, at: Any, kind: Any, facts: Any, places: Any, lots: Any, name: Any) -> Any:
    """Write a trade or aggTrade. `facts` int64[7]: event ms, first and last id, price, quantity, buyer is
    maker, aggregate id."""
    if kind == TRADE:
        at = put_int(out, put(out, at, _T_HEAD), facts[0])
        at = put(out, put_int(out, put(out, at, _B_TIME), facts[0]), _K_SYMBOL)
        at = put(out, put_int(out, put(out, put(out, at, name), _T_ID), facts[2]), _T_P)
        at = put(out, put_decimal(out, at, facts[3], places), _T_Q)
        at = put_decimal(out, at, facts[4], lots)
        return put(out, at, _T_END_SELL) if facts[5] else put(out, at, _T_END_BUY)
    at = put(out, put_int(out, put(out, at, _A_HEAD), facts[0]), _K_SYMBOL)
    at = put(out, put_int(out, put(out, put(out, at, name), _A_ID), facts[6]), _T_P)
    at = put(out, put_decimal(out, at, facts[3], places), _T_Q)
    at = put(out, put_decimal(out, at, facts[4], lots), _A_NQ)
    at = put(out, put_decimal(out, at, facts[4], lots), _A_F)
    at = put(out, put_int(out, at, facts[1]), _A_L)
    at = put(out, put_int(out, at, facts[2]), _A_T)
    at = put(out, put_int(out, at, facts[0] - 5), _A_M)
    at = put(out, at, _A_TRUE) if facts[5] else put(out, at, _A_FALSE)
    return put(out, at, _M_END)


@compiled
def merge(base: Any, now: Any, out: Any) -> None:
    """Add the running minute `now` to the candle so far `base`; TRADES −1 in the base says it is empty."""
    if base[TRADES] < 0:
        out[:] = now
        return
    out[OPEN], out[CLOSE] = base[OPEN], now[CLOSE]
    out[HIGH], out[LOW] = max(base[HIGH], now[HIGH]), min(base[LOW], now[LOW])
    for column in range(VOLUME, FIRST_ID):
        out[column] = base[column] + now[column]
    out[FIRST_ID] = base[FIRST_ID]


@compiled
def render(events: Any, first: Any, last: Any, bars: Any, index: Any, open_ms: Any, keys: Any, run: Any, base: Any,
           done: Any, spans: Any, static: Any, funding: Any, names: Any, lengths: Any, rates: Any, out: Any,
           ends: Any) -> Any:  # fmt: skip
    """Write the payloads of events [first, last) into `out` uint8[]; `ends` int64[] gets the end of each.
    Returns the bytes.

    events int64[4, n] sorted by time; base, done int64[15, COLUMNS, S]: candles without the running minute,
    and those that ended at its start; spans int64[3, 15]: open of the running candles, open of the ended ones,
    and next open of the running; static int64[4, S]: price and quantity decimals, tick, typical volume;
    funding int64[S, 2].
    """
    row, total, best = np.empty(COLUMNS, np.int64), np.empty(COLUMNS, np.int64), np.empty(4, np.int64)
    meta, facts = np.empty(5, np.int64), np.empty(7, np.int64)
    at = np.int64(0)
    for e in range(first, last):
        time, code, s, argument = events[0, e], events[1, e], events[2, e], events[3, e]
        name = names[s, : lengths[s]]
        places, lots = static[0, s], static[1, s]
        if code >= CLOSING:
            i = code - CLOSING
            meta[0], meta[1], meta[2], meta[3], meta[4] = time, spans[1, i], spans[0, i] - 1, places, lots
            for column in range(COLUMNS):
                total[column] = done[i, column, s]
            at = put_kline(out, at, total, meta, name, _INTERVAL_ROWS[i, : _INTERVAL_LENGTHS[i]], True)
        elif code < MARK_1S:
            running(bars[:, s, index], run, s, argument, keys[s], open_ms, row)
            merge(base[code, :, s], row, total)
            meta[0], meta[1], meta[2], meta[3], meta[4] = time, spans[0, code], spans[2, code] - 1, places, lots
            at = put_kline(out, at, total, meta, name, _INTERVAL_ROWS[code, : _INTERVAL_LENGTHS[code]], False)
        elif code in (MARK_1S, MARK_3S):
            at = put_mark(out, at, run, s, argument, time, keys[s], funding[s], name)
        elif code == BOOK:
            slot = (argument * SLOTS) // rates[1]
            number = (open_ms // MINUTE_MS) * 1_200 + argument
            book(run[0, s, slot], static[2, s], static[3, s], keys[s], number, best)
            update_id = (open_ms // MINUTE_MS) * 100_000 + argument * 50 + 7
            at = put_book(out, at, best, update_id, time, places, lots, name)
        else:
            slot, before = argument // 1_000_000_000, argument % 1_000_000_000
            candle = bars[:, s, index]
            running(candle, run, s, slot, keys[s], open_ms, row)
            after = int(candle[TRADES] * (run[4, s, slot] / 1e9))
            facts[0], facts[1], facts[2] = time, candle[FIRST_ID] + before, candle[FIRST_ID] + after - 1
            facts[3], facts[5] = run[0, s, slot], (slot + s) % 2
            facts[4] = max(1, candle[VOLUME] * (after - before) // candle[TRADES])
            facts[6] = facts[2] // 2
            at = put_trade(out, at, AGG_TRADE if code == AGG_TRADE else TRADE, facts, places, lots, name)
        ends[e - first] = at
    return at


@compiled
def gather(payloads: Any, ends: Any, events: Any, first: Any, last: Any, symbols: Any, mask: Any, combined: Any,
           prefixes: Any, lengths: Any, out: Any) -> Any:  # fmt: skip
    """Copy the frames that one connection listens to into `out` as whole WebSocket text frames; returns the bytes.

    mask uint8[KINDS × S] by stream id = kind × S + symbol; prefixes uint8[KINDS × S, PREFIX_BYTES]: the
    combined wrapper.
    """
    at, begin = np.int64(0), np.int64(0)
    for e in range(first, last):
        end = ends[e - first]
        code = events[1, e]
        stream = (code - CLOSING if code >= CLOSING else code) * symbols + events[2, e]
        if mask[stream]:
            extra = lengths[stream] + 1 if combined else 0
            size = end - begin + extra
            out[at] = 0x81
            if size < 126:
                out[at + 1] = size
                at += 2
            else:
                out[at + 1], out[at + 2], out[at + 3] = 126, size >> 8, size & 255
                at += 4
            if combined:
                for i in range(lengths[stream]):
                    out[at + i] = prefixes[stream, i]
                at += lengths[stream]
            for i in range(begin, end):
                out[at + i - begin] = payloads[i]
            at += end - begin
            if combined:
                out[at] = 125
                at += 1
        begin = end
    return at
