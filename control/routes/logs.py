"""The ends of the processes' logs, as `ta up` keeps them: for an operator who has no shell on the machine."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import msgspec
from litestar import get
from litestar.params import Parameter

from control.logs import redact, tail
from control.problems import documented
from control.services import Services


class LogTail(msgspec.Struct):
    """The newest lines of one log, oldest first; none where `ta up` has not run in this data folder."""

    name: str
    path: str
    lines: list[str]


@get("/api/logs/{name:str}", tags=["status"], summary="The end of a process's log", responses=documented(400, 401, 429))
async def log_tail(
    services: Services,
    name: Annotated[Literal["engine", "control", "watchdog"], Parameter(description="whose log")],
    lines: Annotated[int, Parameter(ge=1, le=2_000, description="how many lines at most")] = 200,
) -> LogTail:
    """Return the newest lines of a log; what looks like a secret is replaced once more."""
    path = services.config.data_dir / "logs" / f"{name}.log"
    found = await asyncio.to_thread(tail, path, lines)
    return LogTail(name, str(path), [redact(line) for line in found])


HANDLERS = [log_tail]
