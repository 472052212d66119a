"""What request handlers use; built in one place (`control.main`) and handed to `create_app`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from control.commands import Commands
from control.door import EngineDoor
from control.gate import Gate
from control.jobs.runner import JobRunner
from control.live import Hub
from control.metrics import Metrics
from control.reader import Reader
from control.store_health import StoreHealth
from engine.config import Config

VERSION = "0.1.0"


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
    metrics: Metrics = field(init=False)

    _kept: dict[str, tuple[object, bytes]] = field(default_factory=dict, init=False, repr=False)

    def encoded(self, name: str, view: object, build: Callable[[], Any]) -> bytes:
        """Return the JSON of what `build` makes of a snapshot, made once for all requests that share the snapshot."""
        kept = self._kept.get(name)
        if kept is None or kept[0] is not view:
            kept = self._kept[name] = (view, msgspec.json.encode(build()))
        return kept[1]

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engine, self.store, self.hub, self.commands)
