"""A live engine on the simulated exchange whose runs can be replayed: bars, panel and commands are there too."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from simulated import Simulated

from engine.config import Config
from engine.market.panel import Panel
from engine.market.rings import BarFile, bar_path
from engine.operator import Operator
from engine.sink import MarketSink
from engine.start import keep_start
from engine.trading.start import Live
from kernels.features import build_bars
from kernels.records import BAR, TIMEFRAME_MS, BarFlag, Mode, RunState
from tests.engine.recorded import PickyModel
from tests.market_data import generated_bars

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
HISTORY = 1_200 * 60
AHEAD = 240  # minutes that can be played


class RecordedSim(Simulated):
    """`Simulated` with closed bars in place of `decide`: `close_minute` lets both symbols be decided on.

    The minutes that it closes lie ahead of the clock, so that many of them can pass in a second.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        risk = {
            "max_notional_usdt": 2_000.0, "max_total_notional_usdt": 1e5, "max_correlated_usdt": 1e6,
            "max_losing_streak": 500, "cooldown_minutes": 0, "book_share": 1.0,
        }  # fmt: skip
        super().__init__(folder, risk=risk, **settings)
        self._closed = 0

    @property
    def config(self) -> Config:
        given = super().config
        return given.model_copy(
            update={
                "barriers": given.barriers.model_copy(update={"tp_atr": 0.3, "sl_atr": 0.2, "time_limit_minutes": 600}),
                "decision": given.decision.model_copy(update={"max_mae_atr": 5.0, "max_tail": 0.9}),
            }
        )

    async def start_engine(self) -> Live:
        """As before, with a market sink, its panel and an operator, and a session that a command opened."""
        live = await super().start_engine()
        parts = live.parts
        parts.core.predictor = None
        parts.core.desk.account.run_state = int(RunState.STOPPED)  # set by hand there; a replay needs the command
        self.sink = MarketSink(parts.core, parts.gateway, [])
        self.sink.panel = self._panel(parts.journal.run_id)
        self.sink.begin(self.sink.panel.fold_files())
        self.operator = Operator(parts, self.symbols, Mode.LIVE)
        self.operator.ladder = live.trading.kill
        self.operator.open_model = lambda path: PickyModel(Path(path).name)  # type: ignore[assignment, return-value]
        self.operator.load_model("/models/picky", "test")
        await self.command("start")
        return live

    async def command(self, verb: str, **args: object) -> None:
        """Give a command, as the operator's socket does."""
        assert self.live is not None
        await self.operator.handle(verb, "test", args, f"id-{self.live.parts.journal.seq}")

    def _panel(self, run_id: int) -> Panel:
        if not self._closed:
            begin_ms = self.clock.now_ms() // HOUR_MS * HOUR_MS - HISTORY * MINUTE_MS
            self.bars = []
            for symbol in range(len(self.symbols)):
                one = generated_bars(HISTORY + AHEAD, 5 + symbol, self.price(symbol))
                for name in ("open", "high", "low", "close"):  # the last one is the exchange's price
                    one[name] *= self.price(symbol) / one["close"][HISTORY]
                one["open_ms"] += begin_ms - int(one["open_ms"][0])
                one["flags"][HISTORY:] = BarFlag.WS
                self.bars.append([one, build_bars(one, 1), build_bars(one, 2)])
            self._closed = HISTORY
            while int(self.bars[0][0]["open_ms"][self._closed]) < self.clock.now_ms():
                self._closed += 1
        until_ms = int(self.bars[0][0]["open_ms"][self._closed])
        shutil.rmtree(self.folder / "bars", ignore_errors=True)
        for symbol, name in enumerate(self.symbols):
            for timeframe in range(3):
                bars = self.bars[symbol][timeframe]
                path = bar_path(self.folder / "bars", name, timeframe)
                file = BarFile.create(path, name, timeframe, 2_048 if symbol else 8_192)
                file.rewrite(bars[bars["open_ms"] + TIMEFRAME_MS[timeframe] <= until_ms])
                file.close()
        panel = Panel(self.folder / "bars", self.symbols, self.sink.on_vector)
        keep_start(self.config, run_id, panel)
        return panel

    def close_minute(self) -> None:
        """Close one more minute of both symbols, with a fresh book and mark: each is decided on."""
        assert self.live is not None
        core, now_ms = self.live.parts.core, self.clock.now_ms()
        close_ms = int(self.bars[0][0]["open_ms"][self._closed]) + MINUTE_MS
        self._closed += 1
        for symbol in range(len(self.symbols)):
            price = self.price(symbol)
            core.books[symbol] = (price * 0.9999, 1e6, price * 1.0001, 1e6, 0, now_ms, 0, 1)
            self.mark(symbol)
        for timeframe in range(3):
            if close_ms % TIMEFRAME_MS[timeframe]:
                continue
            for symbol in range(len(self.symbols) - 1, -1, -1):
                bars = self.bars[symbol][timeframe]
                bar = bars[np.searchsorted(bars["open_ms"], close_ms - TIMEFRAME_MS[timeframe])]
                held = np.array([bar], BAR)
                for name in ("open", "high", "low", "close"):  # a level that the exchange's price is near
                    held[name] = self.price(symbol)
                self.sink.on_bar(symbol, timeframe, held[0], now_ms, 1)
