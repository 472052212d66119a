"""What request handlers use; built in one place (`control.main`) and handed to `create_app`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from control.commands import Commands
from control.door import EngineDoor
from control.gate import Gate
from control.jobs.runner import JobRunner
from control.live import Hub
from control.reader import Reader
from control.shapes import StoreStatus
from engine.config import Config

VERSION = "0.1.0"


@dataclass
class StoreHealth:
    """What the store's keeper (the tail) last said; updated by it, read by handlers."""

    ok: bool = False
    kind: str = "embedded"
    detail: str = "not opened yet"
    tail_seq: int | None = None
    tail_rows: int = 0
    behind_s: float = 0.0

    def status(self, journal_seq: int | None) -> StoreStatus:
        """Return the API's view; the lag is known when both ends are."""
        lag = None if self.tail_seq is None or journal_seq is None else max(0, journal_seq - self.tail_seq)
        return StoreStatus(ok=self.ok, kind=self.kind, detail=self.detail, lag_records=lag)


@dataclass
class Services:
    """Everything the control plane is made of."""

    config: Config
    engine: EngineDoor
    reader: Reader
    gate: Gate
    commands: Commands
    jobs: JobRunner
    promote: Callable[[str, str, bool, str], dict[str, Any]]
    rollback: Callable[[str, str], dict[str, Any]]
    store: StoreHealth = field(default_factory=StoreHealth)
    hub: Hub = field(default_factory=Hub)
    started_ms: int = 0
