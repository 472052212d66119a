"""What the market did and what the system made of it: candles, features, completeness, gaps, parity audits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get
from litestar.params import Parameter

from control.answers import ASKED, SLOW, answered
from control.candles import Range
from control.listing import Listing, Query
from control.problems import ApiError, documented
from control.routes.records import PROBLEMS, TIME_MAX, Before, FromMs, Limit, ToMs, newest_ms
from control.routes.status import SYMBOL, SymbolFilter
from control.routes.trading import question
from control.services import Services
from control.shapes import Page
from control.shapes_data import (
    Audit,
    Audits,
    Candles,
    Coverage,
    Coverages,
    Features,
    FeatureSeries,
    FeatureVector,
    Gap,
)
from kernels.records import TIMEFRAMES
from kernels.schema import NAMES

Timeframe = Literal["1m", "15m", "1h"]
TimeframeFilter = Annotated[Timeframe, Parameter(query="timeframe", description="length of a candle")]
SymbolName = Annotated[str, Parameter(query="symbol", pattern=SYMBOL, description="for example BTCUSDT")]
SymbolPath = Annotated[str, Parameter(pattern=SYMBOL, description="for example BTCUSDT")]
CandleLimit = Annotated[int, Parameter(query="limit", ge=1, le=5_000, description="newest candles of the range")]
MS = "toUnixTimestamp64Milli"
GAPS = Listing("data_gaps", "time", Gap, {"time_ms": f"{MS}(time)", "timeframe": "toString(timeframe)"})


def _range(from_ms: int | None, to_ms: int | None, column: str) -> tuple[str, dict[str, Any]]:
    return (
        f"{column} >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC') "
        f"AND {column} < fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC')",
        {"from_ms": from_ms or 0, "to_ms": TIME_MAX if to_ms is None else to_ms},
    )


@get("/api/candles", tags=["market"], summary="Closed candles of a symbol", responses=PROBLEMS)
async def candles(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolName,
    timeframe: TimeframeFilter = "1m",
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    limit: CandleLimit = 500,
) -> Response[Candles]:
    """Return the newest `limit` closed candles of the range, oldest first; `open_ms` is the open time."""
    return await answered(
        request, services.answers, lambda: _candles(services, symbol, timeframe, from_ms, to_ms, limit)
    )


async def _candles(
    services: Services, symbol: str, timeframe: Timeframe, from_ms: int | None, to_ms: int | None, limit: int
) -> Candles:
    wanted = Range(timeframe, from_ms or 0, TIME_MAX if to_ms is None else to_ms, limit)
    items = await services.candles.read(services.reader, symbol, wanted, newest_ms(services))
    return Candles(symbol, timeframe, items)


@get("/api/market", tags=["market"], summary="How the market data arrives", responses=documented(400, 401, 429, 503))
async def market(request: Request[Any, Any, Any], services: Services) -> Response[dict[str, Any]]:
    """Return the league of connections, counts of frames and faults, repairs, late closes and the exchange's clock."""
    return await answered(request, services.answers, lambda: question(services, "market"), ASKED)


@get("/api/features/{symbol:str}", tags=["market"], summary="Newest feature vectors", responses=PROBLEMS)
async def features(
    request: Request[Any, Any, Any], services: Services, symbol: SymbolPath, to_ms: ToMs = None
) -> Response[Features]:
    """Return the newest stored 44 features of each timeframe; empty unless `market.store_features` names the symbol.

    With `to_ms` those that had closed before: what a decision of that time saw.
    """
    return await answered(request, services.answers, lambda: _features(services, symbol, to_ms))


async def _features(services: Services, symbol: str, to_ms: int | None) -> Features:
    where, parameters = _range(None, to_ms, "close_time")
    found = []
    for timeframe in TIMEFRAMES:
        sql = (
            f"SELECT {MS}(close_time) AS close_ms, toString(schema_hash) AS schema_hash, {', '.join(NAMES)} "
            f"FROM features_{timeframe} WHERE symbol = {{symbol:String}} AND {where} "
            "ORDER BY close_time DESC, seq DESC LIMIT 1"
        )
        for row in await services.reader.rows(sql, parameters | {"symbol": symbol}):
            values = {name: row[name] for name in NAMES}
            schema = f"{int(row['schema_hash']):016x}"
            found.append(FeatureVector(timeframe, int(row["close_ms"]), schema, values))  # type: ignore[arg-type]
    return Features(symbol, found)


@get(
    "/api/features/{symbol:str}/{feature:str}",
    tags=["market"],
    summary="One feature over time",
    responses=PROBLEMS | documented(404),
)
async def feature_series(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolPath,
    feature: Annotated[str, Parameter(pattern=r"^[a-z0-9_]{1,32}$", description="a name of the feature schema")],
    timeframe: TimeframeFilter = "1m",
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    limit: CandleLimit = 500,
) -> Response[FeatureSeries]:
    """Return one stored feature of a symbol, oldest first."""
    if feature not in NAMES:
        raise ApiError(404, "no-such-feature", f"{feature} is none of the 44 features")
    where, parameters = _range(from_ms, to_ms, "close_time")
    sql = (
        f"SELECT {MS}(close_time) AS close_ms, `{feature}` AS value FROM features_{timeframe} "
        f"WHERE symbol = {{symbol:String}} AND {where} ORDER BY close_time DESC LIMIT {{limit:UInt32}}"
    )

    async def make() -> FeatureSeries:
        rows = await services.reader.rows(sql, parameters | {"symbol": symbol, "limit": limit})
        points = [(int(row["close_ms"]), row["value"]) for row in rows[::-1]]
        return FeatureSeries(symbol, timeframe, feature, points)

    return await answered(request, services.answers, make)


@get("/api/data/coverage", tags=["data"], summary="How complete the candles are", responses=PROBLEMS)
async def coverage(
    request: Request[Any, Any, Any], services: Services, timeframe: TimeframeFilter = "1m"
) -> Response[Coverages]:
    """Return per symbol: stored candles, first and last, and how many are absent between the two."""
    step_s = {"1m": 60, "15m": 900, "1h": 3_600}[timeframe]
    sql = (
        f"SELECT symbol, count() AS bars, {MS}(min(open_time)) AS first_ms, {MS}(max(open_time)) AS last_ms, "
        f"toInt64(dateDiff('second', min(open_time), max(open_time)) / {step_s}) + 1 - toInt64(count()) AS missing "
        f"FROM candles_{timeframe} GROUP BY symbol ORDER BY symbol LIMIT 2000"
    )

    async def make() -> Coverages:
        rows = await services.reader.rows(sql)
        return Coverages(timeframe, msgspec.convert(rows, list[Coverage], strict=False))

    return await answered(request, services.answers, make, SLOW)


@get("/api/data/gaps", tags=["data"], summary="Holes, repairs and revisions", responses=PROBLEMS)
async def gaps(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolFilter = None,
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    limit: Limit = 100,
    before: Before = None,
) -> Response[Page[Gap]]:
    """Return what was missing and what became of it, newest first."""
    query = Query(limit, before, from_ms, to_ms, {"symbol": symbol})
    return await answered(request, services.answers, lambda: services.page(GAPS, query))


@get("/api/audit", tags=["data"], summary="Feature-parity audits", responses=PROBLEMS)
async def audit(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolFilter = None,
    limit: Annotated[int, Parameter(query="limit", ge=1, le=5_000, description="newest lines")] = 500,
) -> Response[Audits]:
    """Return the newest results of `ta audit`: live vectors against the fold, per symbol and feature."""
    where = "WHERE symbol = {symbol:String} " if symbol else ""
    columns = "audit_id, symbol, timeframe, feature, compared, differing, max_relative, max_ulp, drift, detail"
    sql = f"SELECT {columns}, {MS}(time) AS time_ms FROM audits {where}ORDER BY time DESC LIMIT {{limit:UInt32}}"
    parameters = {"limit": limit} | ({"symbol": symbol} if symbol else {})

    async def make() -> Audits:
        return Audits(msgspec.convert(await services.reader.rows(sql, parameters), list[Audit], strict=False))

    return await answered(request, services.answers, make)


HANDLERS = [market, candles, features, feature_series, coverage, gaps, audit]
