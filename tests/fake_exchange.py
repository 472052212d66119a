"""A very small exchange for tests of the market-data client: candles that are a function of time, sockets that echo."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import orjson
from aiohttp import web
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from engine.exchange.rest import page_weight

STEPS = {"1m": 60_000, "15m": 900_000, "1h": 3_600_000}


def candle(open_ms: int, step: int) -> list[Any]:
    """Return the kline row of a bar: every value is a function of its open time and length."""
    price = 100.0 + 10.0 * math.sin(open_ms / 7e6)
    o, c = price, price + 0.5 * math.cos(open_ms / 3e6)
    return [
        open_ms,
        f"{o:.4f}",
        f"{max(o, c) + 0.1:.4f}",
        f"{min(o, c) - 0.1:.4f}",
        f"{c:.4f}",
        "12.5",
        open_ms + step - 1,
        "1250.5",
        42,
        "6.25",
        "625.0",
        "0",
    ]


class FakeExchange:
    """REST and stream server on free ports. Faults are set as attributes and used up one by one."""

    def __init__(self, now_ms: int, symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT")) -> None:
        self.now_ms = now_ms
        self.symbols = symbols
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.missing: set[tuple[str, str, int]] = set()
        self.answers: list[web.Response] = []
        self.weight_of_minute: Counter[int] = Counter()  # by minute of wall time, as the exchange counts
        self.sockets: list[Socket] = []
        self.handshakes = 0
        self.refuse = 0
        self.silent_streams: set[str] = set()
        self.settlements: list[int] = []  # when funding was settled; empty: every 8 hours
        self.funding_hours: dict[str, int] = {}

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._rest)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.rest_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._server = await ws_create_server(self._accept, "127.0.0.1", 0)
        self.stream_url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        for socket in self.sockets:
            socket.transport.disconnect(graceful=False)
        self._server.close()
        await self._runner.cleanup()

    def _accept(self, request: WSUpgradeRequest) -> Any:
        self.handshakes += 1
        if self.refuse:
            self.refuse -= 1
            return None
        return Socket(self, request.path.decode())

    def send(self, stream: str, data: dict[str, Any], sockets: list[Socket] | None = None) -> int:
        """Send an event to every subscriber of `stream`; return how many got it."""
        payload = orjson.dumps({"stream": stream, "data": data})
        chosen = [s for s in (sockets or self.sockets) if stream in s.streams and stream not in s.deaf]
        for socket in chosen:
            socket.transport.send(WSMsgType.TEXT, payload)
        return len(chosen)

    async def _rest(self, request: web.Request) -> web.Response:
        path, query = "/" + request.match_info["path"], dict(request.query)
        self.calls.append((path, query))
        if self.answers:
            return self.answers.pop(0)
        minute = int(time.time() // 60)
        self.weight_of_minute[minute] += page_weight(int(query.get("limit", 500))) if "lines" in path.lower() else 1
        headers = {"X-MBX-USED-WEIGHT-1M": str(self.weight_of_minute[minute])}
        return web.json_response(self._answer(path, query), headers=headers, dumps=lambda x: orjson.dumps(x).decode())

    def _answer(self, path: str, query: dict[str, str]) -> Any:
        if path == "/fapi/v1/time":
            return {"serverTime": self.now_ms}
        if path == "/fapi/v1/exchangeInfo":
            return {
                "rateLimits": [
                    {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 2400}
                ],
                "symbols": [symbol_info(symbol) for symbol in self.symbols],
            }
        if path in ("/fapi/v1/klines", "/fapi/v1/markPriceKlines"):
            return self._klines(query)
        if path == "/fapi/v1/premiumIndexKlines":  # a price like -0.0004: as often below zero as above
            rows = self._klines(query)
            scaled = [[f"{(float(x) - 100) / 1e4:.8f}" for x in row[1:5]] for row in rows]
            return [
                [row[0], *four, "0", row[6], "0", 12, "0", "0", "0"] for row, four in zip(rows, scaled, strict=True)
            ]
        if path == "/fapi/v1/fundingInfo":
            return [{"symbol": s, "fundingIntervalHours": hours} for s, hours in self.funding_hours.items()]
        if path == "/fapi/v1/fundingRate":
            first = -(-int(query["startTime"]) // 28_800_000) * 28_800_000
            last = min(self.now_ms, int(query.get("endTime", self.now_ms)))
            times: Any = range(first, last + 1, 28_800_000)
            if self.settlements:
                times = [t for t in self.settlements if int(query["startTime"]) <= t <= last]
            return [{"symbol": query["symbol"], "fundingRate": "0.0001", "fundingTime": t + 3} for t in times][:1000]
        if path == "/futures/data/openInterestHist":
            last = min(self.now_ms, int(query.get("endTime", self.now_ms))) // 300_000 * 300_000
            first = max(int(query.get("startTime", 0)), last - (int(query["limit"]) - 1) * 300_000)
            first = -(-first // 300_000) * 300_000
            return [{"symbol": query["symbol"], "sumOpenInterest": f"{t % 977}.5", "timestamp": t}
                    for t in range(first, last + 1, 300_000)]  # fmt: skip
        return {}

    def _klines(self, query: dict[str, str]) -> list[list[Any]]:
        step = STEPS[query["interval"]]
        limit = int(query.get("limit", 500))
        last = min(int(query.get("endTime", self.now_ms)), self.now_ms) // step * step
        first = int(query["startTime"]) if "startTime" in query else last - (limit - 1) * step
        opens = range(-(-first // step) * step, last + 1, step)
        here = [t for t in opens if (query["symbol"], query["interval"], t) not in self.missing]
        return [candle(t, step) for t in here[:limit]]


class Socket(WSListener):
    """One accepted connection: acknowledges SUBSCRIBE and UNSUBSCRIBE."""

    def __init__(self, exchange: FakeExchange, path: str) -> None:
        self.exchange = exchange
        self.path = path
        self.streams: set[str] = set()
        self.deaf: set[str] = set()
        self.requests: list[dict[str, Any]] = []
        self.pongs = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.exchange.sockets.append(self)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.exchange.sockets.remove(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.PONG:
            self.pongs += 1
        elif frame.msg_type is WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type is WSMsgType.CLOSE:
            transport.disconnect()
        else:
            message = orjson.loads(frame.get_payload_as_bytes())
            self.requests.append(message)
            change = self.streams.update if message["method"] == "SUBSCRIBE" else self.streams.difference_update
            change(message["params"])
            transport.send(WSMsgType.TEXT, orjson.dumps({"result": None, "id": message["id"]}))


def symbol_info(symbol: str) -> dict[str, Any]:
    """Return an exchangeInfo entry with BTCUSDT's rules of 2026-09-30."""
    return {
        "symbol": symbol,
        "contractType": "PERPETUAL",
        "status": "TRADING",
        "onboardDate": 1_569_398_400_000,
        "deliveryDate": 4_133_404_800_000,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "marketTakeBound": "0.05",
        "filters": [
            {"filterType": "PRICE_FILTER", "tickSize": "0.10", "minPrice": "556.80", "maxPrice": "4529764"},
            {"filterType": "LOT_SIZE", "stepSize": "0.001", "maxQty": "1000", "minQty": "0.001"},
            {"filterType": "MARKET_LOT_SIZE", "minQty": "0.001", "stepSize": "0.001", "maxQty": "120"},
            {"filterType": "MIN_NOTIONAL", "notional": "50"},
            {"filterType": "PERCENT_PRICE", "multiplierUp": "1.0500", "multiplierDown": "0.9500"},
        ],
    }
