"""Jobs: labels, training, collection, audits and backtests as child processes, with progress and log."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get, post
from litestar.params import Parameter

from control.answers import answered
from control.auth import Scope
from control.problems import ApiError, documented
from control.services import Services
from control.shapes_data import Job, Jobs

JobId = Annotated[str, Parameter(pattern=r"^[a-z]{1,16}-[0-9a-z-]{1,40}$", description="the job's id")]
MS = "toUnixTimestamp64Milli"


class NewJob(msgspec.Struct, forbid_unknown_fields=True):
    """What to run: a kind and the options of the `ta` command of that name."""

    kind: Literal["label", "train", "collect", "audit", "backtest"]
    options: dict[str, str | int | float | list[str]] = {}


@get("/api/jobs", tags=["jobs"], summary="Jobs, newest first", responses=documented(401, 429, 503))
async def jobs(request: Request[Any, Any, Any], services: Services) -> Response[Jobs]:
    """Return jobs of this control process and, from the store, those of earlier ones and of the command line."""
    return await answered(request, services.answers, lambda: _jobs(services))


async def _jobs(services: Services) -> Jobs:
    here = services.jobs.jobs()
    known = {job.job_id for job in here}
    sql = (
        "SELECT job_id, kind, state, actor, arguments, error, "
        f"{MS}(queued_time) AS queued_ms, {MS}(started_time) AS started_ms, {MS}(finished_time) AS finished_ms "
        "FROM training_jobs ORDER BY queued_time DESC LIMIT 100"
    )
    stored = [_stored(row) for row in await services.reader.rows(sql) if row["job_id"] not in known]
    return Jobs(sorted([*here, *stored], key=lambda job: -job.queued_ms)[:100])


def _stored(row: dict[str, Any]) -> Job:
    try:
        arguments = [str(item) for item in json.loads(row["arguments"])]
    except (json.JSONDecodeError, TypeError):
        arguments = []
    return Job(
        job_id=row["job_id"],
        kind=row["kind"],
        state=row["state"] if row["state"] in ("queued", "done", "failed", "cancelled") else "running",
        actor=row["actor"],
        arguments=arguments,
        queued_ms=int(row["queued_ms"]),
        started_ms=int(row["started_ms"]) or None,
        finished_ms=int(row["finished_ms"]) or None,
        exit_code=None,
        progress=1.0 if row["state"] == "done" else None,
        error=row["error"],
        log=[],
    )


@get("/api/jobs/{job_id:str}", tags=["jobs"], summary="One job with its log", responses=documented(400, 401, 404, 429))
async def job(services: Services, job_id: JobId) -> Job:
    """Return a job of this control process with progress and the last 200 lines of its log."""
    return _found(services, job_id)


def _found(services: Services, job_id: str) -> Job:
    found = services.jobs.job(job_id)
    if found is None:
        raise ApiError(404, "no-such-job", "no job of this id since control started; older ones are in training_jobs")
    return found


@post(
    "/api/jobs",
    opt={"needs": Scope.ADMIN},
    status_code=202,
    tags=["jobs"],
    summary="Run a job",
    responses=documented(400, 401, 403, 413, 415, 429),
)
async def submit(request: Request[Any, Any, Any], services: Services, data: NewJob) -> Job:
    """Queue a job; it runs as a child process at low priority, one at a time."""
    services.answers.forget()
    return services.jobs.submit(data.kind, dict(data.options), request.user.actor)


@post(
    "/api/jobs/{job_id:str}/cancel",
    opt={"needs": Scope.ADMIN},
    status_code=200,
    tags=["jobs"],
    summary="Stop a job",
    responses=documented(400, 401, 403, 404, 409, 429),
)
async def cancel(services: Services, job_id: JobId) -> Job:
    """Ask a waiting or running job to stop."""
    found = _found(services, job_id)
    if not services.jobs.cancel(job_id):
        raise ApiError(409, "job-finished", f"the job is {found.state} already")
    return found


HANDLERS = [jobs, job, submit, cancel]
