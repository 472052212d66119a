"""Orders and their life: the table of states, and how an order is printed in replies and events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.simulator.instruments import Instrument, decimal, plain
from engine.simulator.ledger import Account, Fill

NEW, PARTIAL, FILLED = "NEW", "PARTIALLY_FILLED", "FILLED"
CANCELED, EXPIRED, IN_MATCH, REJECTED = "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH", "REJECTED"
OPEN_STATES = (NEW, PARTIAL)

# (state, event) → state; a missing key changes nothing and is an error
TRANSITIONS = {
    (NEW, "fill"): PARTIAL,
    (NEW, "fill_rest"): FILLED,
    (NEW, "cancel"): CANCELED,
    (NEW, "expire"): EXPIRED,
    (NEW, "self_trade"): IN_MATCH,
    (NEW, "amend"): NEW,
    (PARTIAL, "fill"): PARTIAL,
    (PARTIAL, "fill_rest"): FILLED,
    (PARTIAL, "cancel"): CANCELED,
    (PARTIAL, "expire"): EXPIRED,
    (PARTIAL, "self_trade"): IN_MATCH,
    (PARTIAL, "amend"): PARTIAL,
}


@dataclass(slots=True)
class Order:
    """One order in the matching engine. Price and quantities are the instrument's integers; `sign` is +1 or −1."""

    id: int
    account: Account
    s: int
    client_id: str
    sign: int
    type: str
    tif: str
    qty: int
    price: int = 0
    reduce_only: bool = False
    close_position: bool = False
    position_side: str = "BOTH"
    orig_type: str = ""
    working_type: str = "CONTRACT_PRICE"
    stop_price: int = 0
    activate_price: int = 0
    callback_ppm: int = 0
    price_protect: bool = False
    stp: str = "NONE"
    price_match: str = "NONE"
    gtd_ms: int = 0
    status: str = NEW
    filled: int = 0
    filled_value: int = 0  # Σ price × quantity in the instrument's integers
    created_ms: int = 0
    updated_ms: int = 0
    sequence: int = 0
    amendments: int = 0
    history: list[tuple[int, tuple[int, int], tuple[int, int]]] = field(default_factory=list)  # newest 100
    modify_id: int | None = None
    modifying: bool = False  # a modification is on its way to matching
    algo_id: int = 0
    reason: str = "0"  # er of the last event

    @property
    def remaining(self) -> int:
        """Quantity still to be filled."""
        return self.qty - self.filled

    @property
    def closing(self) -> bool:
        """Whether it may only reduce: by its flag, or in hedge mode by its direction."""
        return self.reduce_only or (self.position_side, self.sign) in (("LONG", -1), ("SHORT", 1))

    @property
    def is_open(self) -> bool:
        """Whether it can still fill."""
        return self.status in OPEN_STATES

    def on(self, event: str) -> None:
        """Move along the table of states. Raises KeyError for an event that the state does not have."""
        self.status = TRANSITIONS[self.status, event]


def average(order: Order, item: Instrument) -> str:
    """Return the average fill price with the exchange's decimals."""
    if not order.filled:
        return decimal(0, item.price_decimals)
    extra = 10**3
    return plain(order.filled_value * extra // order.filled, item.price_decimals + 3)


def order_json(order: Order, item: Instrument, full: bool = True, costs: bool = True) -> dict[str, Any]:
    """Return an order as REST prints it; `full` adds what queries show, `costs` avgPrice and cumQuote."""
    places, lots = item.price_decimals, item.qty_decimals
    body: dict[str, Any] = {
        "orderId": order.id,
        "symbol": item.symbol,
        "status": order.status,
        "clientOrderId": order.client_id,
        "price": decimal(order.price, places),
        "avgPrice": average(order, item),
        "origQty": decimal(order.qty, lots),
        "executedQty": decimal(order.filled, lots),
        "cumQty": decimal(order.filled, lots),
        "cumQuote": decimal(order.filled_value, places + lots),
        "timeInForce": order.tif,
        "type": order.type,
        "reduceOnly": order.reduce_only,
        "closePosition": order.close_position,
        "side": "BUY" if order.sign > 0 else "SELL",
        "positionSide": order.position_side,
        "stopPrice": plain(order.stop_price, places),
        "workingType": order.working_type,
        "priceProtect": order.price_protect,
        "origType": order.orig_type or order.type,
        "priceMatch": order.price_match,
        "selfTradePreventionMode": order.stp,
        "goodTillDate": order.gtd_ms,
        "updateTime": order.updated_ms,
    }
    if not costs:
        del body["avgPrice"], body["cumQuote"]
    if full:
        body["time"] = order.created_ms
    if order.modify_id is not None:
        body["modifyId"] = order.modify_id
    return body


def trade_update(order: Order, item: Instrument, execution: str, fill: Fill | None, notionals: tuple[str, str],
                 event_ms: int) -> dict[str, Any]:  # fmt: skip
    """Return an ORDER_TRADE_UPDATE. `notionals`: bid and ask notional of the account's open orders in the symbol."""
    places, lots = item.price_decimals, item.qty_decimals
    body: dict[str, Any] = {
        "s": item.symbol, "c": order.client_id, "S": "BUY" if order.sign > 0 else "SELL",
        "o": "LIQUIDATION" if execution == "CALCULATED" else order.type, "f": order.tif,
        "q": decimal(order.qty, lots), "p": decimal(order.price, places), "ap": average(order, item),
        "sp": plain(order.stop_price, places), "x": execution, "X": order.status, "i": order.id,
        "l": decimal(fill.qty if fill else 0, lots), "z": decimal(order.filled, lots),
        "L": decimal(fill.price if fill else 0, places),
    }  # fmt: skip
    if fill is not None:
        body |= {"n": decimal(fill.fee, 8), "N": "USDT"}
    body |= {
        "T": order.updated_ms, "t": fill.trade_id if fill else 0, "b": notionals[0], "a": notionals[1],
        "m": bool(fill and fill.maker), "R": order.reduce_only, "wt": order.working_type,
        "ot": order.orig_type or order.type, "ps": order.position_side, "cp": order.close_position,
        "rp": decimal(fill.realised if fill else 0, 8), "pP": order.price_protect, "si": 0, "ss": 0,
        "V": order.stp, "pm": order.price_match, "gtd": order.gtd_ms, "er": order.reason,
    }  # fmt: skip
    if order.callback_ppm:
        body |= {"AP": plain(order.activate_price, places), "cr": plain(order.callback_ppm, 4)}
    if execution == "AMENDMENT" and order.modify_id is not None:
        body["M"] = order.modify_id
    return {"e": "ORDER_TRADE_UPDATE", "T": order.updated_ms, "E": event_ms, "o": body}


def trade_lite(order: Order, item: Instrument, fill: Fill, event_ms: int) -> dict[str, Any]:
    """Return a TRADE_LITE."""
    return {
        "e": "TRADE_LITE", "E": event_ms, "T": order.updated_ms, "s": item.symbol,
        "q": decimal(order.qty, item.qty_decimals), "p": decimal(order.price, item.price_decimals), "m": fill.maker,
        "c": order.client_id, "S": "BUY" if order.sign > 0 else "SELL",
        "L": decimal(fill.price, item.price_decimals), "l": decimal(fill.qty, item.qty_decimals),
        "t": fill.trade_id, "i": order.id,
    }  # fmt: skip
