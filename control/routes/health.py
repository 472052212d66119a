"""Liveness and readiness: open without a token, and telling no secrets."""

from __future__ import annotations

from litestar import MediaType, Response, get
from litestar.openapi import ResponseSpec

from control.answers import Life
from control.problems import documented
from control.services import Services
from control.shapes import Health, Readiness

SCRAPE = Life(0.25, 0.25)


@get("/healthz", opt={"public": True}, security=[{}], tags=["health"], summary="Is the control process alive?")
async def healthz() -> Health:
    """Answer as long as the event loop turns."""
    return Health(status="ok")


@get(
    "/readyz",
    opt={"public": True},
    security=[{}],
    tags=["health"],
    summary="Do the store and the engine work?",
    responses={503: ResponseSpec(data_container=Readiness, generate_examples=False, description="not ready")},
)
async def readyz(services: Services) -> Response[Readiness]:
    """Answer 200 when the store works and, if an engine has ever run on this data folder, it is alive; else 503."""
    view = services.engine.snapshot()
    alive = view is None or view.alive
    faults = [] if services.store.ok else [f"store: {services.store.detail}"]
    if not alive:
        faults.append("engine: no heartbeat for more than 2 s")
    ready = not faults
    body = Readiness(ready=ready, store=services.store.ok, engine=view is not None and view.alive, faults=faults)
    return Response(body, status_code=200 if ready else 503)


@get(
    "/metrics", tags=["health"], summary="Prometheus metrics", responses=documented(401, 429), media_type=MediaType.TEXT
)
async def metrics(services: Services) -> Response[bytes]:
    """Return counters, gauges and histograms in the Prometheus text format, at most a quarter of a second old."""

    async def make() -> bytes:
        return services.metrics.text()

    answer = await services.answers.get("metrics", SCRAPE, make)
    return Response(answer.body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


HANDLERS = [healthz, readyz, metrics]
