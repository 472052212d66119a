"""The WebSocket API without a socket: one JSON request in, one JSON answer out; a session may log on with Ed25519."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from engine.simulator import rest_market, signing
from engine.simulator.errors import Refusal
from engine.simulator.ledger import Account
from engine.simulator.params import Params
from engine.simulator.private import Private
from engine.simulator.rest import Rest

ADDRESS = "/ws-fapi/v1/"  # with the method behind it: how faults name a request
ORDER_METHODS = ("order.place", "order.modify", "algoOrder.place")


class Session:
    """One WS API connection."""

    def __init__(self, rest: Rest, private: Private, address: str, quiet: bool) -> None:
        self.rest = rest
        self.private = private
        self.address = address
        self.quiet = quiet  # returnRateLimits=false on the URL
        self.account: Account | None = None
        self.logged_ms = 0
        self.connected_ms = int(time.time() * 1_000)
        orders, desk = private.desk, private.account_desk
        self.methods: dict[str, tuple[Callable[[Account, Params], Awaitable[Any]], int]] = {
            "order.place": (orders.place, 0),
            "order.modify": (orders.modify, 0),
            "order.cancel": (orders.cancel, 1),
            "order.status": (orders.query, 1),
            "algoOrder.place": (orders.place_algo, 0),
            "algoOrder.cancel": (orders.cancel_algo, 1),
            "account.status": (desk.account_v3, 5),
            "v2/account.status": (desk.account_v3, 5),
            "account.balance": (desk.balance, 5),
            "v2/account.balance": (desk.balance, 5),
            "account.position": (desk.positions_v3, 5),
            "v2/account.position": (desk.positions_v3, 5),
        }
        self.listen = {
            "userDataStream.start": desk.listen_open,
            "userDataStream.ping": desk.listen_extend,
            "userDataStream.stop": desk.listen_close,
        }

    async def answer(self, text: str | bytes) -> bytes | None:
        """Answer one request; nothing a client sends makes anything but an answer. None: a fault lost it."""
        number: Any = None
        headers: dict[str, str] = {}
        account: Account | None = None
        quiet = self.quiet
        try:
            message = self._parse(text)
            number, method, values = message.get("id"), message["method"], message.get("params") or {}
            if not isinstance(values, dict):
                raise Refusal(-1102, "Mandatory parameter 'params' was not sent, was empty/null, or malformed.")
            if values.get("returnRateLimits", True) is False:
                quiet = True
            fault = self.rest.faults.before("WS", ADDRESS + method) if self.rest.faults else None
            if fault is None:
                result, account = await self._call(method, values, headers)
                fault = self.rest.faults.after("WS", ADDRESS + method) if self.rest.faults else None
            if fault is not None and not fault[0]:
                return None
            body: dict[str, Any] = {"id": number, "status": fault[0] if fault else 200}
            body |= {"error": orjson.loads(fault[1])} if fault else {"result": result}
        except Refusal as refusal:
            body = {"id": number, "status": refusal.status, "error": {"code": refusal.code, "msg": refusal.message}}
        except (ArithmeticError, LookupError, TypeError, ValueError):
            bug = self.rest.bug("WS API")
            body = {"id": number, "status": 400, "error": {"code": bug.code, "msg": bug.message}}
        if not quiet:
            body["rateLimits"] = self._limits(headers, account)
        return orjson.dumps(body)

    def _parse(self, text: str | bytes) -> dict[str, Any]:
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise Refusal(-1100, "Malformed request: not JSON.") from error
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            raise Refusal(-1100, "Malformed request: expected id, method and params.")
        if not isinstance(message.get("id"), (str, int, type(None))):
            raise Refusal(-1100, "Malformed request: bad id.")
        return message

    async def _call(self, method: str, values: dict[str, Any], headers: dict[str, str]) -> tuple[Any, Account | None]:
        if method in self.methods:
            handler, weight = self.methods[method]
            self._charge(weight, headers)
            account = self._authenticate(values)
            if method in ORDER_METHODS:
                self.private.count_orders(account, 1, headers)
            return await handler(account, Params.of(values)), account
        if method in self.listen:
            self._charge(5, headers)
            account = self.account or self.private.account_of(_text(values, "apiKey"))
            return await self.listen[method](account, Params.of({})), account
        if method.startswith("session."):
            self._charge(2, headers)
            return self._session(method, values), self.account
        self._charge(2, headers)
        return self._market(method, Params.of(values)), None

    def _charge(self, weight: int, headers: dict[str, str]) -> None:
        used = self.rest.weights.charge(self.address, weight, time.time())
        headers["X-MBX-USED-WEIGHT-1M"] = str(used)

    def _authenticate(self, values: dict[str, Any]) -> Account:
        if "apiKey" not in values and self.account is not None:
            self.private.check_time(Params.of({key: value for key, value in values.items() if key != "signature"}))
            return self.account
        account = self.private.account_of(_text(values, "apiKey"))
        self._verify(account, values)
        return account

    def _verify(self, account: Account, values: dict[str, Any]) -> None:
        signature = _text(values, "signature") or ""
        signed = {name: value for name, value in values.items() if name != "signature"}
        payload = "&".join(f"{name}={_plain(signed[name])}" for name in sorted(signed))
        signing.verify(account.secret, payload.encode(), signature)
        self.private.check_time(Params.of(signed))

    def _session(self, method: str, values: dict[str, Any]) -> dict[str, Any]:
        if method == "session.logon":
            account = self.private.account_of(_text(values, "apiKey"))
            if not signing.is_ed25519(account.secret):
                raise Refusal(-4056, "HMAC_SHA256 API key is not supported.")
            self._verify(account, values)
            self.account, self.logged_ms = account, int(time.time() * 1_000)
        elif method == "session.logout":
            self.account, self.logged_ms = None, 0
        elif method != "session.status":
            raise Refusal(-1000, f"Unknown method '{method}'.")
        return {
            "apiKey": self.account.key if self.account else None,
            "authorizedSince": self.logged_ms or None,
            "connectedSince": self.connected_ms,
            "returnRateLimits": not self.quiet,
            "serverTime": self.private.venue.now_ms(),
        }

    def _market(self, method: str, params: Params) -> Any:
        tape = self.rest.exchange.tape
        if method == "depth":
            return rest_market.depth(tape, params)
        make = {"ticker.price": rest_market.price_ticker, "ticker.book": rest_market.book_ticker}.get(method)
        if make is None:
            raise Refusal(-1000, f"Unknown method '{method}'.")
        found = [make(tape, s) for s in rest_market.symbols_of(tape, params)]
        return found[0] if params.has("symbol") else found

    def _limits(self, headers: dict[str, str], account: Account | None) -> list[dict[str, Any]]:
        used = int(headers.get("X-MBX-USED-WEIGHT-1M", 0))
        rows: list[dict[str, Any]] = [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
             "limit": self.rest.weights.limit, "count": used}
        ]  # fmt: skip
        if account is not None and "X-MBX-ORDER-COUNT-10S" in headers:
            limit = self.private.limit_of(account)
            for interval, number, most, name in (
                ("SECOND", 10, limit.per_10s, "X-MBX-ORDER-COUNT-10S"),
                ("MINUTE", 1, limit.per_minute, "X-MBX-ORDER-COUNT-1M"),
            ):
                row = {"rateLimitType": "ORDERS", "interval": interval, "intervalNum": number, "limit": most}
                rows.append(row | {"count": int(headers[name])})
        return rows


def _text(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) else None


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return orjson.dumps(value).decode() if isinstance(value, (dict, list)) else str(value)
