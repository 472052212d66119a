"""A bare client of a simulator in this process: signed REST, the WS API, streams."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from yarl import URL

from engine.simulator.server import Server


async def until(read: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not read():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# faults of answers: (name, status, code, whether the order was executed)
LYING = [
    ("timeout_after_acceptance", 408, -1007, True),
    ("unknown_503_executed", 503, -1000, True),
    ("unknown_503_not_executed", 503, -1000, False),
    ("service_unavailable", 503, -1001, False),
    ("throttled", 503, -1008, False),
    ("timestamp_rejected", 400, -1021, False),
    ("rate_limited", 429, -1003, False),
]
SILENT = [("lost_acknowledgement", True), ("lost_request", False)]  # no answer at all


class Client:
    """A bare client of one simulator in this process."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        self.base = f"http://127.0.0.1:{server.port}"
        self.streams = f"ws://127.0.0.1:{server.stream_port}"

    async def call(self, method: str, path: str, **params: Any) -> tuple[int, Any]:
        """Send a signed request; the status and the decoded body."""
        stamp = params.pop("timestamp", int(time.time() * 1_000))
        query = urlencode(params | {"timestamp": stamp})
        signature = hmac.new(b"s", query.encode(), hashlib.sha256).hexdigest()
        url = f"{self.base}{path}?{query}&signature={signature}"
        async with self.session.request(method, URL(url, encoded=True), headers={"X-MBX-APIKEY": "k"}) as reply:
            return reply.status, orjson.loads(await reply.read())

    async def buy(self, **params: Any) -> tuple[int, Any]:
        """Buy 0.01 BTC at market."""
        terms = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"} | params
        return await self.call("POST", "/fapi/v1/order", **terms)

    def qty(self) -> int:
        """The position as it really is."""
        venue = self.server.exchange.venue
        return venue.ledger.accounts["k"].position(0, "BOTH").qty

    async def listen(self, path: str) -> aiohttp.ClientWebSocketResponse:
        """Open a stream."""
        return await self.session.ws_connect(self.streams + path)

    async def api(self) -> aiohttp.ClientWebSocketResponse:
        """Open a WS API connection."""
        return await self.session.ws_connect(f"ws://127.0.0.1:{self.server.port}/ws-fapi/v1")

    async def ask(self, socket: aiohttp.ClientWebSocketResponse, method: str, **params: Any) -> None:
        """Send a signed WS API request with id 7."""
        terms = {key: str(value) for key, value in params.items()}
        terms |= {"apiKey": "k", "timestamp": str(int(time.time() * 1_000))}
        payload = "&".join(f"{name}={terms[name]}" for name in sorted(terms))
        terms["signature"] = hmac.new(b"s", payload.encode(), hashlib.sha256).hexdigest()
        await socket.send_json({"id": 7, "method": method, "params": terms})

    async def buy_by_socket(self, socket: aiohttp.ClientWebSocketResponse) -> Any:
        """Buy 0.01 BTC at market over the WS API; the answer."""
        await self.ask(socket, "order.place", symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.01")
        return (await asyncio.wait_for(socket.receive(), 60)).json()
