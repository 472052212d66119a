"""Every fault that tests can inject, each named after what it imitates. There is no second injector.

A fault is started by `Faults.begin(name, **arguments)`: from a test, the admin endpoint, or a scenario file.
`count` says how often it happens (default 1), `path` which requests it concerns (a part of the address;
default: the order endpoints). A WS API request has the address `/ws-fapi/v1/<method>`, so both doors are reached.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine.simulator.instruments import tiers
from engine.simulator.streams import Connection, Hub, text_frame
from engine.simulator.userdata import EventFilter
from engine.simulator.venue import Venue

ORDER_PATHS = "/order|/batchOrders|/algoOrder"


def _body(code: int, message: str) -> bytes:
    return orjson.dumps({"code": code, "msg": message})


UNKNOWN_503 = _body(-1000, "Unknown error, please check your request or try again later.")
FAILED_503 = _body(-1001, "Service Unavailable.")
TIMEOUT = _body(
    -1007, "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
)
THROTTLED = _body(-1008, "Server is currently overloaded with other requests. Please try again in a few minutes.")
AHEAD = _body(-1021, "Timestamp for this request is outside of the recvWindow.")
LIMITED = _body(-1003, "Too many requests.")

# name: (before the request is looked at, status, body); status 0: no answer ever, which over HTTP is a cut connection
ANSWERS: dict[str, tuple[bool, int, bytes]] = {
    "lost_acknowledgement": (False, 0, b""),
    "timeout_after_acceptance": (False, 408, TIMEOUT),
    "unknown_503_executed": (False, 503, UNKNOWN_503),
    "unknown_503_not_executed": (True, 503, UNKNOWN_503),
    "service_unavailable": (True, 503, FAILED_503),
    "throttled": (True, 503, THROTTLED),
    "timestamp_rejected": (True, 400, AHEAD),
    "rate_limited": (True, 429, LIMITED),
    "lost_request": (True, 0, b""),
    "cut_mid_order": (False, 0, b""),  # the daily cut of every connection, after the order and before its answer
}
STREAM = (
    "drop_frame",
    "truncate_frame",
    "garbage_frame",
    "duplicate_frame",
    "silent_stream",
    "half_open",
    "hold_frames",
)
OTHER = (
    "drop_event", "duplicate_event", "late_event", "listen_key_expires_silently", "listen_key_expires",
    "cut_connections", "connection_storm", "clock_skew", "ip_ban", "filter_change", "status_change", "bracket_change",
    "settlement", "partial_fill_then_silence", "liquidate", "stop_trading_permission",
)  # fmt: skip
NAMES = (*ANSWERS, *STREAM, *OTHER)


@dataclass
class _Answer:
    name: str
    count: int
    parts: list[str]


@dataclass
class _Wire:
    """A fault on the frames of stream connections."""

    name: str
    count: int
    route: str
    held: list[bytes] = field(default_factory=list)


class Faults:
    """The injector. `cut` and `deafen` work on sockets and are given by the server."""

    def __init__(self, venue: Venue, hub: Hub, private: Any, weights: Any, seed: int) -> None:
        self.venue = venue
        self.hub = hub
        self.private = private
        self.weights = weights
        self.random = random.Random(seed)
        self.answers: list[_Answer] = []
        self.wires: list[_Wire] = []
        self.done: dict[str, int] = {}
        self.cut: Callable[[str, float, bool], None] = lambda route, seconds, politely: None
        self.deafen: Callable[[bool], None] = lambda dead: None

    def begin(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Start a fault. Raises ValueError naming what is wrong."""
        if name not in NAMES:
            raise ValueError(f"no fault called {name!r}; there are {', '.join(NAMES)}")
        count = int(arguments.pop("count", 1))
        if name in ANSWERS:
            parts = str(arguments.pop("path", ORDER_PATHS)).split("|")
            self.answers.append(_Answer(name, count, parts))
        elif name in STREAM:
            self._wire(name, count, str(arguments.pop("route", "")))
        else:
            getattr(self, f"_{name}")(count, arguments)
        if arguments:
            raise ValueError(f"{name}: unknown argument {', '.join(arguments)}")
        return {"fault": name, "count": count}

    def end(self) -> None:
        """Stop everything that is still going on."""
        self.answers.clear()
        self.wires.clear()
        self.venue.users.faults.clear()
        self.private.skew_ms = 0
        self.deafen(False)
        for connection in self.hub.connections:
            connection.fault, connection.dead = None, False

    def _count(self, name: str) -> None:
        self.done[name] = self.done.get(name, 0) + 1

    # --- answers ---

    def _answer(self, before: bool, path: str) -> tuple[int, bytes] | None:
        for fault in self.answers:
            early, status, body = ANSWERS[fault.name]
            if early == before and any(part in path for part in fault.parts):
                fault.count -= 1
                if fault.count <= 0:
                    self.answers.remove(fault)
                self._count(fault.name)
                if fault.name == "cut_mid_order":
                    self.cut("", 0.0, True)
                return status, body
        return None

    def before(self, method: str, path: str) -> tuple[int, bytes] | None:
        """Return what to answer instead of looking at the request."""
        return self._answer(True, path)

    def after(self, method: str, path: str) -> tuple[int, bytes] | None:
        """Return what to answer although the request was carried out."""
        return self._answer(False, path)

    # --- frames ---

    def _wire(self, name: str, count: int, route: str) -> None:
        fault = _Wire(name, count, route)
        self.wires.append(fault)
        for connection in self.hub.connections:
            if not route or connection.route == route:
                connection.fault = functools.partial(self._frames, fault, connection)
                connection.dead = name == "half_open"
        if name == "half_open" and route in ("", "ws-api"):
            self.deafen(True)

    def _frames(self, fault: _Wire, connection: Connection, frames: bytes, control: bool) -> bytes:
        """Return the bytes that reach the wire instead of `frames`; `control`: they answer a control message."""
        if fault.name in ("silent_stream", "half_open"):
            return frames if control and fault.name == "silent_stream" else b""
        if fault.name == "hold_frames":  # kept back, then sent late and in reversed order
            fault.held.append(frames)
            if len(fault.held) < fault.count:
                return b""
            late, fault.held = b"".join(reversed(fault.held)), []
            connection.fault = None
            self._count(fault.name)
            return late
        fault.count -= 1
        if fault.count <= 0:
            connection.fault = None
        self._count(fault.name)
        if fault.name == "drop_frame":
            return b""
        if fault.name == "duplicate_frame":
            return frames + frames
        payload = frames[4:] if frames[1] == 126 else frames[2:]
        if fault.name == "truncate_frame":
            return text_frame(payload[: len(payload) // 2].decode("utf-8", "ignore").encode())
        return text_frame(bytes(self.random.choices(b'{}[]":,0123456789abcxyz', k=40)))

    # --- events of the private stream ---

    def _event(self, arguments: dict[str, Any], **change: Any) -> None:
        names = frozenset(str(arguments.pop("events", "")).split("/")) - {""}
        self.venue.users.faults.append(EventFilter(names=names, **change))

    def _drop_event(self, count: int, arguments: dict[str, Any]) -> None:
        self._event(arguments, drop=count)

    def _duplicate_event(self, count: int, arguments: dict[str, Any]) -> None:
        self._event(arguments, duplicate=count)

    def _late_event(self, count: int, arguments: dict[str, Any]) -> None:
        self._event(arguments, late_ms=float(arguments.pop("late_ms", 2_000)))

    def _partial_fill_then_silence(self, count: int, arguments: dict[str, Any]) -> None:
        self._event({"events": "ORDER_TRADE_UPDATE/TRADE_LITE/ACCOUNT_UPDATE"}, drop=10**9, after=count)

    def _listen_key_expires_silently(self, count: int, arguments: dict[str, Any]) -> None:
        for key in self.venue.users.by_account.values():
            key.mute = True

    def _listen_key_expires(self, count: int, arguments: dict[str, Any]) -> None:
        for key in list(self.venue.users.by_account.values()):
            self.venue.users.close(key.account, self.venue.now_ms())

    # --- connections, clocks, limits ---

    def _cut_connections(self, count: int, arguments: dict[str, Any]) -> None:
        self.cut(str(arguments.pop("route", "")), 0.0, False)

    def _connection_storm(self, count: int, arguments: dict[str, Any]) -> None:
        self.cut("", float(arguments.pop("seconds", 5.0)), False)

    def _clock_skew(self, count: int, arguments: dict[str, Any]) -> None:
        self.private.skew_ms = int(arguments.pop("skew_ms", 5_000))

    def _ip_ban(self, count: int, arguments: dict[str, Any]) -> None:
        self.weights.ban_all(float(arguments.pop("seconds", 120.0)))

    # --- listings ---

    def _item(self, arguments: dict[str, Any]) -> Any:
        symbol = str(arguments.pop("symbol", self.venue.tape.market.symbols[0]))
        if symbol not in self.venue.tape.market.index:
            raise ValueError(f"no symbol {symbol!r}")
        return self.venue.ledger.instruments[self.venue.tape.market.index[symbol]]

    def _filter_change(self, count: int, arguments: dict[str, Any]) -> None:
        item = self._item(arguments)
        item.tick *= int(arguments.pop("tick_factor", 10))
        item.step *= int(arguments.pop("step_factor", 1))
        item.min_notional_usdt = int(arguments.pop("min_notional", item.min_notional_usdt))
        item.market_max_qty = int(float(arguments.pop("market_max_qty", 0)) * 10**item.qty_decimals) or (
            item.market_max_qty
        )
        self.venue.risk.contract_info(item, False)

    def _status_change(self, count: int, arguments: dict[str, Any]) -> None:
        item = self._item(arguments)
        item.status = str(arguments.pop("status", "SETTLING"))
        self.venue.risk.contract_info(item, False)

    def _bracket_change(self, count: int, arguments: dict[str, Any]) -> None:
        item = self._item(arguments)
        item.max_leverage = int(arguments.pop("max_leverage", max(1, item.max_leverage // 2)))
        item.brackets = tiers(item.max_leverage)
        self.venue.risk.contract_info(item, True)

    def _settlement(self, count: int, arguments: dict[str, Any]) -> None:
        item = self._item(arguments)
        self.venue.risk.settle(self.venue.tape.market.index[item.symbol])
        self.venue.risk.contract_info(item, False)

    def _liquidate(self, count: int, arguments: dict[str, Any]) -> None:
        account = self.venue.ledger.accounts[str(arguments.pop("key"))]
        self.venue.risk.liquidate(account)

    def _stop_trading_permission(self, count: int, arguments: dict[str, Any]) -> None:
        self.venue.ledger.accounts[str(arguments.pop("key"))].can_trade = False
