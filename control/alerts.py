"""Alarms: conditions over the status, held for a while, told once, repeated rarely, and taken back when they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from control.routes.status import current_status
from control.services import Services
from control.shapes import Status
from engine.config import Config

PERIOD_S = 5.0
REPEAT_S = 6 * 3_600.0  # a standing alarm is told again this often
NAMED = 20  # symbols in one message
AGAIN_S = 300.0  # and so often while not every address took it
logger = structlog.get_logger("control.alerts")


@dataclass(frozen=True)
class Alarm:
    """One condition. `holds` sees the status and the configuration; it must be true for `for_s` before it is told.

    which: what it concerns, named after `says` when it is told.
    """

    name: str
    severity: str
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


ALARMS: tuple[Alarm, ...] = (
    Alarm("engine_silent", "critical", "the engine has not beaten", 10,
          lambda s, _: s.engine is not None and not s.engine.alive),
    Alarm("engine_halted", "critical", "the engine is halted", 0, _state("halted")),
    Alarm("reduce_only", "warning", "only exits are allowed", 0, _state("reduce_only")),
    Alarm("unprotected", "critical", "a live position has no stop on the exchange", 5,
          _engine(lambda s, _: s.engine is not None and s.engine.unprotected > 0)),
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


class Notifier(Protocol):
    """Sends one message; returns whether every address took it. Blocking: called in a thread."""

    def __call__(self, title: str, body: str) -> bool:
        """Send."""
        ...


def apprise_notifier(config: Config) -> Notifier | None:
    """Return a notifier for the configured addresses (webhook, Telegram, e-mail, …), or None if there are none.

    Raises ValueError naming the position, never the content, of an address that apprise does not understand.
    """
    import apprise

    sender = apprise.Apprise()
    for position, address in enumerate(config.secrets.alert_urls, start=1):
        if not sender.add(address.get_secret_value()):
            raise ValueError(f"secrets.alert_urls: address {position} is not one that apprise understands")
    if not len(sender):
        return None
    kinds = {"critical": "failure", "warning": "warning", "ended": "success"}  # what receivers colour and route by

    def notify(title: str, body: str) -> bool:
        kind = kinds.get(title.partition("]")[0].removeprefix("["), "info")
        return bool(sender.notify(title=title, body=body, notify_type=apprise.NotifyType(kind)))

    return notify


@dataclass
class _Condition:
    since_s: float | None = None
    told_s: float | None = None


@dataclass
class Judge:
    """Turns conditions into messages: pure, the time is an argument."""

    config: Config
    _states: dict[str, _Condition] = field(default_factory=dict)

    def look(self, status: Status, now_s: float) -> list[tuple[Alarm, bool]]:
        """Return what must be told now: (alarm, True) begins or still stands, (alarm, False) has ended."""
        news = []
        for alarm in ALARMS:
            kept = self._states.setdefault(alarm.name, _Condition())
            if not alarm.holds(status, self.config):
                if kept.told_s is not None:
                    news.append((alarm, False))
                self._states[alarm.name] = _Condition()
                continue
            kept.since_s = now_s if kept.since_s is None else kept.since_s
            due = kept.told_s is None or now_s - kept.told_s >= REPEAT_S
            if due and now_s - kept.since_s >= alarm.for_s:
                kept.told_s = now_s
                news.append((alarm, True))
        return news

    def not_told(self, alarm: Alarm, now_s: float) -> None:
        """Note that a message did not arrive: it is sent again soon, not after six hours."""
        kept = self._states[alarm.name]
        if kept.told_s is not None:
            kept.told_s = now_s - REPEAT_S + AGAIN_S


async def watch(services: Services, notify: Notifier | None) -> None:
    """Look at the status until cancelled; log every alarm, and send it where somebody is to be told."""
    judge = Judge(services.config)
    while True:
        status = current_status(services)
        for alarm, stands in judge.look(status, time.monotonic()):
            log, says = (logger.error, alarm.message(status)) if stands else (logger.info, alarm.says)
            log("alarm" if stands else "alarm ended", alarm=alarm.name, severity=alarm.severity, says=says)
            services.hub.publish("log", {"alarm": alarm.name, "stands": stands, "says": says}, status.now_ms)
            outcome = "logged"
            if notify is not None:
                kind = alarm.severity if stands else "ended"
                title = f"[{kind}] {alarm.name} ({services.config.engine_id}, {status.mode})"
                body = f"{says}\nRun-book: docs/ops/runbook/{alarm.name}.md"
                try:
                    sent = await asyncio.to_thread(notify, title, body)
                except Exception as error:
                    logger.error("notification", alarm=alarm.name, error=repr(error))
                    sent = False
                outcome = "sent" if sent else "failed"
                if not sent:
                    judge.not_told(alarm, time.monotonic())
            services.metrics.alerts.labels(alarm.name, outcome).inc()
        await asyncio.sleep(PERIOD_S)
