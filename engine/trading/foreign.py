"""What others did to our account: the child of our stop, liquidation, ADL, settlement, a person's order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.exchange.replies import Reply
from engine.exchange.user_data import OrderUpdate
from engine.trading.desk import Desk
from engine.trading.gateway import OrderEvent
from engine.trading.orders import Event, Order
from engine.trading.protection import Protection
from engine.trading.reconcile import Reconciler, Statement
from kernels.records import Reason

REMEMBERED_TRADES = 16_384
SHARED_ID = "adl_autoclose"  # one client id for every such order, in all symbols
SPECIAL = (
    ("autoclose-", Reason.LIQUIDATION), (SHARED_ID, Reason.ADL), ("settlement_autoclose-", Reason.SETTLEMENT),
)  # fmt: skip


@dataclass
class Foreign:
    """Takes over orders of others that reduce our positions, and settles what no fill explains.

    follow(order, now_ms): the gateway follows an order to its end, like one of ours, also past what no stream tells.
    offsets: signed quantity per symbol that is somebody else's and left alone (policy `ignore`).
    """

    desk: Desk
    protection: Protection
    takes: Protection
    reconciler: Reconciler
    index: dict[str, int]
    alarm: Callable[[str, int, str], None]
    fee_rate: Callable[[str], float]
    follow: Callable[[Order, int], None]
    offsets: dict[int, float] = field(default_factory=dict)
    _trades: set[tuple[int, int]] = field(default_factory=set)  # symbol and trade id: each symbol counts its own
    _order: deque[tuple[int, int]] = field(default_factory=deque)

    def remember(self, symbol: int, trade_id: int) -> None:
        """Note a booked trade, so that own trades over REST do not book it again."""
        key = symbol, trade_id
        if key not in self._trades:
            self._trades.add(key)
            self._order.append(key)
            if len(self._order) > REMEMBERED_TRADES:
                self._trades.discard(self._order.popleft())

    def booked(self, symbol: int, trade_id: int) -> bool:
        """Whether a trade is booked already, under whatever name."""
        return (symbol, trade_id) in self._trades

    def on_update(self, update: OrderUpdate, now_ms: int) -> str:
        """Take an order event of the stream; return the name under which the gateway follows its order, if it does."""
        symbol = self.index.get(update.symbol)
        if symbol is None:
            self.alarm("foreign_order", -1, f"{update.symbol} {update.client_order_id}")
            return ""
        name = update.client_order_id[:40]
        same = self.desk.orders.get(name)
        if name.startswith(SHARED_ID) or (same is not None and same.order_id not in (0, update.order_id)):
            name = f"{name[:20]}.{update.order_id}"
        if name in self.desk.orders:
            return name
        if update.last_qty > 0.0 and not self.booked(symbol, update.trade_id):
            order = self._adopt(name, symbol, update, now_ms)
            if order is not None:
                self.follow(order, now_ms)
                return name
        return ""

    def _adopt(self, name: str, symbol: int, update: OrderUpdate, now_ms: int) -> Order | None:
        """Take over an order that reduces our position; None, and an alarm, for one that does not."""
        slot = self.desk.positions.slot_of[symbol]
        if slot < 0 or update.side != -int(self.desk.positions.rows[slot]["side"]):
            self.alarm("foreign_fill", symbol, f"{update.client_order_id} {update.side * update.last_qty:+g}")
            if slot >= 0:  # else it may close what the next answer books: own trades tell of it once more
                self.remember(symbol, update.trade_id)
            return None  # the account statement follows, and reconciliation with it
        reason = self._reason(symbol, update)
        if reason is Reason.MANUAL:
            self.alarm("external_close", symbol, name)
        qty = float(self.desk.positions.rows[slot]["qty"])
        return self.desk.adopt_exit(name, slot, update.side, qty, reason, now_ms, update.order_id)

    def _reason(self, symbol: int, update: OrderUpdate) -> Reason:
        for prefix, reason in SPECIAL:
            if update.client_order_id.startswith(prefix):
                return reason
        if update.order_type == "LIQUIDATION":
            return Reason.LIQUIDATION
        kind = update.original_type
        if self.protection.owns(symbol, update.order_id, update.client_order_id, kind, update.side):
            return Reason.EXCHANGE_STOP
        if self.takes.owns(symbol, update.order_id, update.client_order_id, kind, update.side):
            return Reason.TP
        return Reason.MANUAL

    def on_trades(self, symbol: int, reply: Reply, asked_ms: int, now_ms: int) -> None:
        """Take own trades over REST: whatever the stream did not tell and reduces our position.

        Not while an order is open, which may have been sent since the question: its trades are its own.
        """
        if not reply.ok or not isinstance(reply.result, list):
            return
        if any(order.symbol == symbol for order in self.desk.orders.values()):
            return
        for row in sorted(reply.result, key=lambda row: int(row["id"])):
            slot = self.desk.positions.slot_of[symbol]
            if slot < 0 or self.booked(symbol, int(row["id"])):
                continue
            if int(row["time"]) < int(self.desk.positions.rows[slot]["opened_ms"]):
                continue
            self._book(symbol, _as_update(row), now_ms)
        for name, order in list(self.desk.orders.items()):
            if order.symbol == symbol:  # what REST tells is complete
                self.desk.on_order_event(OrderEvent(name, Event.EXPIRE, now_ms))
        self.reconciler.told(symbol, asked_ms)

    def _book(self, symbol: int, update: OrderUpdate, now_ms: int) -> None:
        name = update.client_order_id
        if name not in self.desk.orders and self._adopt(name, symbol, update, now_ms) is None:
            return
        self.remember(symbol, update.trade_id)
        self.reconciler.event(symbol, update.time_ms)
        self.desk.on_order_event(
            OrderEvent(
                name, Event.PARTIAL_FILL, update.time_ms, update.last_qty, update.last_price,
                update.fee * self.fee_rate(update.fee_asset), 0.0, update.maker, update.order_id, update.trade_id,
            )
        )  # fmt: skip

    def settle(self, symbol: int, stated: Statement, policy: str, now_ms: int) -> None:
        """Make our books agree with the exchange, loudly: the symbol takes no entries until a person looks."""
        desk = self.desk
        slot, qty = desk.positions.slot_of[symbol], stated.qty
        desk.halt_symbol(symbol, self.reconciler.symbols[symbol], f"the exchange states {stated.amount}", now_ms)
        if slot < 0:
            self._stranger(symbol, stated, policy, now_ms)
            return
        row = desk.positions.rows[slot]
        side, ours = int(row["side"]), float(row["qty"])
        self.alarm("adjusted", symbol, f"ours {side * ours:+g}, the exchange's {stated.amount}")
        if qty * side < 0.0:  # it was turned over: our guard is for the wrong side
            desk.adjust(slot, 0.0, 0.0, now_ms)
            self._stranger(symbol, stated, "exit", now_ms)
        elif abs(qty) > ours and policy == "ignore":
            self.offsets[symbol] = qty - side * ours
        else:
            desk.adjust(slot, abs(qty), stated.entry_price, now_ms)

    def _stranger(self, symbol: int, stated: Statement, policy: str, now_ms: int) -> None:
        """A position that we do not know: guarded and closed at once, or left alone."""
        if policy == "ignore":
            self.offsets[symbol] = stated.qty
            self.alarm("foreign_position", symbol, f"{stated.amount} left alone")
            return
        side = 1 if stated.qty > 0 else -1
        price = stated.entry_price
        wide = (price * (1 - 0.05 * side), price * (1 + 0.05 * side))
        slot = self.desk.adopt_position(symbol, side, abs(stated.qty), price, wide, now_ms)
        self.alarm("foreign_position", symbol, f"{stated.amount} taken under guard and closed")
        self.desk.exit(slot, Reason.RISK, now_ms)


def _as_update(row: dict[str, Any]) -> OrderUpdate:
    """Return an order event made of an own trade over REST."""
    return OrderUpdate(
        row["symbol"], f"rest-{row['orderId']}", int(row["orderId"]), 1 if row["side"] == "BUY" else -1, "TRADE",
        "PARTIALLY_FILLED", "MARKET", "MARKET", False, False, float(row["qty"]), float(row["price"]),
        float(row["qty"]), float(row["price"]), int(row["id"]), float(row.get("commission") or 0),
        row.get("commissionAsset", ""), bool(row["maker"]), "0", float(row.get("realizedPnl") or 0),
        int(row["time"]), int(row["time"]),
    )  # fmt: skip
