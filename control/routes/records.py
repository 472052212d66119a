"""What happened: trades, orders, fills, signals and commands from the store, in pages, newest first."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import Request, Response, get
from litestar.params import Parameter

from control.answers import answered
from control.auth import Scope
from control.listing import MAX_PAGE, Listing, Query
from control.problems import documented
from control.routes.status import SymbolFilter
from control.services import Services
from control.shapes import CommandRow, Fill, Order, Page, Predictions, Signal, Trade
from kernels.records import GATES

TIME_MAX = 1 << 42  # the year 2109; keeps DateTime64 arithmetic inside its range
Limit = Annotated[int, Parameter(query="limit", ge=1, le=MAX_PAGE, description="rows per page")]
Before = Annotated[str | None, Parameter(query="before", max_length=200, description="`next` of the page before")]
FromMs = Annotated[int | None, Parameter(query="from_ms", ge=0, le=TIME_MAX, description="not before this time")]
ToMs = Annotated[int | None, Parameter(query="to_ms", ge=0, le=TIME_MAX, description="before this time")]
ModelFilter = Annotated[str | None, Parameter(query="model_id", max_length=40, description="only of this model")]
Reason = Literal[
    "tp", "sl", "time", "manual", "flatten", "risk", "liquidation", "adl", "settlement", "blind", "unprotected",
    "exchange_stop",
]  # fmt: skip
ReasonFilter = Annotated[Reason | None, Parameter(query="reason", description="why it was closed")]
SideFilter = Annotated[Literal["long", "short"] | None, Parameter(query="side")]
Gate = Annotated[str | None, Parameter(query="gate", pattern=r"^[a-z_]{1,24}$", description="refused by this gate")]
PROBLEMS = documented(400, 401, 429, 503)


def newest_ms(services: Services) -> int | None:
    """Return the market's time by the engine's snapshot, or None where no engine has run."""
    view = services.engine.snapshot()
    return None if view is None else int(view.status["exchange_ms"][0]) + 1 or None


DAY_MS = 86_400_000
WINDOWS_MS = (DAY_MS // 12, DAY_MS)  # two hours hold 120 decisions of a symbol: a page
AT_TIME = {"time_ms": "toUnixTimestamp64Milli(time)"}
TRADES = Listing("trades", "closed_time", Trade, {"side": "toString(side)"}, kept=50_000)
ORDERS = Listing(
    "orders", "time", Order, {"time_ms": "toUnixTimestamp64Milli(time)"}, windows_ms=WINDOWS_MS, kept=20_000
)
FILLS = Listing("fills", "time", Fill, AT_TIME, windows_ms=WINDOWS_MS, kept=20_000)
COMMANDS = Listing("commands", "time", CommandRow, AT_TIME)


GATE_NAMES = "[" + ", ".join(f"'{name}'" for name in GATES) + "]"
SIGNALS = Listing(
    "signals",
    "decision_time",
    Signal,
    {
        "refused_by": f"arrayMap(bit -> {GATE_NAMES}[bit + 1], bitPositionsToArray(gates))",
        "predictions": "CAST(tuple("
        + ", ".join(Predictions.__struct_fields__)
        + "), 'Tuple("
        + ", ".join(f"{name} Float64" for name in Predictions.__struct_fields__)
        + ")')",
        "frame_to_decision_us": "if(frame_ns > 0, decide_ns / 1000, NULL)",
        "vector_hash": "lower(leftPad(hex(vector_hash), 16, '0'))",
    },
    windows_ms=WINDOWS_MS,
    kept=75_000,  # two hours of 600 symbols
)


@get("/api/trades", tags=["trading"], summary="Closed trades, newest first", responses=PROBLEMS)
async def trades(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolFilter = None,
    model_id: ModelFilter = None,
    reason: ReasonFilter = None,
    side: SideFilter = None,
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    limit: Limit = 100,
    before: Before = None,
) -> Response[Page[Trade]]:
    """Return closed round trips with result, fees, funding and the reason of the exit; times are exit times."""
    equals = {"symbol": symbol, "model_id": model_id, "reason": reason, "side": side}
    query = Query(limit, before, from_ms, to_ms, equals)
    return await answered(request, services.answers, lambda: services.page(TRADES, query))


@get("/api/orders", tags=["trading"], summary="Order events, newest first", responses=PROBLEMS)
async def orders(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolFilter = None,
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    limit: Limit = 100,
    before: Before = None,
) -> Response[Page[Order]]:
    """Return each step of each order: intent, sent, acknowledged, filled, rejected."""
    query = Query(limit, before, from_ms, to_ms, {"symbol": symbol}, newest_ms=newest_ms(services))
    return await answered(request, services.answers, lambda: services.page(ORDERS, query))


@get("/api/fills", tags=["trading"], summary="Executions, newest first", responses=PROBLEMS)
async def fills(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolFilter = None,
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    limit: Limit = 100,
    before: Before = None,
) -> Response[Page[Fill]]:
    """Return executions with price, fee and slip."""
    query = Query(limit, before, from_ms, to_ms, {"symbol": symbol}, newest_ms=newest_ms(services))
    return await answered(request, services.answers, lambda: services.page(FILLS, query))


@get("/api/signals", tags=["signals"], summary="Decisions, newest first", responses=PROBLEMS)
async def signals(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: SymbolFilter = None,
    model_id: ModelFilter = None,
    gate: Gate = None,
    entered: Annotated[bool | None, Parameter(query="entered", description="only entries, or only refusals")] = None,
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    limit: Limit = 100,
    before: Before = None,
) -> Response[Page[Signal]]:
    """Return decisions with their predictions and every gate that refused them ("why no trade?")."""
    conditions: list[str] = []
    if entered is not None:
        conditions.append("entered" if entered else "NOT entered")
    if gate is not None:
        conditions.append(f"bitTest(gates, {GATES.index(gate)})" if gate in GATES else "0")
    equals = {"symbol": symbol, "model_id": model_id}
    query = Query(limit, before, from_ms, to_ms, equals, tuple(conditions), newest_ms(services))
    return await answered(request, services.answers, lambda: services.page(SIGNALS, query))


@get(
    "/api/commands",
    opt={"needs": Scope.READ},
    tags=["audit"],
    summary="Who did what, newest first",
    responses=PROBLEMS,
)
async def commands(
    request: Request[Any, Any, Any],
    services: Services,
    verb: Annotated[str | None, Parameter(query="verb", pattern=r"^[a-z_]{1,24}$")] = None,
    command_id: Annotated[str | None, Parameter(query="command_id", pattern=r"^[A-Za-z0-9-]{1,40}$")] = None,
    from_ms: FromMs = None,
    to_ms: ToMs = None,
    limit: Limit = 100,
    before: Before = None,
) -> Response[Page[CommandRow]]:
    """Return the operators' log: command, actor, arguments, phase and result, as the engine journalled them."""
    equals = {"verb": verb, "command_id": command_id}
    query = Query(limit, before, from_ms, to_ms, equals)
    return await answered(request, services.answers, lambda: services.page(COMMANDS, query))


HANDLERS = [trades, orders, fills, signals, commands]
