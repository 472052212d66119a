"""The algo service: conditional orders with a life of their own, and a picture of positions that lags behind.

States: NEW → TRIGGERING → TRIGGERED → FINISHED; CANCELED, REJECTED, EXPIRED. It never checks margin before triggering.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from engine.simulator.errors import Refusal
from engine.simulator.instruments import Instrument, decimal, plain
from engine.simulator.ledger import Account
from engine.simulator.orders import Order, average

STOPS = ("STOP", "STOP_MARKET")
TAKES = ("TAKE_PROFIT", "TAKE_PROFIT_MARKET")
TRAILING = "TRAILING_STOP_MARKET"
ALGO_TYPES = (*STOPS, *TAKES, TRAILING)
MAX_OPEN = 200
CLOSED_KEPT = 20_000
FIRST_ALGO_ID = 2_000_000_000

# (state, event) → state
TRANSITIONS = {
    ("NEW", "trigger"): "TRIGGERING",
    ("NEW", "cancel"): "CANCELED",
    ("NEW", "expire"): "EXPIRED",
    ("TRIGGERING", "sent"): "TRIGGERED",
    ("TRIGGERING", "refused"): "REJECTED",
    ("TRIGGERING", "expire"): "EXPIRED",
    ("TRIGGERED", "done"): "FINISHED",
}


@dataclass(slots=True)
class Algo:
    """One conditional order. Prices and quantities are the instrument's integers; `sign` +1 or −1."""

    id: int
    account: Account
    s: int
    client_id: str
    sign: int
    type: str
    tif: str
    qty: int
    trigger: int = 0
    price: int = 0
    position_side: str = "BOTH"
    working_type: str = "CONTRACT_PRICE"
    close_position: bool = False
    reduce_only: bool = False
    price_protect: bool = False
    activate: int = 0
    callback_ppm: int = 0
    stp: str = "NONE"
    price_match: str = "NONE"
    gtd_ms: int = 0
    status: str = "NEW"
    created_ms: int = 0
    updated_ms: int = 0
    triggered_ms: int = 0
    reason: str = ""
    activated: bool = False
    extreme: int = 0
    child: Order | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not triggered yet."""
        return self.status == "NEW"


class AlgoHost(Protocol):
    """What the service needs of the rest of the exchange."""

    def now_ms(self) -> int: ...
    def last_price(self, s: int) -> int: ...
    def mark(self, s: int) -> int: ...
    def instrument(self, s: int) -> Instrument: ...
    def algo_event(self, algo: Algo) -> None: ...
    def later(self, name: str, call: Callable[[], None]) -> None: ...
    def send_child(self, algo: Algo) -> Order: ...


class AlgoService:
    """All conditional orders. `check` is called with every tick of a symbol's marks (10 Hz)."""

    def __init__(self, host: AlgoHost) -> None:
        self.host = host
        self.waiting: dict[int, dict[int, Algo]] = {}  # by symbol, untriggered
        self.all: dict[str, dict[int, Algo]] = {}  # by account
        self.closed: deque[tuple[str, int]] = deque()
        self.seen: dict[tuple[str, int, str], int] = {}  # positions as this service knows them
        self._children: dict[int, Algo] = {}
        self._ids = itertools.count(FIRST_ALGO_ID)

    def next_id(self) -> int:
        """Return a fresh algo id."""
        return next(self._ids)

    def open_of(self, account: Account) -> list[Algo]:
        """Return the account's untriggered orders."""
        return [algo for algo in self.all.get(account.key, {}).values() if algo.status in ("NEW", "TRIGGERING")]

    def find(self, account: Account, algo_id: int | None, client_id: str | None) -> Algo | None:
        """Return an order by id or by client id (open ones first, newest first)."""
        mine = self.all.get(account.key, {})
        if algo_id is not None:
            return mine.get(algo_id)
        same = [algo for algo in mine.values() if algo.client_id == client_id]
        return next((algo for algo in same if algo.is_open), same[-1] if same else None)

    def place(self, algo: Algo) -> None:
        """Accept a conditional order, or refuse it."""
        mine = self.open_of(algo.account)
        if any(other.client_id == algo.client_id for other in mine):
            raise Refusal(-4116, "ClientOrderId is duplicated.")
        if len(mine) >= MAX_OPEN:
            raise Refusal(-4045, "Reach max stop order limit.")
        if algo.tif == "GTE_GTC":  # every closePosition order is one
            self._check_close(algo, mine)
        if self._would_trigger(algo):
            raise Refusal(-2021, "Order would immediately trigger.")
        algo.created_ms = algo.updated_ms = self.host.now_ms()
        self.all.setdefault(algo.account.key, {})[algo.id] = algo
        self.waiting.setdefault(algo.s, {})[algo.id] = algo
        self.host.algo_event(algo)
        if algo.type == TRAILING and not algo.activate:
            self._activate(algo, self._price(algo))

    def _check_close(self, algo: Algo, mine: list[Algo]) -> None:
        if self.seen.get((algo.account.key, algo.s, algo.position_side), 0) * algo.sign >= 0:
            message = "Time in Force (TIF) GTE can only be used with open positions or open orders. "
            raise Refusal(-4509, message + "Please ensure that open orders or positions are available.")
        for other in mine:
            same = (other.s, other.sign, other.position_side) == (algo.s, algo.sign, algo.position_side)
            if algo.close_position and other.close_position and same and _family(other.type) == _family(algo.type):
                if other.status == "TRIGGERING":
                    raise Refusal(-4117, "This stop order is in triggering, please try again later.")
                raise Refusal(-4130, "An open stop or take profit order with GTE and closePosition in the direction"
                              " is existing.")  # fmt: skip

    def _price(self, algo: Algo) -> int:
        """Return the price that the order watches, in 10^-8 USDT."""
        if algo.working_type == "MARK_PRICE":
            return self.host.mark(algo.s)
        return self.host.last_price(algo.s) * self._unit(algo.s)

    def _unit(self, s: int) -> int:
        return int(10 ** (8 - self.host.instrument(s).price_decimals))

    def _would_trigger(self, algo: Algo) -> bool:
        price = self._price(algo)
        if algo.type == TRAILING:
            return bool(algo.activate) and algo.sign * (price - algo.activate * self._unit(algo.s)) <= 0
        return self._met(algo, price)

    def _met(self, algo: Algo, price: int) -> bool:
        ahead = algo.sign * (price - algo.trigger * self._unit(algo.s))
        return ahead >= 0 if algo.type in STOPS else ahead <= 0

    def _activate(self, algo: Algo, price: int) -> None:
        algo.activated, algo.extreme = True, price
        self.host.algo_event(algo)

    # --- triggering ---

    def check(self, s: int) -> None:
        """Compare every waiting order of a symbol with the prices of now."""
        for algo in list(self.waiting.get(s, {}).values()):
            if algo.gtd_ms and self.host.now_ms() >= algo.gtd_ms:
                self._end(algo, "expire", "")
            elif self._due(algo, self._price(algo)):
                self._trigger(algo)

    def _due(self, algo: Algo, price: int) -> bool:
        if algo.type != TRAILING:
            return self._met(algo, price)
        if not algo.activated:
            if algo.sign * (price - algo.activate * self._unit(algo.s)) <= 0:
                self._activate(algo, price)
            return False
        algo.extreme = min(algo.extreme, price) if algo.sign > 0 else max(algo.extreme, price)
        turn = algo.extreme * (1_000_000 + algo.sign * algo.callback_ppm) // 1_000_000
        return algo.sign * (price - turn) >= 0

    def _trigger(self, algo: Algo) -> None:
        self._move(algo, "trigger", "")
        algo.triggered_ms = self.host.now_ms()
        self.waiting[algo.s].pop(algo.id, None)
        self.host.algo_event(algo)
        self.host.later("trigger", lambda: self._send(algo))

    def _send(self, algo: Algo) -> None:
        if algo.status != "TRIGGERING":
            return
        try:
            algo.child = self.host.send_child(algo)
        except Refusal as refusal:
            reason = "Reduce Only reject" if refusal.code == -2022 else refusal.message
            self._end(algo, "expire" if refusal.code == -2022 else "refused", reason)
            return
        self._move(algo, "sent", "")
        self.host.algo_event(algo)
        if algo.child.is_open:
            self._children[algo.child.id] = algo
        else:
            self._end(algo, "done", "")

    def child_closed(self, order: Order) -> None:
        """Finish the algo order whose child in the matching engine is closed."""
        algo = self._children.pop(order.id, None)
        if algo is not None:
            self._end(algo, "done", "")

    # --- ends ---

    def cancel(self, algo: Algo | None) -> Algo:
        """Cancel an untriggered order. Raises −2011 for anything else, also while TRIGGERING."""
        if algo is None or not algo.is_open:
            raise Refusal(-2011, "Unknown order sent.")
        self._end(algo, "cancel", "")
        return algo

    def expire(self, algo: Algo, reason: str) -> None:
        """Expire an untriggered order for the exchange's own reasons."""
        if (algo.status, "expire") in TRANSITIONS:
            self._end(algo, "expire", reason)

    def sees(self, account: Account, s: int, side: str, qty: int) -> None:
        """Learn of a position; a flat one expires its GTE_GTC orders some time later, if it is still flat."""
        self.seen[account.key, s, side] = qty
        if not qty:
            self.host.later("gone", lambda: self._expire_gone(account, s, side))

    def _expire_gone(self, account: Account, s: int, side: str) -> None:
        qty = self.seen.get((account.key, s, side), 0)
        for algo in self.open_of(account):
            if algo.tif == "GTE_GTC" and algo.is_open and (algo.s, algo.position_side) == (s, side):
                if qty * algo.sign < 0:
                    continue  # re-entered meanwhile: the old stop lives on
                self._end(algo, "expire", "")

    def _move(self, algo: Algo, event: str, reason: str) -> None:
        algo.status = TRANSITIONS[algo.status, event]
        algo.updated_ms = self.host.now_ms()
        algo.reason = reason

    def _end(self, algo: Algo, event: str, reason: str) -> None:
        self._move(algo, event, reason)
        self.waiting.get(algo.s, {}).pop(algo.id, None)
        self.closed.append((algo.account.key, algo.id))
        if len(self.closed) > CLOSED_KEPT:
            key, number = self.closed.popleft()
            self.all.get(key, {}).pop(number, None)
        self.host.algo_event(algo)


def _family(kind: str) -> str:
    return "take" if kind in TAKES else "trailing" if kind == TRAILING else "stop"


def algo_json(algo: Algo, item: Instrument, full: bool) -> dict[str, Any]:
    """Return an algo order as REST prints it; `full` adds what queries show."""
    places = item.price_decimals
    body: dict[str, Any] = {
        "algoId": algo.id,
        "clientAlgoId": algo.client_id,
        "algoType": "CONDITIONAL",
        "orderType": algo.type,
        "symbol": item.symbol,
        "side": "BUY" if algo.sign > 0 else "SELL",
        "positionSide": algo.position_side,
        "timeInForce": algo.tif,
        "quantity": decimal(algo.qty, item.qty_decimals),
        "algoStatus": algo.status,
        "triggerPrice": decimal(algo.trigger, places),
        "price": decimal(algo.price, places),
        "icebergQuantity": None,
        "selfTradePreventionMode": algo.stp,
        "workingType": algo.working_type,
        "priceMatch": algo.price_match,
        "closePosition": algo.close_position,
        "priceProtect": algo.price_protect,
        "reduceOnly": algo.reduce_only or algo.close_position,
        "activatePrice": decimal(algo.activate, places) if algo.activate else "",
        "callbackRate": plain(algo.callback_ppm, 4) if algo.callback_ppm else "",
        "createTime": algo.created_ms,
        "updateTime": algo.updated_ms,
        "triggerTime": algo.triggered_ms,
        "goodTillDate": algo.gtd_ms,
    }
    if full:
        child = algo.child
        body |= {"actualOrderId": str(child.id) if child else "", "tpOrderType": ""}
        body["actualPrice"] = average(child, item) if child else "0.00000"
        if child:
            body |= {"actualType": child.type, "actualQty": decimal(child.filled, item.qty_decimals)}
        body |= {"tpTriggerPrice": "0.000", "tpPrice": "0.000", "slTriggerPrice": "0.000", "slPrice": "0.000"}
    return body


def algo_update(algo: Algo, item: Instrument, event_ms: int) -> dict[str, Any]:
    """Return an ALGO_UPDATE."""
    child, places = algo.child, item.price_decimals
    body = {
        "caid": algo.client_id, "aid": algo.id, "at": "CONDITIONAL", "o": algo.type, "s": item.symbol,
        "S": "BUY" if algo.sign > 0 else "SELL", "ps": algo.position_side, "f": algo.tif,
        "q": decimal(algo.qty, item.qty_decimals), "X": algo.status, "ai": str(child.id) if child else "",
        "ap": average(child, item) if child else "0.00000",
        "aq": decimal(child.filled, item.qty_decimals) if child else "0.00000",
        "act": child.type if child else "0", "tp": plain(algo.trigger, places), "p": plain(algo.price, places),
        "V": algo.stp, "wt": algo.working_type, "pm": algo.price_match, "cp": algo.close_position,
        "pP": algo.price_protect, "R": algo.reduce_only or algo.close_position, "tt": algo.triggered_ms,
        "gtd": algo.gtd_ms, "rm": algo.reason, "ia": algo.activated,
    }  # fmt: skip
    return {"e": "ALGO_UPDATE", "T": algo.updated_ms, "E": event_ms, "o": body}
