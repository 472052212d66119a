"""Browser sessions: a token exchanged for an http-only, same-site cookie; a CSRF token for changes."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie

from control.auth import CookieSigner
from control.gate import COOKIE
from control.problems import ApiError, documented
from control.services import Services
from control.shapes import LoggedOut, Login, Session


def _secure(request: Request[Any, Any, Any], services: Services) -> bool:
    """Tell whether the browser is on HTTPS: then the cookie must never travel without."""
    forwarded = request.headers.get("x-forwarded-proto") if services.config.control.behind_proxy else None
    return (forwarded or request.url.scheme) == "https"


@post(
    "/api/session",
    opt={"public": True},
    status_code=200,
    tags=["session"],
    summary="Log in: exchange a token for a cookie",
    responses=documented(400, 401, 403, 413, 415, 429),
    security=[{}],
)
async def log_in(request: Request[Any, Any, Any], services: Services, data: Login) -> Response[Session]:
    """Set an http-only, same-site cookie that is valid for 12 hours and dies with its token."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host", ""):
        raise ApiError(403, "cross-origin", "the request comes from another site")
    gate = services.gate
    principal = await gate.check(data.token.strip(), gate.address(request))
    if principal is None:
        raise ApiError(401, "unauthenticated", "no such token", headers={"WWW-Authenticate": "Bearer"})
    value = gate.cookies.issue(principal.token_id)
    cookie = Cookie(
        key=COOKIE,
        value=value,
        path="/",
        httponly=True,
        samesite="strict",
        secure=_secure(request, services),
        max_age=CookieSigner.LIFE_MS // 1_000,
    )
    body = Session(principal.name, principal.scope.value, gate.cookies.csrf(value), CookieSigner.LIFE_MS)
    return Response(body, cookies=[cookie])


@get("/api/session", tags=["session"], summary="Who am I?", responses=documented(401, 403, 429))
async def who(request: Request[Any, Any, Any], services: Services) -> Session:
    """Return the name and scope of the caller and, for a cookie, its CSRF token."""
    principal = request.user
    csrf = services.gate.cookies.csrf(request.cookies[COOKIE]) if principal.by_cookie else None
    return Session(principal.name, principal.scope.value, csrf)


@post("/api/session/end", status_code=200, tags=["session"], summary="Log out", responses=documented(401, 403, 429))
async def log_out(request: Request[Any, Any, Any], services: Services) -> Response[LoggedOut]:
    """End the cookie's session; a bearer token is not revoked by this."""
    value = request.cookies.get(COOKIE)
    if value:
        services.gate.cookies.end(value)
    cookie = Cookie(key=COOKIE, value="", path="/", httponly=True, samesite="strict", max_age=0)
    return Response(LoggedOut("logged out"), cookies=[cookie])


HANDLERS = [log_in, who, log_out]
