"""A small exchange in memory for tests of the order side: what it does is written from the protocol, not from our code.

It answers requests (`send`), keeps positions, orders, trades and algo orders, and queues user events as the JSON that
the private stream carries. `pump` delivers answers and events. Faults are queued per call name.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson

from engine.exchange.replies import LOST, NOT_SENT, Reply
from engine.exchange.requests import Call, Request

FEE = Decimal("0.0005")
STEP = Decimal("0.001")


@dataclass
class Holding:
    amount: Decimal = Decimal(0)
    entry: Decimal = Decimal(0)
    updated_ms: int = 0


@dataclass
class VenueModel:
    """now_ms: exchange time. fill_share: part of an order that fills at once, in `pieces` trades. expire_ms: flat → old
    stop expires.
    """

    now_ms: int = 1_800_000_000_000
    wallet: Decimal = Decimal(10_000)
    fill_share: Decimal = Decimal(1)
    pieces: int = 1
    expire_ms: int = 50
    price: dict[str, Decimal] = field(default_factory=dict)
    held: dict[str, Holding] = field(default_factory=lambda: defaultdict(Holding))
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    algos: dict[int, dict[str, Any]] = field(default_factory=dict)
    trades: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[int, Request, int]] = field(default_factory=list)
    faults: dict[Call, deque[str]] = field(default_factory=lambda: defaultdict(deque))
    stream_up: bool = True
    answers_first: bool = False
    fee_asset: str = "USDT"
    rest_lag_ms: int = 0
    income: list[dict[str, Any]] = field(default_factory=list)
    _answers: deque[tuple[Callable[[Reply], None], Reply]] = field(default_factory=deque)
    _events: deque[bytes] = field(default_factory=deque)
    _expiring: list[tuple[int, int]] = field(default_factory=list)
    _past: list[tuple[int, dict[str, Holding], list[dict[str, Any]], dict[str, Any]]] = field(default_factory=list)
    _ids: int = 1_000

    # --- the transport ---

    def send(self, request: Request, done: Callable[[Reply], None], route: int = 0) -> str:
        """Execute the request now; its answer comes with `pump`. Faults: see `_faulty`."""
        self.requests.append((self.now_ms, request, route))
        fault = self.faults[request.call].popleft() if self.faults[request.call] else ""
        if fault == "no_route":
            return ""
        reply = self._faulty(request, fault)
        if not fault.startswith("silence"):
            self._answers.append((done, reply))
        return "rest" if route < 0 else f"ws{route}"

    def _faulty(self, request: Request, fault: str) -> Reply:
        if fault in ("lost", "silence"):
            return LOST  # never executed
        if fault == "not_sent":
            return NOT_SENT
        if fault.startswith("code "):
            return Reply(400, int(fault[5:]), "scripted")
        if fault == "503":
            return Reply(503, -1000, "Unknown error, please check your request or try again later.")
        reply = self._do(request)
        if fault == "lost_executed":
            return LOST
        if fault == "503_executed":
            return Reply(503, -1000, "Unknown error, please check your request or try again later.")
        return reply

    def pump(self, on_payload: Callable[[bytes], None]) -> None:
        """Deliver what is waiting: events and answers in turn, events first, or as `answers_first` says."""
        while self._answers or self._events:
            if not (self.answers_first and self._answers):
                self.pump_events(on_payload)
            if self._answers:
                done, reply = self._answers.popleft()
                done(reply)

    def pump_events(self, on_payload: Callable[[bytes], None]) -> None:
        """Deliver the events that are waiting."""
        while self._events:
            payload = self._events.popleft()
            if self.stream_up:
                on_payload(payload)

    def forget_events(self) -> None:
        """Drop the events that are waiting."""
        self._events.clear()

    def forget_answers(self) -> None:
        """Drop the answers that are waiting: nobody hears them any more."""
        self._answers.clear()

    def ask(self, call: Call) -> Any:
        """Return what a reading of the account shows, as a start makes it."""
        return self._do(Request(call)).result

    def pass_time(self, ms: int) -> None:
        """Move on; old stops of flat positions expire."""
        self.now_ms += ms
        for due_ms, algo_id in list(self._expiring):
            if due_ms <= self.now_ms:
                self._expiring.remove((due_ms, algo_id))
                if self.algos[algo_id]["algoStatus"] == "NEW":
                    self._algo_state(algo_id, "EXPIRED")
        if self.rest_lag_ms:
            held = {s: Holding(h.amount, h.entry, h.updated_ms) for s, h in self.held.items()}
            self._past.append((self.now_ms, held, list(self.trades), {n: dict(o) for n, o in self.orders.items()}))

    def move(self, symbol: str, price: str) -> None:
        """Set the mark price; stops trigger."""
        self.price[symbol] = Decimal(price)
        for algo_id, algo in list(self.algos.items()):
            if algo["symbol"] != symbol or algo["algoStatus"] != "NEW":
                continue
            level = Decimal(algo["triggerPrice"])
            if self._beyond(algo["orderType"], algo["side"], level, self.price[symbol]):
                self.trigger(algo_id)

    @staticmethod
    def _beyond(kind: str, side: str, level: Decimal, price: Decimal) -> bool:
        """Whether a price triggers an order: a stop that sells from above, a take profit that does from below."""
        return price <= level if (side == "SELL") == (kind == "STOP_MARKET") else price >= level

    # --- calls ---

    def _do(self, request: Request) -> Reply:
        p = request.params
        if request.call is Call.ORDER_PLACE:
            return self._place(p)
        if request.call is Call.ALGO_PLACE:
            return self._place_algo(p)
        if request.call is Call.ALGO_CANCEL:
            return self._cancel_algo(p)
        if request.call is Call.OPEN_ALGOS:
            rows = [a for a in self.algos.values() if a["algoStatus"] == "NEW"]
            return Reply(200, result=[a for a in rows if p.get("symbol", a["symbol"]) == a["symbol"]])
        if request.call is Call.ALGO_QUERY:
            found = [a for a in self.algos.values() if a["clientAlgoId"] == p["clientAlgoId"]]
            return Reply(200, result=found[-1]) if found else Reply(400, -2013, "Order does not exist.")
        return self._read(request.call, p)

    def _read(self, call: Call, p: dict[str, Any]) -> Reply:
        held, trades, orders = self.held, self.trades, self.orders
        if self.rest_lag_ms:
            old = [past for past in self._past if past[0] <= self.now_ms - self.rest_lag_ms]
            held, trades, orders = old[-1][1:] if old else ({}, [], {})
        if call is Call.ORDER_QUERY:
            named = [o for o in orders.values() if o["orderId"] == p.get("orderId")]
            order = named[0] if named else orders.get(str(p.get("origClientOrderId")))
            return Reply(200, result=dict(order)) if order else Reply(400, -2013, "Order does not exist.")
        if call is Call.TRADES:
            rows = [t for t in trades if t["symbol"] == p["symbol"] and p.get("orderId", t["orderId"]) == t["orderId"]]
            return Reply(200, result=[t for t in rows if t["time"] >= int(p.get("startTime", 0))])
        if call is Call.POSITIONS:
            rows = [
                {"symbol": s, "positionSide": "BOTH", "positionAmt": str(h.amount), "entryPrice": str(h.entry),
                 "updateTime": h.updated_ms}
                for s, h in held.items()
                if h.amount and p.get("symbol", s) == s
            ]  # fmt: skip
            return Reply(200, result=rows)
        if call is Call.ACCOUNT:
            return Reply(200, result={"assets": [{"asset": "USDT", "walletBalance": str(self.wallet)}]})
        if call is Call.INCOME:
            return Reply(200, result=[row for row in self.income if int(row["time"]) >= int(p["startTime"])])
        if call is Call.MARK:
            return Reply(200, result={"markPrice": str(self.price[str(p["symbol"])]), "time": self.now_ms})
        return Reply(400, -1, f"not in this model: {call}")

    def _place(self, p: dict[str, Any]) -> Reply:
        symbol, side = p["symbol"], 1 if p["side"] == "BUY" else -1
        qty, price = Decimal(p["quantity"]), self.price[p["symbol"]]
        if any(o["clientOrderId"] == p["newClientOrderId"] and o["status"] == "NEW" for o in self.orders.values()):
            return Reply(400, -4116, "ClientOrderId is duplicated.")
        holding = self.held[symbol]
        if p.get("reduceOnly") == "true":
            if holding.amount * side >= 0:
                return Reply(400, -2022, "ReduceOnly Order is rejected.")
            qty = min(qty, abs(holding.amount))
        if p["type"] == "LIMIT" and side * (price - Decimal(p["price"])) > 0:
            filled = Decimal(0)
        else:
            filled = (qty * self.fill_share).quantize(STEP)
        return Reply(200, result=self._execute(p["newClientOrderId"], symbol, side, Decimal(p["quantity"]), filled, p))

    def _execute(
        self, name: str, symbol: str, side: int, qty: Decimal, filled: Decimal, p: dict[str, Any], kind: str = ""
    ) -> dict[str, Any]:
        self._ids += 1
        order = {
            "orderId": self._ids, "symbol": symbol, "clientOrderId": name, "origQty": str(qty), "side": side,
            "executedQty": "0", "type": p.get("type", "MARKET"), "origType": kind or p.get("type", "MARKET"),
            "reduceOnly": p.get("reduceOnly") == "true", "updateTime": self.now_ms,
        }  # fmt: skip
        self.orders[name if name not in self.orders else f"{name}#{self._ids}"] = order
        self._order_event(order, "NEW", "NEW", Decimal(0), Decimal(0), 0)
        done = filled >= qty or (order["reduceOnly"] and not self.held[symbol].amount + side * filled)
        part = (filled / self.pieces).quantize(STEP)
        pieces = (self.pieces if part else 1) if filled else 0
        for piece in range(pieces):
            last = piece == pieces - 1
            order["executedQty"] = str(filled if last else part * (piece + 1))
            traded = filled - part * piece if last else part
            self._fill(order, symbol, side, traded, "FILLED" if done and last else "PARTIALLY_FILLED")
        if not done:
            reason = "2" if p.get("type") == "LIMIT" else "9"
            self._order_event(order, "EXPIRED", "EXPIRED", Decimal(0), Decimal(0), 0, reason)
        order["status"] = "FILLED" if done else "EXPIRED"
        return dict(order)

    def _fill(self, order: dict[str, Any], symbol: str, side: int, qty: Decimal, status: str) -> None:
        price, holding = self.price[symbol], self.held[symbol]
        fee = qty * price * FEE
        self._ids += 1
        realised = Decimal(0)
        if holding.amount * side >= 0:
            total = abs(holding.amount) + qty
            holding.entry = (holding.entry * abs(holding.amount) + price * qty) / total
        else:
            realised = min(qty, abs(holding.amount)) * (price - holding.entry) * (1 if holding.amount > 0 else -1)
        holding.amount += side * qty
        holding.updated_ms = self.now_ms
        self.wallet += realised - fee
        self.trades.append(
            {"symbol": symbol, "id": self._ids, "orderId": order["orderId"], "side": "BUY" if side > 0 else "SELL",
             "price": str(price), "qty": str(qty), "commission": str(fee), "commissionAsset": "USDT", "maker": False,
             "realizedPnl": str(realised), "time": self.now_ms}
        )  # fmt: skip
        self._event(
            {"e": "TRADE_LITE", "E": self.now_ms, "T": self.now_ms, "s": symbol, "q": order["origQty"], "p": "0",
             "m": False, "c": order["clientOrderId"], "S": "BUY" if side > 0 else "SELL", "L": str(price),
             "l": str(qty), "t": self._ids, "i": order["orderId"]}
        )  # fmt: skip
        self._order_event(order, "TRADE", status, qty, price, self._ids, "0", fee)
        self._account_event("ORDER", symbol)
        if not holding.amount:
            for algo_id, algo in self.algos.items():
                if algo["symbol"] == symbol and algo["algoStatus"] == "NEW":
                    self._expiring.append((self.now_ms + self.expire_ms, algo_id))

    def _place_algo(self, p: dict[str, Any]) -> Reply:
        symbol, side = p["symbol"], p["side"]
        amount = self.held[symbol].amount
        if not amount or (amount > 0) == (side == "BUY"):
            return Reply(400, -4509, "Time in Force (TIF) GTE can only be used with open positions.")
        kind = p["type"]
        standing = [a for a in self.algos.values() if a["symbol"] == symbol and a["algoStatus"] == "NEW"]
        if any(a["side"] == side and a["orderType"] == kind for a in standing):
            return Reply(400, -4130, "An open stop or take profit order with GTE and closePosition exists.")
        level, price = Decimal(p["triggerPrice"]), self.price[symbol]
        if self._beyond(kind, side, level, price):
            return Reply(400, -2021, "Order would immediately trigger.")
        self._ids += 1
        self.algos[self._ids] = {
            "algoId": self._ids, "clientAlgoId": p["clientAlgoId"], "symbol": symbol, "side": side,
            "orderType": kind, "triggerPrice": p["triggerPrice"], "closePosition": True,
            "algoStatus": "NEW", "actualOrderId": "",
        }  # fmt: skip
        self._algo_state(self._ids, "NEW")
        return Reply(200, result=dict(self.algos[self._ids]))

    def _cancel_algo(self, p: dict[str, Any]) -> Reply:
        for algo_id, algo in self.algos.items():
            named = p.get("algoId") == algo_id or p.get("clientAlgoId") == algo["clientAlgoId"]
            if named and algo["algoStatus"] == "NEW":
                self._algo_state(algo_id, "CANCELED")
                return Reply(200, result={"algoId": algo_id, "code": "200", "msg": "success"})
        return Reply(400, -2011, "Unknown order sent.")

    def trigger(self, algo_id: int, child_first: bool = False) -> None:
        """Trigger a stop: TRIGGERING, TRIGGERED with the child's id, the child's fill, FINISHED."""
        algo = self.algos[algo_id]
        side = 1 if algo["side"] == "BUY" else -1
        amount = abs(self.held[algo["symbol"]].amount)
        if not child_first:
            self._algo_state(algo_id, "TRIGGERING")
        algo["algoStatus"] = "TRIGGERED"
        if amount:
            child = {"type": "MARKET", "reduceOnly": "true"}
            name = f"child-{algo_id}"
            order = self._execute(name, algo["symbol"], side, amount, amount, child, algo["orderType"])
            algo["actualOrderId"] = str(order["orderId"])
        if not child_first:
            self._algo_state(algo_id, "TRIGGERED")
        self._algo_state(algo_id, "FINISHED")

    # --- others' doings ---

    def manual(self, symbol: str, signed_qty: str, name: str = "web_1", silent: bool = False) -> None:
        """Let somebody trade on the account; silent: the stream misses it."""
        waiting = len(self._events)
        qty = Decimal(signed_qty)
        self._execute(name, symbol, 1 if qty > 0 else -1, abs(qty), abs(qty), {"type": "MARKET"})
        if silent:
            while len(self._events) > waiting:
                self._events.pop()

    def pay_funding(self, symbol: str, amount: str) -> None:
        """Settle funding on the account."""
        self.wallet += Decimal(amount)
        balance = [{"a": "USDT", "wb": str(self.wallet), "cw": "0", "bc": amount}]
        self._event(
            {"e": "ACCOUNT_UPDATE", "E": self.now_ms, "T": self.now_ms,
             "a": {"m": "FUNDING_FEE", "B": balance, "P": [], "S": symbol}}
        )  # fmt: skip

    def transfer(self, amount: str, silent: bool = False) -> None:
        """Move money into the futures wallet, or out of it; silent: the stream misses it."""
        self.wallet += Decimal(amount)
        self.income.append(
            {
                "symbol": "",
                "incomeType": "TRANSFER",
                "income": amount,
                "asset": "USDT",
                "time": self.now_ms,
                "tranId": 0,
            }
        )
        if silent:
            return
        balance = [{"a": "USDT", "wb": str(self.wallet), "cw": "0", "bc": amount}]
        reason = "DEPOSIT" if Decimal(amount) > 0 else "WITHDRAW"
        self._event(
            {"e": "ACCOUNT_UPDATE", "E": self.now_ms, "T": self.now_ms, "a": {"m": reason, "B": balance, "P": []}}
        )

    # --- events ---

    def _event(self, message: dict[str, Any]) -> None:
        self._events.append(orjson.dumps(message))

    def _account_event(self, reason: str, symbol: str) -> None:
        holding = self.held[symbol]
        self._event(
            {"e": "ACCOUNT_UPDATE", "E": self.now_ms, "T": self.now_ms, "a": {"m": reason,
             "B": [{"a": "USDT", "wb": str(self.wallet), "cw": str(self.wallet), "bc": "0"}],
             "P": [{"s": symbol, "pa": str(holding.amount), "ep": str(holding.entry), "ps": "BOTH"}]}}
        )  # fmt: skip

    def _order_event(
        self, order: dict[str, Any], execution: str, status: str, qty: Decimal, price: Decimal, trade_id: int,
        expiry: str = "0", fee: Decimal = Decimal(0),
    ) -> None:  # fmt: skip
        filled = str(order["executedQty"]) if execution != "NEW" else "0"
        self._event(
            {"e": "ORDER_TRADE_UPDATE", "E": self.now_ms, "T": self.now_ms, "o": {
                "s": order["symbol"], "c": order["clientOrderId"], "S": "BUY" if order["side"] > 0 else "SELL",
                "o": order["type"], "f": "IOC", "q": order["origQty"], "ap": str(price), "x": execution, "X": status,
                "i": order["orderId"], "l": str(qty), "z": filled, "L": str(price), "N": self.fee_asset, "n": str(fee),
                "T": self.now_ms, "t": trade_id, "m": False, "R": order["reduceOnly"], "ot": order["origType"],
                "ps": "BOTH", "cp": order["origType"].endswith("_MARKET"), "rp": "0", "er": expiry}}
        )  # fmt: skip

    def _algo_state(self, algo_id: int, status: str) -> None:
        algo = self.algos[algo_id]
        algo["algoStatus"] = status
        self._event(
            {"e": "ALGO_UPDATE", "E": self.now_ms, "T": self.now_ms, "o": {
                "caid": algo["clientAlgoId"], "aid": algo_id, "at": "CONDITIONAL", "o": algo["orderType"],
                "s": algo["symbol"], "S": algo["side"], "X": status, "ai": algo["actualOrderId"],
                "tp": algo["triggerPrice"], "cp": True, "rm": ""}}
        )  # fmt: skip
