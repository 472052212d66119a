"""Candles for a chart: of the symbols that are asked for at about the same time, one statement reads them all.

A statement costs some 5 ms before it reads its first row, and a chart's 500 candles one more: charts of many symbols in
many tabs are cheap only together.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from control.reader import Reader
from control.shapes_data import Candle
from kernels.records import TIMEFRAME_MS, TIMEFRAMES

PACE_S = 0.02  # between two statements for the same range
TOGETHER = 8_000  # candles of one statement at most: those who come later must not wait for long
SPARE = 16  # one candle in so many may be missing: then what is older is read for that symbol alone
MS = "toUnixTimestamp64Milli"
_FIELDS = f"{MS}(open_time) AS open_ms, open, high, low, close, volume, quote_volume, taker_volume, trades, source"
_RANGE = (
    "open_time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC') "
    "AND open_time < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')"
)
_ONE = "WHERE symbol = {symbol:String} AND " + _RANGE
_NEWEST = (
    f"SELECT {MS}(open_time) AS open_ms FROM candles_? {_ONE} ORDER BY symbol DESC, open_time DESC "
    "LIMIT 1 SETTINGS final = 0"
)
_CANDLES = f"SELECT {_FIELDS} FROM candles_? {_ONE} ORDER BY open_time DESC LIMIT {{limit:UInt32}}"
_HEAD = b'{"symbol":"'  # of a row of the next statement
_OF_MANY = (
    f"SELECT symbol, {_FIELDS} FROM candles_? WHERE symbol IN {{symbols:Array(String)}} AND {_RANGE} "
    "ORDER BY symbol, open_time DESC LIMIT {limit:UInt32} BY symbol"
)


@dataclass(frozen=True, slots=True)
class Range:
    """What is asked of a symbol: the newest `limit` candles with `from_ms` <= open time < `to_ms`."""

    timeframe: str
    from_ms: int
    to_ms: int
    limit: int

    @property
    def step_ms(self) -> int:
        """The length of a candle."""
        return TIMEFRAME_MS[TIMEFRAMES.index(self.timeframe)]


_decode = msgspec.json.Decoder(list[Candle], strict=False).decode


@dataclass
class _Waiting:
    symbols: dict[str, asyncio.Future[list[Candle]]] = field(default_factory=dict)
    begun_s: float = -1e9
    task: asyncio.Task[None] | None = None


class CandleReads:
    """The reads of one process; lives on the event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Range, _Waiting] = {}

    async def read(self, reader: Reader, symbol: str, wanted: Range, newest_ms: int | None) -> list[Candle]:
        """Return the candles, oldest first. `newest_ms`: the market's time now, where it is known."""
        end_ms = wanted.to_ms if newest_ms is None else min(wanted.to_ms, newest_ms)
        since_ms = end_ms - (wanted.limit + wanted.limit // SPARE + 8) * wanted.step_ms
        if newest_ms is not None and since_ms > wanted.from_ms:
            since_ms -= since_ms % wanted.step_ms  # those who ask within a minute ask for the same
            found = await self._together(reader, symbol, Range(wanted.timeframe, since_ms, wanted.to_ms, wanted.limit))
            if len(found) == wanted.limit:
                return found
        return await _alone(reader, symbol, wanted)

    async def _together(self, reader: Reader, symbol: str, wanted: Range) -> list[Candle]:
        waiting = self._waiting.setdefault(wanted, _Waiting())
        future = waiting.symbols.get(symbol)
        if future is None:
            future = waiting.symbols[symbol] = asyncio.get_running_loop().create_future()
            if waiting.task is None:
                waiting.task = asyncio.ensure_future(self._serve(reader, wanted, waiting))
        return await asyncio.shield(future)

    async def _serve(self, reader: Reader, wanted: Range, waiting: _Waiting) -> None:
        while waiting.symbols:
            await asyncio.sleep(max(0.0, waiting.begun_s + PACE_S - time.monotonic()))
            waiting.begun_s = time.monotonic()
            names = list(waiting.symbols)[: max(1, TOGETHER // wanted.limit)]
            futures = {name: waiting.symbols.pop(name) for name in names}
            try:
                found = await _of_many(reader, names, wanted)
            except Exception as error:
                for future in futures.values():
                    future.set_exception(error)
                    future.exception()  # whoever asked may be gone
            else:
                for name, future in futures.items():
                    future.set_result(found.get(name, []))
        waiting.task = None
        del self._waiting[wanted]


async def _of_many(reader: Reader, symbols: list[str], wanted: Range) -> dict[str, list[Candle]]:
    sql = _OF_MANY.replace("?", wanted.timeframe)
    values = {"symbols": symbols, "limit": wanted.limit, "from_ms": wanted.from_ms, "to_ms": wanted.to_ms}
    found: dict[str, list[bytes]] = {}
    for line in await reader.lines(sql, values):
        found.setdefault(line[len(_HEAD) : line.index(b'"', len(_HEAD))].decode(), []).append(line)
    return {symbol: _oldest_first(lines) for symbol, lines in found.items()}


async def _alone(reader: Reader, symbol: str, wanted: Range) -> list[Candle]:
    """Read one symbol's candles wherever they end.

    Reading a key once rules out reading backwards, so the range is narrowed to what holds `limit` of them at best.
    """
    sql, newest = _CANDLES.replace("?", wanted.timeframe), _NEWEST.replace("?", wanted.timeframe)
    values: dict[str, Any] = {
        "symbol": symbol, "limit": wanted.limit, "from_ms": wanted.from_ms, "to_ms": wanted.to_ms,
    }  # fmt: skip
    last = await reader.rows(newest, values)
    since_ms = int(last[0]["open_ms"]) - 2 * wanted.limit * wanted.step_ms if last else 0
    lines = await reader.lines(sql, values | {"from_ms": max(wanted.from_ms, since_ms)})
    if len(lines) < wanted.limit and since_ms > wanted.from_ms:
        lines = await reader.lines(sql, values)
    return _oldest_first(lines)


def _oldest_first(lines: list[bytes]) -> list[Candle]:
    return _decode(b"[" + b",".join(lines[::-1]) + b"]")
