"""A small simulated exchange without sockets, and a listener that keeps what it is sent."""

from typing import Any

import orjson

from engine.simulator.exchange import Exchange
from engine.simulator.options import Options
from engine.simulator.params import Params
from engine.simulator.rest import Rest
from engine.simulator.streams import Connection, Target

SMALL = {"symbol_count": 2, "history_days": 3.0, "ahead_days": 1.0, "speed": 600.0, "quiet": True}


def unframe(data: bytes) -> list[bytes]:
    """Split server text frames into their payloads: an independent reading of RFC 6455 for short frames."""
    out, at = [], 0
    while at < len(data):
        assert data[at] == 0x81
        size, at = data[at + 1], at + 2
        if size == 126:
            size, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        elif size == 127:
            size, at = int.from_bytes(data[at : at + 8], "big"), at + 8
        out.append(data[at : at + size])
        at += size
    return out


class Recorder:
    """A connection to one route that keeps every payload."""

    def __init__(self, exchange: Exchange, path: str) -> None:
        self.raw = bytearray()
        self.unsent = 0
        self.connection = Connection(exchange.hub, Target(path), self.raw.extend, lambda: self.unsent)
        self.connection.start()

    def payloads(self) -> list[dict[str, Any]]:
        """Return everything received so far, decoded, and forget it."""
        found = [orjson.loads(payload) for payload in unframe(bytes(self.raw))]
        self.raw.clear()
        return found


def small(**changes: Any) -> Exchange:
    """Return two generated symbols with three days of history and one day ahead."""
    return Exchange(Options(**SMALL | changes), say=lambda _: None)


def get(exchange: Exchange, path: str, **params: Any) -> Any:
    """Ask the REST table without a socket; the decoded body."""
    route = Rest(exchange).routes["GET", path]
    answer = route.answer(Params("&".join(f"{key}={value}" for key, value in params.items())))
    return orjson.loads(answer) if isinstance(answer, bytes) else answer
