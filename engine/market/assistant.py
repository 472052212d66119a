"""The engine's door to its helper process: spawn it, ask it, restart it when it dies."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from engine.errors import ExchangeError
from engine.market.lines import MAX_LINE_BYTES

RESTART_S = (0.1, 0.5, 2.0, 10.0)


class Assistant:
    """Ask the helper process for jobs (see `engine.market.helper`) without ever waiting on the loop.

    `on_event` takes the helper's unasked messages: `progress`, `sample`, `time`, `fault`.
    """

    def __init__(
        self,
        base_url: str,
        budget_path: Path | None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        pool_scale: int = 1,
    ) -> None:
        self.restarts = 0
        self.on_event = on_event
        self._command = [
            sys.executable,
            "-m",
            "engine.market.helper",
            base_url,
            str(budget_path or ""),
            str(pool_scale),
        ]
        self._process: Process | None = None
        self._pending: dict[int, tuple[asyncio.Future[Any], bytes]] = {}
        self._ids = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Spawn the helper."""
        await self._spawn()
        self._task = asyncio.create_task(self._read(), name="helper")

    async def stop(self) -> None:
        """End the helper; unanswered jobs fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
        for future, _ in self._pending.values():
            if not future.done():
                future.set_exception(ExchangeError(0, 0, "the helper was stopped"))
        self._pending.clear()

    async def ask(self, job: str, **args: Any) -> Any:
        """Return the result of a job. Raises ExchangeError with the helper's reason where it failed."""
        number = next(self._ids)
        line = orjson.dumps({"id": number, "job": job, "args": args}) + b"\n"
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[number] = (future, line)
        self._send(line)
        try:
            return await future
        finally:
            self._pending.pop(number, None)

    def _send(self, line: bytes) -> None:
        if self._process is not None and self._process.stdin is not None and self._process.returncode is None:
            self._process.stdin.write(line)

    async def _spawn(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, limit=MAX_LINE_BYTES, env={**os.environ, "PYTHONPATH": path}
        )

    async def _read(self) -> None:
        """Take lines until the helper ends, then start another and ask again what is unanswered."""
        while True:
            process = self._process
            if process is not None and process.stdout is not None:
                while line := await process.stdout.readline():
                    self._take(orjson.loads(line))
                await process.wait()
            await asyncio.sleep(RESTART_S[min(self.restarts, len(RESTART_S) - 1)])
            self.restarts += 1
            await self._spawn()
            for _, unanswered in list(self._pending.values()):
                self._send(unanswered)

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            if self.on_event is not None:
                self.on_event(message)
            return
        future, _ = self._pending.get(message["id"], (None, b""))
        if future is None or future.done():
            return
        if message["ok"]:
            future.set_result(message["result"])
        else:
            future.set_exception(ExchangeError(0, 0, message["error"]))
