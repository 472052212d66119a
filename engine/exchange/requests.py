"""Every private request there is: its names on both transports, its cost, and the parameters of orders."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from engine.exchange.budget import BACKGROUND, SWEEPS
from engine.exchange.signing import Value

RECV_WINDOW_MS = 2_000  # small, so that an unknown order's fate is decided soon


@dataclass(frozen=True, slots=True)
class Method:
    """One call: `ws` is its WS API name ("" if it has none), `weight` its REST weight, `orders` its order count.

    share: part of the minute's weight that this kind of call may bring the total to; what orders and evidence of their
    fate need is never held back here.
    """

    name: str
    verb: str
    path: str
    weight: int
    ws: str = ""
    orders: int = 0
    signed: bool = True
    share: float = 1.0


class Call(enum.Enum):
    """The private calls of the engine. `method` is the value, without the call that `value` costs."""

    def __init__(self, method: Method) -> None:
        self.method = method

    ORDER_PLACE = Method("order", "POST", "/fapi/v1/order", 0, "order.place", 1)
    ORDER_CANCEL = Method("cancel", "DELETE", "/fapi/v1/order", 1, "order.cancel")
    ORDER_QUERY = Method("order query", "GET", "/fapi/v1/order", 1)
    ALGO_PLACE = Method("algo order", "POST", "/fapi/v1/algoOrder", 0, "algoOrder.place", 1)
    ALGO_CANCEL = Method("algo cancel", "DELETE", "/fapi/v1/algoOrder", 1, "algoOrder.cancel")
    ALGO_QUERY = Method("algo query", "GET", "/fapi/v1/algoOrder", 1)
    OPEN_ORDERS = Method("open orders", "GET", "/fapi/v1/openOrders", 40)
    OPEN_ALGOS = Method("open algo orders", "GET", "/fapi/v1/openAlgoOrders", 40, share=SWEEPS)
    POSITIONS = Method("positions", "GET", "/fapi/v3/positionRisk", 5)
    ACCOUNT = Method("account", "GET", "/fapi/v3/account", 5)
    ACCOUNT_CONFIG = Method("account configuration", "GET", "/fapi/v1/accountConfig", 5)
    SYMBOL_CONFIG = Method("symbol configuration", "GET", "/fapi/v1/symbolConfig", 5)
    BRACKETS = Method("leverage brackets", "GET", "/fapi/v1/leverageBracket", 1, share=BACKGROUND)
    LEVERAGE = Method("leverage", "POST", "/fapi/v1/leverage", 1)
    MARGIN_TYPE = Method("margin type", "POST", "/fapi/v1/marginType", 1)
    TRADES = Method("own trades", "GET", "/fapi/v1/userTrades", 5)
    INCOME = Method("income", "GET", "/fapi/v1/income", 30, share=BACKGROUND)
    LISTEN_KEY = Method("listen key", "POST", "/fapi/v1/listenKey", 1, signed=False)
    LISTEN_KEY_KEEP = Method("listen key keep-alive", "PUT", "/fapi/v1/listenKey", 1, signed=False)
    MARK = Method("mark price", "GET", "/fapi/v1/premiumIndex", 1, signed=False)
    TIME = Method("time", "GET", "/fapi/v1/time", 1, signed=False)
    KEY_RIGHTS = Method("key restrictions", "GET", "/sapi/v1/account/apiRestrictions", 1)


@dataclass(slots=True)
class Request:
    """One call and its parameters, without timestamp and signature: those are added at the send."""

    call: Call
    params: dict[str, Value] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        """The REST weight; lists of open orders cost 1 when asked for one symbol."""
        listing = self.call in (Call.OPEN_ORDERS, Call.OPEN_ALGOS)
        return 1 if listing and "symbol" in self.params else self.call.method.weight


class NakedExitError(Exception):
    """A bug stopped at the door: an order that should reduce was about to leave without reduceOnly."""


ORDER_PLACE = Call.ORDER_PLACE  # looking an enum's member up costs a call on the hot path


def _side(side: int) -> str:
    return "BUY" if side > 0 else "SELL"


def entry_order(symbol: str, side: int, qty: str, price: str, client_order_id: str) -> Request:
    """Return the limit IOC order that opens a position. Refuses the id of an exit."""
    if not client_order_id.endswith("-e"):
        raise NakedExitError(f"{client_order_id}: only an entry's id ends with -e; refusing to open a position with it")
    return Request(
        Call.ORDER_PLACE,
        {
            "symbol": symbol, "side": _side(side), "type": "LIMIT", "timeInForce": "IOC", "quantity": qty,
            "price": price, "newClientOrderId": client_order_id, "newOrderRespType": "RESULT",
        },
    )  # fmt: skip


def exit_order(symbol: str, side: int, qty: str, client_order_id: str, reduce_only: bool, price: str = "") -> Request:
    """Return an exit: a market order, or with `price` a limit IOC order.

    Raises NakedExitError unless `reduce_only`: whatever went wrong before, an exit never opens a position.
    """
    if not reduce_only or client_order_id.endswith("-e"):
        raise NakedExitError(f"{client_order_id}: an exit must be reduceOnly and must not have an entry's id")
    params: dict[str, Value] = {
        "symbol": symbol, "side": _side(side), "type": "MARKET", "quantity": qty, "reduceOnly": "true",
        "newClientOrderId": client_order_id, "newOrderRespType": "RESULT",
    }  # fmt: skip
    if price:
        params |= {"type": "LIMIT", "timeInForce": "IOC", "price": price}
    return Request(ORDER_PLACE, params)


STOP, TAKE_PROFIT = "STOP_MARKET", "TAKE_PROFIT_MARKET"


def protective_stop(symbol: str, position_side: int, trigger: str, client_algo_id: str, kind: str = STOP) -> Request:
    """Return the conditional order that closes the whole position of `position_side` on the mark price."""
    return Request(
        Call.ALGO_PLACE,
        {
            "algoType": "CONDITIONAL", "symbol": symbol, "side": _side(-position_side), "type": kind,
            "triggerPrice": trigger, "workingType": "MARK_PRICE", "closePosition": "true",
            "clientAlgoId": client_algo_id,
        },
    )  # fmt: skip


def canary_stop(symbol: str, qty: str, trigger: str, client_algo_id: str) -> Request:
    """Return the preflight's harmless stop: reduce-only, least quantity, far below the market."""
    return Request(
        Call.ALGO_PLACE,
        {
            "algoType": "CONDITIONAL", "symbol": symbol, "side": "SELL", "type": "STOP_MARKET", "quantity": qty,
            "triggerPrice": trigger, "workingType": "MARK_PRICE", "reduceOnly": "true",
            "clientAlgoId": client_algo_id,
        },
    )  # fmt: skip
