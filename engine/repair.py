"""Repairs the bars that did not come over the stream, and checks what did: a few per tick, REST in the helper."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ExchangeError
from engine.market import gaps
from engine.market.assistant import Assistant
from engine.market.gaps import GapKind, Range
from engine.market.lines import decode_bars
from engine.market.panel import Refold
from engine.market.series import unbroken
from engine.sink import MarketSink
from kernels.records import TIMEFRAME_MS, BarFlag

log = logging.getLogger(__name__)
BARS_PER_TICK = 16  # at some 25 µs each: the loop stays below a millisecond
CHECKS_PER_TICK = 16
RANGES_PER_QUESTION = 64


class Repairer:
    """Watches every series' newest bar. Entries of a symbol wait while one of its bars is missing; stops never do."""

    def __init__(self, assistant: Assistant, sink: MarketSink, symbols: list[str], btc: int = 0) -> None:
        self._assistant, self._sink, self._symbols = assistant, sink, symbols
        self._watch = gaps.GapWatch(len(symbols), btc)
        self._btc = btc
        self._queue: deque[tuple[int, int, npt.NDArray[Any]]] = deque()
        self._asking: asyncio.Task[None] | None = None
        self.repaired = 0
        self.filled = 0
        self.corrected = 0
        self.disagreements = 0
        self.restarts = 0
        self.failed_questions = 0

    def blocks(self, symbol: int) -> bool:
        """Whether the symbol's window is incomplete."""
        return symbol in self._watch.suspect

    def look_again(self) -> None:
        """Look for missing bars at the next tick, without waiting for the next minute: a connection was lost."""
        self._watch.look_again()

    def status(self) -> dict[str, Any]:
        """Return what has been repaired and what is still missing."""
        return {
            "incomplete": sorted(self._symbols[symbol] for symbol in self._watch.suspect),
            "queued": len(self._queue),
            "repaired": self.repaired,
            "filled": self.filled,
            "corrected": self.corrected,
            "disagreements": self.disagreements,
            "restarts": self.restarts,
            "failed_questions": self.failed_questions,
        }

    def tick(self, now_ms: int) -> None:
        """Hand on what has been fetched, check larger bars, ask for what is missing or due a second time."""
        for _ in range(min(BARS_PER_TICK, len(self._queue))):
            symbol, timeframe, bar = self._queue.popleft()
            self._sink.on_repaired(symbol, timeframe, bar)
            self.repaired += 1
        self._check_larger(now_ms)
        if self._queue or self._asking is not None:
            return
        panel, desk = self._sink.panel, self._sink.core.desk
        assert panel is not None
        slot_of = desk.positions.slot_of
        ranges = self._watch.due(panel.newest_open_ms, now_ms, lambda s: slot_of[s] >= 0, RANGES_PER_QUESTION)
        if ranges:
            for part in ranges:
                self._watch.asked(part, now_ms)
            self._asking = asyncio.ensure_future(self._ask(ranges, self._repair))
            return
        again = self._watch.rereads_due(now_ms, RANGES_PER_QUESTION)
        if again:
            self._asking = asyncio.ensure_future(self._ask(again, self._compare))

    async def _ask(self, ranges: list[Range], use: Any) -> None:
        question = [[self._symbols[part.symbol], part.timeframe, part.from_ms, part.to_ms] for part in ranges]
        try:
            answer = await self._assistant.ask("bars", ranges=question)
            for part, text in zip(ranges, answer["bars"], strict=True):
                if text is not None:
                    await use(part, decode_bars(text), int(answer["server_ms"]))
        except ExchangeError as error:
            self.failed_questions += 1
            log.warning("missing bars could not be fetched: %s", error)
        except Exception:  # nobody awaits this task: a fault must be heard, and the question is asked again
            self.failed_questions += 1
            log.exception("missing bars could not be repaired")
        finally:
            self._asking = None
        self._queue = deque(sorted(self._queue, key=self._turn))

    def _turn(self, item: tuple[int, int, npt.NDArray[Any]]) -> tuple[int, int, bool]:
        """Return by what queued bars are ordered: the close; then the larger bar, then BTCUSDT's.

        A 1m bar brings on all that were kept behind it, and a decision among those needs the larger bars before it.
        """
        symbol, timeframe, bar = item
        return int(bar["open_ms"]) + TIMEFRAME_MS[timeframe], -timeframe, symbol != self._btc

    async def _repair(self, part: Range, bars: npt.NDArray[Any], server_ms: int) -> None:
        """Queue what an answer brings for a range; where it proves too long a hole, start the fold behind it."""
        panel, (symbol, timeframe, from_ms, to_ms) = self._sink.panel, part
        assert panel is not None
        if not len(bars):
            return
        file = panel.files[timeframe][symbol]
        previous = file.slots[(file.count - 1) % file.capacity]
        if gaps.unbridgeable(part, bars):
            await self._restart(part, bars)
            return
        whole, count = gaps.usable(part, bars, previous)
        self._sink.note_gap(part, GapKind.REPAIRED, f"REST had {len(bars)}", int(BarFlag.REST))
        if count:
            self.filled += count
            self._sink.note_gap(part, GapKind.FILLED, f"{count} absent at the exchange", int(BarFlag.FILLED))
        self._queue.extend((symbol, timeframe, bar) for bar in whole)
        self._watch.answered(Range(symbol, timeframe, from_ms, min(to_ms, server_ms)), server_ms)

    async def _restart(self, part: Range, bars: npt.NDArray[Any]) -> None:
        """Fold the run behind a hole that is too long to be filled, on a spare state, and put it in place."""
        panel = self._sink.panel
        assert panel is not None
        run, _ = unbroken(bars, part.timeframe)
        btc_bars = None if part.symbol == self._btc else panel.files[part.timeframe][self._btc].ordered()
        refold = await asyncio.to_thread(Refold(part.symbol, part.timeframe, run, btc_bars).run)
        self.restarts += 1
        self._sink.on_restarted(part, run)
        panel.swap(refold, self._sink.core.clock.now_ms())

    async def _compare(self, part: Range, bars: npt.NDArray[Any], server_ms: int) -> None:
        """Compare a second reading with what was folded; a difference is a revision and changes no feature."""
        panel = self._sink.panel
        assert panel is not None
        seen = panel.files[part.timeframe][part.symbol].ordered()
        where = {int(open_ms): index for index, open_ms in enumerate(seen["open_ms"])}
        for bar in bars:
            index = where.get(int(bar["open_ms"]))
            if index is not None and gaps.differs(seen[index], bar):
                self.corrected += 1
                version = gaps.rest_version(bar, server_ms)
                self._sink.revised(part.symbol, part.timeframe, version[0], int(BarFlag.REST))

    def _check_larger(self, now_ms: int) -> None:
        """Compare 15m and 1h bars with their 1m bars once those are there; a minute later at the latest, or not."""
        pending, panel = self._sink.larger, self._sink.panel
        assert panel is not None
        for _ in range(min(CHECKS_PER_TICK, len(pending))):
            symbol, timeframe, bar = pending.popleft()
            open_ms = int(bar["open_ms"])
            minutes = gaps.minutes_of(panel.files[0][symbol], open_ms, timeframe)
            if minutes is None:
                if now_ms < open_ms + TIMEFRAME_MS[timeframe] + gaps.REREAD_MS:
                    pending.append((symbol, timeframe, bar))
                continue
            fault = gaps.disagreement(bar, minutes)
            if fault:
                self.disagreements += 1
                part = Range(symbol, timeframe, open_ms, open_ms + TIMEFRAME_MS[timeframe])
                self._sink.note_gap(part, GapKind.DISAGREES, fault, int(np.uint32(bar["flags"])))
