"""The stream routes without a socket: what a connection listens to, and the answers to its control messages.

A stream asked for on the wrong route is acknowledged and stays silent, as at the exchange.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

import numpy as np
import orjson

from engine.simulator.events import BOOK, KINDS, TRADE
from engine.simulator.pump import Pump
from engine.simulator.special import PUBLIC, Special, parse

MAX_STREAMS = 1_024
MESSAGES_PER_S = 10
ROUTES = ("public", "market", "private")
METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_PUBLIC_KINDS = (BOOK, TRADE)


def text_frame(payload: bytes) -> bytes:
    """Return one unmasked WebSocket text frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return bytes((0x81, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x81, 127)) + size.to_bytes(8, "big") + payload


class Target:
    """A parsed stream address: route, form, the streams in it, and the keys of a private one."""

    def __init__(self, path: str) -> None:
        location, _, query = path.partition("?")
        parts = [unquote(part) for part in location.split("/") if part]
        self.route = parts.pop(0) if parts and parts[0] in ROUTES else ""
        form = parts.pop(0) if parts else ""
        self.valid = form in ("ws", "stream")
        self.combined = form == "stream"
        pairs = parse_qsl(query, keep_blank_values=True)
        streams = [name for key, value in pairs if key == "streams" for name in value.split("/") if name]
        named = [part for part in parts if not part.isdigit()]  # some clients number their sockets in the path
        self.streams = streams + (named if form == "ws" else [])
        self.keys: list[tuple[str, list[str] | None]] = []
        events: list[str] | None = None
        key = ""
        for name, value in pairs:  # listenKey=a&events=X/Y&listenKey=b&events=Z
            if name == "listenKey":
                if key:
                    self.keys.append((key, events))
                key, events = value, None
            elif name == "events":
                events = [event for event in value.split("/") if event]
        if key:
            self.keys.append((key, events))


class Hub:
    """What all connections share: the pump, slow streams, and the private side (set by the account service)."""

    def __init__(self, pump: Pump, lenient: bool = False) -> None:
        self.pump = pump
        self.lenient = lenient  # the demo exchange's behaviour: every route carries everything
        self.connections: set[Connection] = set()
        self.specials: dict[str, tuple[Special, set[Connection]]] = {}
        self.private: Any = None
        self.recorded: frozenset[str] = frozenset()  # streams that come from a recording
        self.subscribed = False  # somebody has ever listened to a market stream
        self._ids = itertools.count(1)
        pump.on_step.append(self._step)

    def attach(self, connection: Connection) -> None:
        """Take a new connection in."""
        self.connections.add(connection)
        self.pump.listeners.add(connection)

    def detach(self, connection: Connection) -> None:
        """Forget a connection and everything it listened to."""
        for name in list(connection.names):
            connection.drop(name)
        if self.private is not None:
            self.private.forget(connection)
        self.connections.discard(connection)
        self.pump.listeners.discard(connection)
        self.pump.changed()

    def _step(self, before_ms: int, now_ms: int) -> None:
        for special, listeners in self.specials.values():
            if now_ms >= special.next_ms:
                special.next_ms = now_ms - now_ms % special.period_ms + special.period_ms
                for payload in special.produce(now_ms):
                    self._spread(special.name, payload, listeners)

    def push(self, name: str, payload: bytes) -> None:
        """Send an event-driven market payload (forceOrder, contractInfo) to whoever listens to stream `name`."""
        entry = self.specials.get(name)
        if entry is not None:
            self._spread(name, payload, entry[1])

    def _spread(self, name: str, payload: bytes, listeners: set[Connection]) -> None:
        for connection in listeners:
            connection.send_event(name, payload)


class Connection:
    """One client's subscriptions. `write` takes whole frames; `backlog` tells how many bytes are unsent."""

    def __init__(self, hub: Hub, target: Target, write: Any, backlog: Any) -> None:
        self.hub = hub
        self.target = target
        self.route = target.route or ("any" if hub.lenient else "public")
        self.combined = target.combined
        self.mask = np.zeros(KINDS * hub.pump.symbols, np.uint8)
        self.names: dict[str, None] = {}
        self._write = write
        self.backlog = backlog
        self.fault: Callable[[bytes, bool], bytes] | None = None  # (frames, whether they answer a control message)
        self.dead = False  # half open: nothing is heard or answered
        self._window: list[float] = []

    def write(self, frames: bytes, control: bool = False) -> None:
        """Send whole frames, unless a fault has its way with them."""
        if self.fault is not None:
            frames = self.fault(frames, control)
        if frames:
            self._write(frames)

    def start(self) -> None:
        """Subscribe to what the address names; call once the handshake is done."""
        self.hub.attach(self)
        if self.route == "private":
            for key in self.target.streams:
                self._private(key, None)
            for key, events in self.target.keys:
                self._private(key, events)
        else:
            for name in self.target.streams[:MAX_STREAMS]:
                self.add(name)
        self.hub.pump.changed()

    def _private(self, key: str, events: list[str] | None) -> None:
        self.names[key] = None
        if self.hub.private is not None:
            self.hub.private.listen(self, key, events)

    def _carries(self, route: str) -> bool:
        return self.hub.lenient or self.route in (route, "any")

    def add(self, name: str) -> None:
        """Listen to `name`; an unknown name or one of another route is kept and stays silent."""
        if name in self.names:
            return
        self.names[name] = None
        number = self.hub.pump.stream_ids.get(name)
        if name in self.hub.recorded:
            self._add_recorded(name)
            return
        if number is not None:
            kind = number // self.hub.pump.symbols
            if self._carries(PUBLIC if kind in _PUBLIC_KINDS else "market"):
                self.mask[number] = 1
                self.hub.subscribed = True
            return
        entry = self.hub.specials.get(name)
        special = None if entry and not name.partition("@")[2].startswith("depth") else parse(self.hub.pump.tape, name)
        if entry is None and special is not None:
            entry = self.hub.specials[name] = (special, set())
        elif entry is not None and special is not None:
            entry[0].produce = special.produce  # a new listener of diffs starts everybody on a whole book
        if entry is not None and self._carries(entry[0].route):
            entry[1].add(self)
            self.hub.subscribed = True

    def _add_recorded(self, name: str) -> None:
        kind = name.partition("@")[2]
        route = PUBLIC if kind.startswith(("bookTicker", "depth", "trade", "rpiDepth")) else "market"
        entry = self.hub.specials.setdefault(name, (Special(name, route, 1 << 60, lambda _: []), set()))
        if self._carries(route):
            entry[1].add(self)
            self.hub.subscribed = True

    def drop(self, name: str) -> None:
        """Stop listening to `name`."""
        self.names.pop(name, None)
        if self.route == "private" and self.hub.private is not None:
            self.hub.private.forget(self, name)
        number = self.hub.pump.stream_ids.get(name)
        if number is not None:
            self.mask[number] = 0
        entry = self.hub.specials.get(name)
        if entry is not None:
            entry[1].discard(self)
            if not entry[1]:
                del self.hub.specials[name]

    def send_event(self, name: str, payload: bytes) -> None:
        """Send one payload of stream `name`, wrapped if this connection is combined."""
        if self.combined:
            payload = b'{"stream":' + orjson.dumps(name) + b',"data":' + payload + b"}"
        self.write(text_frame(payload))

    def too_fast(self, now_s: float) -> bool:
        """Count one incoming message of any kind; return whether the connection must be cut."""
        window = [stamp for stamp in self._window if now_s - stamp < 1.0]
        window.append(now_s)
        self._window = window
        return len(window) > MESSAGES_PER_S

    def on_text(self, payload: bytes) -> None:
        """Answer one control message."""
        self.write(text_frame(orjson.dumps(self._answer(payload))), control=True)

    def _answer(self, payload: bytes) -> dict[str, Any]:
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            return _fault(3, f"Invalid JSON: expected value at line {error.lineno} column {error.colno}", None)
        if not isinstance(message, dict):
            return _fault(2, "Invalid request: expected a map", None)
        number = message.get("id")
        if not isinstance(number, (int, str)) or isinstance(number, bool):
            return _fault(2, "Invalid request: request ID must be an unsigned integer", None)
        method, params = message.get("method"), message.get("params", [])
        if method is None:
            return _fault(2, "Invalid request: missing field `method`", number)
        if method not in METHODS:
            known = ", ".join(f"`{name}`" for name in METHODS)
            return _fault(2, f"Invalid request: unknown variant `{method}`, expected one of {known}", number)
        if not isinstance(params, list):
            return _fault(2, "Invalid request: invalid type: expected a sequence", number)
        return self._apply(method, params, number)

    def _apply(self, method: str, params: list[Any], number: int | str) -> dict[str, Any]:
        result: Any = None
        if method == "LIST_SUBSCRIPTIONS":
            result = list(self.names)
        elif method.endswith("PROPERTY"):
            if not params or params[0] != "combined":
                return _fault(0, "Unknown property", number)
            if method == "GET_PROPERTY":
                result = self.combined
            elif len(params) < 2 or not isinstance(params[1], bool):
                return _fault(1, "Invalid value type: expected Boolean", number)
            else:
                self.combined = params[1]
        else:
            if not all(isinstance(name, str) for name in params):
                return _fault(2, "Invalid request: invalid type: expected a string", number)
            if method == "SUBSCRIBE" and len(self.names) + len(params) > MAX_STREAMS:
                return _fault(2, f"Invalid request: more than {MAX_STREAMS} streams", number)
            for name in params:
                if method == "UNSUBSCRIBE":
                    self.drop(name)
                elif self.route == "private":
                    self._private(name, None)
                else:
                    self.add(name)
            self.hub.pump.changed()
        return {"result": result, "id": number}


def _fault(code: int, message: str, number: Any) -> dict[str, Any]:
    return {"error": {"code": code, "msg": message}, "id": number}
