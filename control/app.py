"""The Litestar application: an explicit list of routes, one guard, one place for errors and headers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Router
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import BeforeMessageSendHookHandler, Message, Scope

from control import alerts, problems
from control.gate import add_headers
from control.publisher import Publisher
from control.routes import (
    health,
    jobs,
    live,
    logs,
    market,
    models,
    pages,
    records,
    reports,
    runbook,
    session,
    status,
    trading,
)
from control.services import VERSION, Services

MAX_BODY_BYTES = 64 << 10  # the largest body is a job's arguments
ROUTES = [
    *health.HANDLERS,
    *status.HANDLERS,
    *trading.HANDLERS,
    *models.HANDLERS,
    *records.HANDLERS,
    *market.HANDLERS,
    *reports.HANDLERS,
    *jobs.HANDLERS,
    *live.HANDLERS,
    *logs.HANDLERS,
    *runbook.HANDLERS,
    *session.HANDLERS,
    *pages.HANDLERS,
]


def create_app(services: Services, notify: alerts.Notifier | None = None) -> Litestar:
    """Return the ASGI application of the control plane."""
    return Litestar(
        route_handlers=ROUTES,
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        guards=[services.gate.guard],
        before_send=[add_headers, _observed(services)],
        before_request=_begin,
        exception_handlers={
            problems.ApiError: problems.api_error,
            HTTPException: problems.http_error,
            RecursionError: problems.bottomless,
            Exception: problems.bug,
        },
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=_openapi(),
        logging_config=None,
        debug=False,
        lifespan=[_background(services, notify)],
    )


def _begin(request: Request[Any, Any, Any]) -> None:
    request.scope["state"]["begun_s"] = time.perf_counter()


def _observed(services: Services) -> BeforeMessageSendHookHandler:
    """Return the hook that measures each answered request by route, never by path: labels stay few."""

    async def observe(message: Message, scope: Scope) -> None:
        if message["type"] == "http.response.start":
            begun_s = scope["state"].get("begun_s")
            if begun_s is not None:
                route = str(scope.get("path_template") or "other")
                labels = services.metrics.requests.labels(route, scope.get("method", ""), str(message["status"]))
                labels.observe(time.perf_counter() - begun_s)

    return observe


def _background(
    services: Services, notify: alerts.Notifier | None
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    """Return the lifespan that keeps the live push and the job queue running while the application serves."""

    @asynccontextmanager
    async def running(_app: Litestar) -> AsyncIterator[None]:
        tasks = [
            asyncio.ensure_future(Publisher(services).run()),
            asyncio.ensure_future(services.jobs.run()),
            asyncio.ensure_future(alerts.watch(services, notify)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return running


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Trading engine control plane",
        version=VERSION,
        description=(
            "Status, signals, trades and commands of the trading engine. Times are UTC epoch milliseconds; null means "
            "not known; errors are problem documents (RFC 9457)."
        ),
        use_handler_docstrings=True,
        render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"], media_type="application/json")],  # type: ignore[arg-type]
        openapi_router=Router("/schema", route_handlers=[], opt={"public": True}, include_in_schema=False),
        components=Components(
            security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer", description="`ta tokens create`")}
        ),
        security=[{"bearer": []}],
    )
