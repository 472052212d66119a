"""What `ta up` tells the operator of the engine: that it is ready and what it waits for, or why it is not ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from control.cli.up import LATE_S, Ready
from engine.config import Config


@dataclass
class Child:
    """An engine as the supervisor sees it."""

    ready_line: str = ""

    def tail(self, lines: int) -> str:
        """Return the end of a log."""
        return f"{lines} lines: Name or service not known"


@pytest.mark.parametrize(
    ("mode", "control", "state"),
    [
        ("shadow", {}, "it trades"),
        ("shadow", {"auto_start": False}, "`ta start` opens one"),
        ("live", {}, "`ta start` opens one"),
        ("live", {"live_auto_start": True}, "it trades"),
    ],
)
def test_ready_is_told_once_with_what_is_to_be_done(mode: Any, control: dict[str, Any], state: str) -> None:
    child = Child()
    told = Ready(child, Config(mode=mode, control=control), 100.0)  # type: ignore[arg-type]
    assert told.news(101.0) == ""
    child.ready_line = "{}"
    said = told.news(104.0)
    assert "ready in 4 s" in said and mode in said and state in said
    assert told.news(105.0) == ""


def test_an_engine_that_does_not_get_ready_is_told_once_with_its_log_and_so_is_its_end() -> None:
    child = Child()
    told = Ready(child, Config(), 0.0)  # type: ignore[arg-type]
    assert told.news(LATE_S) == ""
    said = told.news(LATE_S + 1)
    assert "not ready" in said and "Name or service not known" in said and "ta doctor" in said
    assert told.news(LATE_S + 100) == ""
    child.ready_line = "{}"
    assert "ready in" in told.news(LATE_S + 200)
