"""What the engine process says: events as log lines (a name and its values), and messages for other programs."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

import orjson


class EventLog:
    """Logs an event's name followed by its values as key=value."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, event: str, **values: Any) -> None:
        """Log what happened."""
        self._logger.info("%s", _line(event, values))

    def warning(self, event: str, **values: Any) -> None:
        """Log what a person should see."""
        self._logger.warning("%s", _line(event, values))

    def error(self, event: str, **values: Any) -> None:
        """Log what went wrong."""
        self._logger.error("%s", _line(event, values))


def _line(event: str, values: dict[str, Any]) -> str:
    return " ".join([event, *(f"{name}={value}" for name, value in values.items())])


def get_logger(name: str) -> EventLog:
    """Return the event log of a module."""
    return EventLog(logging.getLogger(name))


def to_stderr() -> None:
    """Let a process log to its standard error; standard output is for what other programs read."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def say(**message: Any) -> None:
    """Tell whoever started this process, one JSON object per line of standard output; nobody need be there to read."""
    with contextlib.suppress(OSError):
        print(orjson.dumps(message).decode(), flush=True)
