"""The slower streams, built one by one: tickers, depth, all-market arrays, continuous klines."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson

from engine.simulator import path, tickers
from engine.simulator.depth import levels
from engine.simulator.events import INTERVALS, interval_next_ms, interval_open_ms
from engine.simulator.instruments import decimal
from engine.simulator.path import CLOSE, FIRST_ID, HIGH, LOW, OPEN, QUOTE, TAKER, TAKER_QUOTE, TRADES, VOLUME
from engine.simulator.tape import Tape

PUBLIC, MARKET = "public", "market"

_DEPTH = re.compile(r"^(?P<symbol>[^@]+)@(?P<kind>depth(?P<top>5|10|20)?|rpiDepth)(@(?P<speed>0|100|250|500)ms)?$")
_TICKER = re.compile(r"^(?P<symbol>[^@!]+)@(?P<kind>ticker|miniTicker)$")
_ARRAY = re.compile(r"^!(?P<kind>ticker|miniTicker|markPrice)@arr(@(?P<speed>1s))?$")
_CONTINUOUS = re.compile(r"^(?P<pair>[^@_]+)_(?P<type>[a-z_]+)@continuousKline_(?P<interval>\w+)$")
_PUSHED = re.compile(
    r"^(!forceOrder@arr|!contractInfo|[^@!]+@forceOrder|tradingSession|!assetIndex@arr|[^@!]+@assetIndex|[^@!]+@compositeIndex)$"
)


class Special:
    """One slow stream: `produce(now_ms)` is called every `period_ms` of market time and returns payloads."""

    def __init__(self, name: str, route: str, period_ms: int, produce: Callable[[int], list[bytes]]) -> None:
        self.name = name
        self.route = route
        self.period_ms = period_ms
        self.produce = produce
        self.next_ms = 0


def _nothing(now_ms: int) -> list[bytes]:
    return []


def parse(tape: Tape, name: str) -> Special | None:
    """Return the slow stream called `name`, or None when there is no such stream."""
    index = {symbol.lower(): s for symbol, s in tape.market.index.items()}
    if match := _DEPTH.match(name):
        s = index.get(match["symbol"])
        period = max(100, int(match["speed"] or 250)) if match["kind"] != "rpiDepth" else 500
        if s is None:
            return None
        book = _Depth(tape, s, int(match["top"]) if match["top"] else 0)
        return Special(name, PUBLIC, period, book.produce)
    if match := _TICKER.match(name):
        if match["symbol"] not in index:
            return None
        row = index[match["symbol"]]
        make = tickers.stream_ticker if match["kind"] == "ticker" else tickers.stream_mini_ticker
        period = 2_000 if match["kind"] == "ticker" else 1_000
        return Special(name, MARKET, period, lambda now_ms: [orjson.dumps(make(tape, row))])
    if match := _ARRAY.match(name):
        return _array(tape, name, match["kind"], match["speed"])
    if name == "!bookTicker":
        rows = range(len(tape.market.symbols))
        return Special(name, PUBLIC, 5_000, lambda _: [orjson.dumps(tickers.stream_book(tape, s)) for s in rows])
    if match := _CONTINUOUS.match(name):
        s = index.get(match["pair"])
        if s is None or match["type"] != "perpetual" or match["interval"] not in INTERVALS:
            return None
        return Special(name, MARKET, 1_000, _Continuous(tape, s, INTERVALS.index(match["interval"])).produce)
    if _PUSHED.match(name):
        return Special(name, MARKET, 1 << 60, _nothing)
    return None


def _array(tape: Tape, name: str, kind: str, speed: str | None) -> Special:
    rows = range(len(tape.market.symbols))
    if kind == "markPrice":
        period = 1_000 if speed else 3_000
        return Special(name, MARKET, period, lambda _: [orjson.dumps([tickers.stream_mark(tape, s) for s in rows])])
    make = tickers.stream_ticker if kind == "ticker" else tickers.stream_mini_ticker
    return Special(name, MARKET, 1_000, lambda _: [orjson.dumps([make(tape, s) for s in rows])])


class _Depth:
    """Partial books when `top` is set, else diffs against what this stream showed last."""

    def __init__(self, tape: Tape, s: int, top: int) -> None:
        self.tape, self.s, self.top = tape, s, top
        self.shown: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.last_id = 0

    def produce(self, now_ms: int) -> list[bytes]:
        bids, asks, update_id = levels(self.tape, self.s)
        if update_id == self.last_id:
            return []
        first_id, previous = (self.last_id + 1 if self.last_id else update_id), self.last_id or update_id - 1
        sides = (bids[: self.top], asks[: self.top]) if self.top else (self._diff(0, bids), self._diff(1, asks))
        self.last_id = update_id
        item = self.tape.market.instruments[self.s]
        rows = [
            [[decimal(price, item.price_decimals), decimal(qty, item.qty_decimals)] for price, qty in side]
            for side in sides
        ]
        head = {"e": "depthUpdate", "E": now_ms, "T": now_ms - 3, "s": item.symbol, "ps": item.symbol}
        return [
            orjson.dumps({**head, "U": first_id, "u": update_id, "pu": previous, "b": rows[0], "a": rows[1], "st": 1})
        ]

    def _diff(self, side: int, now: list[tuple[int, int]]) -> list[tuple[int, int]]:
        before, fresh = self.shown[side], dict(now)
        changed = [(price, qty) for price, qty in now if before.get(price) != qty]
        changed += [(price, 0) for price in before if price not in fresh]
        before.clear()
        before.update(fresh)
        return changed


class _Continuous:
    """continuousKline frames: the running candle once a second, and each closed one once."""

    def __init__(self, tape: Tape, s: int, interval: int) -> None:
        self.tape, self.s, self.interval = tape, s, interval
        self.open_ms = interval_open_ms(interval, tape.now_ms)

    def produce(self, now_ms: int) -> list[bytes]:
        out = []
        running = interval_open_ms(self.interval, now_ms)
        if running != self.open_ms:
            out.append(self._frame(now_ms, self.open_ms, True))
            self.open_ms = running
        out.append(self._frame(now_ms, running, False))
        return out

    def _frame(self, now_ms: int, open_ms: int, final: bool) -> bytes:
        tape, item = self.tape, self.tape.market.instruments[self.s]
        first = max(int(tape.market.begin[self.s]), tape.market.minute_index(open_ms))
        next_ms = interval_next_ms(self.interval, open_ms)
        rows = tape.minutes(self.s, first, tape.market.minute_index(next_ms - 1))
        total = np.empty((path.COLUMNS, 1), np.int64)
        path.aggregate(rows, np.zeros(1, np.int64), total)
        row = total[:, 0].tolist()
        places, lots = item.price_decimals, item.qty_decimals
        kline: dict[str, Any] = {"t": open_ms, "T": next_ms - 1, "i": INTERVALS[self.interval], "f": row[FIRST_ID]}
        kline["L"] = row[FIRST_ID] + row[TRADES] - 1
        kline |= {key: decimal(row[at], places) for key, at in (("o", OPEN), ("c", CLOSE), ("h", HIGH), ("l", LOW))}
        kline |= {
            "v": decimal(row[VOLUME], lots),
            "n": row[TRADES],
            "x": final,
            "q": decimal(row[QUOTE], places + lots),
        }
        kline |= {"V": decimal(row[TAKER], lots), "Q": decimal(row[TAKER_QUOTE], places + lots), "B": "0"}
        body = {"e": "continuous_kline", "E": now_ms, "ps": item.symbol, "ct": "PERPETUAL", "k": kline}
        return orjson.dumps(body)
