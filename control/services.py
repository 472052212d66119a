"""What request handlers use; built in one place (`control.main`) and handed to `create_app`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from control.answers import Answers
from control.commands import Commands
from control.door import EngineDoor
from control.equity import EquityCurves
from control.gate import Gate
from control.jobs.runner import JobRunner
from control.latest import LatestSignals
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
    answers: Answers = field(default_factory=Answers, init=False)
    latest: LatestSignals = field(default_factory=LatestSignals, init=False)
    equity: EquityCurves = field(default_factory=EquityCurves, init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engine, self.store, self.hub, self.commands)
