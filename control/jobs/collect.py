"""Collect market data over REST into the store: resumable, within half of this address's request weight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError, ExchangeError
from engine.exchange import filters
from engine.exchange.budget import WeightBudget
from engine.exchange.rest import (
    CLOSED_AFTER_MS,
    LAST_PRICE,
    MARK_PRICE,
    OPEN_INTEREST_DAYS,
    OPEN_INTEREST_MS,
    OPEN_INTEREST_PAGE,
    PAGE_BARS,
    PREMIUM_INDEX,
    MarketRest,
    closed,
)
from kernels.records import TIMEFRAME_MS, TIMEFRAMES
from store import writer
from store.client import Store

PAGES_PER_INSERT = 24  # about 12,000 candles: an insert costs 5 ms plus 2 µs a row
SERIES_AT_ONCE = 6
DAY_MS = 86_400_000
MINUTE_MS, HOUR_MS = TIMEFRAME_MS[0], TIMEFRAME_MS[2]
WEIGHT_SHARE = 0.5
INSERTS = {MARK_PRICE: writer.insert_mark_bars, PREMIUM_INDEX: writer.insert_premium_bars}


@dataclass
class Order:
    """What to collect. Times are exchange milliseconds; `symbols` empty means every trading USDT perpetual."""

    days: float = 30.0  # back from the exchange's time now, unless `from_ms` is given
    from_ms: int | None = None
    to_ms: int | None = None
    symbols: Sequence[str] = ()
    timeframes: Sequence[int] = (0, 1, 2)
    mark: bool = True
    premium: bool = False
    funding: bool = True
    open_interest: bool = True


@dataclass
class Summary:
    """What came of it."""

    symbols: int = 0
    rows: dict[str, int] = field(default_factory=dict)  # table → rows inserted
    skipped_pages: int = 0  # complete in the store already
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


Progress = Callable[[int, int, str], None]
"""Called with pages done, pages planned so far, and what was just stored."""


class Collector:
    """One run of collecting. Everything on the store happens in one worker thread at a time."""

    def __init__(self, rest: MarketRest, store: Store, order: Order, progress: Progress | None = None) -> None:
        self.summary = Summary()
        self._rest = rest
        self._store = store
        self._order = order
        self._progress = progress
        self._done = 0
        self._planned = 0
        self._store_lock = asyncio.Lock()
        self._gate = asyncio.Semaphore(SERIES_AT_ONCE)

    async def run(self) -> Summary:
        """Collect everything; a series that fails is reported in `faults` and does not stop the others.

        Raises ExchangeError where even exchangeInfo cannot be had, DataError for a symbol it does not list.
        """
        started = time.monotonic()
        now_ms = await self._rest.server_time_ms()
        to_ms = min(self._order.to_ms or now_ms, now_ms - CLOSED_AFTER_MS)
        table = await self._rest.instruments()
        await self._in_store(lambda: writer.insert_instruments(self._store, table, now_ms))
        self._count("instruments", len(table))
        rows = {bytes(row["symbol"]).decode(): row for row in table}
        symbols = list(self._order.symbols) or filters.tradable(table)
        unknown = [name for name in symbols if name not in rows]
        if unknown:
            raise DataError(f"{self._rest.base_url}: does not list {', '.join(unknown)}")
        self.summary.symbols = len(symbols)
        from_ms = self._order.from_ms if self._order.from_ms is not None else now_ms - int(self._order.days * DAY_MS)
        await asyncio.gather(*(self._symbol(name, rows[name], from_ms, to_ms, now_ms) for name in symbols))
        self.summary.requests, self.summary.retries = self._rest.requests, self._rest.retries
        self.summary.seconds = time.monotonic() - started
        return self.summary

    async def _symbol(self, symbol: str, instrument: Any, from_ms: int, to_ms: int, now_ms: int) -> None:
        from_ms = max(from_ms, int(instrument["onboard_ms"]))
        jobs = [self._bars(symbol, frame, from_ms, to_ms, now_ms, LAST_PRICE) for frame in self._order.timeframes]
        for wanted, series in ((self._order.mark, MARK_PRICE), (self._order.premium, PREMIUM_INDEX)):
            if wanted:
                jobs.append(self._bars(symbol, 0, from_ms, to_ms, now_ms, series))
        if self._order.funding:
            jobs.append(self._funding(symbol, from_ms, to_ms, int(instrument["funding_hours"])))
        if self._order.open_interest:
            jobs.append(self._open_interest(symbol, max(from_ms, now_ms - OPEN_INTEREST_DAYS * DAY_MS), to_ms))
        await asyncio.gather(*(self._guarded(symbol, job) for job in jobs))

    async def _guarded(self, symbol: str, job: Awaitable[None]) -> None:
        async with self._gate:
            try:
                await job
            except ExchangeError as error:
                self.summary.faults.append(f"{symbol}: {error}")

    async def _bars(self, symbol: str, frame: int, from_ms: int, to_ms: int, now_ms: int, series: str) -> None:
        step = TIMEFRAME_MS[frame]
        from_ms = -(-from_ms // step) * step
        name = {MARK_PRICE: "mark_1m", PREMIUM_INDEX: "premium_index"}.get(series) or f"candles_{TIMEFRAMES[frame]}"
        insert = partial(writer.insert_bars, self._store, symbol, frame)
        if series in INSERTS:
            insert = partial(INSERTS[series], self._store, symbol)
        have = await self._in_store(
            lambda: _open_times(self._store, name, symbol, from_ms, to_ms, whole=series == LAST_PRICE)
        )
        pages = missing_pages(have, from_ms, to_ms, step)
        span = PAGE_BARS * step
        self.summary.skipped_pages += -(-max(to_ms - from_ms, 0) // span) - len(pages)
        self._planned += len(pages)
        for first in range(0, len(pages), PAGES_PER_INSERT):
            some = pages[first : first + PAGES_PER_INSERT]
            got = await asyncio.gather(
                *(self._rest.klines(symbol, frame, start, min(start + span, to_ms), series=series) for start in some)
            )
            bars = closed(np.concatenate(got), frame, now_ms)
            bars = bars[np.unique(bars["open_ms"], return_index=True)[1]]
            await self._in_store(partial(insert, bars, "rest"))
            self._advance(len(some), name, len(bars), symbol)

    async def _funding(self, symbol: str, from_ms: int, to_ms: int, listed_hours: int) -> None:
        start = await self._in_store(lambda: _first_unsettled(self._store, symbol, from_ms, to_ms, listed_hours))
        if start >= to_ms:
            return
        self._planned += 1
        samples, hours = await self._rest.funding(symbol, start, to_ms, listed_hours)
        if len(samples):
            await self._in_store(partial(writer.insert_funding, self._store, symbol, samples, interval_hours=hours))
        self._advance(1, "funding", len(samples), symbol)

    async def _open_interest(self, symbol: str, from_ms: int, to_ms: int) -> None:
        from_ms = -(-from_ms // OPEN_INTEREST_MS) * OPEN_INTEREST_MS
        have = await self._in_store(lambda: _stamps(self._store, "open_interest", symbol, from_ms, to_ms))
        span = OPEN_INTEREST_PAGE * OPEN_INTEREST_MS
        pages = missing_pages(have, from_ms, to_ms, OPEN_INTEREST_MS, span)
        self._planned += len(pages)
        for start in pages:
            samples = await self._rest.open_interest(symbol, start, min(start + span, to_ms) - 1)
            samples = samples[np.isin(samples["stamp_ms"], have, invert=True)]
            if len(samples):
                await self._in_store(partial(writer.insert_open_interest, self._store, symbol, samples))
            self._advance(1, "open_interest", len(samples), symbol)

    async def _in_store(self, call: Callable[[], Any]) -> Any:
        async with self._store_lock:
            return await asyncio.to_thread(call)

    def _advance(self, pages: int, table: str, rows: int, symbol: str) -> None:
        self._done += pages
        self._count(table, rows)
        if self._progress is not None:
            self._progress(self._done, self._planned, f"{symbol} {table}")

    def _count(self, table: str, rows: int) -> None:
        self.summary.rows[table] = self.summary.rows.get(table, 0) + rows


def missing_pages(
    have: npt.NDArray[np.int64], from_ms: int, to_ms: int, step: int, span: int | None = None
) -> list[int]:
    """Return the starts of the pages of [from_ms, to_ms) that are not complete in `have` (ascending open times).

    The bar still open at `to_ms` is not expected.
    """
    span = span or PAGE_BARS * step
    starts = range(from_ms, to_ms, span)
    edges = np.searchsorted(have, [*starts, to_ms])
    whole_to = to_ms // step * step
    expected = [(min(start + span, whole_to) - start) // step for start in starts]
    return [
        start
        for start, count, wanted in zip(starts, np.diff(edges), expected, strict=True)
        if count < wanted and wanted > 0
    ]


def _open_times(store: Store, table: str, symbol: str, from_ms: int, to_ms: int, whole: bool) -> npt.NDArray[np.int64]:
    """Return ascending open times in the store; with `whole`, only of candles that have all their columns."""
    more = "AND NOT isNaN(quote_volume) AND NOT isNaN(taker_volume)" if whole else ""
    return _times(store, table, "open_time", symbol, from_ms, to_ms, more)


def _stamps(store: Store, table: str, symbol: str, from_ms: int, to_ms: int) -> npt.NDArray[np.int64]:
    return _times(store, table, "stamp_time", symbol, from_ms, to_ms, "")


def _times(
    store: Store, table: str, column: str, symbol: str, from_ms: int, to_ms: int, more: str
) -> npt.NDArray[np.int64]:
    sql = (
        f"SELECT {column} FROM `{table}` WHERE symbol = {{symbol:String}} "
        f"AND {column} >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC') "
        f"AND {column} < fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC') {more} ORDER BY {column}"
    )
    values = {"symbol": symbol, "from_ms": from_ms, "to_ms": to_ms}
    return np.frombuffer(store.raw(sql, "RowBinary", values), "<i8").copy()


def _first_unsettled(store: Store, symbol: str, from_ms: int, to_ms: int, listed_hours: int) -> int:
    """Return the time from which settled rates are to be asked for: behind the last one before the first hole.

    What lies between `from_ms` and an older rate that is stored is asked for too: it would be a hole.
    """
    rows = store.rows(
        "SELECT toUnixTimestamp64Milli(stamp_time) AS stamp_ms, interval_hours FROM funding "
        "WHERE symbol = {symbol:String} AND stamp_ms < {to_ms:Int64} ORDER BY stamp_ms",
        {"symbol": symbol, "to_ms": to_ms},
    )
    older = [stamp_ms for stamp_ms, _ in rows if stamp_ms < from_ms]
    known_ms, begins_within = (older[-1], 0) if older else (from_ms - MINUTE_MS, listed_hours)
    for stamp_ms, ran_hours in rows[len(older) :]:
        if stamp_ms - known_ms > max(ran_hours, begins_within) * HOUR_MS + MINUTE_MS:
            break
        known_ms, begins_within = stamp_ms, 0
    return int(known_ms) + MINUTE_MS


async def collect(
    rest_url: str, store: Store, order: Order, budget_path: Path | None, progress: Progress | None = None
) -> Summary:
    """Collect `order` from `rest_url` into `store`. See `Collector.run` for what is raised."""
    async with MarketRest(rest_url, WeightBudget(budget_path, WEIGHT_SHARE)) as rest:
        return await Collector(rest, store, order, progress).run()
