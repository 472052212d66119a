"""Models: which there are, which one trades, and the change from one to another, with its gate."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.params import Parameter

from control import present
from control.answers import SLOW, answered
from control.auth import Scope
from control.commands import Command
from control.problems import ApiError, documented
from control.routes.trading import Key, carry_out, command_at
from control.services import Services
from control.shapes import CommandDone, Confirm
from control.shapes_data import Calibration, CalibrationDecile, Model, ModelDetail, Models
from engine.errors import DataError
from engine.model.registry import open_registry
from engine.model.report import REPORT_NAME

ModelId = Annotated[str, Parameter(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$", description="the model's id")]
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'self'"
"""Of a page that runs nothing and loads nothing, but styles its plots inline."""
DECILE_FIELDS = CalibrationDecile.__struct_fields__
COLUMNS = "model_id, state, toUnixTimestamp64Milli(time) AS since_ms, actor, url, manifest, metrics"


class Promote(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a promotion. `force` goes past the gate: two steps, scope admin, and a `reason` that is recorded."""

    force: bool = False
    reason: str = ""
    confirm: str | None = None


class Rollback(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a rollback."""

    reason: str = ""
    confirm: str | None = None


class Predictor(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a choice of predictor."""

    predictor: Literal["auto", "packed", "walk", "tl2cgen"]
    confirm: str | None = None


def _active(services: Services) -> str:
    view = services.engine.snapshot()
    return present.text(view.status["model_id"][0]) if view is not None and view.alive else ""


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


@get("/api/models", tags=["models"], summary="Registered models, newest first", responses=documented(401, 429, 503))
async def models(request: Request[Any, Any, Any], services: Services) -> Response[Models]:
    """Return registered models with state and metrics; `active` is the one the engine decides with now."""
    return await answered(request, services.answers, lambda: _models(services))


async def _models(services: Services) -> Models:
    active = _active(services)
    rows = await services.reader.rows(f"SELECT {COLUMNS} FROM models ORDER BY model_id DESC LIMIT 500")
    return Models(
        [
            Model(
                row["model_id"],
                row["state"],
                int(row["since_ms"]),
                row["actor"],
                row["model_id"] == active,
                _document(row["metrics"]),
            )
            for row in rows
        ]
    )


@get(
    "/api/models/{model_id:str}",
    tags=["models"],
    summary="One model with its manifest",
    responses=documented(400, 401, 404, 429, 503),
)
async def model(request: Request[Any, Any, Any], services: Services, model_id: ModelId) -> Response[ModelDetail]:
    """Return a model's state, manifest (data, parameters, costs, verification) and metrics."""
    return await answered(request, services.answers, lambda: _model(services, model_id))


async def _model(services: Services, model_id: str) -> ModelDetail:
    sql = f"SELECT {COLUMNS} FROM models WHERE model_id = {{model_id:String}} LIMIT 1"
    rows = await services.reader.rows(sql, {"model_id": model_id})
    if not rows:
        raise ApiError(404, "no-such-model", f"no model of the id {model_id} is registered")
    row = rows[0]
    return ModelDetail(
        row["model_id"],
        row["state"],
        int(row["since_ms"]),
        row["actor"],
        row["model_id"] == _active(services),
        row["url"],
        _document(row["manifest"]),
        _document(row["metrics"]),
    )


@get(
    "/api/models/{model_id:str}/calibration",
    tags=["models"],
    summary="A model's decisions against what came",
    responses=documented(400, 401, 429, 503),
)
async def calibration(request: Request[Any, Any, Any], services: Services, model_id: ModelId) -> Response[Calibration]:
    """Return predicted and realised returns of every decision that is labelled by now, per side and decile."""
    fields = ", ".join(f"toString({name}) AS {name}" if name == "side" else name for name in DECILE_FIELDS)
    sql = f"SELECT {fields} FROM v_calibration WHERE model_id = {{model_id:String}} ORDER BY side, decile LIMIT 100"

    async def make() -> Calibration:
        lines = await services.reader.lines(sql, {"model_id": model_id})
        items = msgspec.json.decode(b"[" + b",".join(lines) + b"]", type=list[CalibrationDecile], strict=False)
        return Calibration(model_id, items)

    return await answered(request, services.answers, make, SLOW)


@get(
    "/api/models/{model_id:str}/report",
    tags=["models"],
    summary="One model's evaluation as an HTML page",
    media_type=MediaType.HTML,
    responses=documented(400, 401, 404, 429, 503),
)
async def report(services: Services, model_id: ModelId) -> Response[bytes]:
    """Return the page that the validation wrote into the bundle: one file, its plots inside."""
    try:
        page = await asyncio.to_thread(open_registry(services.config).read, model_id, REPORT_NAME)
    except DataError as error:
        raise ApiError(404, "no-report", f"{error}; `ta train --folds N` writes a report") from error
    return Response(page, media_type=MediaType.HTML, headers={"Content-Security-Policy": REPORT_POLICY})


@command_at("/api/models/predictor", "models", "Choose what evaluates the model in use")
async def predictor(
    request: Request[Any, Any, Any], services: Services, data: Predictor, key: Key = None
) -> Response[CommandDone]:
    """Let the engine open its model through another predictor and swap it in between two frames; not after a restart.

    `tl2cgen` is there when its library was built (in the background, after a promotion) and passed the golden rows.
    """
    command = Command("predictor", {"predictor": data.predictor})
    return await carry_out(request, services, command, key, Confirm(data.confirm))


@command_at("/api/models/{model_id:str}/promote", "models", "Make a model the one that decides", 404)
async def promote(
    request: Request[Any, Any, Any],
    services: Services,
    model_id: ModelId,
    data: Promote | None = None,
    key: Key = None,
) -> Response[CommandDone]:
    """Prove the bundle, ask the gate, hand it to the engine, which swaps it in between two frames, and record it.

    The gate backtests the days that neither model has seen, in a job of its own: after 20 s the answer is 202 with its
    `job_id`, and `GET /api/jobs/{job_id}` tells how far it is and what came of it.
    """
    body = data or Promote()
    rows = await services.reader.rows(
        "SELECT model_id FROM models WHERE model_id = {model_id:String} LIMIT 1", {"model_id": model_id}
    )
    if not rows:
        raise ApiError(404, "no-such-model", f"no model of the id {model_id} is registered")
    warning = None
    if body.force:
        if not request.user.scope.allows(Scope.ADMIN):
            raise ApiError(403, "scope", "a forced promotion needs the scope admin")
        if not 1 <= len(body.reason) <= 200:
            raise ApiError(400, "no-reason", "a forced promotion needs a `reason` of 1 to 200 characters")
        warning = f"this promotes {model_id} past the gate; repeat the request with this code"
    actor = request.user.actor

    async def action(_command_id: str) -> dict[str, Any]:
        return await services.promote(model_id, actor, body.force, body.reason[:200])

    command = Command("promote", {"model_id": model_id, "force": body.force, "reason": body.reason}, action)
    return await carry_out(request, services, command, key, Confirm(body.confirm), warning)


@command_at("/api/models/rollback", "models", "Bring back the model before the present one")
async def rollback(
    request: Request[Any, Any, Any], services: Services, data: Rollback | None = None, key: Key = None
) -> Response[CommandDone]:
    """Return to the production model that the present one replaced."""
    body = data or Rollback()
    actor = request.user.actor

    async def action(_command_id: str) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(services.rollback, actor, body.reason[:200])
        except DataError as error:
            raise ApiError(409, "refused", str(error)) from error

    command = Command("rollback", {"reason": body.reason[:200]}, action)
    return await carry_out(request, services, command, key, Confirm(body.confirm))


HANDLERS = [models, model, calibration, report, predictor, promote, rollback]
