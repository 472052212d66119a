"""The engine: the one visible order of calls for a frame. It does not know live from shadow, nor now from replay."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.clock import Clock
from engine.config import Config
from engine.journal import Writer
from engine.latency import Latencies
from engine.timers import Hold, Timer
from engine.trading.desk import Desk, Entry
from engine.trading.gateway import Gateway
from engine.trading.limits import limits_row
from engine.trading.orders import Order
from kernels import decide as deciding
from kernels import risk, stops
from kernels.compile import entry_point
from kernels.records import FEATURE_COUNT, RECORDS, TARGET_COUNT, Kind, Reason, RunState, Stage

SIGNAL_BYTES = RECORDS[Kind.SIGNAL].itemsize


class Predictor(Protocol):
    """What the engine asks of a loaded model."""

    model_id: str
    backend: str
    nan_unseen: npt.NDArray[np.bool_]  # [132]: features without a NaN in training

    def predict_into(self, row: npt.NDArray[np.float32], out: npt.NDArray[np.float64]) -> None:
        """Write the 8 predictions of float32[132] into float64[8]."""
        ...


@dataclass
class Counters:
    """What the engine has seen and done since it started."""

    bars: list[int] = field(default_factory=lambda: [0, 0, 0])
    marks: int = 0
    books: int = 0
    vectors: int = 0
    late_vectors: int = 0
    signals: int = 0
    entries: int = 0
    gaps: int = 0
    refusals: dict[int, int] = field(default_factory=dict)  # gate bit → signals it refused


@dataclass(slots=True)
class Vector:
    """One complete feature vector, ready to be decided on."""

    symbol: int
    close_ms: int
    values: npt.NDArray[np.float64]  # [132], borrowed until the next vector
    hash: int
    close: float
    atr_15m: float
    late: bool
    input_late: bool
    ready: bool
    filled: bool
    first_ms: tuple[int, int, int]


class Core:
    """Decisions on closed bars, stops on mark prices, commands in between. One thread, no I/O but the journal's mmap.

    books: BOOK_ROW[n_symbols] kept by the decoder (or by replay); marks: float64[n_symbols], NaN before the first.
    """

    def __init__(
        self,
        config: Config,
        symbols: list[str],
        instruments: npt.NDArray[Any],
        books: npt.NDArray[Any],
        marks: npt.NDArray[np.float64],
        clock: Clock,
        journal: Writer,
        desk: Desk,
        gateway: Gateway,
        latencies: Latencies,
    ) -> None:
        self.config, self.symbols, self.instruments = config, symbols, instruments
        self.books, self.marks = books, marks
        self.clock, self.journal, self.desk, self.gateway, self.latencies = clock, journal, desk, gateway, latencies
        self.counters = Counters()
        self.predictor: Predictor | None = None
        self.entries_blocked: Callable[[int], bool] = lambda symbol: False  # a gap under repair, a suspect stream
        self.mark_ms = [0] * len(symbols)
        self.funding_rate = [float("nan")] * len(symbols)
        self.next_funding_ms = [0] * len(symbols)
        self.last_signals: npt.NDArray[Any] = np.zeros(len(symbols), RECORDS[Kind.SIGNAL])
        self.audit_failed: set[int] = set()
        self._limits = limits_row(config)
        self._facts = np.zeros(1, deciding.FACTS)
        self._facts_memory = self._facts.view(np.uint8).data
        self._pack_facts = struct.Struct(f"<{len(deciding.FACTS.names or ())}d").pack_into
        self._instrument_facts = [instrument_facts(row) for row in instruments]
        self._funding_interval_ms = [max(int(row["funding_hours"]), 1) * 3_600_000 for row in instruments]
        self._plan = np.zeros(1, deciding.PLAN)
        self._signals_memory = self.last_signals.view(np.uint8).data
        self._predictions = np.zeros(TARGET_COUNT)
        self._row32 = np.zeros(FEATURE_COUNT, np.float32)
        self._check = entry_point(stops.check)
        self._decide = entry_point(deciding.decide)
        self._size = entry_point(risk.size)

    # --- mark prices: the guards ---

    def on_mark(
        self, symbol: int, price: float, funding_rate: float, next_funding_ms: int, event_ms: int, recv_ns: int
    ) -> None:
        """Take a mark price: journal, funding, then the stops of that symbol's position, exit at once."""
        self.clock.observe(event_ms)
        now_ms = self.clock.now_ms()
        self.counters.marks += 1
        self.journal.write(Kind.MARK, recv_ns, now_ms, event_ms, price, funding_rate, symbol, 0, next_funding_ms)
        self.marks[symbol] = price
        self.mark_ms[symbol] = event_ms
        slot = self.desk.positions.slot_of[symbol]
        if slot >= 0:
            self._guard(symbol, slot, price, now_ms, recv_ns)
            due_ms = self.next_funding_ms[symbol]
            if 0 < due_ms < next_funding_ms and due_ms <= event_ms:  # the stream has moved on to the next settlement
                self.desk.pay_funding(symbol, self.funding_rate[symbol], price, now_ms)
        self.funding_rate[symbol] = funding_rate
        self.next_funding_ms[symbol] = next_funding_ms
        self.desk.advance(now_ms)

    def _guard(self, symbol: int, slot: int, price: float, now_ms: int, recv_ns: int) -> None:
        reason = self._check(self.desk.positions.rows, slot, price, now_ms)
        if reason:
            self.desk.exit(slot, Reason(reason), now_ms)
            self.latencies.add(Stage.MARK_TO_EXIT, time.monotonic_ns() - recv_ns)

    def on_book(self, symbol: int, event_ms: int) -> None:
        """Take note that the symbol's book row changed; waiting shadow orders may meet it."""
        self.clock.observe(event_ms)
        self.counters.books += 1
        self.desk.advance(self.clock.now_ms())

    # --- decisions ---

    def on_vector(self, vector: Vector, recv_ns: int) -> None:
        """Decide on a complete vector: predict, decide, size, journal, and send the entry if nothing refuses."""
        now_ms = self.clock.now_ms()
        started = time.monotonic_ns()
        self.counters.vectors += 1
        self.counters.late_vectors += vector.late
        self._predict(vector)
        predicted = time.monotonic_ns()
        self._collect_facts(vector, now_ms)
        side, gates = self._decide(self._predictions, self._facts, self._limits)
        gates |= self._size(side, self._facts, self._limits, self._plan)
        plan = self._plan[0]
        gates |= self.desk.entry_gates(
            vector.symbol, side, float(plan["qty"]), float(plan["sl_price"]), vector.atr_15m, now_ms
        )
        decided = time.monotonic_ns()
        self.latencies.add(Stage.PREDICT, predicted - started)
        self.latencies.add(Stage.DECIDE, decided - predicted)
        self.latencies.add(Stage.FRAME_TO_DECISION, decided - recv_ns)
        position_id = self._write_signal(vector, side, gates, now_ms, recv_ns, decided)
        self.counters.signals += 1
        if gates:
            self._count_refusals(gates)
        elif position_id:
            self._enter(vector, side, position_id, now_ms)
            self.latencies.add(Stage.ORDER, time.monotonic_ns() - decided)

    def _predict(self, vector: Vector) -> None:
        self._row32[:] = vector.values
        if self.predictor is None:
            self._predictions[:] = np.nan
        else:
            self.predictor.predict_into(self._row32, self._predictions)

    def _collect_facts(self, vector: Vector, now_ms: int) -> None:
        symbol = vector.symbol
        bid, bid_qty, ask, ask_qty, _, book_ms, *_ = self.books[symbol].item()
        blocked, clock_bad, full = self.entries_blocked(symbol), not self.clock.good(), self.journal.full
        failed = symbol in self.audit_failed
        hold = (Hold.GAP if blocked else 0) | (Hold.CLOCK if clock_bad else 0)
        hold |= (Hold.FULL if full else 0) | (Hold.AUDIT if failed else 0)
        mono_ns = time.monotonic_ns()
        self.journal.write(Kind.BOOK, mono_ns, now_ms, book_ms, bid, bid_qty, ask, ask_qty, 0, symbol, int(hold), 0)
        desk, account = self.desk, self.desk.account
        notional = desk.mark_account(now_ms)
        delivery_ms, instrument = self._instrument_facts[symbol]
        state = account.run_state
        self._pack_facts(
            self._facts_memory, 0,
            now_ms, vector.close, self.marks[symbol], now_ms - self.mark_ms[symbol], bid, bid_qty, ask, ask_qty,
            now_ms - book_ms, vector.atr_15m,
            1.0, vector.late, vector.input_late, vector.ready, vector.filled,
            self._nan_unseen(), self.predictor is not None,
            state == RunState.RUNNING, state in (RunState.REDUCE_ONLY, RunState.HALTED), full,
            symbol in account.halted_symbols, desk.unknown(symbol), blocked,
            failed, clock_bad, 0.0, desk.flat(symbol),
            account.cooldown_until_ms.get(symbol, 0), delivery_ms,
            account.equity_usdt, account.day_start_equity_usdt,
            account.peak_equity_usdt, notional, desk.positions.count + len(desk.entries), account.losing_streak,
            *instrument, self._funding_due(symbol, now_ms),
        )  # fmt: skip

    def _nan_unseen(self) -> bool:
        """Whether a feature is NaN that had no NaN in training: LightGBM would read it as 0."""
        return self.predictor is not None and bool((np.isnan(self._row32) & self.predictor.nan_unseen).any())

    def _funding_due(self, symbol: int, now_ms: int) -> float:
        """Funding that a position opened now would pay before its time limit, as a fraction; positive: longs pay."""
        rate, due_ms = self.funding_rate[symbol], self.next_funding_ms[symbol]
        left_ms = self.config.barriers.time_limit_minutes * 60_000 - (due_ms - now_ms)
        if rate != rate or due_ms <= 0 or left_ms < 0:
            return 0.0
        interval_ms = self._funding_interval_ms[symbol]
        return rate * (1 + left_ms // interval_ms)

    def _write_signal(self, vector: Vector, side: int, gates: int, now_ms: int, recv_ns: int, decided_ns: int) -> int:
        qty, _, tp_price, sl_price, _ = self._plan[0].item()
        bid, _, ask, *_ = self.books[vector.symbol].item()
        model = self.predictor.model_id.encode() if self.predictor is not None else b""
        predictions = self._predictions.tolist()
        # The signal's seq becomes the position's id; a full disk refuses entries, and its dropped records move no seq.
        while self.desk.id_taken(self.journal.seq + 1) and not self.journal.full:
            self.desk.write_account(now_ms)
        seq = self.journal.write(
            Kind.SIGNAL, time.monotonic_ns(), now_ms, vector.symbol, side, gates == 0, vector.late, 0, 0,
            vector.close_ms, *predictions, gates, vector.hash, model, vector.close, self.marks[vector.symbol],
            vector.atr_15m, bid, ask, qty, tp_price, sl_price, recv_ns, decided_ns - recv_ns, *vector.first_ms,
        )  # fmt: skip
        if seq:
            at = vector.symbol * SIGNAL_BYTES
            self._signals_memory[at : at + SIGNAL_BYTES] = self.journal.newest(SIGNAL_BYTES)
        self.latencies.add(Stage.JOURNAL, time.monotonic_ns() - decided_ns)
        return seq

    def _count_refusals(self, gates: int) -> None:
        while gates:
            bit = gates & -gates
            self.counters.refusals[bit] = self.counters.refusals.get(bit, 0) + 1
            gates ^= bit

    def _enter(self, vector: Vector, side: int, position_id: int, now_ms: int) -> Order:
        plan = self._plan[0]
        self.counters.entries += 1
        assert self.predictor is not None  # gate no_model
        entry = Entry(
            position_id, vector.symbol, side, float(plan["qty"]), float(plan["limit_price"]),
            float(plan["tp_price"]), float(plan["sl_price"]), vector.atr_15m, vector.close_ms,
            self.predictor.model_id.encode(),
        )  # fmt: skip
        return self.desk.enter(entry, now_ms)

    # --- by time ---

    def on_account_timer(self, now_ms: int) -> None:
        """Revalue and journal the account: peak and day depend on when it is looked at."""
        self.journal.write(Kind.TIMER, time.monotonic_ns(), now_ms, Timer.ACCOUNT, 0, 0, 0)
        self.desk.mark_account(now_ms)
        self.desk.write_account(now_ms)

    # --- operator ---

    def close_position(self, symbol: int, reason: Reason) -> bool:
        """Exit the symbol's position; False when it is flat."""
        slot = self.desk.positions.slot_of[symbol]
        if slot < 0:
            return False
        self.desk.exit(slot, reason, self.clock.now_ms())
        return True

    def flatten(self, reason: Reason) -> int:
        """Exit everything this system opened; returns how many positions."""
        now_ms = self.clock.now_ms()
        for slot in range(self.desk.positions.count):
            self.desk.exit(slot, reason, now_ms)
        return self.desk.positions.count

    def check_all(self) -> int:
        """Check every position against the newest marks (after a restart or a stall); returns how many must close."""
        positions = self.desk.positions
        slots, reasons = np.zeros(len(positions.rows), np.int64), np.zeros(len(positions.rows), np.int64)
        now_ms = self.clock.now_ms()
        if positions.count:
            self.journal.write(Kind.TIMER, time.monotonic_ns(), now_ms, Timer.CHECK_ALL, 0, 0, 0)
        hits = stops.check_all(positions.rows, positions.count, self.marks, now_ms, slots, reasons)
        for slot, reason in zip(slots[:hits].tolist(), reasons[:hits].tolist(), strict=True):
            self.desk.exit(slot, Reason(reason), now_ms)
        return int(hits)


def instrument_facts(row: Any) -> tuple[float, tuple[float, ...]]:
    """Return an INSTRUMENT row's delivery time and the six numbers that FACTS takes from it, in its order."""
    return float(row["delivery_ms"]), (
        float(row["tick_size"]), float(row["step_size"]), float(row["min_qty"]),
        float(row["market_max_qty"]) or math.inf, float(row["min_notional_usdt"]), float(row["maintenance_rate"]),
    )  # fmt: skip
