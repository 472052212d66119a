"""Structured logs: one line per event, as JSON for machines or coloured for a terminal, with secrets redacted."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

SECRET_KEYS = re.compile(r"token|secret|password|passwd|api_?key|authorization|cookie|signature|csrf", re.IGNORECASE)
SECRET_TEXT = re.compile(
    r"(ta_[0-9a-f]{8}_)[A-Za-z0-9_-]{8,}"  # our tokens: the id may stay
    r"|((?:signature|api[_-]?key|token|password|secret)=)[^&\s\"']+"
    r"|(://[^:/\s]+:)[^@/\s]+(?=@)"  # credentials in an address
    r"|(Bearer\s+)[^\s\"']+",
    re.IGNORECASE,
)
HIDDEN = "[redacted]"
TAIL_BYTES = 512 << 10  # of a log, read at most; 2,000 lines of the engine are about half of it


def redact(value: Any) -> Any:
    """Return `value` with everything that looks like a secret replaced, in nested containers too."""
    if isinstance(value, str):
        return SECRET_TEXT.sub(lambda match: next((part for part in match.groups() if part), "") + HIDDEN, value)
    if isinstance(value, dict):
        return {key: HIDDEN if SECRET_KEYS.search(str(key)) else redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact(item) for item in value)
    return value


def _redacted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: HIDDEN if SECRET_KEYS.search(key) else redact(value) for key, value in event.items()}


def configure(as_json: bool | None = None, level: int = logging.INFO) -> None:
    """Set structlog and the standard library's logging up for a process; JSON unless stderr is a terminal."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    machine = not sys.stderr.isatty() if as_json is None else as_json
    ending: list[Any] = (
        [structlog.processors.format_exc_info, _redacted, structlog.processors.JSONRenderer()]
        if machine
        else [structlog.processors.format_exc_info, _redacted, structlog.dev.ConsoleRenderer()]
    )
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    foreign = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(foreign)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))


def tail(path: Path, lines: int) -> list[str]:
    """Return the last `lines` whole lines of a file within its last `TAIL_BYTES`; none where there is no such file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read(TAIL_BYTES)
    except OSError:
        return []
    found = text.decode(errors="replace").splitlines()
    return found[1 if size > TAIL_BYTES else 0 :][-lines:]
