"""The signed side of the REST gateway: keys, signatures, clocks, order limits, and the table of endpoints."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from engine.simulator import signing
from engine.simulator.errors import Refusal
from engine.simulator.ledger import Account
from engine.simulator.limits import OrderLimit
from engine.simulator.params import Params
from engine.simulator.rest_account import AccountDesk
from engine.simulator.rest_orders import OrderDesk
from engine.simulator.venue import Venue

KEY, SIGNED = "key", "signed"
Handler = Callable[[Account, Params], Awaitable[Any]]


@dataclass(frozen=True)
class Endpoint:
    """One endpoint: its handler, weight (with and without a symbol), security, and cost in orders (10 s, 1 min)."""

    handler: Handler
    weight: int = 1
    weight_all: int | None = None
    security: str = SIGNED
    orders: int = 0


def endpoints(orders: OrderDesk, account: AccountDesk) -> dict[tuple[str, str], Endpoint]:
    """Return the table of private endpoints."""
    v1 = "/fapi/v1/"
    table = {
        ("POST", v1 + "order"): Endpoint(orders.place, 0, orders=1),
        ("POST", v1 + "order/test"): Endpoint(orders.test, 0),
        ("PUT", v1 + "order"): Endpoint(orders.modify, 0, orders=1),
        ("DELETE", v1 + "order"): Endpoint(orders.cancel),
        ("GET", v1 + "order"): Endpoint(orders.query),
        ("GET", v1 + "orderAmendment"): Endpoint(orders.amendments),
        ("GET", v1 + "openOrder"): Endpoint(orders.query_open),
        ("GET", v1 + "openOrders"): Endpoint(orders.open_orders, 1, 40),
        ("GET", v1 + "allOrders"): Endpoint(orders.all_orders, 5),
        ("DELETE", v1 + "allOpenOrders"): Endpoint(orders.cancel_all),
        ("POST", v1 + "batchOrders"): Endpoint(orders.place_batch, 5, orders=5),
        ("PUT", v1 + "batchOrders"): Endpoint(orders.modify_batch, 5, orders=5),
        ("DELETE", v1 + "batchOrders"): Endpoint(orders.cancel_batch),
        ("POST", v1 + "countdownCancelAll"): Endpoint(orders.countdown, 10),
        ("POST", v1 + "algoOrder"): Endpoint(orders.place_algo, 0, orders=1),
        ("GET", v1 + "algoOrder"): Endpoint(orders.query_algo),
        ("DELETE", v1 + "algoOrder"): Endpoint(orders.cancel_algo),
        ("DELETE", v1 + "algoOpenOrders"): Endpoint(orders.cancel_algos),
        ("GET", v1 + "openAlgoOrders"): Endpoint(orders.open_algos, 1, 40),
        ("GET", v1 + "allAlgoOrders"): Endpoint(orders.all_algos, 5),
        ("GET", v1 + "balance"): Endpoint(account.balance, 5),
        ("GET", "/fapi/v2/balance"): Endpoint(account.balance, 5),
        ("GET", "/fapi/v3/balance"): Endpoint(account.balance, 5),
        ("GET", "/fapi/v2/account"): Endpoint(account.account_v2, 5),
        ("GET", "/fapi/v3/account"): Endpoint(account.account_v3, 5),
        ("GET", "/fapi/v2/positionRisk"): Endpoint(account.positions_v2, 5),
        ("GET", "/fapi/v3/positionRisk"): Endpoint(account.positions_v3, 5),
        ("GET", v1 + "accountConfig"): Endpoint(account.account_config, 5),
        ("GET", v1 + "symbolConfig"): Endpoint(account.symbol_config, 5),
        ("POST", v1 + "leverage"): Endpoint(account.set_leverage),
        ("POST", v1 + "marginType"): Endpoint(account.set_margin_type),
        ("POST", v1 + "positionMargin"): Endpoint(account.position_margin),
        ("GET", v1 + "positionSide/dual"): Endpoint(account.dual_side, 30),
        ("POST", v1 + "positionSide/dual"): Endpoint(account.set_dual_side),
        ("GET", v1 + "multiAssetsMargin"): Endpoint(account.multi_assets, 30),
        ("POST", v1 + "multiAssetsMargin"): Endpoint(account.set_multi_assets),
        ("GET", v1 + "userTrades"): Endpoint(account.user_trades, 5),
        ("GET", v1 + "income"): Endpoint(account.income, 30),
        ("GET", v1 + "commissionRate"): Endpoint(account.commission, 20),
        ("GET", v1 + "leverageBracket"): Endpoint(account.brackets),
        ("GET", v1 + "adlQuantile"): Endpoint(account.adl_quantile, 5),
        ("GET", v1 + "forceOrders"): Endpoint(account.force_orders, 20, 50),
        ("GET", v1 + "feeBurn"): Endpoint(account.fee_burn, 30),
        ("POST", v1 + "listenKey"): Endpoint(account.listen_open, 1, security=KEY),
        ("PUT", v1 + "listenKey"): Endpoint(account.listen_extend, 1, security=KEY),
        ("DELETE", v1 + "listenKey"): Endpoint(account.listen_close, 1, security=KEY),
        ("GET", "/sapi/v1/account/apiRestrictions"): Endpoint(account.restrictions),
        ("GET", "/sapi/v1/capital/config/getall"): Endpoint(account.coins, 10),
    }
    return table


class Private:
    """Authenticates, counts and dispatches. `skew_ms` is a fault: the gateway's own clock is off by so much."""

    def __init__(self, venue: Venue, desk: OrderDesk, speed: float, charge: Callable[..., None]) -> None:
        self.venue = venue
        self.desk = desk
        self.account_desk = AccountDesk(venue)
        self.routes = endpoints(desk, self.account_desk)
        self.routes["GET", "/fapi/v1/rateLimit/order"] = Endpoint(self.rate_limits)
        self.charge = charge
        self.speed = max(1.0, speed)
        self.skew_ms = 0
        self.order_limits: dict[str, OrderLimit] = {}

    def account_of(self, key: str | None) -> Account:
        """Return the account of an API key. Raises −2014, −2015 (401)."""
        if not key:
            raise Refusal(-2014, "API-key format invalid.", 401)
        ledger = self.venue.ledger
        account = ledger.accounts.get(ledger.keys.get(key, key))
        if account is None:
            raise Refusal(-2015, "Invalid API-key, IP, or permissions for action.", 401)
        return account

    def check_time(self, params: Params) -> None:
        """Refuse (−1021) a timestamp outside the window. A replay stretches the window by its speed."""
        params.text("timestamp")
        stamp = params.integer("timestamp", None, -(2**62), 2**62)
        window = params.integer("recvWindow", 5_000, 1, 60_000) * self.speed
        now_ms = self.venue.now_ms() + self.skew_ms
        if stamp >= now_ms + 1_000 * self.speed:
            raise Refusal(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
        if now_ms - stamp > window:
            raise Refusal(-1021, "Timestamp for this request is outside of the recvWindow.")

    def count_orders(self, account: Account, orders: int, headers: dict[str, str]) -> tuple[int, int]:
        """Count orders against the account's limits."""
        limit = self.order_limits.setdefault(account.key, OrderLimit())
        counts = limit.charge(orders, time.time())
        headers["X-MBX-ORDER-COUNT-10S"], headers["X-MBX-ORDER-COUNT-1M"] = str(counts[0]), str(counts[1])
        return counts

    def limit_of(self, account: Account) -> OrderLimit:
        """Return the account's order limits."""
        return self.order_limits.setdefault(account.key, OrderLimit())

    async def handle(self, request: web.Request, body: str, headers: dict[str, str]) -> Any:
        """Answer one request of this side; raises Refusal. Returns the JSON value."""
        endpoint = self.routes[request.method, request.path]
        query = request.raw_path.partition("?")[2]
        params = Params(query, body)
        weight = endpoint.weight
        if endpoint.weight_all is not None and not params.has("symbol"):
            weight = endpoint.weight_all
        self.charge(request, weight, headers)
        account = self.account_of(request.headers.get("X-MBX-APIKEY"))
        if endpoint.security == SIGNED:
            payload, signature = signing.split_signature(query, body)
            params.text("timestamp")
            signing.verify(account.secret, payload, signature)
            self.check_time(params)
        if endpoint.orders:
            self.count_orders(account, endpoint.orders, headers)
        return await endpoint.handler(account, params)

    async def rate_limits(self, account: Account, params: Params) -> Any:
        """GET rateLimit/order."""
        limit = self.limit_of(account)
        return [
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": limit.per_10s},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": limit.per_minute},
        ]
