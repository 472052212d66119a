"""What the system is doing now, from the engine's snapshot: no SQL, no wait."""

from __future__ import annotations

from typing import Annotated

from litestar import MediaType, Response, get
from litestar.params import Parameter

from control import present
from control.auth import now_ms
from control.problems import documented
from control.services import VERSION, Services
from control.shapes import EngineStatus, Positions, Signals, Status

SYMBOL = r"^[A-Z0-9_]{1,24}$"
SymbolFilter = Annotated[str | None, Parameter(query="symbol", pattern=SYMBOL, description="only this symbol")]


@get("/api/status", tags=["status"], summary="Mode, session, equity, health", responses=documented(400, 401, 429))
async def status(services: Services) -> Status:
    """Return what an operator asks first: is it trading, in which mode, how healthy are engine and store."""
    return current_status(services)


def current_status(services: Services) -> Status:
    """Build the status from the newest snapshot."""
    view = services.engine.snapshot()
    engine = None if view is None else present.engine_status(view)
    store = services.store.status(None if engine is None else engine.journal_seq)
    return Status(
        trading=engine is not None and engine.alive and engine.state == "running",
        mode=services.config.mode if engine is None else engine.mode,
        engine=engine,
        store=store,
        control_started_ms=services.started_ms,
        now_ms=now_ms(),
        version=VERSION,
        warnings=_warnings(engine, services),
    )


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
async def latest_signals(services: Services, symbol: SymbolFilter = None) -> Response[Signals]:
    """Return the newest decision per symbol: the 8 predictions, the side, and why no trade if there was none."""
    view = services.engine.snapshot()
    if view is None or symbol is not None:
        return Response(Signals([] if view is None else present.latest_signals(view, symbol)))
    body = services.encoded("signals", view, lambda: Signals(present.latest_signals(view)))
    return Response(body, media_type=MediaType.JSON)  # type: ignore[arg-type]


@get("/api/positions", tags=["trading"], summary="Open positions and their guards", responses=documented(400, 401, 429))
async def positions(services: Services) -> Positions:
    """Return open positions with stops, the distance to each, and the unrealised result at the mark price."""
    view = services.engine.snapshot()
    return Positions([] if view is None else present.positions(view))


HANDLERS = [status, latest_signals, positions]
