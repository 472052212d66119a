"""An engine core in live mode over the exchange in memory, driven by hand."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pytest
from rig import BOOK_ROW, SYMBOLS, FixedModel, instruments
from venue_model import VenueModel

from engine import journal
from engine.assemble import assemble
from engine.clock import EventClock
from engine.config import load
from engine.core import Vector
from engine.exchange.order_budget import OrderBudget
from engine.exchange.requests import Call
from engine.exchange.steps import Step
from engine.trading.live import LiveGateway
from engine.trading.preflight import Report
from engine.trading.takeover import Found, join, take_over
from kernels.records import Kind, RunState


class LiveRig:
    """One live core; `venue` is the exchange. Times in ms; `step` moves both clocks and delivers what is waiting."""

    def __init__(
        self, folder: Path, venue: VenueModel | None = None, risk: dict[str, float] | None = None, **live: object
    ) -> None:
        self.folder, self.venue = folder, venue or VenueModel()
        for name in SYMBOLS:
            self.venue.price.setdefault(name, Decimal(100))
        self.config = load(
            market={"symbols": SYMBOLS}, journal={"segment_mib": 1}, live=live, risk=risk or {}, mode="live",
            data_dir=folder,
        )  # fmt: skip
        self.clock = EventClock()
        self.clock.observe(self.venue.now_ms)
        self.books = np.zeros(len(SYMBOLS), BOOK_ROW)
        table = instruments()
        table["percent_price_up"], table["percent_price_down"] = 1.05, 0.95
        steps = [(Step(float(r["tick_size"])), Step(float(r["step_size"]))) for r in table]
        self.gateway = LiveGateway(SYMBOLS, steps, self.venue)
        self.parts = assemble(self.config, SYMBOLS, table, self.books, self.clock, folder / "journal", self.gateway)
        self.core, self.desk = self.parts.core, self.parts.core.desk
        self.core.predictor = FixedModel()
        self.trading = join(self.config, SYMBOLS, table, self.parts, self.gateway, self.venue, OrderBudget())
        restored = self.parts.restored
        self.venue.forget_answers()  # to an engine that is no more
        self.venue.pump_events(self.hear)  # the streams stand before the account has been read
        report = Report(
            wallet_usdt=float(self.venue.wallet),
            positions=self.venue.ask(Call.POSITIONS),
            algos=self.venue.ask(Call.OPEN_ALGOS),
        )
        found = Found(report, restored.account is None)
        take_over(self.parts, self.trading, self.config, SYMBOLS, found, self.venue.now_ms)
        self.desk.account.run_state = int(RunState.RUNNING)
        self.step(20)

    def step(self, ms: int = 20, marks: bool = True) -> None:
        """Let `ms` pass: the mark of each symbol once, timers, answers and events."""
        self.venue.pass_time(ms)
        now_ms = self.venue.now_ms
        self.clock.observe(now_ms)
        if marks:
            for symbol, name in enumerate(SYMBOLS):
                self.core.on_mark(symbol, float(self.venue.price[name]), 0.0, 0, now_ms, 1)
        self.deliver()
        self.trading.advance(now_ms)
        self.deliver()

    def deliver(self) -> None:
        self.venue.pump(self.hear)

    def hear(self, payload: bytes) -> None:
        """Take a frame of the private stream."""
        self.trading.on_payload(payload, self.venue.now_ms)

    def run(self, ms: int, step_ms: int = 20, marks: bool = True) -> None:
        """Many steps."""
        for _ in range(ms // step_ms):
            self.step(step_ms, marks)

    def decide(self, symbol: int = 0, atr: float = 1.0, side: int = 1) -> None:
        """Let the model ask for an entry at the present price."""
        price, now_ms = float(self.venue.price[SYMBOLS[symbol]]), self.venue.now_ms
        self.books[symbol] = (price - 0.01, 1_000.0, price, 1_000.0, 0, now_ms, 0, 1)
        if side < 0:
            self.books[symbol] = (price, 1_000.0, price + 0.01, 1_000.0, 0, now_ms, 0, 1)
            self.core.predictor.answer[:2] = self.core.predictor.answer[1::-1]
        self.core.on_vector(
            Vector(symbol, now_ms, np.zeros(132), 7, price, atr, False, False, True, False, (0, 0, 0)), 1
        )

    def open_long(self, symbol: int = 0) -> None:
        """An entry that fills, with its stop confirmed."""
        self.decide(symbol)
        self.step()

    @property
    def held(self) -> int:
        return self.desk.positions.count

    def records(self, kind: Kind) -> list[np.void]:
        out = []
        for segment in journal.segments(self.folder / "journal", self.config.engine_id):
            out += [record for k, record in journal.read_records(segment) if k is kind]
        return out


def sent(rig: LiveRig, call: Call) -> list[dict]:
    return [request.params for _, request, _ in rig.venue.requests if request.call is call]


def entries(rig: LiveRig) -> list[dict]:
    return [p for p in sent(rig, Call.ORDER_PLACE) if p.get("reduceOnly") != "true"]


def exits(rig: LiveRig) -> list[dict]:
    return [p for p in sent(rig, Call.ORDER_PLACE) if p.get("reduceOnly") == "true"]


def agree(rig: LiveRig) -> None:
    """Our books, the exchange's position, the wallet and the stops say the same."""
    for symbol, name in enumerate(rig.trading.symbols):
        slot = rig.desk.positions.slot_of[symbol]
        row = rig.desk.positions.rows[slot]
        ours = float(row["side"]) * float(row["qty"]) if slot >= 0 else 0.0
        assert ours == pytest.approx(float(rig.venue.held[name].amount), abs=1e-9)
        if slot >= 0:
            assert rig.trading.protection.standing(symbol)
            assert row["protected"] == 1
    assert rig.desk.account.wallet_usdt == pytest.approx(float(rig.venue.wallet), abs=1e-6)
