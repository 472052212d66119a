"""A core with real decoder, panel, journal and packed forest, fed frames as bytes: the whole path but the socket."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.forest_rig import make_rig
from engine.assemble import assemble
from engine.clock import EventClock
from engine.config import load
from engine.market.panel import Panel
from engine.market.rings import BarFile, bar_path
from engine.market.wire import Decoder
from engine.model.predictor import PackedPredictor
from engine.sink import MarketSink
from engine.trading.live import LiveGateway
from kernels import decision
from kernels.journal import NO_BOOK, NO_SIGNAL
from kernels.records import BAR, FEATURE_COUNT, INSTRUMENT, TIMEFRAME_MS, TIMEFRAMES, RunState

START_MS = 1_800_000_000_000 // 3_600_000 * 3_600_000
WARMUP = 320


class _Nothing:
    """Receives the frames that come before the core is built: none."""


class PathRig:
    """`symbols` symbols with history up to START_MS; `close_minute` feeds the closing frames of the next minute."""

    def __init__(self, folder: Path, symbols: int, rounds: int = 200, live: LiveGateway | None = None) -> None:
        self.names = ["BTCUSDT", *(f"SYM{i:03d}USDT" for i in range(1, symbols))]
        self.now_ms = START_MS
        config = load(
            mode="shadow" if live is None else "live",
            data_dir=folder,
            market={"symbols": self.names, "warmup_bars": 300, "btc_warmup_bars": 1_500},
            risk={"max_positions": 200},
            journal={"segment_mib": 256},
        )
        self._write_history(folder / "bars", config.market.ring_bars, config.market.btc_ring_bars)
        instruments = np.zeros(symbols, INSTRUMENT)
        for row, name in zip(instruments, self.names, strict=True):
            row["symbol"], row["tick_size"], row["step_size"], row["min_qty"] = name.encode(), 0.01, 0.001, 0.001
            row["market_max_qty"], row["min_notional_usdt"], row["funding_hours"] = 1e6, 5.0, 8
            row["trading"] = row["perpetual"] = 1
        clock = EventClock()
        clock.observe(START_MS)
        self.decoder = Decoder(self.names, _Nothing(), START_MS)  # type: ignore[arg-type]
        self.parts = assemble(config, self.names, instruments, self.decoder.book, clock, folder / "journal", live)
        self.sink = MarketSink(self.parts.core, self.parts.gateway, [])
        self.decoder.sink = self.sink
        panel = Panel(folder / "bars", self.names, self.sink.on_vector, warmup_bars=300, btc_warmup_bars=1_500)
        panel.seed()
        self.sink.panel = panel
        self.core = self.parts.core
        self.core.predictor = PackedPredictor(make_rig(folder, rounds).packed, "bench")
        self.core.desk.account.run_state = int(RunState.RUNNING)

    def _write_history(self, folder: Path, ring: int, btc_ring: int) -> None:
        rng = np.random.default_rng(3)
        for name in self.names:
            for timeframe in range(len(TIMEFRAMES)):
                step, count = TIMEFRAME_MS[timeframe], 1_500 if name == "BTCUSDT" else WARMUP
                bars = np.zeros(count, BAR)
                bars["open_ms"] = START_MS - step * np.arange(count, 0, -1)
                close = 100.0 + np.cumsum(rng.normal(0, 0.05, count))
                bars["open"], bars["close"] = np.concatenate([[100.0], close[:-1]]), close
                bars["high"] = np.maximum(bars["open"], bars["close"]) + 0.02
                bars["low"] = np.minimum(bars["open"], bars["close"]) - 0.02
                bars["volume"], bars["quote_volume"], bars["taker_volume"], bars["trades"] = 10.0, 1_000.0, 5.0, 50.0
                file = BarFile.create(
                    bar_path(folder, name, timeframe), name, timeframe, btc_ring if name == "BTCUSDT" else ring
                )
                file.rewrite(bars)
                file.close()

    def quotes(self, price: float = 100.0) -> None:
        """Feed a mark price and a book around it for every symbol."""
        for name in self.names:
            mark = (
                f'{{"e":"markPriceUpdate","E":{self.now_ms},"s":"{name}","p":"{price:.2f}","r":"0.0001",'
                f'"T":{self.now_ms + 3_600_000}}}'
            )
            book = (
                f'{{"e":"bookTicker","u":{self.now_ms},"E":{self.now_ms},"T":{self.now_ms},"s":"{name}",'
                f'"b":"{price - 0.01:.2f}","B":"50","a":"{price + 0.01:.2f}","A":"50"}}'
            )
            self.decoder.feed(mark.encode(), 1)
            self.decoder.feed(book.encode(), 1)

    def closing_frames(self) -> list[bytes]:
        """Return the closing 1m frames of the next minute, BTCUSDT's first, and move time on."""
        open_ms = self.now_ms
        self.now_ms += 60_000
        return [self._frame(name, "1m", open_ms, open_ms + 60_000) for name in self.names]

    def larger_bars(self) -> None:
        """Feed the 15m and 1h bars that closed at the present time, so that vectors are complete."""
        for timeframe, interval in ((1, "15m"), (2, "1h")):
            step = TIMEFRAME_MS[timeframe]
            if self.now_ms % step == 0 and self.now_ms > START_MS:
                for name in self.names:
                    self.decoder.feed(self._frame(name, interval, self.now_ms - step, self.now_ms), 1)

    def decision(self) -> Callable[[], int]:
        """Return what decides and sizes alone: on a vector of zeros, without a model and without records."""
        core, vector, table = self.core, np.zeros(FEATURE_COUNT), self.core.table.copy()
        table[decision.PREDICT] = 0
        where = (0, core.journal.words, 0, 1, NO_BOOK | NO_SIGNAL)
        asked = (self.now_ms, 0, 0, self.now_ms, 7, 100.0, 0.3, 0, 0, 0, *core.standing(0, self.now_ms)[:-1])
        return partial(core._decide, table, vector, *where, *asked, decision.NONE_SIGNED)

    @staticmethod
    def _frame(name: str, interval: str, open_ms: int, close_ms: int) -> bytes:
        trade = close_ms // 1_000
        return (
            f'{{"e":"kline","E":{close_ms + 100},"s":"{name}","k":{{"t":{open_ms},"T":{close_ms - 1},"s":"{name}",'
            f'"i":"{interval}","f":1,"L":{trade},"o":"100.00","c":"100.10","h":"100.20","l":"99.90","v":"114.602",'
            f'"n":2239,"x":true,"q":"11460.2","V":"48.488","Q":"4848.8","B":"0"}}}}'
        ).encode()
