"""Runs jobs as child processes of control, at low priority, each a `ta` command with checked options.

Long ones wait for each other in a queue; a promotion, whose gate is a backtest, runs at once and beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from control.auth import now_ms
from control.logs import redact
from control.problems import ApiError
from control.shapes_data import Job

QUEUED = 20  # jobs that may wait
REMEMBERED = 100  # finished jobs kept in memory; older ones are in training_jobs
LOG_LINES = 200
NICENESS = 10  # the engine and the API come first
STOP_S = 10.0
UNDER_WAY = ("queued", "running")
COMMANDS = {"promote": ("models", "promote")}  # kinds whose `ta` command is not named as they are
WIDE = "4000"  # columns: a message is one line
VALUE = re.compile(r"^[A-Za-z0-9_.:+][A-Za-z0-9_.:+-]{0,63}$")
PROGRESS = re.compile(r"^progress (\d+)/(\d+)")
RANGE = frozenset({"symbol", "from", "to"})
KINDS: dict[str, frozenset[str]] = {
    "label": RANGE,
    "train": RANGE
    | {"rounds", "leaves", "learning-rate", "seed", "threads", "folds", "purged-groups", "holdout-days", "resume"},
    "collect": RANGE | {"days"},
    "audit": RANGE,
    "backtest": RANGE | {"model", "compare-run"},
}
Rows = Callable[[dict[str, Any]], None]
logger = structlog.get_logger("control.jobs")


@dataclass
class _Running:
    job: Job
    log: deque[str] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    process: asyncio.subprocess.Process | None = None
    cancelled: bool = False
    document: str = ""
    """The JSON document that it printed, if it did."""


class JobRunner:
    """The queue of jobs. `record` writes a row to `training_jobs` (in a thread); `changed` tells the live push."""

    def __init__(
        self, data_dir: Path, config_file: Path | None, record: Rows, changed: Callable[[Job], None] = lambda job: None
    ) -> None:
        self._data_dir, self._config_file = data_dir, config_file
        self._record, self._changed = record, changed
        self._jobs: OrderedDict[str, _Running] = OrderedDict()
        self._queue: asyncio.Queue[_Running] = asyncio.Queue(QUEUED)
        self._beside: set[asyncio.Task[None]] = set()

    def submit(self, kind: str, options: dict[str, Any], actor: str) -> Job:
        """Queue a job. Raises ApiError 400 for an unknown kind or option, 429 when too many wait."""
        running = _new(kind, command_line(kind, options), actor)
        try:
            self._queue.put_nowait(running)
        except asyncio.QueueFull:
            raise ApiError(429, "too-many-jobs", f"{QUEUED} jobs are waiting already") from None
        self._remember(running)
        return running.job

    async def beside(self, kind: str, arguments: list[str], actor: str, wait_s: float) -> tuple[Job, dict[str, Any]]:
        """Run a job at once, one of a kind at a time; return it and its JSON document when it ends, or after `wait_s`.

        It goes on when nobody waits any more. Raises ApiError 409 while another one of its kind runs.
        """
        if any(item.job.kind == kind and item.job.state in UNDER_WAY for item in self._jobs.values()):
            raise ApiError(409, "already-running", f"another job of the kind {kind} runs; see the jobs")
        running = _new(kind, arguments, actor)
        self._remember(running)
        task = asyncio.ensure_future(self._run(running))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        await asyncio.wait([task], timeout=wait_s)
        return running.job, json.loads(running.document) if running.document else {}

    def _remember(self, running: _Running) -> None:
        self._jobs[running.job.job_id] = running
        while len(self._jobs) > REMEMBERED + QUEUED:
            self._jobs.popitem(last=False)
        self._changed(running.job)

    def jobs(self) -> list[Job]:
        """Return the jobs of this process, newest first."""
        return [item.job for item in reversed(self._jobs.values())]

    def job(self, job_id: str) -> Job | None:
        """Return one job with the end of its log."""
        item = self._jobs.get(job_id)
        if item is None:
            return None
        item.job.log = list(item.log)
        return item.job

    def cancel(self, job_id: str) -> bool:
        """Ask a waiting or running job to stop; return whether there was one."""
        item = self._jobs.get(job_id)
        if item is None or item.job.state not in UNDER_WAY:
            return False
        item.cancelled = True
        if item.process is not None:
            with contextlib.suppress(ProcessLookupError):
                item.process.terminate()
        return True

    async def run(self) -> None:
        """Carry the queue out, one after the other, until cancelled; every running child is then stopped."""
        try:
            while True:
                await self._run(await self._queue.get())
        finally:
            beside = list(self._beside)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _run(self, item: _Running) -> None:
        try:
            if item.cancelled:
                await self._finish(item, "cancelled", None, "cancelled before it began")
            else:
                await self._carry_out(item)
        except asyncio.CancelledError:
            await _stop(item)
            raise
        except Exception as error:
            logger.error("job", job_id=item.job.job_id, error=repr(error))
            await self._finish(item, "failed", None, f"could not be run: {error}")

    async def _carry_out(self, item: _Running) -> None:
        job = item.job
        base = [sys.executable, "-m", "control.cli", "--data-dir", str(self._data_dir)]
        if self._config_file is not None:
            base += ["--config", str(self._config_file)]
        job.state, job.started_ms = "running", now_ms()
        self._changed(job)
        await self._write(job)
        plain = {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": WIDE}
        environment = os.environ | plain | {"TA_JOB": job.job_id, "TA_ACTOR": job.actor}
        item.process = await asyncio.create_subprocess_exec(
            *base,
            *COMMANDS.get(job.kind, (job.kind,)),
            *job.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            limit=1 << 16,
        )
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, item.process.pid, NICENESS)
        await self._read(item)
        code = await item.process.wait()
        job.exit_code = code
        if item.cancelled:
            await self._finish(item, "cancelled", code, "cancelled")
        elif code == 0:
            await self._finish(item, "done", code, "")
        else:
            last = next((line for line in reversed(item.log) if line.strip()), "no output")
            await self._finish(item, "failed", code, last[:500])

    async def _read(self, item: _Running) -> None:
        assert item.process is not None and item.process.stdout is not None
        while True:
            try:
                line = await item.process.stdout.readline()
            except ValueError:  # a line longer than the limit: its rest follows
                continue
            if not line:
                return
            text = str(redact(line.decode(errors="replace").rstrip()))
            if text.startswith("{") and text.endswith("}"):
                item.document = text
            found = PROGRESS.match(text)
            if found:
                item.job.progress = int(found[1]) / max(1, int(found[2]))
                self._changed(item.job)
            if not found or not item.log or not PROGRESS.match(item.log[-1]):
                item.log.append(text[:500])
            else:
                item.log[-1] = text[:500]

    async def _finish(self, item: _Running, state: Any, code: int | None, error: str) -> None:
        job = item.job
        job.state, job.exit_code, job.error, job.finished_ms = state, code, error, now_ms()
        if state == "done":
            job.progress = 1.0
        self._changed(job)
        logger.info("job finished", job_id=job.job_id, state=state, exit_code=code)
        if not (state == "done" and job.kind == "train"):  # a training job writes its own result
            await self._write(job)

    async def _write(self, job: Job) -> None:
        row = {
            "job_id": job.job_id,
            "kind": job.kind,
            "state": job.state,
            "actor": job.actor,
            "queued_time": job.queued_ms,
            "started_time": job.started_ms or 0,
            "finished_time": job.finished_ms or 0,
            "arguments": json.dumps(job.arguments),
            "error": job.error,
            "version": now_ms(),
        }
        try:
            await asyncio.to_thread(self._record, row)
        except Exception as error:
            logger.error("job row not stored", job_id=job.job_id, error=str(error))


def _new(kind: str, arguments: list[str], actor: str) -> _Running:
    job_id = f"{kind}-{now_ms()}-{secrets.token_hex(2)}"
    return _Running(Job(job_id, kind, "queued", actor, arguments, now_ms(), None, None, None, None, "", []))


async def _stop(item: _Running) -> None:
    process = item.process
    if process is None or process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)


def command_line(kind: str, options: dict[str, Any]) -> list[str]:
    """Return the checked arguments of a job's command. Raises ApiError 400; nothing is ever given to a shell."""
    allowed = KINDS.get(kind)
    if allowed is None:
        raise ApiError(400, "no-such-job", f"kind: expected one of {', '.join(KINDS)}, got {kind[:40]!r}")
    arguments: list[str] = []
    for name, given in options.items():  # `collect` takes its symbols as one list, the others one by one
        if name not in allowed:
            raise ApiError(
                400, "no-such-option", f"{kind} has no option {name[:40]!r}; there are {', '.join(sorted(allowed))}"
            )
        values = given if isinstance(given, list) else [given]
        if len(values) > 1_000 or (len(values) > 1 and name != "symbol"):
            raise ApiError(400, "bad-option", f"{name}: too many values")
        for value in values:
            if not VALUE.match(str(value)):
                raise ApiError(400, "bad-option", f"{name}: {str(value)[:40]!r} is not accepted")
            arguments += [f"--{name}", str(value)] if (kind, name) != ("collect", "symbol") else []
        if (kind, name) == ("collect", "symbol") and values:
            arguments += ["--symbols", ",".join(str(value) for value in values)]
    return arguments
