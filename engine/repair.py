"""Fetches the bars that did not come over the stream and hands them on in time order, a few per tick."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ExchangeError
from engine.market.assistant import Assistant
from engine.market.helper import decode_bars
from engine.market.series import MAX_FILLED, filled
from engine.sink import MarketSink
from kernels.records import TIMEFRAME_MS, BarFlag

log = logging.getLogger(__name__)
REST_CLOSED_MS = 3_000  # REST counts a bar as closed only this long after its close
ASK_AGAIN_MS = 5_000  # of exchange time
BARS_PER_TICK = 16  # at some 25 µs each: the loop stays below a millisecond
RANGES_PER_QUESTION = 64


class Repairer:
    """Watches every series' newest bar. Entries of a symbol wait while one of its bars is missing; stops never do."""

    def __init__(self, assistant: Assistant, sink: MarketSink, symbols: list[str]) -> None:
        self._assistant, self._sink, self._symbols = assistant, sink, symbols
        self._queue: deque[tuple[int, int, npt.NDArray[Any]]] = deque()
        self._asking: asyncio.Task[None] | None = None
        self._asked_ms = 0
        self._suspect: set[int] = set()
        self.repaired = 0

    def blocks(self, symbol: int) -> bool:
        """Whether the symbol's window is incomplete."""
        return symbol in self._suspect

    def tick(self, now_ms: int) -> None:
        """Hand on what has been fetched; ask for what is missing."""
        for _ in range(min(BARS_PER_TICK, len(self._queue))):
            symbol, timeframe, bar = self._queue.popleft()
            self._sink.on_repaired(symbol, timeframe, bar)
            self.repaired += 1
        if self._queue or self._asking is not None:
            return
        if self._suspect and now_ms - self._asked_ms < ASK_AGAIN_MS:
            return
        ranges = self._missing(now_ms)
        self._suspect = {symbol for symbol, *_ in ranges}
        if ranges:
            self._asked_ms = now_ms
            self._asking = asyncio.ensure_future(self._ask(ranges[:RANGES_PER_QUESTION]))

    def _missing(self, now_ms: int) -> list[tuple[int, int, int, int]]:
        """Return (symbol, timeframe, first, last open time) of what should be there: 1m first, positions first."""
        panel = self._sink.panel
        assert panel is not None
        slot_of = self._sink.core.desk.positions.slot_of
        out = []
        for timeframe, step_ms in enumerate(TIMEFRAME_MS):
            due_ms = (now_ms - REST_CLOSED_MS) // step_ms * step_ms - step_ms
            newest = panel.newest_open_ms[timeframe]
            for symbol, have_ms in enumerate(newest):
                if 0 <= have_ms < due_ms:
                    out.append((symbol, timeframe, have_ms + step_ms, due_ms))
        out.sort(key=lambda part: (part[1], part[0] != panel.btc, slot_of[part[0]] < 0))
        return out

    async def _ask(self, ranges: list[tuple[int, int, int, int]]) -> None:
        question = [
            [self._symbols[symbol], timeframe, from_ms, to_ms + TIMEFRAME_MS[timeframe]]
            for symbol, timeframe, from_ms, to_ms in ranges
        ]
        try:
            answer = await self._assistant.ask("bars", ranges=question)
        except ExchangeError as error:
            log.warning("missing bars could not be fetched: %s", error)
            return
        finally:
            self._asking = None
        found: list[tuple[int, int, npt.NDArray[Any]]] = []
        for (symbol, timeframe, from_ms, to_ms), text in zip(ranges, answer["bars"], strict=True):
            if text is not None:
                bars = decode_bars(text)
                self._sink.note_repair(symbol, timeframe, from_ms, to_ms, len(bars))
                found += [(symbol, timeframe, bar) for bar in self._whole(symbol, timeframe, from_ms, to_ms, bars)]
        panel = self._sink.panel
        assert panel is not None
        found.sort(key=lambda item: (int(item[2]["open_ms"]) + TIMEFRAME_MS[item[1]], item[0] != panel.btc))
        self._queue.extend(found)

    def _whole(self, symbol: int, timeframe: int, from_ms: int, to_ms: int, bars: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the range's bars; what the exchange does not have becomes FILLED bars, up to 60 in a row."""
        panel, step_ms = self._sink.panel, TIMEFRAME_MS[timeframe]
        assert panel is not None
        file = panel.files[timeframe][symbol]
        previous: Any = file.slots[(file.count - 1) % file.capacity]
        out, expected_ms = [], from_ms
        bars["flags"] |= np.uint32(BarFlag.REST)
        for bar in bars:
            open_ms = int(bar["open_ms"])
            if 0 < (open_ms - expected_ms) // step_ms <= MAX_FILLED:
                out.append(filled(previous, expected_ms, open_ms, timeframe))
            out.append(np.array([bar], bars.dtype))
            previous, expected_ms = bar, open_ms + step_ms
        if 0 < (to_ms + step_ms - expected_ms) // step_ms <= MAX_FILLED:
            out.append(filled(previous, expected_ms, to_ms + step_ms, timeframe))
        return np.concatenate(out) if out else bars
