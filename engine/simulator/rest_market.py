"""Market data over REST: the handlers, given parameters and the tape; nothing later than market time is ever shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.simulator import path, rows, tickers
from engine.simulator.depth import levels
from engine.simulator.errors import Refusal
from engine.simulator.events import INTERVALS, interval_next_ms, interval_open_ms
from engine.simulator.instruments import decimal
from engine.simulator.params import Params
from engine.simulator.path import COLUMNS, MINUTE_MS
from engine.simulator.tape import HOUR_MS, Tape

MONTH_MS = 31 * 24 * HOUR_MS
PERIODS = {"5m": 5, "15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "6h": 360, "12h": 720, "1d": 1_440}
DEPTH_LIMITS = (5, 10, 20, 50, 100, 500, 1_000)
DEPTH_WEIGHTS = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1_000: 20}
KINDS = ("klines", "continuousKlines", "indexPriceKlines", "markPriceKlines", "premiumIndexKlines")


def symbol_of(tape: Tape, params: Params, name: str = "symbol") -> int:
    """Return the index of the symbol that the parameter names, or refuse."""
    value = params.text(name)
    s = tape.market.index.get(value.upper())
    if s is None:
        raise Refusal(-1121, "Invalid symbol.")
    return s


def symbols_of(tape: Tape, params: Params) -> list[int]:
    """Return the one symbol asked for, or all."""
    return [symbol_of(tape, params)] if params.has("symbol") else list(range(len(tape.market.symbols)))


def kline_weight(limit: int) -> int:
    """Return what a klines request costs."""
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1_000 else 10


def candle_opens(tape: Tape, s: int, interval: int, params: Params) -> list[int]:
    """Return the open times that startTime, endTime and limit select, ascending."""
    limit = params.integer("limit", 500, 1, 1_500)
    oldest = tape.market.first_ms + int(tape.market.begin[s]) * MINUTE_MS
    start, end = params.time("startTime"), params.time("endTime")
    newest = tape.now_ms if end is None else min(end, tape.now_ms)
    oldest_open = interval_open_ms(interval, oldest)
    if start is not None:
        open_ms = interval_open_ms(interval, max(start, oldest_open))
        if open_ms < start:
            open_ms = interval_next_ms(interval, open_ms)
        opens: list[int] = []
        while open_ms <= newest and len(opens) < limit:
            opens.append(open_ms)
            open_ms = interval_next_ms(interval, open_ms)
        return opens
    opens = []
    open_ms = interval_open_ms(interval, newest)
    while open_ms >= oldest_open and len(opens) < limit:
        opens.append(open_ms)
        open_ms = interval_open_ms(interval, open_ms - 1)
    return opens[::-1]


def klines(tape: Tape, kind: str, params: Params) -> bytes:
    """Return the body of one of the five kline endpoints (`kind` in KINDS)."""
    s = symbol_of(tape, params, "pair" if kind in ("continuousKlines", "indexPriceKlines") else "symbol")
    if kind == "continuousKlines":
        params.choice("contractType", ("PERPETUAL", "CURRENT_QUARTER", "NEXT_QUARTER", "TRADIFI_PERPETUAL"))
    name = params.text("interval")
    if name not in INTERVALS:
        raise Refusal(-1120, "Invalid interval.")
    interval = INTERVALS.index(name)
    opens = candle_opens(tape, s, interval, params)
    if not opens or (kind == "continuousKlines" and params.text("contractType") != "PERPETUAL"):
        return b"[]"
    end_ms = interval_next_ms(interval, opens[-1])
    first = max(tape.market.minute_index(opens[0]), int(tape.market.begin[s]))
    last = min(tape.market.minute_index(end_ms - 1), tape.index)
    begins = np.array([max(tape.market.minute_index(open_ms), first) - first for open_ms in opens], np.int64)
    spans = np.array([opens, [*opens[1:], end_ms]], np.int64)
    if kind in ("klines", "continuousKlines"):
        out = np.empty((COLUMNS, len(opens)), np.int64)
        path.aggregate(tape.minutes(s, first, last), begins, out)
        return rows.candles(out, spans, tape.market.instruments[s])
    marks = _marks(tape, s, first, last)
    folded = np.empty((4, len(opens)), np.int64)
    path.aggregate_marks(marks, begins, folded)
    if kind != "markPriceKlines":
        middle = [path.basis(tape.market.keys[s], open_ms) for open_ms in opens]
        ratio = np.array(middle)
        folded = np.rint(ratio * 1e8 * np.ones((4, 1)) if kind.startswith("premium") else folded / (1 + ratio))
        folded = folded.astype(np.int64)
    samples = np.minimum(spans[1], tape.now_ms) - spans[0]
    return rows.mark_candles(folded, spans, samples // 1_000)


def _marks(tape: Tape, s: int, first: int, last: int) -> npt.NDArray[np.int64]:
    market = tape.market
    out = np.empty((4, last - first + 1), np.int64)
    bars = np.ascontiguousarray(market.bars[:, s, first : last + 1])
    slot = tape.slot if last == tape.index else path.SLOTS - 1
    open_ms = market.first_ms + first * MINUTE_MS
    path.mark_candles(bars, open_ms, market.ticks[s], market.keys[s], market.units[s], slot, out)
    return out


def depth(tape: Tape, params: Params) -> dict[str, Any]:
    """Return the body of /fapi/v1/depth."""
    s = symbol_of(tape, params)
    limit = params.integer("limit", 500, 1, 1_000)
    if limit not in DEPTH_LIMITS:
        raise Refusal(-4021, f"{limit} is not valid depth limit.")
    item = tape.market.instruments[s]
    bids, asks, update_id = levels(tape, s, limit)
    text = [
        [[decimal(price, item.price_decimals), decimal(qty, item.qty_decimals)] for price, qty in side]
        for side in (bids, asks)
    ]
    stamps = {"lastUpdateId": update_id, "E": tape.now_ms, "T": tape.now_ms - 3}
    return stamps | {"bids": text[0], "asks": text[1]}


def book_ticker(tape: Tape, s: int) -> dict[str, Any]:
    """Return a row of /fapi/v1/ticker/bookTicker."""
    row = tickers.stream_book(tape, s)
    names = {"symbol": "s", "bidPrice": "b", "bidQty": "B", "askPrice": "a", "askQty": "A", "time": "T"}
    return {name: row[short] for name, short in names.items()} | {"lastUpdateId": row["u"]}


def price_ticker(tape: Tape, s: int) -> dict[str, Any]:
    """Return a row of ticker/price."""
    item = tape.market.instruments[s]
    price = decimal(tape.last_price(s), item.price_decimals)
    return {"symbol": item.symbol, "price": price, "time": tape.now_ms}


def funding_rate(tape: Tape, params: Params) -> list[dict[str, Any]]:
    """Return settled funding rates, ascending."""
    chosen = symbols_of(tape, params)
    limit = params.integer("limit", 100, 1, 1_000)
    start, end = params.time("startTime"), params.time("endTime")
    if start is None and end is None and not params.has("limit"):
        limit = 200
    found = []
    for s in chosen:
        length = tape.funding_hours(s) * HOUR_MS
        oldest = tape.market.first_ms + int(tape.market.begin[s]) * MINUTE_MS
        newest = min(tape.now_ms - 1_000, end if end is not None else tape.now_ms)
        settle = -(-max(oldest, start or 0) // length) * length
        if start is None:
            settle = max(settle, newest // length * length - (limit - 1) * length)
        count = 0
        while settle <= newest and count < limit:
            found.append(_funding_row(tape, s, settle))
            settle += length
            count += 1
    found.sort(key=lambda row: (row["fundingTime"], row["symbol"]))
    return found[:limit] if start is not None else found[-limit:]


def _funding_row(tape: Tape, s: int, settle_ms: int) -> dict[str, Any]:
    market = tape.market
    jitter = int(9 * path.uniform(market.keys[s], settle_ms, 52))
    first = market.minute_index(settle_ms)
    rate = decimal(tape.funding_rate(s, settle_ms), 8)
    row = {"symbol": market.symbols[s], "fundingRate": rate, "fundingTime": settle_ms + jitter}
    return row | {"markPrice": decimal(int(_marks(tape, s, first, first)[0, 0]), 8), "rateType": "Regular"}


def funding_info(tape: Tape) -> list[dict[str, Any]]:
    """Return the symbols whose funding differs from the 8-hour default."""
    return [
        {
            "symbol": item.symbol,
            "adjustedFundingRateCap": "0.02000000",
            "adjustedFundingRateFloor": "-0.02000000",
            "fundingIntervalHours": item.funding_hours,
            "disclaimer": False,
        }
        for item in tape.market.instruments
        if item.funding_hours != 8
    ]


def open_interest(tape: Tape, params: Params) -> dict[str, Any]:
    """Return the body of /fapi/v1/openInterest."""
    s = symbol_of(tape, params)
    item = tape.market.instruments[s]
    text = decimal(tape.open_interest(s, tape.now_ms), item.qty_decimals)
    return {"openInterest": text, "symbol": item.symbol, "time": tape.now_ms}


def open_interest_history(tape: Tape, params: Params) -> list[dict[str, Any]]:
    """Return the open-interest history: samples stamped at the end of their period, of the last month only."""
    s = symbol_of(tape, params)
    period = PERIODS[params.choice("period", tuple(PERIODS))] * MINUTE_MS
    limit = params.integer("limit", 30, 1, 500)
    start, end = params.time("startTime"), params.time("endTime")
    if start is not None and start < tape.now_ms - MONTH_MS:
        raise Refusal(-1130, "parameter 'startTime' is invalid.")
    market, item = tape.market, tape.market.instruments[s]
    oldest = max(market.first_ms + int(market.begin[s]) * MINUTE_MS, tape.now_ms - MONTH_MS, start or 0)
    stamp = -(-oldest // period) * period
    newest = (tape.now_ms if end is None else min(end, tape.now_ms)) // period * period
    late_ms = 45_000 + int(150_000 * path.uniform(market.keys[s], newest, 62))
    if tape.now_ms - newest < late_ms:  # a sample is published some minutes after its stamp
        newest -= period
    if start is None:
        stamp = max(stamp, newest - (limit - 1) * period)
    found: list[dict[str, Any]] = []
    while stamp <= newest and len(found) < limit:
        amount = tape.open_interest(s, stamp)
        index = max(int(market.begin[s]), market.minute_index(stamp) - 1)
        value = amount * int(market.bars[path.CLOSE, s, index])
        places = item.price_decimals + item.qty_decimals
        row = {"symbol": item.symbol, "sumOpenInterest": decimal(amount, item.qty_decimals)}
        row |= {"sumOpenInterestValue": decimal(value, places), "CMCCirculatingSupply": "0.00000000"}
        found.append(row | {"timestamp": stamp})
        stamp += period
    return found
