"""Busy polling: the loop never sleeps in epoll, and a made-up market keeps the path from frame to decision warm.

For a machine with a core to spare. What a sleeping process loses is not the wake-up alone: after some milliseconds
its code and tables have left the caches, and the same decision takes several times as long.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.assemble import Preamble, wire
from engine.clock import EventClock
from engine.config import Config
from engine.core import Core, Predictor
from engine.journal import Writer
from engine.market.panel import Panel
from engine.market.rings import BarFile, bar_path
from engine.market.wire import Decoder
from engine.restore import Restored
from engine.sink import MarketSink
from kernels.records import BAR, INSTRUMENT, MAX_RECORD_BYTES, TIMEFRAME_MS, TIMEFRAMES, Kind

WARM_EVERY_NS = 500_000  # a frame that comes meanwhile waits for half a decision in one case of forty
START_MS = 1_000_000_800_000  # of the made-up market: a whole hour, as early as the decoder believes
LAST_MS = 9_999_000_000_000  # as late; reached after some 20 hours
HISTORY = 260
SYMBOL = "BTCUSDT"


class _Nowhere(Writer):
    """A journal that keeps nothing."""

    def __init__(self, config: Config) -> None:
        self.engine_id, self.run_id, self.seq = config.engine_id, 1, 0
        self.full, self.dropped = False, 0
        self.counts = {kind: 0 for kind in Kind}
        self.words = np.zeros(MAX_RECORD_BYTES // 8, np.uint64)

    def write(self, kind: Kind, mono_ns: int, time_ms: int, *fields: Any) -> int:
        """Count a record."""
        self.seq += 1
        return self.seq

    def place(self, kind: Kind) -> int:
        """Return the beginning of `words`."""
        return 0

    def placed(self, kind: Kind) -> int:
        """Count a record."""
        self.seq += 1
        return self.seq

    def flush(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing is open."""


class Warmth:
    """A core of one made-up symbol, without a session: its decisions run the engine's code and model, and do nothing.

    predictor: set it to the model that serves. No record, order or latency of it reaches anything.
    """

    def __init__(self, config: Config) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ta-warm-")
        folder, clock = Path(self._folder.name), EventClock()
        clock.observe(START_MS)
        self._now_ms = START_MS
        self._write_history(folder)
        self.decoder = Decoder([SYMBOL], None, START_MS)  # type: ignore[arg-type]

        def open_journal(preamble: Preamble) -> _Nowhere:
            return _Nowhere(config)

        instruments = np.zeros(1, INSTRUMENT)
        instruments["tick_size"] = instruments["step_size"] = 0.01
        shadow = config.model_copy(update={"mode": "shadow"})
        parts = wire(shadow, [SYMBOL], instruments, self.decoder.book, clock, Restored(), open_journal)
        self.core = parts.core
        sink = MarketSink(parts.core, parts.gateway, [])
        self.decoder.sink = sink
        self._panel = Panel(folder, [SYMBOL], sink.on_vector, warmup_bars=HISTORY, btc_warmup_bars=HISTORY)
        self._panel.seed()
        sink.panel = self._panel

    def _write_history(self, folder: Path) -> None:
        for timeframe, step_ms in enumerate(TIMEFRAME_MS):
            bars = np.zeros(HISTORY, BAR)
            bars["open_ms"] = START_MS - step_ms * np.arange(HISTORY, 0, -1)
            for name, value in (("open", 100.0), ("high", 100.2), ("low", 99.9), ("close", 100.1)):
                bars[name] = value + np.arange(HISTORY) % 7 * 0.1
            bars["volume"], bars["quote_volume"], bars["taker_volume"], bars["trades"] = 10.0, 1_000.0, 5.0, 50.0
            file = BarFile.create(bar_path(folder, SYMBOL, timeframe), SYMBOL, timeframe, 2_048)
            file.rewrite(bars)
            file.close()

    def serve(self, predictor: Predictor | None) -> None:
        """Warm this model from now on."""
        if predictor is not self.core.predictor:
            self.core.predictor = predictor

    def run(self) -> None:
        """Take one made-up minute from its closing frame to a decision."""
        open_ms, self._now_ms = self._now_ms, self._now_ms + TIMEFRAME_MS[0]
        feed, now_ns = self.decoder.feed, time.monotonic_ns()
        for timeframe in range(len(TIMEFRAMES) - 1, 0, -1):
            if self._now_ms % TIMEFRAME_MS[timeframe] == 0:
                feed(self._frame(timeframe, self._now_ms - TIMEFRAME_MS[timeframe]), now_ns)
        feed(self._frame(0, open_ms), now_ns)

    def _frame(self, timeframe: int, open_ms: int) -> bytes:
        close_ms = open_ms + TIMEFRAME_MS[timeframe]
        return (
            b'{"e":"kline","E":%d,"s":"BTCUSDT","k":{"t":%d,"T":%d,"s":"BTCUSDT","i":"%b","L":%d,"o":"100.00",'
            b'"c":"100.10","h":"100.20","l":"99.90","v":"114.602","n":2239,"x":true,"q":"11460.2","V":"48.488"}}'
        ) % (close_ms, open_ms, close_ms - 1, TIMEFRAMES[timeframe].encode(), close_ms // 1_000)

    @property
    def worn(self) -> bool:
        """Whether its made-up time is up and a new one is needed."""
        return self._now_ms > LAST_MS

    def close(self) -> None:
        """Remove its files."""
        self._panel.close()
        self._folder.cleanup()


def spare_core() -> bool:
    """Return whether this process may use more than one core."""
    return len(os.sched_getaffinity(0)) > 1


async def spin(config: Config, core: Core, stop: asyncio.Event) -> None:
    """Keep the loop polling until `stop`; every `WARM_EVERY_NS` run the warm path with the model that `core` serves."""
    warmth, due_ns = Warmth(config), 0
    try:
        while not stop.is_set():
            await asyncio.sleep(0)
            now_ns = time.monotonic_ns()
            if now_ns < due_ns:
                continue
            if warmth.worn:  # some 10 ms, about once a day
                warmth.close()
                warmth = Warmth(config)
            warmth.serve(core.predictor)
            warmth.run()
            due_ns = time.monotonic_ns() + WARM_EVERY_NS
    finally:
        warmth.close()
