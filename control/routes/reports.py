"""Figures over what happened: equity, results per exit reason, why no trade, latency, the settings in force."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get
from litestar.params import Parameter

from control import present
from control.answers import SNAPSHOT, answered
from control.gates import Gate, known
from control.problems import documented
from control.routes.records import DAY_MS, PROBLEMS, FromMs, newest_ms
from control.routes.status import SymbolFilter
from control.services import Services
from control.shapes_data import Equity, GateCount, Latency, Settings, TradeSummary, WhyNot
from kernels.records import GATES

By = Literal["reason", "symbol", "side", "mode", "model", "day"]
GROUPS: dict[By, str] = {
    "reason": "toString(t.reason)",
    "symbol": "toString(t.symbol)",
    "side": "toString(t.side)",
    "mode": "toString(t.mode)",
    "model": "toString(t.model_id)",
    "day": "toString(toDate(t.closed_time))",
}
MOST_GROUPS = 2_000  # symbols, or five years of days


class Gates(msgspec.Struct):
    """Every gate, in the order of its bit."""

    items: list[Gate]


class TradeSummaries(msgspec.Struct):
    """Closed trades by what was asked for, newest day or name first."""

    items: list[TradeSummary]


@get("/api/equity", tags=["reports"], summary="Equity curve", responses=PROBLEMS)
async def equity(request: Request[Any, Any, Any], services: Services, from_ms: FromMs = None) -> Response[Equity]:
    """Return the account's equity over time, thinned to at most 1,000 points: the last of each interval."""
    return await answered(request, services.answers, lambda: services.equity.read(services.reader, from_ms or 0))


@get(
    "/api/trades/summary",
    tags=["reports"],
    summary="Results by exit reason, symbol, day, …",
    responses=PROBLEMS,
)
async def trade_summary(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolFilter = None,
    from_ms: FromMs = None,
    by: Annotated[
        By, Parameter(query="by", description="what the trades are put together by; day: of the exit, UTC")
    ] = ("reason"),
) -> Response[TradeSummaries]:
    """Return number, wins, net result, fees, funding and profit factor of closed trades, a row for each group."""
    where = "closed_time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC')"
    parameters: dict[str, Any] = {"from_ms": from_ms or 0}
    if symbol:
        where += " AND symbol = {symbol:String}"
        parameters["symbol"] = symbol
    sql = (
        f"SELECT {GROUPS[by]} AS grouped, count() AS number, countIf(t.net_usdt > 0) AS wins, "
        "sum(t.net_usdt) AS net, sum(t.fees_usdt) AS fees, sum(t.funding_usdt) AS funding, "
        "sumIf(t.net_usdt, t.net_usdt > 0) AS won, -sumIf(t.net_usdt, t.net_usdt < 0) AS lost, "
        "sum(dateDiff('second', t.opened_time, t.closed_time)) / count() AS held "  # no alias may be a column's name
        f"FROM trades AS t WHERE {where} GROUP BY grouped ORDER BY grouped {'DESC' if by == 'day' else 'ASC'} "
        f"LIMIT {MOST_GROUPS}"
    )

    async def make() -> TradeSummaries:
        rows = await services.reader.rows(sql, parameters)
        return TradeSummaries([_summary(by, row) for row in rows])

    return await answered(request, services.answers, make)


def _summary(by: By, row: dict[str, Any]) -> TradeSummary:
    return TradeSummary(
        reason=row["grouped"] if by == "reason" else None,
        group=row["grouped"],
        trades=int(row["number"]),
        wins=int(row["wins"]),
        net_usdt=row["net"],
        fees_usdt=row["fees"],
        funding_usdt=row["funding"],
        profit_factor=row["won"] / row["lost"] if row["lost"] else None,
        mean_hold_minutes=float(row["held"]) / 60,
    )


@get("/api/signals/why-not", tags=["reports"], summary="Why no trade?", responses=PROBLEMS)
async def why_not(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolFilter = None,
    window: Annotated[int, Parameter(query="window", ge=1, le=100_000, description="newest signals counted")] = 10_000,
) -> Response[WhyNot]:
    """Return how often each gate refused among the newest signals; a signal may be refused by several gates."""
    return await answered(request, services.answers, lambda: _why_not(services, symbol, window))


async def _why_not(services: Services, symbol: str | None, window: int) -> WhyNot:
    """Count over the last day where that holds enough signals, else over all."""
    newest = newest_ms(services)
    found = None
    if newest is not None and newest > DAY_MS:
        found = await _refusals(services, symbol, window, newest - DAY_MS)
    return found if found is not None and found.signals == window else await _refusals(services, symbol, window, 0)


async def _refusals(services: Services, symbol: str | None, window: int, from_ms: int) -> WhyNot:
    where = "WHERE decision_time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC') "
    where += "AND symbol = {symbol:String} " if symbol else ""
    counts = ", ".join(f"countIf(bitTest(gates, {index})) AS g{index}" for index in range(len(GATES)))
    sql = (
        f"SELECT count() AS total, countIf(entered) AS entries, {counts} FROM "
        f"(SELECT gates, entered FROM signals {where}ORDER BY decision_time DESC LIMIT {{window:UInt32}})"
    )
    (row,) = await services.reader.rows(
        sql, {"window": window, "from_ms": from_ms} | ({"symbol": symbol} if symbol else {})
    )
    found = [GateCount(name, int(row[f"g{index}"])) for index, name in enumerate(GATES) if int(row[f"g{index}"])]
    return WhyNot(int(row["total"]), int(row["entries"]), sorted(found, key=lambda item: -item.count))


@get("/api/signals/gates", tags=["reports"], summary="What each gate means", responses=documented(401, 429))
async def gates() -> Gates:
    """Return every test that can refuse an entry: what it means, and the configuration's keys that decide about it."""
    return Gates(known())


@get("/api/latency", tags=["reports"], summary="Latency per stage", responses=documented(401, 429))
async def latency(request: Request[Any, Any, Any], services: Services) -> Response[Latency]:
    """Return the engine's stage histograms (p50, p99, p99.9, max, mean in microseconds) and what held its loop up."""

    async def make() -> Latency:
        view = services.engine.snapshot()
        if view is None:
            return Latency(None, False, [])
        return Latency(str(view.status["run_id"][0]), view.alive, present.latency(view), present.disturbances(view))

    return await answered(request, services.answers, make, SNAPSHOT)


@get("/api/settings", tags=["reports"], summary="The configuration in force", responses=documented(401, 429))
async def settings(services: Services) -> Settings:
    """Return control's configuration without secrets; the hash covers what can change a decision."""
    return Settings(services.config.hash(), present.shown(services.config), present.meanings())


HANDLERS = [equity, trade_summary, why_not, gates, latency, settings]
