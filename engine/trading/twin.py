"""Shadow twins: beside each live trade the shadow trade of the same decision, through the shadow gateway's own code.

A twin enters at the book of the decision, a modelled latency later; it is guarded by the same barriers on the same mark
ticks, and it leaves with the live position where something else than a barrier ends that (an operator, the risk
ladder, the exchange). Where the live entry got nothing the twin goes on to its own end: what was missed. At most one
such per symbol, since shadow trading would not have entered again either. `kernels.records` TWIN is its whole state
and that of the live trade beside it, with the middle of the book at each moment that counts; the SQL view
`v_shortfall` splits the difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import CostConfig
from engine.journal import Writer
from engine.trading.entry import Entry
from engine.trading.gateway import OrderEvent
from engine.trading.harmless import harmless
from engine.trading.orders import Event, Order, OrderType
from engine.trading.shadow import ShadowGateway
from kernels import stops
from kernels.compile import entry_point
from kernels.records import Kind, PositionEvent, Reason
from kernels.stops import POSITION

BARRIERS = frozenset({Reason.SL, Reason.TP, Reason.TIME})
NAN = float("nan")
LIVE_RESULT = ("qty", "entry_price", "exit_price", "fees_usdt", "funding_usdt", "net_usdt")  # as in a TRADE record
CLOCK_FIELDS = frozenset({"entry_compute_ns", "entry_network_ns", "exit_compute_ns", "exit_network_ns"})


class NoTwins:
    """Shadow mode has none: what the desk tells is not kept."""

    def live_filled(self, position_id: int, now_ms: int) -> None:
        """Nothing to note."""

    def exit_decided(self, position_id: int, reason: Reason, now_ms: int) -> None:
        """Nothing to note."""

    def live_closed(
        self, row: Any, qty: float, exit_price: float, net_usdt: float, reason: Reason, now_ms: int
    ) -> None:
        """Nothing to note."""

    def live_gone(self, position_id: int, now_ms: int) -> None:
        """Nothing to note."""

    def pay_funding(self, symbol: int, rate: float, mark_price: float) -> None:
        """Nothing to pay."""

    def advance(self, now_ms: int) -> None:
        """Nothing waits."""


@dataclass(slots=True)
class Twin:
    """A TWIN record's fields in their order. Until `opened_ms` is set, qty and entry_price are those asked for."""

    position_id: int
    symbol: int
    side: int
    event: int = int(PositionEvent.ENTRY)
    reason: int = 0
    live_reason: int = 0
    spare: int = 0
    tp_price: float = 0.0
    sl_price: float = 0.0
    deadline_ms: int = 0
    decision_ms: int = 0
    decided_ms: int = 0
    close: float = NAN
    decided_mid: float = NAN
    qty: float = 0.0
    entry_price: float = 0.0
    entry_mid: float = NAN
    opened_ms: int = 0
    exit_decided_ms: int = 0
    exit_decided_mid: float = NAN
    exit_price: float = NAN
    exit_mid: float = NAN
    closed_ms: int = 0
    fees_usdt: float = 0.0
    funding_usdt: float = 0.0
    net_usdt: float = 0.0
    live_qty: float = 0.0
    live_entry_price: float = NAN
    live_entry_mid: float = NAN
    live_opened_ms: int = 0
    live_exit_decided_ms: int = 0
    live_exit_decided_mid: float = NAN
    live_exit_price: float = NAN
    live_exit_mid: float = NAN
    live_closed_ms: int = 0
    live_fees_usdt: float = 0.0
    live_funding_usdt: float = 0.0
    live_net_usdt: float = 0.0
    entry_compute_ns: int = 0
    entry_network_ns: int = 0
    exit_compute_ns: int = 0
    exit_network_ns: int = 0


@dataclass(slots=True)
class _Run:
    """A twin under way: its record, its guard row, and when its live orders were handed over (monotonic)."""

    twin: Twin
    guard: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(1, POSITION))
    sent_ns: int = 0


@harmless(
    "enter", "live_filled", "exit_decided", "live_closed", "live_gone", "pay_funding", "on_mark", "advance", "resume"
)  # fmt: skip
class Twins(NoTwins):
    """All open twins. `frame_ns`: when the frame under way was received, for the time that its handling took.

    note_book(symbol, now_ms) journals the symbol's book each time just before a twin looks at it.
    """

    def __init__(
        self,
        books: npt.NDArray[Any],
        marks: npt.NDArray[Any],
        costs: CostConfig,
        journal: Writer,
        time_limit_ms: int,
        note_book: Callable[[int, int], None],
    ) -> None:
        self.note_book = note_book
        self.open: dict[int, _Run] = {}
        self.frame_ns = self.faults = 0
        self._books, self._journal, self._time_limit_ms = books, journal, time_limit_ms
        self._of_symbol: dict[int, _Run] = {}
        self._missed: dict[int, _Run] = {}  # by symbol: the live entry got nothing
        self._gateway = ShadowGateway(
            books, marks, costs.latency_ms, costs.taker_fee, costs.half_spread,
            lambda order, now_ms: self.note_book(order.symbol, now_ms),
        )  # fmt: skip
        self._gateway.on_event = self._on_event
        self._check = entry_point(stops.check)

    # --- what the live trade does ---

    def enter(self, entry: Entry, close: float, now_ms: int, recv_ns: int) -> None:
        """The live entry has just been handed over: its twin is sent to the shadow gateway."""
        sent_ns, self.frame_ns = time.monotonic_ns(), recv_ns
        twin = Twin(
            entry.position_id, entry.symbol, entry.side, tp_price=entry.tp_price, sl_price=entry.sl_price,
            deadline_ms=entry.decision_ms + self._time_limit_ms, decision_ms=entry.decision_ms, decided_ms=now_ms,
            close=close, decided_mid=self._mid(entry.symbol, now_ms), qty=entry.qty, entry_price=entry.limit_price,
            entry_compute_ns=sent_ns - self.frame_ns,
        )  # fmt: skip
        run = self._take(twin)
        run.sent_ns = sent_ns
        self._write(twin, now_ms)
        self._enter(twin, now_ms)

    def live_filled(self, position_id: int, now_ms: int) -> None:
        """The live entry's first fill was told."""
        run = self.open.get(position_id)
        if run is not None and not run.twin.live_opened_ms:
            twin = run.twin
            twin.live_opened_ms, twin.live_entry_mid = now_ms, self._mid(twin.symbol, now_ms)
            twin.entry_network_ns = time.monotonic_ns() - run.sent_ns if run.sent_ns else 0
            self._write(twin, now_ms)

    def exit_decided(self, position_id: int, reason: Reason, now_ms: int) -> None:
        """The live position is being closed; its order has just been handed over."""
        run = self.open.get(position_id)
        if run is None or run.twin.live_exit_decided_ms:
            return
        twin, run.sent_ns = run.twin, time.monotonic_ns()
        twin.live_exit_decided_ms, twin.live_exit_decided_mid = now_ms, self._mid(twin.symbol, now_ms)
        twin.exit_compute_ns = run.sent_ns - self.frame_ns
        self._write(twin, now_ms)
        if reason not in BARRIERS:
            self._exit(twin, reason, now_ms)

    def live_closed(
        self, row: Any, qty: float, exit_price: float, net_usdt: float, reason: Reason, now_ms: int
    ) -> None:
        """The live round trip is over: `row` is its POSITION row, the rest as in its TRADE record."""
        run = self.open.get(int(row["position_id"]))
        if run is None:
            return
        twin, mid = run.twin, self._mid(int(row["symbol"]), now_ms)
        twin.live_reason, twin.live_qty, twin.live_entry_price = int(reason), qty, float(row["entry_price"])
        twin.live_exit_price, twin.live_exit_mid, twin.live_closed_ms = exit_price, mid, now_ms
        twin.live_fees_usdt, twin.live_funding_usdt = float(row["fees_usdt"]), float(row["funding_usdt"])
        twin.live_net_usdt = net_usdt
        if twin.live_exit_decided_ms:
            twin.exit_network_ns = time.monotonic_ns() - run.sent_ns
        else:  # the exchange's own stop, a liquidation, somebody else: decided when it was told
            twin.live_exit_decided_ms, twin.live_exit_decided_mid = now_ms, mid
        self._exit(twin, reason, now_ms)
        self._settle(twin, now_ms)

    def live_gone(self, position_id: int, now_ms: int) -> None:
        """No live trade will come of it: its entry got nothing, or its position went by an adjustment."""
        run = self.open.get(position_id)
        if run is None or run.twin.live_closed_ms:
            return
        twin, run.twin.live_closed_ms = run.twin, now_ms
        if twin.live_opened_ms or twin.closed_ms or twin.symbol in self._missed:
            self._finish(twin, now_ms)
            return
        self._miss(run)
        self._write(twin, now_ms)

    def _miss(self, run: _Run) -> None:
        self._missed[run.twin.symbol] = run
        if self._of_symbol.get(run.twin.symbol) is run:
            del self._of_symbol[run.twin.symbol]

    def _beside(self, symbol: int) -> list[_Run]:
        """Return the symbol's open twins: of its live trade, and of an entry that was missed."""
        found = self._of_symbol.get(symbol), self._missed.get(symbol)
        return [run for run in found if run is not None]

    def pay_funding(self, symbol: int, rate: float, mark_price: float) -> None:
        """Charge one settlement to the symbol's twin, as shadow trading does."""
        for run in self._beside(symbol):
            if run.twin.opened_ms and not run.twin.closed_ms and rate == rate:
                run.twin.funding_usdt -= run.twin.side * run.twin.qty * mark_price * rate

    # --- the market ---

    def on_mark(self, symbol: int, price: float, now_ms: int) -> None:
        """Check the symbol's twin against its barriers, as the live position's guard was."""
        if symbol not in self._of_symbol and symbol not in self._missed:
            return
        for run in self._beside(symbol):
            if not run.twin.opened_ms or not run.twin.qty or run.twin.exit_decided_ms:
                continue
            reason = self._check(run.guard, 0, price, now_ms)
            if reason:
                self._exit(run.twin, Reason(reason), now_ms)

    def advance(self, now_ms: int) -> None:
        """Let waiting orders meet the book."""
        if self._gateway.waiting:
            self._gateway.advance(now_ms)

    # --- restart ---

    def state(self, symbols: list[str]) -> list[dict[str, Any]]:
        """Return what a snapshot keeps, symbols by name; durations of this process are left out."""
        kept = [asdict(run.twin) for run in self.open.values()]
        return [
            {name: value for name, value in values.items() if name not in CLOCK_FIELDS}
            | {"symbol": symbols[values["symbol"]]}
            for values in kept
        ]

    def resume(self, states: list[dict[str, Any]], symbols: list[str], held: set[int], now_ms: int) -> None:
        """Take over the twins of an earlier run; orders that were waiting are sent again.

        held: positions and entries that are still open; a twin without one ends where the live trade did.
        """
        index = {name: i for i, name in enumerate(symbols)}
        known = {item.name for item in fields(Twin)}
        for values in states:
            if values["symbol"] not in index:
                continue
            given: dict[str, Any] = {
                name: NAN if value is None else value for name, value in values.items() if name in known
            }
            twin = Twin(**given | {"symbol": index[values["symbol"]]})
            self._take(twin)
            if twin.position_id not in held and not twin.live_closed_ms:
                self.live_gone(twin.position_id, now_ms)
                continue
            if not twin.opened_ms:
                self._enter(twin, now_ms)
            elif twin.exit_decided_ms and not twin.closed_ms:
                self._leave(twin, now_ms)
            if twin.live_closed_ms and not twin.live_qty:
                self._miss(self.open[twin.position_id])
            elif twin.live_closed_ms:  # its trade is over: it leaves too, if it has not decided so before
                self._exit(twin, Reason(twin.live_reason), now_ms)
                self._settle(twin, now_ms)

    # --- the shadow side ---

    def _take(self, twin: Twin) -> _Run:
        run = _Run(twin)
        self.open[twin.position_id] = self._of_symbol[twin.symbol] = run
        if twin.opened_ms:
            self._arm(run)
        return run

    def _arm(self, run: _Run) -> None:
        for name in ("symbol", "side", "qty", "entry_price", "tp_price", "sl_price", "deadline_ms"):
            run.guard[name] = getattr(run.twin, name)

    def _enter(self, twin: Twin, now_ms: int) -> None:
        order = Order(
            f"{twin.position_id}-e", twin.position_id, twin.symbol, twin.side, OrderType.LIMIT_IOC, False, twin.qty,
            twin.entry_price, Reason.ENTRY, now_ms,
        )  # fmt: skip
        self._gateway.submit(order, now_ms)

    def _exit(self, twin: Twin, reason: Reason, now_ms: int) -> None:
        if twin.exit_decided_ms:
            return
        twin.reason, twin.exit_decided_ms, twin.exit_decided_mid = int(reason), now_ms, self._mid(twin.symbol, now_ms)
        if twin.opened_ms and twin.qty:
            self._leave(twin, now_ms)

    def _leave(self, twin: Twin, now_ms: int) -> None:
        order = Order(
            f"{twin.position_id}-x", twin.position_id, twin.symbol, -twin.side, OrderType.MARKET, True, twin.qty, 0.0,
            Reason(twin.reason), now_ms,
        )  # fmt: skip
        self._gateway.submit(order, now_ms)

    def _on_event(self, event: OrderEvent) -> None:
        position_id, role = event.client_order_id.split("-")
        run = self.open.get(int(position_id))
        if run is None or event.event is Event.ACKNOWLEDGE:
            return
        if role == "e":
            self._entered(run, event)
        elif event.qty > 0.0:
            self._left(run.twin, event)
        else:
            self._leave(run.twin, event.event_ms)  # no book and no mark yet: the next one

    def _entered(self, run: _Run, event: OrderEvent) -> None:
        twin = run.twin
        if twin.opened_ms:
            return  # the remainder of a partial fill expires
        twin.opened_ms, twin.entry_mid, twin.qty = event.event_ms, self._mid(twin.symbol, event.event_ms), event.qty
        twin.entry_price, twin.fees_usdt = (event.price, event.fee_usdt) if event.qty else (NAN, 0.0)
        twin.event = int(PositionEvent.ADJUST)
        self._arm(run)
        self._write(twin, event.event_ms)
        if not twin.qty:
            twin.closed_ms = event.event_ms
            self._settle(twin, event.event_ms)
        elif twin.exit_decided_ms:
            self._leave(twin, event.event_ms)

    def _left(self, twin: Twin, event: OrderEvent) -> None:
        twin.exit_price, twin.closed_ms = event.price, event.event_ms
        twin.exit_mid = self._mid(twin.symbol, event.event_ms)
        twin.fees_usdt += event.fee_usdt
        gross = twin.side * twin.qty * (event.price - twin.entry_price)
        twin.net_usdt = gross - twin.fees_usdt + twin.funding_usdt
        self._settle(twin, event.event_ms)

    def _settle(self, twin: Twin, now_ms: int) -> None:
        if twin.closed_ms and twin.live_closed_ms:
            self._finish(twin, now_ms)
        elif twin.closed_ms:
            self._write(twin, now_ms)

    def _finish(self, twin: Twin, now_ms: int) -> None:
        twin.event = int(PositionEvent.FINAL)
        self._write(twin, now_ms)
        run = self.open.pop(twin.position_id)
        for runs in (self._of_symbol, self._missed):
            if runs.get(twin.symbol) is run:
                del runs[twin.symbol]

    def _write(self, twin: Twin, now_ms: int) -> None:
        self._journal.write(Kind.TWIN, time.monotonic_ns(), now_ms, *astuple(twin))

    def _mid(self, symbol: int, now_ms: int) -> float:
        self.note_book(symbol, now_ms)
        bid, _, ask, *_ = self._books[symbol].item()
        return 0.5 * (bid + ask) if bid > 0.0 and ask > 0.0 else NAN
