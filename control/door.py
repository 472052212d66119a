"""Control's side of the engine: snapshots at most every 100 ms, commands in a thread, never a wait on the loop."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Protocol

import structlog

from engine.errors import DataError
from engine.link import SnapshotReader, SnapshotView, command

logger = structlog.get_logger("control")

KEEP_NS = 100_000_000  # a copy is shared by all requests of 100 ms


class EngineDoor(Protocol):
    """What the control plane needs of an engine."""

    def snapshot(self) -> SnapshotView | None:
        """Return a copy of the newest snapshot, or None while no engine has ever run."""
        ...

    async def command(self, verb: str, actor: str, args: dict[str, Any], command_id: str) -> dict[str, Any]:
        """Send a command; raises ConnectionError (no engine) or TimeoutError (not acknowledged yet)."""
        ...


class LinkedEngine:
    """The engine of one data folder, through `engine.link`."""

    def __init__(self, data_dir: Path, timeout_s: float = 5.0, keep_ns: int = KEEP_NS) -> None:
        self._data_dir = data_dir
        self._reader = SnapshotReader(data_dir)
        self._timeout_s = timeout_s
        self._keep_ns = keep_ns
        self._kept: SnapshotView | None = None
        self._kept_ns = -keep_ns
        self._told = False

    def snapshot(self) -> SnapshotView | None:
        """Return a copy at most 100 ms old. Arrays are shared between callers: read only."""
        now = time.monotonic_ns()
        if now - self._kept_ns >= self._keep_ns:
            fresh = self._read()
            if fresh is not None or self._kept is None or not self._kept.alive:
                self._kept = fresh
            self._kept_ns = now
        return self._kept

    def _read(self) -> SnapshotView | None:
        try:
            return self._reader.read(attempts=100)
        except DataError as error:  # after an upgrade, until the new engine has started: as if none had ever run
            if not self._told:
                logger.warning("snapshot_of_another_release", error=str(error))
            self._told = True
            return None

    async def command(self, verb: str, actor: str, args: dict[str, Any], command_id: str) -> dict[str, Any]:
        """Send one command from a worker thread and return the engine's answer."""
        try:
            return await asyncio.to_thread(
                command, self._data_dir, verb, actor=actor, args=args, command_id=command_id, timeout_s=self._timeout_s
            )
        except (OSError, ValueError) as error:
            if type(error) is ConnectionError:
                raise  # nobody listened: not delivered
            raise TimeoutError(
                "the engine went away before it answered: the command may have been carried out"
            ) from error
