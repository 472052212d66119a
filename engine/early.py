"""Stands before the market sink at start: the guards see every mark price, closed bars wait for the feature states."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from engine.sink import MarketSink
from kernels.closing import MAX_LATE_MS
from kernels.records import TIMEFRAME_MS

MAX_BARS = 16_384  # 600 symbols for 20 minutes; older ones are dropped, and repaired over REST like any gap
BARS_PER_TURN = 16  # at some 25 µs each: the loop stays below a millisecond


class EarlySink:
    """What the decoder calls until `release` has handed everything on; then the market sink takes its place."""

    def __init__(self, sink: MarketSink) -> None:
        self._sink = sink
        self.books_wanted = sink.books_wanted
        self._bars: deque[tuple[int, int, Any, int, int]] = deque(maxlen=MAX_BARS)
        self._fundings: list[tuple[int, int, int]] = []
        self._calendar = False  # whether there is a panel that keeps the funding calendar
        self._next_funding = [0] * len(sink.core.symbols)

    def on_bar(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        """Keep a closed bar."""
        clock = self._sink.core.clock
        clock.observe(event_ms)
        late_ms = clock.now_ms() - int(bar["open_ms"]) - TIMEFRAME_MS[timeframe]
        self._bars.append((symbol, timeframe, bar.copy(), min(max(late_ms, 0), MAX_LATE_MS), recv_ns))

    def on_revision(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        """Record a second, differing version of a closed bar."""
        self._sink.on_revision(symbol, timeframe, bar, event_ms, recv_ns)

    def on_mark(
        self, symbol: int, price: float, funding_rate: float, next_funding_ms: int, event_ms: int, recv_ns: int
    ) -> None:
        """Take a mark price: the guards now, the funding calendar when there is a panel that keeps it."""
        if self._calendar:
            self._sink.on_mark(symbol, price, funding_rate, next_funding_ms, event_ms, recv_ns)
            return
        self._sink.core.on_mark(symbol, price, funding_rate, next_funding_ms, event_ms, recv_ns)
        if next_funding_ms != self._next_funding[symbol]:
            self._next_funding[symbol] = next_funding_ms
            self._fundings.append((symbol, next_funding_ms, event_ms))

    def on_book(
        self, symbol: int, bid: float, bid_qty: float, ask: float, ask_qty: float, update_id: int, event_ms: int,
        recv_ns: int,
    ) -> None:  # fmt: skip
        """Waiting shadow orders may meet the book."""
        self._sink.on_book(symbol, bid, bid_qty, ask, ask_qty, update_id, event_ms, recv_ns)

    def hand_on_fundings(self) -> None:
        """Give the panel, in order, the settlement times that came before it; at once when it is in place."""
        for funding in self._fundings:
            self._sink.on_next_funding(*funding)
        self._fundings.clear()
        self._calendar = True

    async def release(self) -> None:
        """Hand the kept bars on, those that the history did not have; a few per turn of the loop."""
        panel = self._sink.panel
        while self._bars:
            for _ in range(min(BARS_PER_TURN, len(self._bars))):
                symbol, timeframe, bar, late_ms, recv_ns = self._bars.popleft()
                if int(bar["open_ms"]) > panel.newest_open_ms[timeframe][symbol]:
                    self._sink.take_bar(symbol, timeframe, bar, late_ms, recv_ns)
            await asyncio.sleep(0)
