"""Models: which there are, and which one trades. The engine carries a promotion out."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, post
from litestar.params import Parameter

from control.auth import Scope
from control.commands import Command
from control.problems import ApiError, documented
from control.routes.trading import PROBLEMS, Key, carry_out
from control.services import Services
from control.shapes import CommandDone, Confirm

ModelId = Annotated[str, Parameter(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$", description="the model's id")]


class Promote(msgspec.Struct):
    """The body of a promotion. `force` promotes what the gate refuses; that takes two steps and the scope admin."""

    force: bool = False
    confirm: str | None = None


@post(
    "/api/models/{model_id:str}/promote",
    opt={"needs": Scope.TRADE},
    status_code=200,
    tags=["models"],
    summary="Make a model the one that decides",
    responses=PROBLEMS | documented(404),
)
async def promote(
    request: Request[Any, Any, Any],
    services: Services,
    model_id: ModelId,
    data: Promote | None = None,
    key: Key = None,
) -> Response[CommandDone]:
    """Hand a bundle to the engine, which verifies it and swaps it in between two frames."""
    body = data or Promote()
    bundle = services.config.data_dir / "models" / model_id
    if not (bundle / "manifest.json").is_file():
        raise ApiError(404, "no-such-model", f"no bundle of the id {model_id}")
    warning = None
    if body.force:
        if not request.user.scope.allows(Scope.ADMIN):
            raise ApiError(403, "scope", "a forced promotion needs the scope admin")
        warning = f"this promotes {model_id} although the gate may refuse it; repeat the request with this code"
    args = {"model_id": model_id, "bundle_path": str(bundle.resolve()), "force": body.force}
    return await carry_out(request, services, Command("promote", args), key, Confirm(body.confirm), warning)


HANDLERS = [promote]
