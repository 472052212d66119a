"""Commands: start, stop, flatten, close, promote, roll back. Each returns when the engine has acknowledged it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import Parameter

from control import present
from control.answers import ASKED, SNAPSHOT, answered
from control.auth import Scope
from control.commands import Command
from control.problems import ApiError, documented
from control.routes.status import SYMBOL
from control.services import Services
from control.shapes import CommandDone, Confirm, Kill, KillReport, Start

Key = Annotated[
    str | None,
    Parameter(
        header="Idempotency-Key",
        min_length=1,
        max_length=128,
        description="the same key and request are carried out once; repeat it freely after a lost answer",
    ),
]
Symbol = Annotated[str, Parameter(pattern=SYMBOL, description="for example BTCUSDT")]
ModelId = Annotated[str, Parameter(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$", description="the model's id")]
PROBLEMS = documented(400, 401, 403, 409, 413, 415, 422, 428, 429, 503)


def command_at(path: str, tag: str, summary: str, *statuses: int) -> post:
    """Return the decorator of a handler that carries out a command: scope trade, every way it may be refused."""
    return post(
        path,
        opt={"needs": Scope.TRADE},
        status_code=200,
        tags=[tag],
        summary=summary,
        responses=PROBLEMS | documented(*statuses),
    )


def in_words(count: int) -> str:
    """Return a number of open positions."""
    return f"{count} open position{'' if count == 1 else 's'}"


async def question(services: Services, verb: str) -> dict[str, Any]:
    """Return what the engine answers to a question that changes nothing. Raises ApiError 503 without an engine."""
    try:
        answer = await services.engine.command(verb, "control", {}, "")
    except (ConnectionError, TimeoutError) as error:
        raise ApiError(503, "engine-unreachable", "no engine answers") from error
    if not answer.get("ok"):
        raise ApiError(503, "engine-refused", str(answer.get("error") or "refused"))
    result: dict[str, Any] = answer["result"]
    return result


def open_positions(services: Services) -> int:
    """Return how many positions the engine holds."""
    view = services.engine.snapshot()
    return 0 if view is None else int(view.status["open_positions"][0])


async def carry_out(
    request: Request[Any, Any, Any],
    services: Services,
    command: Command,
    key: str | None,
    body: Confirm | None,
    warning: str | None = None,
) -> Response[CommandDone]:
    """Run a command for a handler: 200 when acknowledged, 202 while pending."""
    confirm = None if body is None else body.confirm
    done = await services.commands.run(request.user, command, key=key, confirm=confirm, warning=warning)
    services.answers.forget()
    return Response(done, status_code=200 if done.state == "done" else 202)


@command_at("/api/trading/start", "trading", "Open a session: entries are allowed")
async def start(
    request: Request[Any, Any, Any], services: Services, data: Start | None = None, key: Key = None
) -> Response[CommandDone]:
    """Open a trading session. In live mode it is done in two steps: the first answer is 428 with a `confirm` code."""
    body = data or Start()
    view = services.engine.snapshot()
    live = services.config.mode == "live" or (view is not None and present.engine_status(view).mode == "live")
    warning = "this starts trading with real money; repeat the request with this code" if live else None
    command = Command("start", {"clear_halt": True} if body.clear_halt else {})
    return await carry_out(request, services, command, key, Confirm(body.confirm), warning)


@command_at("/api/trading/stop", "trading", "Close the session: no new entries, positions keep their guards")
async def stop(
    request: Request[Any, Any, Any], services: Services, data: Confirm | None = None, key: Key = None
) -> Response[CommandDone]:
    """Stop entries at once. Nothing is closed."""
    return await carry_out(request, services, Command("stop", {}), key, data)


@command_at("/api/trading/flatten", "trading", "Close everything this system opened and stop entries")
async def flatten(
    request: Request[Any, Any, Any], services: Services, data: Confirm | None = None, key: Key = None
) -> Response[CommandDone]:
    """Flatten in two steps: the first answer is 428 with a `confirm` code and says how many positions would close.

    A live engine goes down the whole kill ladder: its open entries are cancelled first, and each step is timed.
    """
    count = open_positions(services)
    warning = f"this closes {in_words(count)} at the market and stops entries; repeat the request with this code"
    view = services.engine.snapshot()
    live = view is not None and present.engine_status(view).mode == "live"
    command = Command("kill", {"until": "flatten"}) if live else Command("flatten", {})
    return await carry_out(request, services, command, key, data, warning)


@command_at("/api/positions/{symbol:str}/close", "trading", "Close one position at the market", 404)
async def close(
    request: Request[Any, Any, Any],
    services: Services,
    symbol: Symbol,
    data: Confirm | None = None,
    key: Key = None,
) -> Response[CommandDone]:
    """Close the position of a symbol with the reason `manual`."""
    return await carry_out(request, services, Command("close", {"symbol": symbol}), key, data)


@command_at("/api/trading/reduce-only", "trading", "Only exits from now on")
async def reduce_only(
    request: Request[Any, Any, Any], services: Services, data: Confirm | None = None, key: Key = None
) -> Response[CommandDone]:
    """Close the session and allow nothing but what makes positions smaller."""
    return await carry_out(request, services, Command("reduce_only", {}), key, data)


@command_at("/api/trading/halt", "trading", "Halt: a start must be told to clear it")
async def halt(
    request: Request[Any, Any, Any], services: Services, data: Confirm | None = None, key: Key = None
) -> Response[CommandDone]:
    """Halt entries until somebody starts with `clear_halt`. Stops and exits of open positions still work."""
    return await carry_out(request, services, Command("halt", {}), key, data)


@command_at("/api/trading/kill", "trading", "Go down the kill ladder, each step timed")
async def kill(
    request: Request[Any, Any, Any], services: Services, data: Kill, key: Key = None
) -> Response[CommandDone]:
    """Pause entries, then reduce-only, then cancel own open entries, then flatten: each step includes those before.

    Answers when the engine has begun; `GET /api/trading/kill` says when each step held.
    """
    warnings = {
        "cancel": "this stops entries and cancels every open entry of this system; repeat the request with this code",
        "flatten": f"this closes {in_words(open_positions(services))} at the market, cancels every open entry and "
        "stops entries; repeat the request with this code",
    }
    command = Command("kill", {"until": data.until})
    return await carry_out(request, services, command, key, Confirm(data.confirm), warnings.get(data.until))


@get(
    "/api/trading/kill", tags=["trading"], summary="The newest kill, step by step", responses=documented(401, 429, 503)
)
async def kill_report(request: Request[Any, Any, Any], services: Services) -> Response[KillReport]:
    """Return how far the newest kill of this engine run was to go and after how many ms each step held."""

    async def make() -> KillReport:
        return msgspec.convert(await question(services, "kill_report"), KillReport)

    return await answered(request, services.answers, make, SNAPSHOT)


@get(
    "/api/trading",
    tags=["trading"],
    summary="The order side of a live engine",
    responses=documented(401, 404, 429, 503),
)
async def order_side(request: Request[Any, Any, Any], services: Services) -> Response[dict[str, Any]]:
    """Return stops by symbol, doubts, alarms, open tasks, resting symbols, routes; 404 in shadow mode."""
    view = services.engine.snapshot()
    if view is not None and present.engine_status(view).mode == "shadow":
        raise ApiError(404, "not-live", "the engine runs in shadow mode: it has no orders on an exchange")
    return await answered(request, services.answers, lambda: question(services, "trading"), ASKED)


HANDLERS = [start, stop, reduce_only, flatten, halt, close, kill, kill_report, order_side]
