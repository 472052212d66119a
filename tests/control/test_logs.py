"""Nothing that looks like a secret reaches a log line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from control import logs


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ("Authorization: Bearer abc.def", "abc.def"),
        ("token ta_0123abcd_S3cretS3cretS3cret", "S3cretS3cret"),
        ("POST /order?symbol=X&signature=deadbeef&x=1", "deadbeef"),
        ("clickhouse://user:hunter2@host:8123/ta", "hunter2"),
        ({"nested": [{"api_key": "k3y"}]}, "k3y"),
        ({"password": {"deep": "hunter2"}}, "hunter2"),
    ],
)
def test_secrets_are_replaced(given: Any, gone: str) -> None:
    text = json.dumps(logs.redact(given))
    assert gone not in text and logs.HIDDEN in text


def test_what_is_no_secret_stays() -> None:
    kept = {"symbol": "BTCUSDT", "price": 1.5, "note": "signature moves", "rows": [1, 2]}
    assert logs.redact(kept) == kept


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Logging of this test's own: a handler left behind would write later tests' lines to a stream that is closed."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("own_logging")
def test_log_lines_are_json_without_secrets(capsys: Any) -> None:
    logs.configure(as_json=True)
    structlog.get_logger("x").error("failed", token="ta_x", url="ws://u:p4ss@h/", detail="fine")
    line = json.loads(capsys.readouterr().err.strip())
    assert line["token"] == logs.HIDDEN and "p4ss" not in line["url"]
    assert line["detail"] == "fine" and line["level"] == "error" and line["timestamp"].endswith("Z")
