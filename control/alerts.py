"""Telling alarms: once when one has held for its while, again rarely, and once when it ends."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from control.alarms import ALARMS, Alarm
from control.routes.status import current_status
from control.services import Services
from control.shapes import Status
from engine.config import Config

PERIOD_S = 5.0
REPEAT_S = 6 * 3_600.0  # a standing alarm is told again this often
AGAIN_S = 300.0  # and so often while not every address took it
logger = structlog.get_logger("control.alerts")


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
