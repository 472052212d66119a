"""docs/trading.md shows the table that the engine runs on."""

from __future__ import annotations

from pathlib import Path

from engine.trading.orders import TRANSITIONS
from engine.trading.page import drawing, renew

PAGE = Path(__file__).resolve().parents[3] / "docs" / "trading.md"


def test_the_drawing_is_current_and_complete() -> None:
    text = PAGE.read_text()
    assert renew(text) == text, "write renew(text) back to the page"
    assert sum(line.count(",") + 1 for line in drawing().splitlines() if ": " in line) == len(TRANSITIONS)
