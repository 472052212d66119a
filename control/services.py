"""What request handlers use; built in one place (`control.main`) and handed to `create_app`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from control.alarms import Standing
from control.answers import Answers
from control.candles import CandleReads
from control.commands import Commands
from control.door import EngineDoor
from control.equity import EquityCurves
from control.gate import Gate
from control.jobs.runner import JobRunner
from control.latest import LatestSignals
from control.listing import Listing, Query, Row
from control.live import Hub
from control.metrics import Metrics
from control.reader import Reader
from control.recent import Lists
from control.shapes import Page
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
    promote: Callable[[str, str, bool, str], Awaitable[dict[str, Any]]]
    rollback: Callable[[str, str], dict[str, Any]]
    store: StoreHealth = field(default_factory=StoreHealth)
    hub: Hub = field(default_factory=Hub)
    started_ms: int = 0
    metrics: Metrics = field(init=False)
    answers: Answers = field(default_factory=Answers, init=False)
    candles: CandleReads = field(default_factory=CandleReads, init=False)
    lists: Lists = field(default_factory=Lists, init=False)
    latest: LatestSignals = field(default_factory=LatestSignals, init=False)
    equity: EquityCurves = field(default_factory=EquityCurves, init=False)
    alarms: Standing = field(init=False)

    async def page(self, listing: Listing[Row], query: Query) -> Page[Row]:
        """Return one page of a list. Raises ApiError 400 for a cursor that is not one of ours, 503 without a store."""
        return await self.lists.page(self.reader, listing, query)

    def __post_init__(self) -> None:
        self.alarms = Standing(self.config)
        self.metrics = Metrics(self.engine, self.store, self.hub, self.commands)
