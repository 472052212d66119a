"""The desk: from an accepted decision to a closed round trip. The only writer of orders, positions and the wallet."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.journal import Writer
from engine.trading.account import Account
from engine.trading.gateway import Gateway, OrderEvent
from engine.trading.orders import Event, Order, OrderType, client_order_id
from engine.trading.positions import Positions
from kernels import stops
from kernels.compile import entry_point
from kernels.records import Kind, OrderState, PositionEvent, Reason
from kernels.stops import POSITION


@dataclass(frozen=True)
class DeskRules:
    """The configuration's numbers that the desk applies after an entry."""

    time_limit_ms: int
    cooldown_ms: int
    mode: int


@dataclass(slots=True)
class Entry:
    """What an accepted decision asks for; it becomes a position when its order fills."""

    position_id: int
    symbol: int
    side: int
    qty: float
    limit_price: float
    tp_price: float
    sl_price: float
    atr_15m: float
    decision_ms: int
    model_id: bytes


class Desk:
    """Turns entries and exit reasons into orders, and what the gateway reports into positions, trades and money."""

    def __init__(
        self, journal: Writer, gateway: Gateway, positions: Positions, account: Account, rules: DeskRules
    ) -> None:
        self.positions, self.account = positions, account
        self.orders: dict[str, Order] = {}  # open orders only
        self.trades_closed = 0
        self.net_usdt = 0.0
        self.unknown_events = 0
        self._journal, self._gateway, self._rules = journal, gateway, rules
        self._entries: dict[int, Entry] = {}
        self._exit_of: dict[int, str] = {}  # position id → client id of its open exit order
        self._exposure = entry_point(stops.exposure)
        gateway.on_event = self.on_order_event

    # --- orders out ---

    def enter(self, entry: Entry, now_ms: int) -> Order:
        """Send the entry order of an accepted decision."""
        name = client_order_id(self._journal.engine_id, self._journal.run_id, entry.position_id, "e")
        order = Order(
            name, entry.position_id, entry.symbol, entry.side, OrderType.LIMIT_IOC, False, entry.qty,
            entry.limit_price, Reason.ENTRY, now_ms,
        )  # fmt: skip
        self._entries[entry.position_id] = entry
        self._send(order, now_ms)
        return order

    def exit(self, slot: int, reason: Reason, now_ms: int) -> Order | None:
        """Send a reduce-only market order for the whole of a position; None when its exit is already under way."""
        row = self.positions.rows[slot]
        position_id = int(row["position_id"])
        if position_id in self._exit_of:
            return None
        name = client_order_id(self._journal.engine_id, self._journal.run_id, self._journal.seq + 1, "x")
        order = Order(
            name, position_id, int(row["symbol"]), -int(row["side"]), OrderType.MARKET, True, float(row["qty"]),
            0.0, reason, now_ms,
        )  # fmt: skip
        self._exit_of[position_id] = name
        self._send(order, now_ms)
        return order

    def _send(self, order: Order, now_ms: int) -> None:
        self.orders[order.client_order_id] = order
        self._write_order(order, now_ms)
        order.apply(Event.SEND)
        self._gateway.submit(order, now_ms)
        self._write_order(order, now_ms)

    def flat(self, symbol: int) -> bool:
        """Whether the symbol has neither a position nor an order that could open one."""
        return self.positions.slot_of[symbol] < 0 and not any(order.symbol == symbol for order in self.orders.values())

    def unknown(self, symbol: int) -> bool:
        """Whether an order of the symbol has an unknown fate: entries wait, exits do not."""
        return any(o.state is OrderState.UNKNOWN and o.symbol == symbol for o in self.orders.values())

    # --- events in ---

    def on_order_event(self, event: OrderEvent) -> None:
        """Apply what the gateway learnt. An event that fits no transition is counted and changes nothing."""
        order = self.orders.get(event.client_order_id)
        if order is None or (event.trade_id and event.trade_id in order.trade_ids):
            self.unknown_events += 1
            return
        if not order.apply(event.event):
            self.unknown_events += 1
            return
        order.order_id = event.order_id or order.order_id
        order.code, order.detail = event.code, event.detail
        if event.qty > 0.0:
            order.trade_ids.add(event.trade_id)
            order.add_fill(event.qty, event.price)
            self._write_fill(order, event)
            if order.reduce_only:
                self._reduce(order, event)
            else:
                self._increase(order, event)
        self._write_order(order, event.event_ms)
        if order.terminal:
            self._finish(order)

    def _finish(self, order: Order) -> None:
        self.orders.pop(order.client_order_id, None)
        if not order.reduce_only:
            self._entries.pop(order.position_id, None)
        elif self._exit_of.get(order.position_id) == order.client_order_id:
            del self._exit_of[order.position_id]  # what is left of the position may be exited again

    def _increase(self, order: Order, event: OrderEvent) -> None:
        entry = self._entries[order.position_id]
        slot = self.positions.slot_of[order.symbol]
        self.account.wallet_usdt -= event.fee_usdt
        if slot >= 0:  # a further partial fill of the same entry
            row = self.positions.rows[slot]
            row["qty"], row["entry_price"] = order.filled_qty, order.average_price
            row["fees_usdt"] += event.fee_usdt
            self._write_position(slot, PositionEvent.ADJUST, Reason.ENTRY, event.event_ms)
            return
        row = np.zeros(1, POSITION)
        values: dict[str, Any] = {
            "position_id": entry.position_id, "symbol": entry.symbol, "side": entry.side, "qty": order.filled_qty,
            "entry_price": order.average_price, "tp_price": entry.tp_price, "sl_price": entry.sl_price,
            "atr_15m": entry.atr_15m, "mark_price": order.average_price, "fees_usdt": event.fee_usdt,
            "opened_ms": event.event_ms, "deadline_ms": entry.decision_ms + self._rules.time_limit_ms,
        }  # fmt: skip
        for name, value in values.items():
            row[name] = value
        slot = self.positions.open(row, entry.model_id)
        self._write_position(slot, PositionEvent.ENTRY, Reason.ENTRY, event.event_ms)

    def _reduce(self, order: Order, event: OrderEvent) -> None:
        slot = self.positions.slot_of_id(order.position_id)
        if slot < 0:
            self.unknown_events += 1
            return
        row = self.positions.rows[slot]
        profit = float(row["side"]) * event.qty * (event.price - float(row["entry_price"]))
        self.account.wallet_usdt += profit - event.fee_usdt
        row["realised_usdt"] += profit
        row["fees_usdt"] += event.fee_usdt
        left = float(row["qty"]) - event.qty
        if left > 1e-12 * order.qty:
            row["qty"] = left
            self._write_position(slot, PositionEvent.ADJUST, order.reason, event.event_ms)
            return
        self._close(slot, order, event.event_ms)

    def _close(self, slot: int, order: Order, now_ms: int) -> None:
        row = self.positions.rows[slot]
        fees, funding, gross = float(row["fees_usdt"]), float(row["funding_usdt"]), float(row["realised_usdt"])
        net = gross - fees + funding
        self._write_position(slot, PositionEvent.FINAL, order.reason, now_ms)
        self._journal.write(
            Kind.TRADE, time.monotonic_ns(), now_ms, int(row["position_id"]), int(row["symbol"]), int(row["side"]),
            int(order.reason), self._rules.mode, order.filled_qty, float(row["entry_price"]), order.average_price,
            int(row["opened_ms"]), now_ms, gross, fees, funding, net, float(row["mae"]), float(row["mfe"]), 0,
            self.positions.model_of.get(int(row["position_id"]), b""),
        )  # fmt: skip
        self.account.trade_closed(order.symbol, net, order.reason is Reason.SL, now_ms, self._rules.cooldown_ms)
        self.trades_closed += 1
        self.net_usdt += net
        self.positions.close(slot)
        self.mark_account(now_ms)
        self.write_account(now_ms)

    # --- money over time ---

    def pay_funding(self, symbol: int, rate: float, mark_price: float, now_ms: int) -> None:
        """Charge one funding settlement (a positive rate: longs pay) to the symbol's position, if there is one."""
        slot = self.positions.slot_of[symbol]
        if slot < 0 or rate != rate:
            return
        row = self.positions.rows[slot]
        paid = -float(row["side"]) * float(row["qty"]) * mark_price * rate
        row["funding_usdt"] += paid
        self.account.wallet_usdt += paid
        self._write_position(slot, PositionEvent.ADJUST, Reason.FUNDING, now_ms)
        self.mark_account(now_ms)
        self.write_account(now_ms)

    def mark_account(self, now_ms: int) -> float:
        """Revalue the equity at the positions' marks and return the total notional; a new UTC day is journalled."""
        profit, notional = self._exposure(self.positions.rows, self.positions.count)
        if self.account.mark(profit, now_ms):
            self.write_account(now_ms)
        return float(notional)

    # --- the journal ---

    def write_account(self, now_ms: int) -> None:
        """Journal the wallet and limits."""
        account = self.account
        self._journal.write(
            Kind.ACCOUNT, time.monotonic_ns(), now_ms, account.equity_usdt, account.wallet_usdt,
            account.peak_equity_usdt, account.day_pnl_usdt, self.positions.count, account.run_state,
            account.losing_streak, 0, account.day_ms,
        )  # fmt: skip

    def _write_order(self, order: Order, now_ms: int) -> None:
        self._journal.write(
            Kind.ORDER, time.monotonic_ns(), now_ms, order.client_order_id.encode(), order.position_id, order.symbol,
            order.side, int(order.state), int(order.reason), int(order.reduce_only), int(order.order_type), order.qty,
            order.price, order.filled_qty, order.average_price, order.order_id, order.code, self._rules.mode,
            order.detail.encode()[:64],
        )  # fmt: skip

    def _write_fill(self, order: Order, event: OrderEvent) -> None:
        self._journal.write(
            Kind.FILL, time.monotonic_ns(), event.event_ms, order.client_order_id.encode(), order.position_id,
            order.symbol, order.side, int(event.maker), self._rules.mode, event.qty, event.price, event.fee_usdt,
            event.slip_usdt, event.trade_id, event.event_ms,
        )  # fmt: skip

    def _write_position(self, slot: int, event: PositionEvent, reason: Reason, now_ms: int) -> None:
        row = self.positions.rows[slot]
        row["event"], row["reason"] = int(event), int(reason)
        self._journal.write(Kind.POSITION, time.monotonic_ns(), now_ms, *row.item())
