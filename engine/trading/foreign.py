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
from engine.trading.live import ENDED
from engine.trading.orders import Event
from engine.trading.protection import Protection
from engine.trading.reconcile import Reconciler, Statement
from kernels.records import Reason

REMEMBERED_TRADES = 16_384
SPECIAL = (
    ("autoclose-", Reason.LIQUIDATION), ("adl_autoclose", Reason.ADL), ("settlement_autoclose-", Reason.SETTLEMENT),
)  # fmt: skip


@dataclass
class Foreign:
    """Books fills that belong to no open order of ours, and settles what no fill explains.

    offsets: signed quantity per symbol that is somebody else's and left alone (policy `ignore`).
    """

    desk: Desk
    protection: Protection
    takes: Protection
    reconciler: Reconciler
    index: dict[str, int]
    alarm: Callable[[str, int, str], None]
    fee_rate: Callable[[str], float]
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

    def on_update(self, update: OrderUpdate, now_ms: int) -> None:
        """Take an order event of the stream."""
        symbol = self.index.get(update.symbol)
        if symbol is None:
            self.alarm("foreign_order", -1, f"{update.symbol} {update.client_order_id}")
            return
        name = update.client_order_id
        if update.last_qty > 0.0 and (symbol, update.trade_id) not in self._trades:
            self._fill(symbol, update, now_ms)
        elif name in self.desk.orders and update.status in ENDED and update.status != "FILLED":
            self.desk.on_order_event(OrderEvent(name, ENDED[update.status], now_ms, order_id=update.order_id))

    def _fill(self, symbol: int, update: OrderUpdate, now_ms: int) -> None:
        slot = self.desk.positions.slot_of[symbol]
        if slot < 0 or update.side != -int(self.desk.positions.rows[slot]["side"]):
            self.alarm("foreign_fill", symbol, f"{update.client_order_id} {update.side * update.last_qty:+g}")
            if slot >= 0:  # else it may close what the next answer books: own trades tell of it once more
                self.remember(symbol, update.trade_id)
            return  # the account statement follows, and reconciliation with it
        name, row = update.client_order_id[:40], self.desk.positions.rows[slot]
        if name not in self.desk.orders:
            reason = self._reason(symbol, update)
            if reason is Reason.MANUAL:
                self.alarm("external_close", symbol, name)
            self.desk.adopt_exit(name, slot, update.side, float(row["qty"]), reason, now_ms, update.order_id)
        self.remember(symbol, update.trade_id)
        self.reconciler.event(symbol, update.time_ms)
        done = update.status == "FILLED"
        self.desk.on_order_event(
            OrderEvent(
                name, Event.FILL if done else Event.PARTIAL_FILL, update.time_ms, update.last_qty, update.last_price,
                update.fee * self.fee_rate(update.fee_asset), 0.0, update.maker, update.order_id, update.trade_id,
            )
        )  # fmt: skip

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

    def on_trades(self, symbol: int, reply: Reply, now_ms: int) -> None:
        """Take own trades over REST: whatever the stream did not tell and reduces our position."""
        if not reply.ok or not isinstance(reply.result, list):
            return
        for row in sorted(reply.result, key=lambda row: int(row["id"])):
            slot = self.desk.positions.slot_of[symbol]
            if slot < 0 or (symbol, int(row["id"])) in self._trades:
                continue
            if int(row["time"]) < int(self.desk.positions.rows[slot]["opened_ms"]):
                continue
            self._fill(symbol, _as_update(row), now_ms)
        for name, order in list(self.desk.orders.items()):
            if order.symbol == symbol and name.startswith("rest-"):  # what REST tells is complete
                self.desk.on_order_event(OrderEvent(name, Event.EXPIRE, now_ms))

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
