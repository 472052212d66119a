"""The whole path as a user of nautilus_trader would have it, and ours beside it on the same frames and the same models.

Peer: its Binance adapter's decoder and bar, its live data engine (queue on the event loop) and message bus, a strategy
whose registered indicators are updated before `on_bar`, `Booster.predict` of 8 models with one thread each. Ours: the
engine's core, all 132 features, on the packed form of the same 8 models. The peer computes the 9 features that both
sides have and is given the other 123 for nothing, so its predictions must be the same numbers.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import nautilus_trader
import numpy as np
from nautilus_trader.adapters.binance.common.schemas.market import BinanceCandlestickMsg
from nautilus_trader.adapters.binance.futures.enums import BinanceFuturesEnumParser
from nautilus_trader.backtest.data_client import BacktestMarketDataClient
from nautilus_trader.cache.cache import Cache
from nautilus_trader.common.component import LiveClock, MessageBus
from nautilus_trader.indicators import (
    AverageTrueRange,
    BollingerBands,
    CommodityChannelIndex,
    ExponentialMovingAverage,
    MovingAverageConvergenceDivergence,
    MovingAverageType,
    RelativeStrengthIndex,
)
from nautilus_trader.live.data_engine import LiveDataEngine
from nautilus_trader.model.data import BarType
from nautilus_trader.model.identifiers import ClientId, InstrumentId, TraderId, Venue
from nautilus_trader.portfolio.portfolio import Portfolio
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.trading.strategy import Strategy

from benchmarks.forest_rig import PARAMETERS, pack
from benchmarks.path_rig import START_MS, PathRig
from engine.model.predictor import PackedPredictor
from kernels.records import FEATURE_COUNT, TIMEFRAME_MS
from kernels.schema import NAMES, TARGETS

VERSION = nautilus_trader.__version__
MINUTES = 6_000
SHARED = ("rsi", "bb_width", "bb_pctb", "ma_cross", "ma_distance", "cci", "macd", "atr", "atr_pct")
COLUMNS = tuple(NAMES.index(name) for name in SHARED)


class Walk:
    """Prices on a tick of 0.01 for every minute after START_MS, as exchange frames."""

    def __init__(self) -> None:
        rng = np.random.default_rng(12)
        moves, close = rng.normal(0, 0.05, MINUTES), np.empty(MINUTES)
        level = 0.0
        for k in range(MINUTES):
            level = 0.999 * level + moves[k]
            close[k] = level
        self.close = np.round(100 + close, 2)
        self.open = np.concatenate([[100.0], self.close[:-1]])
        spread = np.round(np.abs(rng.normal(0, 0.03, (2, MINUTES))), 2)
        self.high = np.round(np.maximum(self.open, self.close) + spread[0], 2)
        self.low = np.round(np.minimum(self.open, self.close) - spread[1], 2)
        self.volume = np.round(rng.gamma(2, 50, MINUTES), 3)

    def frame(self, interval: str, open_ms: int, close_ms: int) -> bytes:
        """Return the closing kline frame of a bar; a larger bar shows its last minute's prices."""
        k = (close_ms - START_MS) // 60_000 - 1
        o, h, low, c, v = (x[k] for x in (self.open, self.high, self.low, self.close, self.volume))
        return (
            f'{{"stream":"btcusdt@kline_{interval}","data":{{"e":"kline","E":{close_ms + 100},"s":"BTCUSDT","k":'
            f'{{"t":{open_ms},"T":{close_ms - 1},"s":"BTCUSDT","i":"{interval}","f":1,"L":{close_ms // 1_000},'
            f'"o":"{o:.2f}","c":"{c:.2f}","h":"{h:.2f}","l":"{low:.2f}","v":"{v:.3f}","n":2239,"x":true,'
            f'"q":"{v * c:.4f}","V":"{v / 2:.3f}","Q":"{v * c / 2:.4f}","B":"0"}}}}}}'
        ).encode()

    def closing(self, number: int) -> list[bytes]:
        """Return the frames that close with a minute, its own last."""
        close_ms = START_MS + 60_000 * (number + 1)
        larger = [(TIMEFRAME_MS[k], interval) for k, interval in ((1, "15m"), (2, "1h"))]
        frames = [self.frame(interval, close_ms - step, close_ms) for step, interval in larger if close_ms % step == 0]
        return [*frames, self.frame("1m", close_ms - 60_000, close_ms)]


def train(rows: np.ndarray, rounds: int) -> list[Any]:
    """Return 8 boosters of `rounds` trees × 31 leaves on float32[n, 132] rows of the path itself."""
    rng = np.random.default_rng(4)
    shared = lightgbm.Dataset(rows, np.zeros(len(rows)), params=PARAMETERS, free_raw_data=False).construct()
    known = np.nan_to_num(rows.astype(np.float64))
    spread = known.std(axis=0)
    scaled = (known - known.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    boosters = []
    for _ in TARGETS:
        shared.set_label(scaled @ rng.normal(size=rows.shape[1]) + rng.normal(size=len(rows)))
        boosters.append(lightgbm.train(PARAMETERS, shared, rounds))
    return boosters


class Ours(PathRig):
    """The engine's core on the walk."""

    def __init__(self, folder: Path, walk: Walk) -> None:
        super().__init__(folder, symbols=1, rounds=1)
        self.walk, self._folder = walk, folder
        self.quotes()

    def serve(self, boosters: list[Any]) -> None:
        """Predict with these models from now on."""
        self.core.predictor = PackedPredictor(pack(boosters, self._folder / "shared.bin"), "bench")

    def minute(self, frames: list[bytes]) -> tuple[int, np.ndarray, np.ndarray]:
        """Take the closing frame of a minute to its decision; return (ns, row float32[132], predictions).

        The 15m and 1h bars that close with it come first, so that its frame completes the vector.
        """
        for larger in frames[:-1]:
            self.decoder.feed(larger, 1)
        frame, before = frames[-1], self.core.counters.signals
        started = time.perf_counter_ns()
        self.decoder.feed(frame, started)
        taken = time.perf_counter_ns() - started
        assert self.core.counters.signals == before + 1
        return taken, self.core._row32.copy(), self.core._predictions.copy()


class PeerStrategy(Strategy):
    """Shared indicators on the bar, 8 boosters (none: only the indicators), a decision."""

    def __init__(self, bar_type: BarType) -> None:
        super().__init__()
        self.bar_type = bar_type
        self.boosters: list[Any] = []
        wilder, exponential = MovingAverageType.WILDER, MovingAverageType.EXPONENTIAL
        self.rsi, self.atr = RelativeStrengthIndex(14, wilder), AverageTrueRange(14, wilder)
        self.fast, self.slow = ExponentialMovingAverage(20), ExponentialMovingAverage(50)
        self.cci = CommodityChannelIndex(20, 0.015)
        self.macd = MovingAverageConvergenceDivergence(12, 26, exponential)
        self.bands = BollingerBands(20, 2.0)
        self.row = np.zeros((1, FEATURE_COUNT), np.float32)
        self.predictions = np.zeros(len(TARGETS))
        self.entries, self.decided_ns = 0, 0
        self.decided = asyncio.Event()

    def on_start(self) -> None:
        for indicator in (self.rsi, self.atr, self.fast, self.slow, self.cci, self.macd):
            self.register_indicator_for_bars(self.bar_type, indicator)
        self.subscribe_bars(self.bar_type)

    def on_bar(self, bar: Any) -> None:
        close = bar.close.as_double()
        self.bands.update_raw(close, close, close)  # registered, they would take the typical price
        upper, middle, lower = self.bands.upper, self.bands.middle, self.bands.lower
        slow = self.slow.value
        self.row[0, COLUMNS] = (
            self.rsi.value * 100, (upper - lower) / middle, (close - lower) / (upper - lower) if upper > lower else 0.0,
            self.fast.value / slow - 1, close / slow - 1, self.cci.value, self.macd.value / close,
            self.atr.value, self.atr.value / close,
        )  # fmt: skip
        for k, booster in enumerate(self.boosters):
            self.predictions[k] = booster.predict(self.row, num_threads=1)[0]
        er_long, er_short, q05_long, q05_short = self.predictions[:4]
        self.entries += max(er_long, er_short) >= 0 and (q05_long if er_long > er_short else q05_short) >= -0.03
        self.decided_ns = time.perf_counter_ns()
        self.decided.set()


class Peer:
    """nautilus_trader from the frame's bytes to the decision, on a running event loop."""

    def __init__(self, walk: Walk) -> None:
        clock, trader = LiveClock(), TraderId("BENCH-001")
        bus, cache = MessageBus(trader, clock), Cache()
        instrument = TestInstrumentProvider.btcusdt_perp_binance()
        cache.add_instrument(instrument)
        self.walk = walk
        self.engine = LiveDataEngine(asyncio.get_running_loop(), bus, cache, clock)
        self.engine.register_client(BacktestMarketDataClient(ClientId("BINANCE"), bus, cache, clock))
        self.engine.start()
        self._id = InstrumentId(instrument.id.symbol, Venue("BINANCE"))
        self.strategy = PeerStrategy(BarType.from_str(f"{self._id}-1-MINUTE-LAST-EXTERNAL"))
        self.strategy.register(trader, Portfolio(bus, cache, clock), bus, cache, clock)
        self.strategy.start()
        self._decode = msgspec.json.Decoder(BinanceCandlestickMsg).decode
        self._parser, self._clock = BinanceFuturesEnumParser(), clock

    def feed(self, frame: bytes) -> None:
        """Do what its adapter does with a kline frame."""
        message = self._decode(frame)
        if message.data.k.x:
            bar = message.data.k.parse_to_binance_bar(self._id, self._parser, self._clock.timestamp_ns())
            self.engine.process(bar)

    async def minute(self, frame: bytes, row: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """Take the closing frame of a minute to the strategy's decision; return (ns, row, predictions).

        row: the features that it does not compute; its own columns in it are made unknown first.
        """
        self.strategy.row[0] = row
        self.strategy.row[0, COLUMNS] = np.nan
        self.strategy.decided.clear()
        started = time.perf_counter_ns()
        self.feed(frame)
        await self.strategy.decided.wait()
        return self.strategy.decided_ns - started, self.strategy.row[0].copy(), self.strategy.predictions.copy()

    async def close(self) -> None:
        """Stop the engine's queues."""
        self.strategy.stop()
        self.engine.stop()
        await asyncio.sleep(0)
