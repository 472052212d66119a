"""A shadow run recorded on a made-up market: the engine's own parts, driven without sockets."""

from __future__ import annotations

import asyncio
import copy
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np

from engine import journal
from engine.assemble import Parts, assemble
from engine.clock import EventClock
from engine.config import Config, load
from engine.journal import Writer
from engine.market.events import BOOK_ROW
from engine.market.panel import Panel
from engine.market.rings import BarFile, bar_path
from engine.market.samples import FUNDING, OPEN_INTEREST
from engine.operator import Operator
from engine.sink import MarketSink
from engine.start import keep_start
from kernels import journal as layout
from kernels.features import build_bars
from kernels.records import BAR, INSTRUMENT, SAMPLE, TIMEFRAME_MS, BarFlag, Kind, Mode
from tests import market_data
from tests.market_data import START_MS

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
HISTORY = 1_500 * 60
MINUTE_MS = 60_000


class PickyModel:
    """A predictor whose answer depends on every bit of its row; it finds most minutes worth an entry."""

    backend = "test"

    def __init__(self, model_id: str = "picky") -> None:
        self.model_id, self.schema_hash = model_id, 1
        self.nan_unseen = np.zeros(132, bool)
        self.targets = np.array([0.0, 0.0, -0.01, -0.01, 0.0, 0.0, 60.0, 60.0])

    def predict_into(self, row: np.ndarray, out: np.ndarray) -> None:
        out[:] = self.targets
        lean = float(np.nansum(row[:44].astype(np.float64) * np.arange(1, 45)))
        out[0], out[1] = np.sin(lean) * 0.01, -np.sin(lean) * 0.01

    def predict(self, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), 8))
        for row, answer in zip(rows, out, strict=True):
            self.predict_into(row, answer)
        return out


def instruments() -> np.ndarray:
    rows = np.zeros(len(SYMBOLS), INSTRUMENT)
    for row, name, tick in zip(rows, SYMBOLS, (0.1, 0.01, 0.0001), strict=True):
        row["symbol"], row["tick_size"], row["step_size"], row["min_qty"] = name.encode(), tick, 0.001, 0.001
        row["market_max_qty"], row["max_qty"], row["min_notional_usdt"] = 1e6, 1e6, 5.0
        row["maintenance_rate"], row["funding_hours"], row["trading"], row["perpetual"] = 0.004, 8, 1, 1
        row["delivery_ms"] = 4_133_404_800_000
    return rows


def records(day: Day) -> list[tuple[Kind, np.void]]:
    """Every record that a day has written, in order."""
    return [found for s in journal.segments(day.folder / "journal", "main") for found in journal.read_records(s)]


def altered(day: Day, folder: Path, kind: Kind, field: str, value: object, number: int = 0) -> int:
    """Copy the run with one field of one record changed and sealed again; returns its seq."""
    shutil.copytree(day.folder / "journal", folder / "journal")
    chosen = [r for k, r in records(day) if k is kind][number]
    for segment in journal.segments(folder / "journal", "main"):
        raw = np.fromfile(segment.path, np.uint8)
        for found, record in journal.read_records(segment):
            if found is kind and record["seq"] == chosen["seq"] and segment.run_id == day.journal.run_id:
                at = raw.tobytes().index(record.tobytes())
                record = record.copy()
                record[field] = value
                seq = record["seq"]
                record["seq"] = record["check"] = 0
                raw[at : at + record.nbytes] = np.frombuffer(record.tobytes(), np.uint8)
                words = raw.view(np.uint64)
                layout.seal(words, at // 8, int(record["slots"]) * layout.WORDS_PER_SLOT, seq)
                raw.tofile(segment.path)
    return int(chosen["seq"])


class Market:
    """Bars of three symbols in all timeframes; the last `live` minutes are played to the engine."""

    def __init__(self, live: int, seed: int = 5) -> None:
        minutes = HISTORY + live
        self.bars = []
        for at, price in enumerate((60_000.0, 3_000.0, 0.02)):
            one = market_data.generated_bars(minutes, seed + at, price)
            one["flags"][-live:] = BarFlag.WS
            self.bars.append([one, build_bars(one, 1), build_bars(one, 2)])
        self.live_from_ms = START_MS + HISTORY * MINUTE_MS

    def minute(self, symbol: int, minute: int) -> np.void:
        return self.bars[symbol][0][(self.live_from_ms - START_MS) // MINUTE_MS + minute]

    def later(self, minutes: int) -> Market:
        """The same market for an engine that starts so much later."""
        market = copy.copy(self)
        market.live_from_ms += minutes * MINUTE_MS
        return market


class Day:
    """Records a run into `folder`: marks each second or so, books, bars, samples, commands, a gap, a late sample."""

    limits: ClassVar[dict[str, float]] = {}
    mode = Mode.SHADOW
    funding_minutes = 30  # between settlements, whose rates never arrive: vectors are late by them

    def __init__(self, folder: Path, market: Market, settings: Config | None = None) -> None:
        self.folder, self.market = folder, market
        self.config = settings or load(
            data_dir=folder,
            mode=self.mode.name.lower(),
            market={"symbols": SYMBOLS, "store_features": ["ETHUSDT"]},
            barriers={"tp_atr": 0.3, "sl_atr": 0.2, "time_limit_minutes": 15},
            decision={"max_mae_atr": 5.0, "max_tail": 0.9},
            risk={"max_notional_usdt": 2_000.0, "book_share": 1.0, "max_losing_streak": 500} | self.limits,
            journal={"segment_mib": 1},
        )
        self.random = np.random.default_rng(3)
        self.clock = EventClock()
        self.clock.observe(market.live_from_ms)
        self.books = np.zeros(len(SYMBOLS), BOOK_ROW)
        self.parts = self.assemble()
        self.core = self.parts.core
        self.sink = MarketSink(self.core, self.parts.gateway, self.config.market.store_features)
        self.blocked: set[int] = set()
        self.core.entries_blocked = lambda symbol: symbol in self.blocked
        self.sink.panel = self._panel()
        self.operator = Operator(self.parts, SYMBOLS, self.mode)
        self.operator.open_model = lambda path: PickyModel(Path(path).name)  # type: ignore[assignment, return-value]
        self.operator.load_model("/models/picky", "test")
        self.next_funding_ms = self.clock.now_ms() + self.funding_minutes * MINUTE_MS

    def assemble(self) -> Parts:
        return assemble(self.config, SYMBOLS, instruments(), self.books, self.clock, self.folder / "journal")

    @property
    def journal(self) -> Writer:
        return self.parts.journal

    def _panel(self) -> Panel:
        for symbol, name in enumerate(SYMBOLS):
            for timeframe in range(3):
                bars = self.market.bars[symbol][timeframe]
                file = BarFile.create(
                    bar_path(self.folder / "bars", name, timeframe), name, timeframe, 2_048 if symbol else 8_192
                )
                file.rewrite(bars[bars["open_ms"] + TIMEFRAME_MS[timeframe] <= self.market.live_from_ms])
                file.close()
        panel = Panel(self.folder / "bars", SYMBOLS, self.sink.on_vector)
        stamps = np.arange(self.market.live_from_ms - 90 * 28_800_000, self.market.live_from_ms, 28_800_000)
        rates = np.zeros(len(stamps), SAMPLE)
        rates["stamp_ms"], rates["usable_ms"], rates["value"] = stamps, stamps + 300_000, 1e-4
        rates["value"] += np.round(self.random.normal(0, 1e-5, len(stamps)), 8)
        panel.seed_samples(1, FUNDING, rates)
        stamps = np.arange(self.market.live_from_ms - 100 * 300_000, self.market.live_from_ms + 1, 300_000)
        interest = np.zeros(len(stamps), SAMPLE)
        interest["stamp_ms"], interest["usable_ms"] = stamps, stamps + 300_000
        interest["value"] = 1e5 + self.random.normal(0, 100, len(stamps)).cumsum()
        panel.seed_samples(1, OPEN_INTEREST, interest)
        keep_start(self.config, self.journal.run_id, panel)
        panel.seed()
        return panel

    def command(self, verb: str, **args: object) -> None:
        try:
            asyncio.run(self.operator.handle(verb, "test", args, f"id-{self.journal.seq}"))
        except ValueError:
            return

    def tick(self, symbol: int, price: float, now_ms: int) -> None:
        """One mark, then a book around it; the book's size is often too small for a whole order."""
        if now_ms >= self.next_funding_ms:
            self.next_funding_ms += self.funding_minutes * MINUTE_MS
        rate = round(float(self.random.normal(1e-4, 5e-5)), 8)
        self.sink.on_mark(symbol, price * 1.0001, rate, self.next_funding_ms, now_ms, 1)
        half = price * 5e-5
        size = float(self.random.choice([0.3, 2.0, 500.0])) * 2_000.0 / price
        self.books[symbol] = (price - half, size, price + half, size, 7, now_ms, 0, 1)
        self.sink.on_book(symbol, price - half, size, price + half, size, 7, now_ms, 1)

    def pass_minute(self, minute: int, ticks: int = 30) -> None:
        """Play one minute: its path in `ticks` steps, then the bars that close."""
        open_ms = self.market.live_from_ms + minute * MINUTE_MS
        for step in range(ticks):
            for symbol in range(len(SYMBOLS)):
                bar = self.market.minute(symbol, minute)
                low_first = [bar["open"], bar["low"], bar["high"], bar["close"]]
                price = float(np.interp(step, np.linspace(0, ticks - 1, 4), low_first))
                self.tick(symbol, price, open_ms + 1_000 + step * (58_000 // (ticks - 1)))
        close_ms = open_ms + MINUTE_MS
        if minute % 5 == 0 and minute % 15:  # each third sample never comes: those vectors are completed by time
            self.clock.observe(close_ms)
            self.sink.on_sample(1, OPEN_INTEREST, close_ms - MINUTE_MS, 1e5 + minute, 0)
        for timeframe in range(3):
            if close_ms % TIMEFRAME_MS[timeframe]:
                continue
            for symbol in (1, 0, 2):
                bars = self.market.bars[symbol][timeframe]
                bar = bars[np.searchsorted(bars["open_ms"], close_ms - TIMEFRAME_MS[timeframe])]
                held = np.array([bar], BAR)[0]
                self.sink.on_bar(symbol, timeframe, held, close_ms + 40 * (1 + timeframe), 1)
        self.clock.observe(close_ms + 2_600)
        self.pass_time()
        self.sink.on_time(self.clock.now_ms())
        if minute % 3 == 0:
            self.core.on_account_timer(self.clock.now_ms())

    def pass_time(self) -> None:
        self.core.desk.advance(self.clock.now_ms())

    def play(self, minutes: int) -> None:
        """Play the whole day with an operator who interferes."""
        self.command("start")
        for minute in range(minutes):
            if minute % 60 == 20:
                self.command("halt_symbol", symbol="SOLUSDT")
                self.blocked.add(1)
            if minute % 60 == 30:
                self.command("allow_symbol", symbol="SOLUSDT")
                self.blocked.clear()
                self.command("close", symbol="BTCUSDT")
                self.command("promote", bundle_path=f"/models/second-{minute}")
                self.command("predictor", predictor="walk")
            if minute % 60 == 40:  # the exchange changes a filter
                row = self.core.instruments[1].copy()
                row["step_size"] *= 10.0
                self.core.on_instrument(1, row, self.clock.now_ms())
            if minute % 90 == 45:
                self.command("flatten", reason="test")
                self.command("start")
            if minute % 90 == 70:
                self.command("kill", until="flatten")
                self.command("start")
            self.pass_minute(minute)
        self.journal.close()
