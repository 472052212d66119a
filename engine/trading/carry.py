"""What of the desk's open orders crosses a restart: into the snapshot, and back to orders whose fate is unknown."""

from __future__ import annotations

from typing import Any

from engine.log import get_logger
from engine.restore import Restored
from engine.trading.desk import Desk
from engine.trading.entry import Entry
from engine.trading.exits import ExitRun
from engine.trading.live import LiveGateway
from engine.trading.orders import Order, OrderType
from engine.trading.positions import as_row
from engine.trading.twin import LIVE_RESULT, Twins
from kernels.records import OrderState, Reason

log = get_logger(__name__)

LOST_GUARD = 0.02  # of the price: stop and target of an entry whose decision was lost
UNKNOWN_MS = -1  # how long a position was unprotected when nobody was left to say


def open_state(desk: Desk, symbols: list[str]) -> tuple[dict[str, dict[str, Any]], dict[int, dict[str, Any]]]:
    """Return the open orders by client id and the open entries by position id, symbols by name."""
    orders = {
        name: {
            "position_id": o.position_id, "side": o.side, "state": int(o.state), "reason": int(o.reason),
            "reduce_only": int(o.reduce_only), "order_type": int(o.order_type), "qty": o.qty, "price": o.price,
            "filled_qty": o.filled_qty, "average_price": o.average_price, "order_id": o.order_id,
            "symbol": symbols[o.symbol], "created_ms": o.created_ms, "trade_ids": sorted(o.trade_ids),
        }
        for name, o in desk.orders.items()
    }  # fmt: skip
    entries = {
        i: {
            "tp_price": e.tp_price, "sl_price": e.sl_price, "atr_15m": e.atr_15m, "decision_ms": e.decision_ms,
            "side": e.side, "symbol": symbols[e.symbol], "qty": e.qty, "limit_price": e.limit_price,
            "model_id": e.model_id.decode(),
        }
        for i, e in desk.entries.items()
    }  # fmt: skip
    return orders, entries


def resume_orders(restored: Restored, desk: Desk, gateway: LiveGateway, symbols: list[str], now_ms: int) -> int:
    """Hand the open orders of an earlier run to the gateway as unknown; return how many.

    A fill whose position was not written before the run died is booked now, and an exit goes on. An order of a symbol
    that is no longer traded is left to the reconciliation of the account.
    """
    index = {name: i for i, name in enumerate(symbols)}
    resumed = []
    for name, values in restored.open_orders.items():
        if values["symbol"] not in index:
            continue
        symbol, position_id = index[values["symbol"]], int(values["position_id"])
        order = Order(
            name, position_id, symbol, int(values["side"]), OrderType(values["order_type"]),
            bool(values["reduce_only"]), float(values["qty"]), float(values["price"]), Reason(values["reason"]),
            int(values["created_ms"]), OrderState(values["state"]), float(values["filled_qty"]),
            float(values["average_price"]), int(values["order_id"]), trade_ids=restored.trade_ids.get(name, set()),
        )  # fmt: skip
        if order.state is OrderState.CANCEL_PENDING or order.terminal:  # ended, and its last record is missing
            order.state = OrderState.ACKNOWLEDGED
        entry = restored.entries.get(position_id)
        desk.orders[name] = order
        if order.reduce_only:
            run = desk.exits.setdefault(position_id, ExitRun(position_id, symbol, order.reason))
            run.open.add(name)
        else:
            desk.entries[position_id] = _entry(entry, order)
        resumed.append(order)
    for position_id, reason in restored.exits.items():  # begun, and perhaps between two orders
        slot = desk.positions.slot_of_id(position_id)
        if slot >= 0:
            symbol = int(desk.positions.rows[slot]["symbol"])
            desk.exits.setdefault(position_id, ExitRun(position_id, symbol, Reason(reason)))
    restored.resumed = True  # before the first record of it: a segment that begins there must know of all
    for order in resumed:
        gateway.resume(order, now_ms)
    half = restored.half_booked
    if half is not None:
        gateway.rebook(
            half["client_order_id"], half["trade_id"], half["qty"], half["price"], half["fee_usdt"],
            bool(half["maker"]), half["event_ms"],
        )  # fmt: skip
        restored.half_booked = None
    return len(resumed)


def _entry(values: dict[str, Any] | None, order: Order) -> Entry:
    """Return what an open entry order asked for.

    A power cut may have spared the order and not its decision: then its fill gets a wide guard, never none.
    """
    if values is None:
        log.warning("entry_without_decision", order=order.client_order_id)
        away = LOST_GUARD * order.side
        return Entry(
            order.position_id, order.symbol, order.side, order.qty, order.price, order.price * (1.0 + away),
            order.price * (1.0 - away), 0.0, order.created_ms, b"",
        )  # fmt: skip
    return Entry(
        order.position_id, order.symbol, int(values["side"]), float(values["qty"]), float(values["limit_price"]),
        float(values["tp_price"]), float(values["sl_price"]), float(values["atr_15m"]), int(values["decision_ms"]),
        str(values["model_id"]).encode(),
    )  # fmt: skip


def resume_twins(restored: Restored, twins: Twins | None, desk: Desk, symbols: list[str], now_ms: int) -> None:
    """Take over the shadow twins of an earlier run, before its orders: what those bring is theirs to hear."""
    held = {int(row["position_id"]) for row in desk.positions.rows[: desk.positions.count]} | set(restored.entries)
    if twins is not None:
        twins.resume(list(restored.twins.values()), symbols, held, now_ms)


def complete_trades(
    untraded: dict[int, dict[str, Any]], twins: dict[int, dict[str, Any]], desk: Desk, symbols: list[str]
) -> None:
    """Journal the trades of positions that were closed just before an earlier run died: it had no time to.

    untraded: the closed positions by id, symbols by name; those of symbols that are no longer configured are left out.
    twins: the states of open twins by position id, which are told.
    """
    index = {name: i for i, name in enumerate(symbols)}
    for position_id, values in list(untraded.items()):
        if values["symbol"] not in index:
            del untraded[position_id]
            continue
        row = as_row(values, index)
        held, entry_price, gross = float(row["qty"]), float(row["entry_price"]), float(row["realised_usdt"])
        known = held, held * entry_price + float(row["side"]) * gross
        qty, notional = desk.closing.pop(position_id, known)
        model_id, closed_ms, reason = str(values["model_id"]).encode(), int(values["closed_ms"]), int(values["reason"])
        net = desk.traded(row, model_id, Reason(reason), qty, notional / qty, UNKNOWN_MS, closed_ms)
        del untraded[position_id]  # a segment that begins from now on need not know of it
        desk.write_account(closed_ms)
        if position_id in twins:
            result = (qty, entry_price, notional / qty, float(row["fees_usdt"]), float(row["funding_usdt"]), net)
            told = {f"live_{name}": value for name, value in zip(LIVE_RESULT, result, strict=True)}
            twins[position_id] |= told | {"live_reason": reason, "live_closed_ms": closed_ms}
