"""What the system is doing now, from the engine's snapshot: no SQL, no wait."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.params import Parameter

from control import present
from control.answers import SNAPSHOT, Life, answered
from control.auth import now_ms
from control.connections import connections
from control.problems import documented
from control.services import VERSION, Services
from control.shapes import EngineStatus, OpenOrders, Positions, Signals, StandingAlarm, Status
from control.shapes_data import Connections

SAID = ("engine_silent", "engine_halted", "reduce_only", "unprotected", "journal_full", "no_model", "store_down")
"""Alarms that `_warnings` says in words of its own, and at once."""
SYMBOL = r"^[A-Z0-9_]{1,24}$"
LATEST = Life(0.25, 0.25)  # 600 symbols take 15 ms to put together, and decisions come once a minute
SymbolFilter = Annotated[str | None, Parameter(query="symbol", pattern=SYMBOL, description="only this symbol")]


@get("/api/status", tags=["status"], summary="Mode, session, equity, health", responses=documented(400, 401, 429))
async def status(request: Request[Any, Any, Any], services: Services) -> Response[Status]:
    """Return what an operator asks first: is it trading, in which mode, how healthy are engine and store."""

    async def make() -> Status:
        return current_status(services)

    return await answered(request, services.answers, make, SNAPSHOT)


def current_status(services: Services) -> Status:
    """Build the status from the newest snapshot."""
    view = services.engine.snapshot()
    engine = None if view is None else present.engine_status(view)
    store = services.store.status(None if engine is None else engine.journal_seq)
    found = Status(
        trading=engine is not None and engine.alive and engine.state == "running",
        mode=services.config.mode if engine is None else engine.mode,
        engine=engine,
        store=store,
        control_started_ms=services.started_ms,
        now_ms=now_ms(),
        version=VERSION,
        warnings=_warnings(engine, services),
    )
    for alarm in services.alarms.look(found):
        found.alarms.append(StandingAlarm(alarm.name, alarm.severity, alarm.message(found)))
        if alarm.name not in SAID:
            found.warnings.append(alarm.message(found))
    return found


def _warnings(engine: EngineStatus | None, services: Services) -> list[str]:
    found = []
    if engine is None:
        found.append("no engine has run on this data folder")
    elif not engine.alive:
        found.append(
            f"the engine has not beaten for {engine.heartbeat_age_ms / 1_000:.0f} s; what is shown is the last seen"
        )
    else:
        if engine.state in ("halted", "reduce_only"):
            found.append(f"the engine is {engine.state.replace('_', ' ')}: no entries")
        if engine.unprotected:
            found.append(
                f"{engine.unprotected} positions have no stop on the exchange: the local guard alone holds them"
            )
        if engine.journal_full:
            found.append("the journal's disk is full: entries are closed, exits still work")
        if not engine.model_id:
            found.append("no model is active: nothing can be decided")
        if engine.symbols_ready < engine.symbols:
            found.append(f"{engine.symbols - engine.symbols_ready} of {engine.symbols} symbols are not ready")
    if not services.store.ok:
        found.append(f"store: {services.store.detail}")
    return found


@get(
    "/api/signals/latest",
    tags=["signals"],
    summary="Newest signal of each symbol, with every gate that refused it",
    responses=documented(400, 401, 429),
)
async def latest_signals(
    request: Request[Any, Any, Any], services: Services, symbol: SymbolFilter = None
) -> Response[Signals]:
    """Return the newest decision per symbol: the 8 predictions, the side, and why no trade if there was none."""

    async def make() -> Signals:
        view = services.engine.snapshot()
        if view is None:
            return Signals([])
        return Signals(services.latest.read(view) if symbol is None else present.latest_signals(view, symbol))

    return await answered(request, services.answers, make, LATEST)


@get("/api/positions", tags=["trading"], summary="Open positions and their guards", responses=documented(400, 401, 429))
async def positions(request: Request[Any, Any, Any], services: Services) -> Response[Positions]:
    """Return open positions with stops, the distance to each, and the unrealised result at the mark price."""

    async def make() -> Positions:
        view = services.engine.snapshot()
        return Positions([] if view is None else present.positions(view))

    return await answered(request, services.answers, make, SNAPSHOT)


@get(
    "/api/orders/open",
    tags=["trading"],
    summary="Open orders, and the guards on the exchange",
    responses=documented(400, 401, 429),
)
async def open_orders(request: Request[Any, Any, Any], services: Services) -> Response[OpenOrders]:
    """Return each order that has not ended with state, route and age, and the stops that stand for open positions."""

    async def make() -> OpenOrders:
        view = services.engine.snapshot()
        return OpenOrders([] if view is None else present.open_orders(view))

    return await answered(request, services.answers, make, SNAPSHOT)


@get(
    "/api/connections",
    tags=["status"],
    summary="Streams, order lanes, private streams, request weight",
    responses=documented(400, 401, 429),
)
async def connection_states(request: Request[Any, Any, Any], services: Services) -> Response[Connections]:
    """Return the state of every connection, how long each has been silent, and how much of the limits is used."""

    async def make() -> Connections:
        return connections(services.engine.snapshot(), services.config)

    return await answered(request, services.answers, make, SNAPSHOT)


HANDLERS = [status, latest_signals, positions, open_orders, connection_states]
