"""The REST gateway: one table of routes, weights and limits, errors in the exchange's own JSON, never a 500."""

from __future__ import annotations

import functools
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from engine.simulator import rest_market, tickers
from engine.simulator import rest_statistics as statistics
from engine.simulator.errors import Refusal
from engine.simulator.exchange import Exchange
from engine.simulator.instruments import exchange_info
from engine.simulator.limits import Limited, WeightLimit
from engine.simulator.params import Params
from engine.simulator.private import Private

MAX_BODY_BYTES = 1 << 20
POOLS = {"funding": 500, "statistics": 1_000}  # requests per address in 5 minutes, beside the weight


@dataclass(frozen=True)
class Route:
    """A market-data endpoint: `answer(params)` gives a JSON value or finished bytes."""

    answer: Callable[[Params], Any]
    weight: Callable[[Params], int]
    key: bool = False  # whether an API key must be sent (any)
    pool: str = ""  # a limit of its own, in requests; its replies carry no used-weight header


def _fixed(weight: int) -> Callable[[Params], int]:
    return lambda _: weight


def _per_symbol(one: int, every: int) -> Callable[[Params], int]:
    return lambda params: one if params.has("symbol") else every


class Rest:
    """Handles every request of the REST port. Routes are added by the services that own them."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        options = exchange.options
        limit = options.weight_limit or (2_400 if options.clock == "wall" else 1_000_000)
        self.weights = WeightLimit(limit)
        self.pools = {name: WeightLimit(count * limit // 2_400, 300) for name, count in POOLS.items()}
        self.order_limits = (300, 1_200)
        self.routes: dict[tuple[str, str], Route] = {}
        self.private: Private | None = None
        self.faults: Any = None
        self.bugs = 0
        self._add_market()

    def _add_market(self) -> None:
        tape = self.exchange.tape

        def get(path: str, answer: Callable[[Params], Any], weight: Any = 1, pool: str = "", key: bool = False) -> None:
            cost = _fixed(weight) if isinstance(weight, int) else weight
            self.routes["GET", path] = Route(answer, cost, key, pool)

        def rows(make: Callable[[Any, int], Any]) -> Callable[[Params], Any]:
            def answer(params: Params) -> Any:
                found = [make(tape, s) for s in rest_market.symbols_of(tape, params)]
                return found[0] if params.has("symbol") else found

            return answer

        def kline_weight(params: Params) -> int:
            return rest_market.kline_weight(params.integer("limit", 500, 1, 1_500))

        def depth_weight(params: Params) -> int:
            return rest_market.DEPTH_WEIGHTS.get(params.integer("limit", 500, 1, 1_000), 2)

        get("/fapi/v1/ping", lambda _: {})
        get("/fapi/v1/time", lambda _: {"serverTime": self.exchange.now_ms})
        get("/fapi/v1/exchangeInfo", lambda _: self._info())
        for kind in rest_market.KINDS:
            get(f"/fapi/v1/{kind}", functools.partial(rest_market.klines, tape, kind), kline_weight)
        get("/fapi/v1/depth", lambda params: rest_market.depth(tape, params), depth_weight)
        get("/fapi/v1/premiumIndex", rows(tickers.premium_index), _per_symbol(1, 10))
        get("/fapi/v1/ticker/bookTicker", rows(rest_market.book_ticker), _per_symbol(2, 5))
        get("/fapi/v1/ticker/price", rows(rest_market.price_ticker), _per_symbol(1, 2))
        get("/fapi/v2/ticker/price", rows(rest_market.price_ticker), _per_symbol(1, 2))
        get("/fapi/v1/ticker/24hr", rows(tickers.rest_ticker), _per_symbol(1, 40))
        get("/fapi/v1/fundingRate", lambda params: rest_market.funding_rate(tape, params), 0, "funding")
        get("/fapi/v1/fundingInfo", lambda _: rest_market.funding_info(tape), 0, "funding")
        get("/fapi/v1/openInterest", lambda params: rest_market.open_interest(tape, params))
        get("/futures/data/openInterestHist", lambda p: rest_market.open_interest_history(tape, p), 0, "statistics")
        get("/fapi/v1/trades", lambda params: statistics.recent_trades(tape, params), 5)
        get("/fapi/v1/historicalTrades", lambda params: statistics.historical_trades(tape, params), 200, key=True)
        get("/fapi/v1/aggTrades", lambda params: statistics.aggregate_trades(tape, params), 20)
        for kind in statistics.RATIOS:
            get(
                f"/futures/data/{kind}", functools.partial(statistics.ratio, tape, kind), 0, "statistics", "top" in kind
            )
        get("/futures/data/takerlongshortRatio", lambda params: statistics.taker_ratio(tape, params), 0, "statistics")
        get("/futures/data/basis", lambda params: statistics.basis(tape, params), 0, "statistics")
        get("/fapi/v1/symbolAdlRisk", lambda params: statistics.adl_risk(tape, params))
        get("/fapi/v1/tradingSchedule", lambda _: statistics.trading_schedule(tape), 5)
        get("/api/v3/ping", lambda _: {})
        get("/api/v3/time", lambda _: {"serverTime": self.exchange.now_ms})

    def _info(self) -> Any:
        items = self.exchange.market.instruments
        return exchange_info(items, self.exchange.now_ms, self.weights.limit, self.order_limits)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        headers: dict[str, str] = {}
        try:
            body = await self._body(request)
            if self.faults is not None:
                answer = self.faults.before(request.method, request.path)
                if answer is not None:
                    return answered(request, answer, headers)
            if self.private is None or (request.method, request.path) not in self.private.routes:
                return self._public(request, body, headers)
            value = await self.private.handle(request, body, headers)
            if self.faults is not None:
                answer = self.faults.after(request.method, request.path)
                if answer is not None:
                    return answered(request, answer, headers)
            return reply(value, headers)
        except Refusal as refusal:
            return refused(refusal, headers)
        except (ArithmeticError, LookupError, TypeError, ValueError):
            return refused(self.bug(request.path), headers)

    def bug(self, where: str) -> Refusal:
        """Count and print a mistake of the simulator's own; the client gets the exchange's "unknown" (−1000)."""
        self.bugs += 1
        print(f"simulator: {where}: {traceback.format_exc()}", file=sys.stderr, flush=True)
        return Refusal(-1000, "An unknown error occurred while processing the request.")

    async def _body(self, request: web.Request) -> str:
        if not request.can_read_body:
            return ""
        try:
            return (await request.content.read(MAX_BODY_BYTES)).decode()
        except UnicodeDecodeError as error:
            raise Refusal(-1101, "Too many parameters; expected a UTF-8 body.") from error

    def _public(self, request: web.Request, body: str, headers: dict[str, str]) -> web.Response:
        route = self.routes.get((request.method, request.path))
        if route is None:
            known = any(path == request.path for _, path in self.routes)
            raise Refusal(-1000 if known else -5000, f"Path {request.path}, Method {request.method} is invalid", 404)
        params = Params(request.raw_path.partition("?")[2], body)
        if route.pool:
            self.pools[route.pool].charge(request.remote or "127.0.0.1", 1, time.time())
        self.charge(request, route.weight(params), {} if route.pool else headers)
        if route.key and not request.headers.get("X-MBX-APIKEY"):
            raise Refusal(-2014, "API-key format invalid.", 401)
        return reply(route.answer(params), headers)

    def charge(self, request: web.Request, weight: int, headers: dict[str, str]) -> None:
        """Count the request's weight against its address and set the header."""
        used = self.weights.charge(request.remote or "127.0.0.1", weight, time.time())
        headers["X-MBX-USED-WEIGHT-1M"] = str(used)


def reply(value: Any, headers: dict[str, str], status: int = 200) -> web.Response:
    """Return a JSON reply."""
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    return web.Response(body=data, status=status, headers=headers, content_type="application/json")


def answered(request: web.Request, answer: tuple[int, bytes], headers: dict[str, str]) -> web.Response:
    """Return a fault's ready-made answer; status 0 cuts the connection instead."""
    status, body = answer
    if status == 0:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


def refused(refusal: Refusal, headers: dict[str, str]) -> web.Response:
    """Return the exchange's error body."""
    if isinstance(refusal, Limited):
        headers["Retry-After"] = str(int(refusal.retry_s) + 1)
    return reply({"code": refusal.code, "msg": refusal.message}, headers, refusal.status)
