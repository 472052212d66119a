"""Market data over REST: weight booked before each call, limits and outages survived with back-off."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
import orjson

from engine.errors import ExchangeError
from engine.exchange import filters, rows
from engine.exchange.budget import WeightBudget
from kernels.records import TIMEFRAME_MS, TIMEFRAMES

PAGE_BARS = 499  # weight 2: the most candles per unit of weight
LAST_PRICE, MARK_PRICE, PREMIUM_INDEX = "klines", "markPriceKlines", "premiumIndexKlines"
FUNDING_PAGE = 1_000
LONGEST_FUNDING_MS = 8 * 3_600_000
MINUTE_MS = TIMEFRAME_MS[0]
OPEN_INTEREST_PAGE = 500
OPEN_INTEREST_MS = 300_000
OPEN_INTEREST_DAYS = 29  # the exchange keeps about a month
CLOSED_AFTER_MS = 3_000  # a REST candle counts as closed once server time is this far past its end
FUNDING_POOL, STATISTICS_POOL = "funding", "statistics"
RETRIES = 6
MAX_BAN_S = 120.0  # a longer silence is an error now rather than an answer then


def page_weight(limit: int) -> int:
    """Return the request weight of a page of candles."""
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1_000 else 10


class MarketRest:
    """Public REST endpoints. Use as an async context manager; one instance per event loop.

    `pool_scale` multiplies the limits counted by request: a sped-up simulator's market needs as many more of them.
    Waits where the budget is used up, retries what the exchange says to retry (429, 5xx, time-outs), and raises
    ExchangeError for the rest.
    """

    def __init__(
        self, base_url: str, budget: WeightBudget, timeout_s: float = 10.0, parallel: int = 8, pool_scale: int = 1
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.budget = budget
        self.requests = 0
        self.retries = 0
        self.limited = 0
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._slots = asyncio.Semaphore(parallel)
        self._pools = {
            FUNDING_POOL: self._pool(FUNDING_POOL, 500 * pool_scale),
            STATISTICS_POOL: self._pool(STATISTICS_POOL, 1_000 * pool_scale),
        }
        if pool_scale != 1:  # the file may hold the limit of a collector that came first
            self._pools[FUNDING_POOL].set_limit(500 * pool_scale)
            self._pools[STATISTICS_POOL].set_limit(1_000 * pool_scale)
        self._session: aiohttp.ClientSession | None = None

    def _pool(self, name: str, limit: int) -> WeightBudget:
        """Return the separate budget of endpoints that are counted by request: `limit` in 5 minutes."""
        path = self.budget.path
        beside = path.with_name(f"{path.name}.{name}") if path is not None else None
        return WeightBudget(beside, self.budget.share, limit=limit, window_s=300)

    async def __aenter__(self) -> MarketRest:
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, weight: int, pool: str = "", **params: Any) -> Any:
        """Return the decoded reply of one GET; its weight (or its request in a separate `pool`) is booked first."""
        query = {name: str(value) for name, value in params.items() if value is not None}
        fault = ExchangeError(0, 0, f"{path}: not tried")
        for attempt in range(RETRIES):
            await self._afford(weight, pool)
            try:
                async with self._slots:
                    return await self._once(path, query)
            except ExchangeError as error:
                fault = error
                if error.status not in (408, 418, 429) and error.status < 500:
                    raise
                if error.status == 418 or attempt + 1 == RETRIES:
                    break
            except (aiohttp.ClientError, TimeoutError) as error:
                fault = ExchangeError(0, 0, f"{self.base_url}{path}: {type(error).__name__}: {error}")
            self.retries += 1
            await asyncio.sleep(min(0.2 * 2.0**attempt, 5.0))
        raise fault

    async def _afford(self, weight: int, pool: str) -> None:
        budget, cost = (self._pools[pool], 1) if pool else (self.budget, weight)
        while (wait_s := self.budget.banned_s or (budget.take(cost) if cost else 0.0)) > 0.0:
            if self.budget.banned_s > MAX_BAN_S:
                raise ExchangeError(418, -1003, f"this address is banned for another {wait_s:.0f} s")
            self.limited += 1
            await asyncio.sleep(wait_s)

    async def _once(self, path: str, query: dict[str, str]) -> Any:
        if self._session is None:
            raise RuntimeError("MarketRest is used outside `async with`")
        self.requests += 1
        async with self._session.get(self.base_url + path, params=query) as reply:
            body = await reply.read()
            used = reply.headers.get("X-MBX-USED-WEIGHT-1M", "")
            if used.isdigit():
                self.budget.correct(int(used))
            if reply.status in (418, 429):
                after = reply.headers.get("Retry-After", "")
                self.budget.ban(float(after) if after.isdigit() else 10.0)
            try:
                data = orjson.loads(body)
            except orjson.JSONDecodeError:
                data = None
            if reply.status != 200 or data is None:
                detail = data if isinstance(data, dict) else {}
                text = detail.get("msg", body[:200].decode(errors="replace"))
                raise ExchangeError(reply.status, int(detail.get("code", 0)), f"{path}: {text}")
            return data

    async def server_time_ms(self) -> int:
        """Return the exchange's time."""
        return int((await self.get("/fapi/v1/time", 1))["serverTime"])

    async def instruments(self) -> npt.NDArray[Any]:
        """Return INSTRUMENT[n]; the budget takes the limit that exchangeInfo states."""
        info = await self.get("/fapi/v1/exchangeInfo", 1)
        limit = filters.weight_limit(info)
        if limit:
            self.budget.set_limit(limit)
        return filters.instruments(info, await self.funding_hours())

    async def funding_hours(self) -> dict[str, int]:
        """Return the funding interval of symbols that do not fund every 8 hours (empty where not served)."""
        try:
            listed = await self.get("/fapi/v1/fundingInfo", 0, FUNDING_POOL)
            return {row["symbol"]: int(row["fundingIntervalHours"]) for row in listed}
        except ExchangeError as error:
            if error.status != 404:  # an outage says nothing: 8 h for all would be wrong for half of the contracts
                raise
            return {}
        except (KeyError, TypeError, ValueError) as error:
            raise ExchangeError(200, 0, f"fundingInfo: unexpected row: {error!r}") from error

    async def klines(
        self,
        symbol: str,
        timeframe: int,
        from_ms: int | None = None,
        to_ms: int | None = None,
        limit: int = PAGE_BARS,
        series: str = LAST_PRICE,
    ) -> npt.NDArray[Any]:
        """Return one page as BAR[n]: bars that open in [from_ms, to_ms), the last possibly still open.

        Candles of another `series` than the last price have no volumes (set to NaN).
        """
        raw = await self.get(
            f"/fapi/v1/{series}",
            page_weight(limit),
            symbol=symbol,
            interval=TIMEFRAMES[timeframe],
            startTime=from_ms,
            endTime=None if to_ms is None else to_ms - 1,
            limit=limit,
        )
        page = rows.bars(raw, timeframe, signed=series == PREMIUM_INDEX)
        if series != LAST_PRICE:
            for name in ("volume", "quote_volume", "taker_volume", "trades"):
                page[name] = np.nan
        return page

    async def history(
        self, symbol: str, timeframe: int, from_ms: int, to_ms: int, series: str = LAST_PRICE
    ) -> npt.NDArray[Any]:
        """Return all bars that open in [from_ms, to_ms) as BAR[n], pages fetched in parallel."""
        span = PAGE_BARS * TIMEFRAME_MS[timeframe]
        pages = await asyncio.gather(
            *(
                self.klines(symbol, timeframe, start, min(start + span, to_ms), series=series)
                for start in range(from_ms, to_ms, span)
            )
        )
        whole = np.concatenate(pages) if pages else rows.bars([], timeframe)
        _, first = np.unique(whole["open_ms"], return_index=True)
        return whole[first]

    async def funding(
        self, symbol: str, from_ms: int, to_ms: int | None = None, listed_hours: int = 8
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return the rates settled in [from_ms, to_ms] as (SAMPLE[n], hours int64[n] that each ran), ascending.

        It is asked from one interval earlier on: how long a rate ran is known from the one before.
        """
        found: list[Any] = []
        start_ms, full = from_ms - LONGEST_FUNDING_MS - MINUTE_MS, True
        while full:
            page = await self.get(
                "/fapi/v1/fundingRate",
                0,
                FUNDING_POOL,
                symbol=symbol,
                startTime=start_ms,
                endTime=to_ms,
                limit=FUNDING_PAGE,
            )
            newest, _ = rows.funding(page, listed_hours)
            found += page
            full = len(page) >= FUNDING_PAGE and len(newest) > 0 and int(newest["stamp_ms"][-1]) >= start_ms
            start_ms = int(newest["stamp_ms"][-1]) + MINUTE_MS if full else start_ms
        samples, hours = rows.funding(found, listed_hours)
        wanted = samples["stamp_ms"] >= from_ms // MINUTE_MS * MINUTE_MS
        return samples[wanted], hours[wanted]

    async def open_interest(
        self, symbol: str, from_ms: int | None = None, to_ms: int | None = None, limit: int = OPEN_INTEREST_PAGE
    ) -> npt.NDArray[Any]:
        """Return one page of 5-minute open interest as SAMPLE[n]."""
        raw = await self.get(
            "/futures/data/openInterestHist",
            0,
            STATISTICS_POOL,
            symbol=symbol,
            period="5m",
            startTime=from_ms,
            endTime=to_ms,
            limit=limit,
        )
        return rows.open_interest(raw)


def closed(bars: npt.NDArray[Any], timeframe: int, server_ms: int) -> npt.NDArray[Any]:
    """Return the bars that REST can be trusted to hold whole: `CLOSED_AFTER_MS` past their end."""
    return bars[bars["open_ms"] + TIMEFRAME_MS[timeframe] + CLOSED_AFTER_MS <= server_ms]
