"""A promotion through the API: `ta models promote` as a child process, because its gate is a backtest."""

from __future__ import annotations

from typing import Any

from control.commands import StillRunning
from control.jobs.runner import JobRunner
from control.problems import ApiError

WAIT_S = 20.0  # longer than a promotion by force takes, shorter than a client waits


async def promotion(
    runner: JobRunner, model_id: str, actor: str, force: bool, reason: str, wait_s: float = WAIT_S
) -> dict[str, Any]:
    """Promote a model and return what was done, as `control.jobs.models.Promotion` names it.

    Raises ApiError 409 with the gate's or the engine's own words, StillRunning with the job's id after `wait_s`.
    """
    arguments = [model_id, "--json"]
    if force:
        arguments += ["--force"]
    if reason:
        arguments += [f"--reason={reason}"]
    job, document = await runner.beside("promote", arguments, actor, wait_s)
    if job.state in ("queued", "running"):
        raise StillRunning({"job_id": job.job_id})
    if job.state != "done":
        raise ApiError(409, "refused", job.error.removeprefix("error: "))
    return document
