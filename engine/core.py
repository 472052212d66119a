"""The engine: the one visible order of calls for a frame. It does not know live from shadow, nor now from replay."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from engine.clock import Clock
from engine.config import Config
from engine.journal import Writer
from engine.latency import Latencies
from engine.model.protocol import Predictor, bind_c
from engine.timers import Hold, Timer
from engine.trading.correlation import Closes, moving_together_usdt
from engine.trading.desk import Desk
from engine.trading.entry import Entry
from engine.trading.gateway import Gateway
from engine.trading.limits import limits_row
from engine.trading.twin import Twins
from kernels import decision, mark, stops
from kernels.addresses import table_of
from kernels.compile import entry_point
from kernels.decide import BIT, FACTS, PLAN
from kernels.decision import ALL_SIGNED, NONE_SIGNED, REFUSED_SIGNED
from kernels.journal import NO_BOOK
from kernels.records import FEATURE_COUNT, RECORDS, TARGET_COUNT, Kind, Reason, RunState, Stage

MODEL_ID_BYTES = RECORDS[Kind.SIGNAL]["model_id"].itemsize
BOOK, MARK, SIGNAL = Kind.BOOK, Kind.MARK, Kind.SIGNAL  # looking an enum's member up costs a call on the hot path
MARK_TO_EXIT, ORDER = int(Stage.MARK_TO_EXIT), int(Stage.ORDER)
RUNNING, ENTRIES_OFF = int(RunState.RUNNING), (int(RunState.REDUCE_ONLY), int(RunState.HALTED))
GAP, CLOCK, FULL, AUDIT = int(Hold.GAP), int(Hold.CLOCK), int(Hold.FULL), int(Hold.AUDIT)
_FLAG = {name: 1 << bit for bit, name in enumerate(decision.FLAGS)}
F_HAS_MODEL, F_SESSION, F_REDUCE_ONLY = _FLAG["has_model"], _FLAG["session"], _FLAG["reduce_only"]
F_HALTED, F_UNKNOWN, F_FLAT = _FLAG["symbol_halted"], _FLAG["unknown_order"], _FLAG["flat"]
_HELD = {GAP: "gap", CLOCK: "clock_bad", FULL: "journal_full", AUDIT: "audit_failed"}
HOLD_FLAGS = [sum(_FLAG[name] for bit, name in _HELD.items() if hold & bit) for hold in range(16)]
REASONS = {int(reason): reason for reason in Reason}
Standing = tuple[int, int, int, float, float, float, float, int, int, float, int]
CHANGED = 1  # marks an INSTRUMENT record that is an input, not a part of a segment's beginning
LEAVE_BEFORE_MS = 3_600_000  # positions are exited this long before delivery


@dataclass
class Counters:
    """What the engine has seen and done since it started. Kernels add to `decided`: `kernels.decision.COUNTED`."""

    bars: list[int] = field(default_factory=lambda: [0, 0, 0])
    marks: int = 0
    books: int = 0
    entries: int = 0
    gaps: int = 0
    decided: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(decision.COUNTED_WORDS, np.int64))

    @property
    def vectors(self) -> int:
        """Complete vectors."""
        return int(self.decided[decision.VECTORS])

    @property
    def late_vectors(self) -> int:
        """Vectors that were complete after their deadline."""
        return int(self.decided[decision.LATE_VECTORS])

    @property
    def signals(self) -> int:
        """Decisions."""
        return int(self.decided[decision.SIGNALS_MADE])

    @property
    def refusals(self) -> dict[int, int]:
        """Gate bit → signals that it refused."""
        return {1 << gate: n for gate, n in enumerate(self.decided[decision.BY_GATE :].tolist()) if n}


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
        self.twins: Twins | None = None  # live mode
        self.entries_blocked: Callable[[int], bool] = lambda symbol: False  # a gap under repair, a suspect stream
        self.last_signals: npt.NDArray[Any] = np.zeros(len(symbols), RECORDS[Kind.SIGNAL])
        self.audit_failed: set[int] = set()
        self._mark_ms, self._next_ms = np.zeros(len(symbols), np.int64), np.zeros(len(symbols), np.int64)
        self._rates = np.full(len(symbols), np.nan)
        self._limits, self._facts, self._plan = limits_row(config), np.zeros(1, FACTS), np.zeros(1, PLAN)
        self._constants = constants(instruments)
        self.notional_caps_usdt = [math.inf] * len(symbols)  # live: the exchange's brackets
        self.closes: Closes | None = None  # whoever keeps the bars gives them: the panel, or a backtest's grid
        self.on_listing: Callable[[int], None] = lambda symbol: None
        self._predictions, self._row32 = np.zeros(TARGET_COUNT), np.zeros(FEATURE_COUNT, np.float32)
        self._had_no_nan, self._model_words = np.zeros(FEATURE_COUNT, np.uint8), np.zeros(MODEL_ID_BYTES, np.uint8)
        self._out = np.zeros(decision.OUTS, np.int64)
        self.out = self._out.data
        # what Python reads and writes one by one, over the memory that the kernels read
        self.mark_ms, self.next_funding_ms = self._mark_ms.data, self._next_ms.data
        self.funding_rate: memoryview[float] = cast("memoryview[float]", self._rates.data)
        self.table = table_of(
            books, marks, self._mark_ms, self._rates, self._next_ms, self._constants, self._predictions, self._facts,
            self._limits, self._plan, self._row32, self._had_no_nan, self._model_words, latencies.counts,
            latencies.sums, self.last_signals, self._out, self.counters.decided,
            desk.positions.rows, 0, 0, len(symbols),
        )  # fmt: skip
        self.predictor = None
        self._take_mark = entry_point(mark.take_mark)
        self._decide, self._sign = entry_point(decision.decide), entry_point(decision.sign)

    @property
    def predictor(self) -> Predictor | None:
        """The model that decides; None: no entry is possible."""
        return self._predictor

    @predictor.setter
    def predictor(self, predictor: Predictor | None) -> None:
        self._predictor = predictor
        self._had_no_nan[:] = 0 if predictor is None else predictor.nan_unseen
        name = b"" if predictor is None else predictor.model_id.encode()
        self._model_words[:] = np.frombuffer(name[:MODEL_ID_BYTES].ljust(MODEL_ID_BYTES, b"\0"), np.uint8)
        self._predictions[:] = np.nan
        bound = None if predictor is None else bind_c(predictor, self._row32, self._predictions)
        self.table[[decision.PREDICT, decision.ARGUMENT]] = (bound.function, bound.argument) if bound else (0, 0)
        self._bound, self._raise_fault = bound, bound.raise_fault if bound else None

    def rehearsal_table(
        self, latencies: Latencies, signal: npt.NDArray[Any], counters: Counters
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return a table with other latencies, newest signal (SIGNAL[1], of symbol 0) and counters, and their steps.

        Predictions, facts and plan stay the same: each decision writes them anew.
        """
        table, steps = self.table.copy(), np.zeros_like(self.table)
        places = [decision.COUNTS, decision.SUMS, decision.SIGNALS, decision.COUNTED]
        table[places] = table_of(latencies.counts, latencies.sums, signal, counters.decided)
        steps[decision.SIGNALS] = signal.itemsize
        return table, steps

    # --- mark prices: the guards ---

    def on_mark(
        self, symbol: int, price: float, funding_rate: float, next_funding_ms: int, event_ms: int, recv_ns: int
    ) -> None:
        """Take a mark price: journal, funding, then the stops of that symbol's position, exit at once."""
        self.clock.observe(event_ms)
        now_ms = self.clock.now_ms()
        self.counters.marks += 1
        journal, slot, due_ms = self.journal, self.desk.positions.slot_of[symbol], self.next_funding_ms[symbol]
        rate = self.funding_rate[symbol]
        at = journal.place(MARK)
        reason = self._take_mark(
            self.table, symbol, price, funding_rate, next_funding_ms, event_ms, recv_ns, now_ms, journal.words, at,
            journal.seq + 1, slot,
        )  # fmt: skip
        if at >= 0:
            journal.placed(MARK)
        if slot >= 0:
            if self.twins is not None:
                self.twins.frame_ns = recv_ns
            if reason:
                self.desk.exit(slot, REASONS[reason], now_ms)
                self.latencies.add(MARK_TO_EXIT, time.monotonic_ns() - recv_ns)
            if 0 < due_ms < next_funding_ms and due_ms <= event_ms:  # the stream has moved on to the next settlement
                self.desk.pay_funding(symbol, rate, price, now_ms)
        if self.twins is not None:
            self.twins.on_mark(symbol, price, now_ms)
        self.desk.advance(now_ms)

    def on_book(self, symbol: int, event_ms: int) -> None:
        """Take note that the symbol's book row changed; waiting shadow orders may meet it."""
        self.clock.observe(event_ms)
        self.counters.books += 1
        self.desk.advance(self.clock.now_ms())

    # --- decisions ---

    def standing(self, symbol: int, now_ms: int) -> Standing:
        """Return what a decision of this moment is told of the account, the symbol and the engine itself.

        The order is `kernels.decision.STANDING`. The equity is revalued; `Desk.begin_day` is the caller's business.
        """
        desk, account = self.desk, self.desk.account
        notional = desk.revalue(now_ms)
        hold, cap, signs = self._hold(symbol, now_ms), math.inf, ALL_SIGNED
        if desk.observer is not None:
            cap, signs = self.notional_caps_usdt[symbol], NONE_SIGNED
        elif self._raise_fault is not None:
            signs = NONE_SIGNED
        elif desk.positions.count or desk.entries or desk.exits:
            signs = REFUSED_SIGNED
        return (
            hold, self._flags(symbol, hold), account.cooldown_until_ms.get(symbol, 0), account.equity_usdt,
            account.day_start_equity_usdt, account.peak_equity_usdt, notional,
            desk.positions.count + len(desk.entries), account.losing_streak, cap, signs,
        )  # fmt: skip

    def on_vector(self, vector: Vector, recv_ns: int) -> None:
        """Decide on a complete vector that came by itself: predict, decide, size, journal, send if nothing refuses.

        Those that a closed bar completes are decided by `kernels.minute` in the same way; `settle` takes both on.
        """
        now_ms, symbol, journal = self.clock.now_ms(), vector.symbol, self.journal
        if self.desk.observer is not None:
            self.desk.observer.look(now_ms)
        begun_ns = time.monotonic_ns()
        standing = self.standing(symbol, now_ms)
        flags = standing[1] | vector.late | vector.input_late << 1 | vector.ready << 2 | vector.filled << 3
        at = journal.place(BOOK)
        self._decide(
            self.table, vector.values, symbol, journal.words, at, journal.seq + 1, NO_BOOK if at < 0 else 0, now_ms,
            recv_ns, begun_ns, vector.close_ms, vector.hash, vector.close, vector.atr_15m, *vector.first_ms,
            standing[0], flags, *standing[2:-1], NONE_SIGNED,
        )  # fmt: skip
        if at >= 0:
            journal.placed(BOOK)
        if self.desk.new_day:
            self.desk.begin_day(now_ms)
        self.settle(vector, now_ms, recv_ns)

    def settle(self, vector: Vector, now_ms: int, recv_ns: int) -> None:
        """Ask what only Python knows about a decision that is not signed yet, sign it, and enter if nothing refuses."""
        if self._raise_fault is not None:
            self._raise_fault()
        journal, desk, symbol = self.journal, self.desk, vector.symbol
        side, gates = self.out[decision.SIDE], self.out[decision.REFUSALS]
        if desk.observer is not None:
            gates |= self._venue_gates(vector, side, now_ms)
        if not gates and self.closes is not None:
            gates = self._correlated(symbol, side, vector.close_ms)
        decided_ns = time.monotonic_ns()
        # The signal's seq becomes the position's id; a full disk refuses entries, and its dropped records move no seq.
        while desk.id_taken(journal.seq + 1) and not journal.full:
            desk.write_account(now_ms)
        at = journal.place(SIGNAL)
        self._sign(
            self.table, journal.words, at, journal.seq + 1, now_ms, symbol, side, vector.close_ms, gates, vector.hash,
            *vector.first_ms, recv_ns, decided_ns,
        )  # fmt: skip
        position_id = journal.placed(SIGNAL) if at >= 0 else 0
        if not gates and position_id:
            self.enter(vector, side, position_id, now_ms, recv_ns)

    def enter(self, vector: Vector, side: int, position_id: int, now_ms: int, recv_ns: int) -> None:
        """Send the entry of an accepted decision, by the plan that its sizing left; in live mode its twin follows."""
        begun_ns, plan = time.monotonic_ns(), self._plan[0]
        self.counters.entries += 1
        assert self.predictor is not None  # gate no_model
        entry = Entry(
            position_id, vector.symbol, side, float(plan["qty"]), float(plan["limit_price"]),
            float(plan["tp_price"]), float(plan["sl_price"]), vector.atr_15m, vector.close_ms,
            self.predictor.model_id.encode(),
        )  # fmt: skip
        self.desk.enter(entry, now_ms)
        self.latencies.add(ORDER, time.monotonic_ns() - begun_ns)
        if self.twins is not None:
            self.twins.enter(entry, vector.close, now_ms, recv_ns)

    def _hold(self, symbol: int, now_ms: int) -> int:
        """Return what this decision is told from outside: `Hold` bits."""
        hold = GAP if self.entries_blocked(symbol) else 0
        if not self.clock.good():
            hold |= CLOCK
        if self.journal.full or self.journal.dropping & NO_BOOK:  # the helper may have found room since
            hold |= FULL
        if symbol in self.audit_failed:
            hold |= AUDIT
        if self.desk.observer is not None:
            hold |= self.desk.observer.hold(now_ms)
        return hold

    def _flags(self, symbol: int, hold: int) -> int:
        """Return the state of things as bits of `decision.FLAGS`; those of the vector are left at 0."""
        desk, account = self.desk, self.desk.account
        flags = 0 if self._predictor is None else F_HAS_MODEL
        if account.run_state == RUNNING:
            flags |= F_SESSION
        elif account.run_state in ENTRIES_OFF:
            flags |= F_REDUCE_ONLY
        if symbol in account.halted_symbols:
            flags |= F_HALTED
        if desk.orders and desk.unknown(symbol):
            flags |= F_UNKNOWN
        if desk.flat(symbol):
            flags |= F_FLAT
        return flags | HOLD_FLAGS[hold & 15] if hold else flags

    def _venue_gates(self, vector: Vector, side: int, now_ms: int) -> int:
        plan = self._plan[0]
        return self.desk.entry_gates(
            vector.symbol, side, float(plan["qty"]), float(plan["sl_price"]), vector.atr_15m, now_ms
        )

    def _correlated(self, symbol: int, side: int, close_ms: int) -> int:
        """Return the gate of the correlation cap: what is held and moves with this entry, and the entry itself."""
        desk, risk = self.desk, self.config.risk
        rows = desk.positions.rows[: desk.positions.count]
        held = [(int(r["symbol"]), int(r["side"]), float(r["qty"]) * float(self.marks[r["symbol"]])) for r in rows]
        held += [(e.symbol, e.side, e.qty * e.limit_price) for e in desk.entries.values()]
        if not held or self.closes is None:
            return 0
        together = moving_together_usdt(symbol, side, held, self.closes, risk.correlation, close_ms)
        over = together + float(self._plan[0]["notional_usdt"]) > risk.max_correlated_usdt
        return BIT["correlation"] if together and over else 0

    # --- the listing ---

    def on_instrument(self, symbol: int, row: Any, now_ms: int) -> None:
        """Take a changed INSTRUMENT row: filters, status, delivery, funding interval. An input like any other."""
        self.journal.write(Kind.INSTRUMENT, time.monotonic_ns(), now_ms, symbol, CHANGED, 0, *row.item())
        self.instruments[symbol] = row
        self._constants[symbol] = constants(self.instruments[symbol : symbol + 1])[0]
        self.on_listing(symbol)

    def _leave_ending(self, now_ms: int) -> None:
        """Exit positions in contracts that are about to be delivered or are no longer traded."""
        positions = self.desk.positions
        for slot in range(positions.count - 1, -1, -1):
            delivery_ms = float(self._constants["delivery_ms"][int(positions.rows[slot]["symbol"])])
            if 0.0 < delivery_ms < now_ms + LEAVE_BEFORE_MS:
                self.desk.exit(slot, Reason.SETTLEMENT, now_ms)

    # --- by time ---

    def on_account_timer(self, now_ms: int) -> None:
        """Revalue and journal the account: peak and day depend on when it is looked at."""
        self.journal.write(Kind.TIMER, time.monotonic_ns(), now_ms, Timer.ACCOUNT, 0, 0, 0)
        self.desk.mark_account(now_ms)
        self.desk.write_account(now_ms)
        self._leave_ending(now_ms)

    # --- operator ---

    def close_position(self, symbol: int, reason: Reason) -> bool:
        """Exit the symbol's position; False when it is flat."""
        slot = self.desk.positions.slot_of[symbol]
        if slot < 0:
            return False
        self._exit(slot, reason, self.clock.now_ms())
        return True

    def flatten(self, reason: Reason) -> int:
        """Exit everything this system opened; returns how many positions."""
        now_ms = self.clock.now_ms()
        for slot in range(self.desk.positions.count):
            self._exit(slot, reason, now_ms)
        return self.desk.positions.count

    def _exit(self, slot: int, reason: Reason, now_ms: int) -> None:
        symbol = int(self.desk.positions.rows[slot]["symbol"])
        self.journal.write(Kind.TIMER, time.monotonic_ns(), now_ms, Timer.EXIT, symbol, 0, 0)
        self.desk.exit(slot, reason, now_ms)

    def check_all(self) -> int:
        """Check every position against the newest marks (after a restart or a stall); returns how many must close."""
        positions = self.desk.positions
        slots, reasons = np.zeros(len(positions.rows), np.int64), np.zeros(len(positions.rows), np.int64)
        now_ms = self.clock.now_ms()
        if positions.count:
            self.journal.write(Kind.TIMER, time.monotonic_ns(), now_ms, Timer.CHECK_ALL, 0, 0, 0)
        hits = stops.check_all(positions.rows, positions.count, self.marks, now_ms, slots, reasons)
        for slot, reason in zip(slots[:hits].tolist(), reasons[:hits].tolist(), strict=True):
            self.desk.exit(slot, REASONS[reason], now_ms)
        return int(hits)


def constants(instruments: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return CONSTANT[n] of INSTRUMENT[n]: what decisions take from the instruments.

    A contract that is not trading counts as delivered long ago: it is not entered, and left.
    """
    rows = np.zeros(len(instruments), decision.CONSTANT)
    for name in ("tick_size", "step_size", "min_qty", "min_notional_usdt", "maintenance_rate"):
        rows[name] = instruments[name]
    rows["delivery_ms"] = np.where(instruments["trading"], instruments["delivery_ms"], 1.0)
    rows["max_qty"] = np.where(instruments["market_max_qty"] > 0.0, instruments["market_max_qty"], math.inf)
    rows["funding_interval_ms"] = np.maximum(instruments["funding_hours"], 1) * 3_600_000.0
    return rows
