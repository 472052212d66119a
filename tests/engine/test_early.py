"""The sink of a start: guards at once, closed bars in order once the feature states are there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from engine.clock import EventClock
from engine.early import BARS_PER_TURN, EarlySink
from kernels.records import BAR

MINUTE = 60_000
T0 = 1_800_000_000_000 // MINUTE * MINUTE


class Market:
    """Records what reaches the market sink and its core."""

    def __init__(self) -> None:
        self.guarded: list[float] = []
        self.marks: list[float] = []
        self.fundings: list[int] = []
        self.bars: list[tuple[int, int, int]] = []
        self.books_wanted = ()
        self.core = SimpleNamespace(clock=EventClock(), symbols=["A", "B"], on_mark=self._guard)
        self.panel = SimpleNamespace(newest_open_ms=[[T0, -1], [-1, -1], [-1, -1]])

    def _guard(self, symbol: int, price: float, *rest: Any) -> None:
        self.guarded.append(price)

    def on_mark(self, symbol: int, price: float, *rest: Any) -> None:
        self.marks.append(price)

    def on_next_funding(self, symbol: int, next_funding_ms: int, event_ms: int) -> None:
        self.fundings.append(next_funding_ms)

    def take_bar(self, symbol: int, timeframe: int, bar: Any, late_ms: int, recv_ns: int) -> None:
        self.bars.append((symbol, int(bar["open_ms"]), late_ms))


async def test_marks_guard_at_once_and_bars_wait_their_turn() -> None:
    market = Market()
    early = EarlySink(market)  # type: ignore[arg-type]
    row = np.zeros(1, BAR)
    for minute in range(BARS_PER_TURN + 5):
        row["open_ms"] = T0 + minute * MINUTE
        early.on_bar(0, 0, row[0], int(row["open_ms"][0]) + MINUTE + 70, 1)  # borrowed: overwritten by the next one
    early.on_mark(0, 100.0, 0.0, T0 + 1, T0, 1)
    early.on_mark(0, 101.0, 0.0, T0 + 1, T0, 1)
    early.on_mark(0, 102.0, 0.0, T0 + 2, T0, 1)
    assert market.guarded == [100.0, 101.0, 102.0]
    assert not market.bars and not market.marks and not market.fundings
    early.hand_on_fundings()
    assert market.fundings == [T0 + 1, T0 + 2]
    early.on_mark(0, 103.0, 0.0, T0 + 2, T0, 1)
    assert market.marks == [103.0] and len(market.guarded) == 3
    await early.release()
    assert market.bars == [(0, T0 + minute * MINUTE, 70) for minute in range(1, BARS_PER_TURN + 5)], (
        "all but the one that the history had, in order, late by what they were when they came"
    )
