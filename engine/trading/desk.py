"""The desk: from an accepted decision to a closed round trip. The only writer of orders, positions and the wallet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.journal import Writer
from engine.trading import exits
from engine.trading.account import STOPPED, Account
from engine.trading.entry import Entry
from engine.trading.exits import ExitRun, Terms
from engine.trading.gateway import Gateway, OrderEvent
from engine.trading.observer import Observer
from engine.trading.orders import LIMIT_IOC, MARKET, Event, Order, client_order_id
from engine.trading.positions import Positions
from engine.trading.records import Records
from engine.trading.twin import NoTwins, Twins
from kernels import stops
from kernels.compile import entry_point
from kernels.records import OrderState, PositionEvent, Reason
from kernels.stops import POSITION

SEND = Event.SEND


@dataclass(frozen=True)
class DeskRules:
    """The configuration's numbers that the desk applies after an entry."""

    time_limit_ms: int
    cooldown_ms: int
    mode: int
    second_exit_ms: int = 0  # live: a second exit order when the first stays silent this long
    exchange_money: bool = False  # live: the wallet and funding are what the exchange states


class Desk:
    """Turns entries and exit reasons into orders, and what the gateway reports into positions, trades and money."""

    def __init__(
        self, journal: Writer, gateway: Gateway, positions: Positions, account: Account, rules: DeskRules
    ) -> None:
        self.positions, self.account = positions, account
        self.orders: dict[str, Order] = {}  # open orders only
        self.entries: dict[int, Entry] = {}  # of open entry orders, by position id
        self.exits: dict[int, ExitRun] = {}
        self.booked: dict[int, set[int]] = {}  # ids of the trades that made each open position what it is
        self.closing: dict[int, tuple[float, float]] = {}  # position id → exited quantity and its notional
        self.touched_ms: dict[int, int] = {}  # the newest trade by symbol: older statements of REST say nothing
        self.terms: Terms | None = None
        self.observer: Observer | None = None
        self.twins: Twins | NoTwins = NoTwins()  # live: what shadow trading makes of the same decisions
        self.new_day = False  # a UTC day has begun, and the account is not journalled yet
        self.trades_closed = self.unknown_events = self.second_exits = 0
        self.net_usdt = self.booked_usdt = 0.0
        self._journal, self._gateway, self._rules = journal, gateway, rules
        self._records = Records(journal, rules.mode)
        self._exit_number = 0
        self._exposure = entry_point(stops.exposure)
        gateway.on_event = self.on_order_event

    # --- orders out ---

    def enter(self, entry: Entry, now_ms: int) -> Order:
        """Send the entry order of an accepted decision."""
        name = client_order_id(self._journal.engine_id, self._journal.run_id, entry.position_id, "e")
        order = Order(
            name, entry.position_id, entry.symbol, entry.side, LIMIT_IOC, False, entry.qty,
            entry.limit_price, Reason.ENTRY, now_ms,
        )  # fmt: skip
        self.entries[entry.position_id] = entry
        self._send(order, now_ms)
        return order

    def exit(self, slot: int, reason: Reason, now_ms: int) -> Order | None:
        """Send reduce-only orders for the whole of a position; None when its exit is already under way."""
        position_id, symbol, _, _ = self.positions.head(slot)
        if position_id in self.exits:
            return None
        run = ExitRun(position_id, symbol, reason)
        self.exits[position_id] = run
        if self.terms is not None and self.terms.stop_triggering(run.symbol):
            run.next_ms = now_ms + exits.TRIGGER_WAIT_MS
            return None
        order = self._exit_round(run, slot, now_ms)
        self.twins.exit_decided(position_id, reason, now_ms)
        return order

    def _exit_round(self, run: ExitRun, slot: int, now_ms: int) -> Order | None:
        _, _, held, qty = self.positions.head(slot)
        side, text, largest, price, kind = -held, "", 0.0, 0.0, MARKET
        if self.terms is not None:
            qty, text = self.terms.exit_qty(slot)
            largest = self.terms.slice_qty(run.symbol)
            if run.banded:
                price = self.terms.band_price(run.symbol, side)
                kind = LIMIT_IOC if price > 0.0 else kind
        if qty <= 0.0:  # less than one step is left: nothing can be sold, and a person was told
            run.next_ms = now_ms + exits.DUST_MS
            return None
        run.rounds += 1
        run.sent_ms = now_ms
        first = None
        for part, digits in exits.slices(qty, text, largest):
            # above seq even when a full disk drops the records that would have moved it: no two exits share a name
            self._exit_number = max(self._exit_number, self._journal.seq) + 1
            name = client_order_id(self._journal.engine_id, self._journal.run_id, self._exit_number, "x")
            order = Order(
                name, run.position_id, run.symbol, side, kind, True, part, price, run.reason, now_ms, qty_text=digits
            )
            run.open.add(name)
            self._send(order, now_ms)
            first = first or order
        return first

    def _send(self, order: Order, now_ms: int) -> None:
        self.orders[order.client_order_id] = order
        self._records.order(order, now_ms)
        order.apply(SEND)
        self._gateway.submit(order, now_ms)
        self._records.order(order, now_ms)

    def advance(self, now_ms: int) -> None:
        """Let time pass: fills, time-outs, and the next round of exits that are not done."""
        self._gateway.advance(now_ms)
        self.twins.advance(now_ms)
        if not self.exits:
            return
        for run in list(self.exits.values()):
            slot = self.positions.slot_of_id(run.position_id)
            if slot < 0 and not run.open:
                self.exits.pop(run.position_id, None)
            elif slot >= 0 and exits.due(run, now_ms, self._rules.second_exit_ms):
                if run.open:
                    run.silent += 1
                    self.second_exits += 1
                self._exit_round(run, slot, now_ms)

    def exit_route(self, order: Order) -> int:
        """Return the route that an order should take: each further round of an exit takes another one."""
        run = self.exits.get(order.position_id) if order.reduce_only else None
        return exits.ROUTES[(run.rounds - 1) % len(exits.ROUTES)] if run is not None else 0

    def flat(self, symbol: int) -> bool:
        """Whether the symbol has neither a position nor an order of ours, nor a stop left on the exchange."""
        if self.positions.slot_of[symbol] >= 0:
            return False
        if self.orders and any(order.symbol == symbol for order in self.orders.values()):
            return False
        return self.observer is None or self.observer.may_enter(symbol)

    def id_taken(self, position_id: int) -> bool:
        """Whether an open position, entry or exit bears this id. Ids are a run's seqs; open ones outlive their run."""
        taken = self.positions.slot_of_id(position_id) >= 0
        return taken or position_id in self.entries or position_id in self.exits

    def unknown(self, symbol: int) -> bool:
        """Whether an order of the symbol has an unknown fate: entries wait, exits do not."""
        if not self.orders:
            return False
        return any(o.state is OrderState.UNKNOWN and o.symbol == symbol for o in self.orders.values())

    def entry_gates(self, symbol: int, side: int, qty: float, sl_price: float, atr_15m: float, now_ms: int) -> int:
        """Return the gate bits that the venue adds to a decision; none in shadow mode."""
        if self.observer is None:
            return 0
        return self.observer.entry_gates(symbol, side, qty, sl_price, atr_15m, now_ms)

    def worst_case_notional(self) -> float:
        """Return the notional that open entry orders may still add, at their limit prices."""
        if not self.orders:
            return 0.0
        return sum((o.qty - o.filled_qty) * o.price for o in self.orders.values() if not o.reduce_only)

    # --- events in ---

    def on_order_event(self, event: OrderEvent) -> None:
        """Apply what the gateway learnt. An event that fits no transition is counted and changes nothing."""
        self._journal.together()
        order = self.orders.get(event.client_order_id)
        known = order is not None and event.trade_id and event.trade_id in order.trade_ids
        if order is None or known or not order.apply(event.event):
            self.unknown_events += 1
            return
        order.order_id = event.order_id or order.order_id
        order.code, order.detail = event.code, event.detail
        if event.qty > 0.0:
            if not event.journalled:
                self._records.fill(order, event)
            order.trade_ids.add(event.trade_id)
            self.booked.setdefault(order.position_id, set()).add(event.trade_id)
            self.touched_ms[order.symbol] = max(self.touched_ms.get(order.symbol, 0), event.event_ms)
            order.add_fill(event.qty, event.price)
            if order.reduce_only:
                self._reduce(order, event)
            else:
                self._increase(order, event)
        self._records.order(order, event.event_ms)
        if order.terminal:
            self._finish(order, event.event_ms)

    def _finish(self, order: Order, now_ms: int) -> None:
        self.orders.pop(order.client_order_id, None)
        if not order.reduce_only:
            self.entries.pop(order.position_id, None)
            if not order.filled_qty:
                self.twins.live_gone(order.position_id, now_ms)
            return
        run = self.exits.get(order.position_id)
        if run is None:
            return
        if exits.note_end(run, order, now_ms) and self.terms is not None:
            self.terms.read_position(order.symbol)
        if not run.open and self.positions.slot_of_id(order.position_id) < 0:
            del self.exits[order.position_id]

    def _increase(self, order: Order, event: OrderEvent) -> None:
        entry = self.entries[order.position_id]
        slot = self.positions.slot_of[order.symbol]
        self._pay(-event.fee_usdt)
        self._told(order, event, 0.0)
        if slot >= 0:  # a further partial fill of the same entry
            row = self.positions.rows[slot]
            before = float(row["qty"])
            row["entry_price"] = (float(row["entry_price"]) * before + event.price * event.qty) / (before + event.qty)
            row["qty"] = before + event.qty
            if order.filled_qty == row["qty"]:
                row["entry_price"] = order.average_price
            row["fees_usdt"] += event.fee_usdt
            self._records.position(self.positions, slot, PositionEvent.ADJUST, Reason.ENTRY, event.event_ms)
            return
        row = np.zeros(1, POSITION)
        values: dict[str, Any] = {
            "position_id": entry.position_id, "symbol": entry.symbol, "side": entry.side, "qty": event.qty,
            "entry_price": event.price, "tp_price": entry.tp_price, "sl_price": entry.sl_price,
            "atr_15m": entry.atr_15m, "mark_price": event.price, "fees_usdt": event.fee_usdt,
            "opened_ms": event.event_ms, "deadline_ms": entry.decision_ms + self._rules.time_limit_ms,
        }  # fmt: skip
        for name, value in values.items():
            row[name] = value
        slot = self.positions.open(row, entry.model_id)
        self._records.position(self.positions, slot, PositionEvent.ENTRY, Reason.ENTRY, event.event_ms)
        self.twins.live_filled(entry.position_id, event.event_ms)
        if self.observer is not None:
            self.observer.position_opened(slot, event.event_ms)

    def _reduce(self, order: Order, event: OrderEvent) -> None:
        slot = self.positions.slot_of_id(order.position_id)
        if slot < 0:
            self.unknown_events += 1
            return
        run = self.exits.get(order.position_id)
        if run is not None:
            run.heard_ms = event.event_ms
        row = self.positions.rows[slot]
        qty = min(event.qty, float(row["qty"]))
        profit = float(row["side"]) * qty * (event.price - float(row["entry_price"]))
        self._pay(profit - event.fee_usdt)
        self._told(order, event, profit)
        row["realised_usdt"] += profit
        row["fees_usdt"] += event.fee_usdt
        done_qty, done_notional = self.closing.get(order.position_id, (0.0, 0.0))
        self.closing[order.position_id] = (done_qty + qty, done_notional + qty * event.price)
        left = float(row["qty"]) - qty
        if left > 1e-9 * (done_qty + qty + left):
            row["qty"] = left
            self._records.position(self.positions, slot, PositionEvent.ADJUST, order.reason, event.event_ms)
            return
        self._close(slot, order, event.event_ms)

    def _told(self, order: Order, event: OrderEvent, profit: float) -> None:
        if self.observer is not None:
            self.observer.traded(order.symbol, event, profit)

    def _close(self, slot: int, order: Order, now_ms: int) -> None:
        row = self.positions.rows[slot]
        position_id = int(row["position_id"])
        qty, notional = self.closing.pop(position_id)
        price = order.average_price if qty == order.filled_qty else notional / qty
        hidden_ms = self.observer.unprotected_ms(position_id, now_ms) if self.observer is not None else 0
        self._records.position(self.positions, slot, PositionEvent.FINAL, order.reason, now_ms)
        net = self.traded(
            row, self.positions.model_of.get(position_id, b""), order.reason, qty, price, hidden_ms, now_ms
        )
        self.twins.live_closed(row, qty, price, net, order.reason, now_ms)
        self._gone(slot, now_ms)

    def traded(
        self, row: np.void, model_id: bytes, reason: Reason, qty: float, price: float, hidden_ms: int, now_ms: int
    ) -> float:
        """Journal a closed round trip and account for it; return its net result in USDT."""
        net = self._records.trade(row, model_id, reason, qty, price, hidden_ms, now_ms)
        self.account.trade_closed(int(row["symbol"]), net, reason in STOPPED, now_ms, self._rules.cooldown_ms)
        self.trades_closed += 1
        self.net_usdt += net
        return net

    def _gone(self, slot: int, now_ms: int) -> None:
        position_id, symbol = int(self.positions.rows[slot]["position_id"]), int(self.positions.rows[slot]["symbol"])
        self.positions.close(slot)
        self.booked.pop(position_id, None)
        self.mark_account(now_ms)
        self.write_account(now_ms)
        self.twins.live_gone(position_id, now_ms)
        if self.observer is not None:
            self.observer.position_closed(position_id, symbol, now_ms)

    # --- what others did to the account ---

    def adopt_exit(
        self, name: str, slot: int, side: int, qty: float, reason: Reason, now_ms: int, order_id: int = 0
    ) -> Order:
        """Take over a reducing order that the exchange or a person sent: its fills close our position like our own."""
        row = self.positions.rows[slot]
        order = Order(
            name, int(row["position_id"]), int(row["symbol"]), side, MARKET, True, qty, 0.0, reason, now_ms,
            order_id=order_id,
        )  # fmt: skip
        order.apply(Event.SEND)
        self.orders[name] = order
        self._records.order(order, now_ms)
        return order

    def adopt_position(
        self, symbol: int, side: int, qty: float, entry_price: float, protection: tuple[float, float], now_ms: int
    ) -> int:
        """Take a position that we did not open under our guard, with `protection` = (stop loss, take profit) prices."""
        row = np.zeros(1, POSITION)
        while self.id_taken(self._journal.seq + 1) and not self._journal.full:
            self.write_account(now_ms)
        row["position_id"], row["symbol"], row["side"] = self._journal.seq + 1, symbol, side
        row["qty"], row["entry_price"], row["mark_price"] = qty, entry_price, entry_price
        row["sl_price"], row["tp_price"] = protection
        row["opened_ms"], row["deadline_ms"] = now_ms, now_ms + self._rules.time_limit_ms
        slot = self.positions.open(row, b"")
        self._records.position(self.positions, slot, PositionEvent.ENTRY, Reason.ADJUST, now_ms)
        return slot

    def note_protection(self, slot: int, price: float, confirmed: bool, now_ms: int) -> None:
        """Record whether the exchange holds a confirmed stop for a position."""
        row = self.positions.rows[slot]
        row["protected"], row["protect_price"] = int(confirmed), price
        self._records.position(self.positions, slot, PositionEvent.ADJUST, Reason.NONE, now_ms)

    def adjust(self, slot: int, qty: float, entry_price: float, now_ms: int) -> None:
        """Set a position to what the exchange states: a labelled adjustment, never an invented trade. 0 closes it."""
        row = self.positions.rows[slot]
        if qty > 0.0:
            row["qty"], row["entry_price"] = qty, entry_price or row["entry_price"]
            self._records.position(self.positions, slot, PositionEvent.ADJUST, Reason.ADJUST, now_ms)
            return
        self._records.position(self.positions, slot, PositionEvent.FINAL, Reason.ADJUST, now_ms)
        self.closing.pop(int(row["position_id"]), None)
        self._gone(slot, now_ms)

    # --- money over time ---

    def _pay(self, amount_usdt: float) -> None:
        self.booked_usdt += amount_usdt
        if not self._rules.exchange_money:
            self.account.wallet_usdt += amount_usdt

    def pay_funding(self, symbol: int, rate: float, mark_price: float, now_ms: int) -> None:
        """Charge one funding settlement (a positive rate: longs pay) to the symbol's position, if there is one."""
        slot = self.positions.slot_of[symbol]
        self.twins.pay_funding(symbol, rate, mark_price)
        if slot < 0 or rate != rate or self._rules.exchange_money:
            return
        row = self.positions.rows[slot]
        self.book_funding(slot, -float(row["side"]) * float(row["qty"]) * mark_price * rate, now_ms)

    def book_funding(self, slot: int, amount_usdt: float, now_ms: int) -> None:
        """Book a funding payment (positive: received) to a position."""
        self.positions.rows[slot]["funding_usdt"] += amount_usdt
        self._pay(amount_usdt)
        self._records.position(self.positions, slot, PositionEvent.ADJUST, Reason.FUNDING, now_ms)
        self.mark_account(now_ms)
        self.write_account(now_ms)

    def mark_account(self, now_ms: int) -> float:
        """Revalue the equity at the positions' marks and return the total notional; a new UTC day is journalled."""
        notional = self.revalue(now_ms)
        if self.new_day:
            self.begin_day(now_ms)
        return notional

    def revalue(self, now_ms: int) -> float:
        """Do the same, but leave a new day to `begin_day`: a closed bar's own records come first."""
        profit, notional = 0.0, 0.0
        if self.positions.count:
            profit, notional = self._exposure(self.positions.rows, self.positions.count)
        if self.account.mark(profit, now_ms):
            self.new_day = True
        return notional + self.worst_case_notional() if self.orders else notional

    def begin_day(self, now_ms: int) -> None:
        """Journal the account of a new UTC day."""
        self.new_day = False
        self.write_account(now_ms)

    def halt_symbol(self, symbol: int, name: str, why: str, now_ms: int) -> None:
        """Let a symbol rest until a person allows it again; journalled, so that a restart does not lift it."""
        if symbol not in self.account.halted_symbols:
            self.account.halted_symbols.add(symbol)
            self._records.halt(name, why, now_ms)

    def write_account(self, now_ms: int) -> None:
        """Journal the wallet and limits."""
        self._records.account(self.account, self.positions.count, now_ms)
