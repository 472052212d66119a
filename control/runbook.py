"""The run-book: the page of each alarm, as docs/ops/runbook has it."""

from __future__ import annotations

from pathlib import Path

from control.alarms import ALARMS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "ops" / "runbook"
NAMES = frozenset(alarm.name for alarm in ALARMS)


def text(name: str) -> str | None:
    """Return the page of an alarm in Markdown; None for no alarm of ours, and where the pages are not installed."""
    if name not in NAMES:
        return None
    try:
        return (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    except OSError:
        return None
