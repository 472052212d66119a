"""RFC 9457 problem documents: the one place that turns errors into HTTP."""

from __future__ import annotations

import http
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import ResponseSpec

MEDIA_TYPE = "application/problem+json"
logger = structlog.get_logger("control")


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document (RFC 9457). `code` is stable and for programs; `detail` is for people."""

    title: str
    status: int
    code: str
    detail: str = ""
    type: str = "about:blank"
    errors: list[str] | None = None
    confirm: str | None = None
    expires_ms: int | None = None
    command_id: str | None = None


class ApiError(Exception):
    """Refuse a request: becomes a problem document with this status and code."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **members: Any
    ) -> None:
        self.status, self.code, self.detail = status, code, detail
        self.headers = headers or {}
        self.members = members
        super().__init__(detail)


def respond(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, **members: Any
) -> Response[Problem]:
    """Build the response of a problem."""
    title = http.HTTPStatus(status).phrase
    return Response(
        Problem(title=title, status=status, code=code, detail=detail, **members),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers or {},
    )


def documented(*statuses: int) -> dict[int, ResponseSpec]:
    """Return the OpenAPI entries of the problems an endpoint may answer with."""
    return {
        status: ResponseSpec(
            data_container=Problem,
            generate_examples=False,
            description=http.HTTPStatus(status).phrase,
            media_type=MEDIA_TYPE,
        )
        for status in statuses
    }


_CODES = {400: "bad-request", 401: "unauthenticated", 403: "forbidden", 404: "not-found", 405: "method-not-allowed",
          413: "too-large", 415: "unsupported-media-type", 429: "too-many-requests"}  # fmt: skip


def api_error(_request: Request, error: ApiError) -> Response[Problem]:
    """Answer a refusal of ours."""
    return respond(error.status, error.code, error.detail, error.headers, **error.members)


def http_error(_request: Request, error: HTTPException) -> Response[Problem]:
    """Answer what the framework refuses: unknown path, wrong method, a body or parameter of another type."""
    status = error.status_code
    errors = None
    detail = error.detail
    if isinstance(error, ValidationException):
        detail = "a parameter or the body does not have the documented form"
        errors = [_fault(item) for item in error.extra] if isinstance(error.extra, list) else [str(error.detail)]
    if status >= 500:
        logger.error("request failed", detail=error.detail)
        detail = "the server could not do this; the log has the cause"
    headers = {key: value for key, value in (error.headers or {}).items() if key.lower() in ("allow", "retry-after")}
    return respond(status, _CODES.get(status, "error"), detail, headers, errors=errors)


def bottomless(request: Request, error: RecursionError) -> Response[Problem]:
    """Answer a body that is nested deeper than any of ours: the decoder gives up at the interpreter's limit."""
    logger.warning("recursion", path=request.url.path, method=request.method, detail=str(error))
    return respond(400, "bad-request", "the body is nested too deeply")


def bug(request: Request, error: Exception) -> Response[Problem]:
    """Answer a bug of ours: logged in full, told in one sentence."""
    logger.error("unexpected error", path=request.url.path, method=request.method, exc_info=error)
    return respond(500, "internal-error", "the server could not do this; the log has the cause")


def _fault(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    where = f"{item.get('source', '')} {item.get('key', '')}".strip()
    return f"{where}: {item.get('message', '')}".strip(": ")
