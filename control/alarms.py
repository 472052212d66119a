"""The alarms: conditions over the status. `control.alerts` tells them; the page and `ta status` show them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from control.shapes import Status
from engine.config import Config

NAMED = 20  # symbols in one message
SILENT_MS = 10_000  # the exchange sends every symbol's mark price each second


@dataclass(frozen=True)
class Alarm:
    """One condition. `holds` sees the status and the configuration; it must be true for `for_s` before it is told.

    which: what it concerns, named after `says` when it is told.
    """

    name: str
    severity: Literal["warning", "critical"]
    says: str
    for_s: float
    holds: Callable[[Status, Config], bool]
    which: Callable[[Status], list[str]] = lambda status: []

    def message(self, status: Status) -> str:
        """Return `says` and the names of what it concerns, as many as a message bears."""
        names = self.which(status)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"{self.says}: {', '.join(names[:NAMED])}{more}" if names else self.says


def _engine(test: Callable[[Status, Config], bool]) -> Callable[[Status, Config], bool]:
    """Judge only a living engine: a silent one has its own alarm, and its last values are old."""
    return lambda status, config: status.engine is not None and status.engine.alive and test(status, config)


def _state(name: str) -> Callable[[Status, Config], bool]:
    return _engine(lambda status, _: status.engine is not None and status.engine.state == name)


def _day_loss(status: Status, config: Config) -> bool:
    engine = status.engine
    if engine is None or engine.day_pnl_usdt is None or not engine.equity_usdt:
        return False
    return -engine.day_pnl_usdt >= 0.8 * config.risk.max_day_loss * (engine.equity_usdt - engine.day_pnl_usdt)


def _lag(status: Status, _: Config) -> bool:
    return (status.store.lag_records or 0) > 100_000


def _market_silent(status: Status, _: Config) -> bool:
    engine = status.engine
    return engine is not None and ((engine.mark_age_ms or 0) > SILENT_MS or bool(engine.blind))


ALARMS: tuple[Alarm, ...] = (
    Alarm("engine_silent", "critical", "the engine has not beaten", 10,
          lambda s, _: s.engine is not None and not s.engine.alive),
    Alarm("engine_halted", "critical", "the engine is halted", 0, _state("halted")),
    Alarm("reduce_only", "warning", "only exits are allowed", 0, _state("reduce_only")),
    Alarm("unprotected", "critical", "a live position has no stop on the exchange", 5,
          _engine(lambda s, _: s.engine is not None and s.engine.unprotected > 0)),
    Alarm("market_silent", "critical", "no mark prices arrive: stops cannot be judged here", 5, _engine(_market_silent),
          lambda s: s.engine.blind if s.engine is not None and s.engine.mark_age_ms <= SILENT_MS else []),
    Alarm("journal_full", "critical", "the journal's disk is full: entries are closed", 0,
          _engine(lambda s, _: s.engine is not None and s.engine.journal_full)),
    Alarm("day_loss", "critical", "80 % of the day's loss limit is used", 0, _engine(_day_loss)),
    Alarm("drawdown", "critical", "80 % of the drawdown limit is used", 0,
          _engine(lambda s, c: s.engine is not None and (s.engine.drawdown or 0) >= 0.8 * c.risk.max_drawdown)),
    Alarm("no_model", "warning", "no model is active: nothing can be decided", 60,
          _engine(lambda s, _: s.engine is not None and not s.engine.model_id)),
    Alarm("symbols_halted", "warning", "symbols are halted", 60,
          _engine(lambda s, _: s.engine is not None and s.engine.symbols_halted > 0),
          lambda s: s.engine.halted if s.engine is not None else []),
    Alarm("clock_offset", "warning", "our clock and the exchange's differ by more than a second", 60,
          _engine(lambda s, c: s.engine is not None and c.exchange.clock == "wall"
                  and abs(s.engine.clock_offset_ms or 0) > 1_000)),
    Alarm("compilations", "warning", "the engine compiled while trading: latency is not what was measured", 0,
          _engine(lambda s, _: s.engine is not None and s.engine.counters.compilations > 0)),
    Alarm("store_down", "warning", "the store does not answer; the journal keeps everything meanwhile", 30,
          lambda s, _: not s.store.ok),
    Alarm("tail_behind", "warning", "more than 100,000 journal records are not stored yet", 60, _lag),
)  # fmt: skip
"""Every alarm; each has a page in docs/ops/runbook and a rule in docs/ops/alerts.yml."""


@dataclass
class Standing:
    """Which alarms stand now: whose condition has held for as long as it must. One for all who ask."""

    config: Config
    clock: Callable[[], float] = time.monotonic
    _since_s: dict[str, float] = field(default_factory=dict)

    def look(self, status: Status) -> list[Alarm]:
        """Return the alarms that stand, in the order of `ALARMS`."""
        now_s = self.clock()
        holding = [alarm for alarm in ALARMS if alarm.holds(status, self.config)]
        self._since_s = {alarm.name: self._since_s.get(alarm.name, now_s) for alarm in holding}
        return [alarm for alarm in holding if now_s - self._since_s[alarm.name] >= alarm.for_s]
