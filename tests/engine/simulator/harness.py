"""A small simulated exchange without sockets, and a listener that keeps what it is sent."""

from typing import Any

import orjson

from engine.simulator import intake
from engine.simulator.algos import Algo
from engine.simulator.exchange import Exchange
from engine.simulator.instruments import decimal
from engine.simulator.options import Options
from engine.simulator.orders import Order
from engine.simulator.params import Params
from engine.simulator.rest import Rest
from engine.simulator.streams import Connection, Target
from engine.simulator.venue import Venue

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


class Rig:
    """A venue on a small market with clocks of its own: nothing happens unless the test moves time."""

    def __init__(self, usdt: int = 100_000, latency: float = 1.0, **changes: Any) -> None:
        self.exchange = small(clock="replay", **changes)
        self.tape, self.pump = self.exchange.tape, self.exchange.pump
        self.service_ms = 0.0
        self.venue = Venue(self.tape, lambda: self.tape.now_ms, lambda: self.service_ms, 3, latency)
        self.exchange.hub.private = self.venue.users
        self.pump.on_step.append(self.venue.step)
        self.pump.fine = self.venue.busy
        self.account = self.venue.open_account("alice", "secret", usdt)
        self.ear = Recorder(self.exchange, f"/private/ws/{self.venue.users.open(self.account)}")
        self.start = self.venue.ledger.total()

    def run(self, ms: float) -> None:
        """Let both clocks run for `ms`, market time in steps of 100 ms."""
        until = self.service_ms + ms
        while self.service_ms < until:
            step = min(100.0, until - self.service_ms)
            self.service_ms += step
            self.pump.advance(self.tape.now_ms + int(step))
            self.venue.tend(self.service_ms)

    def order(self, **params: Any) -> Order:
        """Place an order past the gateway's delays; defaults: BUY 0.1 BTCUSDT at market."""
        terms = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.1"} | params
        account = terms.pop("account", self.account)
        order = intake.build_order(self.venue, account, Params.of(terms))
        self.venue.place(order)
        return order

    def algo(self, **params: Any) -> Algo:
        """Place a conditional order past the gateway; defaults: SELL STOP_MARKET of the whole BTCUSDT position."""
        terms = {"algoType": "CONDITIONAL", "symbol": "BTCUSDT", "side": "SELL", "type": "STOP_MARKET"} | params
        algo = intake.build_algo(self.venue, terms.pop("account", self.account), Params.of(terms))
        self.venue.algos.place(algo)
        return algo

    def price(self, factor: float = 1.0, symbol: str = "BTCUSDT") -> str:
        """Return the last price times `factor`, on the tick."""
        s = self.tape.market.index[symbol]
        item = self.venue.instrument(s)
        return decimal(int(self.venue.last_price(s) * factor) // item.tick * item.tick, item.price_decimals)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Return (and forget) the private events received, of one type if named."""
        return [event for event in self.ear.payloads() if name in ("", event["e"])]

    def qty(self, symbol: str = "BTCUSDT", side: str = "BOTH") -> int:
        """Return the position."""
        return self.account.position(self.tape.market.index[symbol], side).qty

    def check(self) -> None:
        """Money and positions balance to the last unit."""
        assert self.venue.ledger.total() == self.start
        assert all(self.venue.ledger.open_quantity(s) == 0 for s in range(len(self.tape.market.symbols)))
