"""A core on a real journal and the shadow gateway, driven by hand: what the trading tests stand on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine import journal
from engine.assemble import Parts, assemble
from engine.clock import EventClock
from engine.config import Config, load
from engine.core import Vector
from kernels.records import INSTRUMENT, Kind, RunState

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
BOOK_ROW = np.dtype(
    [("bid", "f8"), ("bid_qty", "f8"), ("ask", "f8"), ("ask_qty", "f8"), ("update_id", "i8"), ("event_ms", "i8"),
     ("recv_ns", "i8"), ("updates", "i8")]
)  # fmt: skip


class FixedModel:
    """A predictor that says what the test wants."""

    model_id, backend = "fixed", "test"

    def __init__(self) -> None:
        self.nan_unseen = np.zeros(132, bool)
        self.answer = np.array([0.002, -0.001, -0.01, -0.01, 0.0, 0.0, 60.0, 60.0])

    def predict_into(self, row: np.ndarray, out: np.ndarray) -> None:
        out[:] = self.answer


def instruments() -> np.ndarray:
    rows = np.zeros(len(SYMBOLS), INSTRUMENT)
    for row, name in zip(rows, SYMBOLS, strict=True):
        row["symbol"] = name.encode()
        row["tick_size"], row["step_size"], row["min_qty"] = 0.01, 0.001, 0.001
        row["market_max_qty"], row["max_qty"], row["min_notional_usdt"] = 1_000.0, 1_000.0, 5.0
        row["maintenance_rate"], row["funding_hours"], row["trading"], row["perpetual"] = 0.004, 8, 1, 1
        row["delivery_ms"] = 4_133_404_800_000
    return rows


def config(latency_ms: float = 0.0) -> Config:
    """The default configuration on the three test symbols, with small journal segments."""
    return load(market={"symbols": SYMBOLS}, costs={"latency_ms": latency_ms}, journal={"segment_mib": 1})


class Rig:
    """One engine core in shadow mode with a hand-driven market. Times in ms."""

    def __init__(self, folder: Path, settings: Config | None = None) -> None:
        self.folder = folder
        self.config = settings or config()
        self.books = np.zeros(len(SYMBOLS), BOOK_ROW)
        self.clock = EventClock()
        self.parts: Parts = assemble(self.config, SYMBOLS, instruments(), self.books, self.clock, folder / "journal")
        self.core = self.parts.core
        self.desk = self.parts.core.desk
        self.model = FixedModel()
        self.core.predictor = self.model
        self.now_ms = 1_800_000_000_000
        self.clock.observe(self.now_ms)
        self.desk.account.run_state = int(RunState.RUNNING)

    def book(self, symbol: int, bid: float, ask: float, qty: float = 1_000.0) -> None:
        self.books[symbol] = (bid, qty, ask, qty, 0, self.now_ms, 0, 1)
        self.core.on_book(symbol, self.now_ms)

    def mark(self, symbol: int, price: float, rate: float = 0.0001, next_ms: int = 0, after_ms: int = 1_000) -> None:
        self.now_ms += after_ms
        self.core.on_mark(symbol, price, rate, next_ms, self.now_ms, 1)

    def decide(self, symbol: int, close: float, atr: float, **changes: Any) -> None:
        values = {
            "symbol": symbol, "close_ms": self.now_ms, "values": np.zeros(132), "hash": 7, "close": close,
            "atr_15m": atr, "late": False, "input_late": False, "ready": True, "filled": False, "first_ms": (0, 0, 0),
        }  # fmt: skip
        self.core.on_vector(Vector(**{**values, **changes}), 1)

    def open_long(self, symbol: int = 0, price: float = 100.0, atr: float = 1.0) -> None:
        self.mark(symbol, price)
        self.book(symbol, price - 0.01, price + 0.01)
        self.decide(symbol, price, atr)
        self.book(symbol, price - 0.01, price + 0.01)

    def records(self, kind: Kind) -> list[np.void]:
        folder = self.folder / "journal"
        out = []
        for segment in journal.segments(folder, self.config.engine_id):
            out += [record for k, record in journal.read_records(segment) if k is kind]
        return out
