"""Orders over REST (and, with the same functions, over the WS API): place, modify, cancel, query, batch, algo
orders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import orjson

from engine.simulator import intake
from engine.simulator.algos import algo_json
from engine.simulator.errors import Refusal
from engine.simulator.instruments import decimal
from engine.simulator.ledger import Account
from engine.simulator.orders import Order, order_json
from engine.simulator.params import Params
from engine.simulator.venue import Venue

WEEK_MS = 7 * 86_400_000
VANISH_MS = 3 * 86_400_000  # an order that ended without a fill disappears from queries
CANCELLED_ALL = {"code": 200, "msg": "The operation of cancel all open order is done."}
NO_ORDER = "Order does not exist."


class OrderDesk:
    """The handlers. `costs`: whether replies carry avgPrice and cumQuote."""

    def __init__(self, venue: Venue, costs: bool) -> None:
        self.venue = venue
        self.costs = costs

    async def pause(self, name: str) -> None:
        """Wait one of the exchange's own delays."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        self.venue.later(name, finish)
        await done

    def _json(self, order: Order, full: bool = False) -> dict[str, Any]:
        return order_json(order, self.venue.instrument(order.s), full, self.costs or full)

    # --- orders ---

    async def place(self, account: Account, params: Params) -> Any:
        """POST order, order.place."""
        return await self._place_one(account, params, "EXPIRE_MAKER")

    async def _place_one(self, account: Account, params: Params, stp: str) -> Any:
        order = intake.build_order(self.venue, account, params, stp)
        result = params.choice("newOrderRespType", ("ACK", "RESULT"), "ACK") == "RESULT"
        await self.pause("request")
        self.venue.place(order)
        body = self._json(order)
        if not result or (order.type == "LIMIT" and order.tif not in ("IOC", "FOK")):
            lots = {"executedQty": "0", "cumQty": "0"} | ({"cumQuote": "0", "avgPrice": "0.00"} if self.costs else {})
            body |= lots | {"status": "NEW"}
        await self.pause("reply")
        return body

    async def test(self, account: Account, params: Params) -> Any:
        """POST order/test: validate only."""
        order = intake.build_order(self.venue, account, params, "NONE")
        self.venue.check_margin(order)
        return self._json(order)

    def _known(self, account: Account, params: Params, code: int, message: str) -> Order:
        s = intake.symbol_index(self.venue, params)
        number, client = _ids(params, "orderId", "origClientOrderId")
        order = self.venue.matcher.find(account, s, number, client)
        if order is None:
            raise Refusal(code, message)
        return order

    async def modify(self, account: Account, params: Params) -> Any:
        """PUT order, order.modify."""
        order = self._known(account, params, -2013, NO_ORDER)
        if order.type != "LIMIT":
            raise Refusal(-5025, "Only limit order is supported.")
        if order.modifying:
            raise Refusal(-5043, "A pending modification already exists for this order.")
        modify_id = params.integer("modifyId", 0, 0, 2**53) if params.has("modifyId") else None
        before, order.modifying = order.modify_id, True
        try:
            await self.pause("request")
            qty, price = intake.amend_terms(self.venue, order, params)
            order.modify_id = modify_id
            self.venue.matcher.amend(order, qty, price)
        except Refusal:
            order.modify_id = before
            raise
        finally:
            order.modifying = False
        body = self._json(order) | {"pair": self.venue.instrument(order.s).symbol}
        await self.pause("reply")
        return body

    async def amendments(self, account: Account, params: Params) -> Any:
        """GET orderAmendment."""
        order = self._known(account, params, -2013, NO_ORDER)
        item = self.venue.instrument(order.s)
        places, lots = item.price_decimals, item.qty_decimals
        limit = params.integer("limit", 50, 1, 100)
        rows = []
        for number, (time_ms, before, after) in enumerate(order.history, 1):
            change: dict[str, Any] = {
                "price": {"before": decimal(before[1], places), "after": decimal(after[1], places)},
                "origQty": {"before": decimal(before[0], lots), "after": decimal(after[0], lots)},
                "count": number,
            }
            rows.append({
                "amendmentId": order.id * 100 + number, "symbol": item.symbol, "pair": item.symbol,
                "orderId": order.id, "clientOrderId": order.client_id, "time": time_ms, "amendment": change,
            })  # fmt: skip
        return rows[-limit:]

    async def cancel(self, account: Account, params: Params) -> Any:
        """DELETE order, order.cancel."""
        order = self._known(account, params, -2011, "Unknown order sent.")
        await self.pause("request")
        self.venue.matcher.cancel(order)
        body = self._json(order)
        await self.pause("reply")
        return body

    async def query(self, account: Account, params: Params) -> Any:
        """GET order, order.status: from the read model."""
        order = self._seen(account, params)
        gone = self.venue.now_ms() - order.updated_ms > VANISH_MS
        if not order.is_open and not order.filled and gone:
            raise Refusal(-2013, NO_ORDER)
        return self._json(order, True)

    async def query_open(self, account: Account, params: Params) -> Any:
        """GET openOrder."""
        order = self._seen(account, params)
        if not order.is_open:
            raise Refusal(-2013, NO_ORDER)
        return self._json(order, True)

    def _seen(self, account: Account, params: Params) -> Order:
        s = intake.symbol_index(self.venue, params)
        number, client = _ids(params, "orderId", "origClientOrderId")
        order = self.venue.views.of(account).find(s, number, client)
        if order is None:
            raise Refusal(-2013, NO_ORDER)
        return order

    async def open_orders(self, account: Account, params: Params) -> Any:
        """GET openOrders."""
        s = intake.symbol_index(self.venue, params) if params.has("symbol") else None
        return [self._json(order, True) for order in self.venue.views.of(account).open_orders(s)]

    async def all_orders(self, account: Account, params: Params) -> Any:
        """GET allOrders."""
        s = intake.symbol_index(self.venue, params) if params.has("symbol") else None
        limit = params.integer("limit", 500, 1, 1_000)
        start, end = window(params, self.venue.now_ms())
        first = params.integer("orderId", 0, 0, 2**62)
        now_ms = self.venue.now_ms()
        found = [
            order
            for order in self.venue.views.of(account).orders.values()
            if s in (None, order.s)
            and (order.id >= first if first else start <= order.created_ms <= end)
            and (order.is_open or order.filled or now_ms - order.updated_ms <= VANISH_MS)
        ]
        chosen = found[:limit] if first or params.has("startTime") else found[-limit:]
        return [self._json(order, True) | {"pair": self.venue.instrument(order.s).symbol} for order in chosen]

    async def cancel_all(self, account: Account, params: Params) -> Any:
        """DELETE allOpenOrders: untriggered algo orders survive."""
        s = intake.symbol_index(self.venue, params)
        await self.pause("request")
        for order in list(self.venue.matcher.of(account).open.values()):
            if order.s == s:
                self.venue.matcher.cancel(order)
        await self.pause("reply")
        return CANCELLED_ALL

    async def countdown(self, account: Account, params: Params) -> Any:
        """POST countdownCancelAll."""
        s = intake.symbol_index(self.venue, params)
        params.text("countdownTime")
        time_ms = params.integer("countdownTime", None, 0, 10**10)
        key = (account.key, s)
        if time_ms:
            self.venue.countdowns[key] = self.venue.scheduler.now() + time_ms
            self.venue.scheduler.after(time_ms, lambda: self.venue.tend(self.venue.scheduler.now()))
        else:
            self.venue.countdowns.pop(key, None)
        return {"symbol": self.venue.instrument(s).symbol, "countdownTime": str(time_ms)}

    # --- batches ---

    async def _each(self, calls: list[Awaitable[Any]]) -> list[Any]:
        """Run items concurrently; each gets its result or its error, in the order of the request."""
        results = await asyncio.gather(*calls, return_exceptions=True)
        out: list[Any] = []
        for result in results:
            if isinstance(result, Refusal):
                out.append({"code": result.code, "msg": result.message})
            elif isinstance(result, BaseException):
                raise result
            else:
                out.append(result)
        return out

    def _items(self, params: Params) -> list[Params]:
        try:
            items = orjson.loads(params.text("batchOrders"))
        except orjson.JSONDecodeError as error:
            raise Refusal(-1130, "Data sent for parameter 'batchOrders' is not valid.") from error
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items) or not items:
            raise Refusal(-1130, "Data sent for parameter 'batchOrders' is not valid.")
        if len(items) > 5:
            raise Refusal(-4082, "Invalid number of batch place orders.")
        return [Params.of(item) for item in items]

    async def place_batch(self, account: Account, params: Params) -> Any:
        """POST batchOrders."""
        return await self._each([self._place_one(account, item, "NONE") for item in self._items(params)])

    async def modify_batch(self, account: Account, params: Params) -> Any:
        """PUT batchOrders."""
        return await self._each([self.modify(account, item) for item in self._items(params)])

    async def cancel_batch(self, account: Account, params: Params) -> Any:
        """DELETE batchOrders; some clients write the list names in lower case."""
        symbol = params.text("symbol")
        numbers = params.optional("orderIdList") or params.optional("orderidlist")
        clients = params.optional("origClientOrderIdList") or params.optional("origclientorderidlist")
        try:
            values = orjson.loads(numbers or clients or "[]")
        except orjson.JSONDecodeError as error:
            raise Refusal(-1130, "Data sent for parameter 'orderIdList' is not valid.") from error
        if not isinstance(values, list) or not values or len(values) > 10:
            raise Refusal(-4083, "Invalid number of batch cancel orders.")
        name = "orderId" if numbers else "origClientOrderId"
        return await self._each([self.cancel(account, Params.of({"symbol": symbol, name: v})) for v in values])

    # --- algo orders ---

    async def place_algo(self, account: Account, params: Params) -> Any:
        """POST algoOrder, algoOrder.place."""
        algo = intake.build_algo(self.venue, account, params)
        await self.pause("algo_request")
        self.venue.algos.place(algo)
        body = algo_json(algo, self.venue.instrument(algo.s), False)
        await self.pause("reply")
        return body

    async def query_algo(self, account: Account, params: Params) -> Any:
        """GET algoOrder."""
        algo = self.venue.algos.find(account, *_ids(params, "algoId", "clientAlgoId"))
        if algo is None:
            raise Refusal(-2013, NO_ORDER)
        return algo_json(algo, self.venue.instrument(algo.s), True)

    async def cancel_algo(self, account: Account, params: Params) -> Any:
        """DELETE algoOrder, algoOrder.cancel."""
        algo = self.venue.algos.find(account, *_ids(params, "algoId", "clientAlgoId"))
        await self.pause("algo_request")
        algo = self.venue.algos.cancel(algo)
        await self.pause("reply")
        return {"algoId": algo.id, "clientAlgoId": algo.client_id, "code": "200", "msg": "success"}

    async def cancel_algos(self, account: Account, params: Params) -> Any:
        """DELETE algoOpenOrders."""
        s = intake.symbol_index(self.venue, params)
        await self.pause("algo_request")
        for algo in self.venue.algos.open_of(account):
            if algo.s == s and algo.is_open:
                self.venue.algos.cancel(algo)
        return CANCELLED_ALL

    async def open_algos(self, account: Account, params: Params) -> Any:
        """GET openAlgoOrders."""
        s = intake.symbol_index(self.venue, params) if params.has("symbol") else None
        number = params.integer("algoId", 0, 0, 2**62)
        found = self.venue.algos.open_of(account)
        chosen = [algo for algo in found if s in (None, algo.s) and number in (0, algo.id)]
        return [algo_json(algo, self.venue.instrument(algo.s), True) for algo in chosen]

    async def all_algos(self, account: Account, params: Params) -> Any:
        """GET allAlgoOrders."""
        s = intake.symbol_index(self.venue, params)
        limit = params.integer("limit", 500, 1, 1_000)
        start, end = window(params, self.venue.now_ms())
        number = params.integer("algoId", 0, 0, 2**62)
        mine = self.venue.algos.all.get(account.key, {}).values()
        found = [a for a in mine if a.s == s and (a.id >= number if number else start <= a.created_ms <= end)]
        return [algo_json(algo, self.venue.instrument(algo.s), True) for algo in found[-limit:]]


def _ids(params: Params, number: str, client: str) -> tuple[int | None, str | None]:
    """Return (id, client id), one of them given; the id wins."""
    if params.has(number):
        return params.integer(number, 0, 0, 2**62), None
    if params.has(client):
        return None, params.text(client)
    raise Refusal(-1102, f"Param '{client}' or '{number}' must be sent, but both were empty/null!")


def window(params: Params, now_ms: int) -> tuple[int, int]:
    """Return (startTime, endTime), at most seven days apart."""
    start, end = params.time("startTime"), params.time("endTime")
    if start is None:
        start = (end if end is not None else now_ms) - WEEK_MS
    if end is None:
        end = start + WEEK_MS
    if end - start > WEEK_MS:
        raise Refusal(-4166, "Search window is restricted to recent 7 days only.")
    return start, end
