"""The sockets: REST and WS API by aiohttp on one port, streams by picows on the next (and by aiohttp on the
first too)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from picows import WSCloseCode, WSUpgradeRequest, ws_create_server

from engine.errors import ConfigError
from engine.simulator.errors import Refusal
from engine.simulator.exchange import Exchange
from engine.simulator.faults import NAMES, Faults
from engine.simulator.private import Private
from engine.simulator.rest import Rest, refused
from engine.simulator.rest_orders import OrderDesk
from engine.simulator.sockets import HttpSocket, StreamSocket
from engine.simulator.streams import Connection, Target
from engine.simulator.wsapi import Session


class Server:
    """Binds both ports and serves until closed."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.rest = Rest(exchange)
        venue, options = exchange.venue, exchange.options
        desk = OrderDesk(venue, costs=options.profile == "demo")
        replay_speed = 1.0 if options.clock == "wall" else options.speed
        self.private = Private(venue, desk, replay_speed, self.rest.charge)
        self.rest.private = self.private
        self.faults = Faults(venue, exchange.hub, self.private, self.rest.weights, options.seed)
        self.faults.cut, self.faults.deafen = self._cut, self._deafen
        self.rest.faults = self.faults
        self.admin_port = 0
        self._refuse_until_s = 0.0
        self._http_sockets: set[HttpSocket] = set()
        self._admin: web.AppRunner | None = None
        self.sockets: set[StreamSocket] = set()
        self.port = 0
        self.stream_port = 0
        self._bound: tuple[socket.socket, socket.socket] | None = None
        self._runner: web.AppRunner | None = None
        self._streams: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.market_task: asyncio.Task[None]

    def bind(self) -> None:
        """Take both ports. Raises ConfigError when one is occupied."""
        options = self.exchange.options
        self._bound = _bind_pair(options.host, options.port)
        self.port, self.stream_port = (sock.getsockname()[1] for sock in self._bound)

    async def start(self) -> None:
        """Serve on the bound ports (bound now, unless `bind` has been called)."""
        options = self.exchange.options
        if self._bound is None:
            self.bind()
        assert self._bound is not None
        rest_socket, stream_socket = self._bound
        context = _tls(options.tls_cert, options.tls_key)
        app = web.Application(client_max_size=2 << 20)
        app.router.add_get("/ws-fapi/v1", self._ws_api)
        app.router.add_get("/{route:(public|market|private)}/{form:(ws|stream)}{rest:(/.*)?}", self._http_stream)
        app.router.add_get("/{form:(ws|stream)}{rest:(/.*)?}", self._http_stream)
        app.router.add_route("*", "/{path:.*}", self.rest.handle)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.SockSite(self._runner, rest_socket, ssl_context=context).start()
        self._streams = await ws_create_server(
            self._accept, sock=stream_socket, ssl=context, enable_auto_pong=False, logger_name="simulator.streams"
        )
        self.exchange.venue.scheduler.wake = self._wake
        if options.admin_port is not None:
            await self._start_admin(options.host, options.admin_port)
        if options.scenario is not None:
            self._play(load_scenario(options.scenario))
        self.market_task = asyncio.create_task(self.exchange.run())
        self._tasks = [self.market_task, asyncio.create_task(self._tend())]

    def _accept(self, request: WSUpgradeRequest) -> StreamSocket | None:
        target = Target(request.path.decode("utf-8", "replace"))
        if time.monotonic() < self._refuse_until_s:
            return None
        return StreamSocket(self.exchange.hub, target, self.sockets, self.exchange.pace.wall) if target.valid else None

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for stream in list(self.sockets):
                stream.tend(time.monotonic())
            for http in list(self._http_sockets):
                http.tend(time.monotonic())

    async def _http_stream(self, request: web.Request) -> web.StreamResponse:
        """Serve a stream route on the REST port too."""
        ws = web.WebSocketResponse(compress=False, heartbeat=None, autoping=False)
        if not ws.can_prepare(request).ok or time.monotonic() < self._refuse_until_s:
            return await self.rest.handle(request)
        await ws.prepare(request)
        transport: Any = request.transport
        target = Target(request.raw_path)
        connection = Connection(self.exchange.hub, target, transport.write, transport.get_write_buffer_size)
        connection.start()
        with self._known(HttpSocket(ws, transport, connection)) as http:
            try:
                async for text in http.texts():
                    connection.on_text(text.encode() if isinstance(text, str) else text)
            finally:
                self.exchange.hub.detach(connection)
        return ws

    @contextlib.contextmanager
    def _known(self, http: HttpSocket) -> Iterator[HttpSocket]:
        self._http_sockets.add(http)
        try:
            yield http
        finally:
            self._http_sockets.discard(http)

    async def _ws_api(self, request: web.Request) -> web.StreamResponse:
        """Serve one WS API connection; requests are worked on concurrently, each answer when it is there."""
        ws = web.WebSocketResponse(compress=False, heartbeat=None, autoping=False)
        if not ws.can_prepare(request).ok or time.monotonic() < self._refuse_until_s:
            return await self.rest.handle(request)
        try:
            self.rest.charge(request, 5, {})
        except Refusal as refusal:
            return refused(refusal, {})
        await ws.prepare(request)
        quiet = request.query.get("returnRateLimits") == "false"
        session = Session(self.rest, self.private, request.remote or "127.0.0.1", quiet)
        running: set[asyncio.Task[None]] = set()

        async def work(http: HttpSocket, text: str | bytes) -> None:
            answer = await session.answer(text)
            if answer is not None and not http.dead and not ws.closed:
                with contextlib.suppress(ConnectionError):
                    await ws.send_str(answer.decode())

        with self._known(HttpSocket(ws, request.transport, None)) as http:
            async for text in http.texts():
                task = asyncio.create_task(work(http, text))
                running.add(task)
                task.add_done_callback(running.discard)
        return ws

    # --- delays, faults ---

    def _wake(self, due_ms: float) -> None:
        scheduler = self.exchange.venue.scheduler
        loop = asyncio.get_running_loop()
        loop.call_later(max(0.0, (due_ms - scheduler.now()) / 1_000), lambda: scheduler.run(scheduler.now()))

    def _cut(self, route: str, seconds: float, politely: bool) -> None:
        """Cut connections (of one route): at once, or with a close frame; refuse new ones for some seconds."""
        self._refuse_until_s = time.monotonic() + seconds
        for stream in list(self.sockets):
            if stream.transport is not None and route in ("", stream.target.route):
                if politely:
                    stream.transport.send_close(WSCloseCode.GOING_AWAY)
                stream.transport.disconnect(graceful=politely)
        for http in list(self._http_sockets):
            if route in ("", http.route):
                http.cut(politely)

    def _deafen(self, dead: bool) -> None:
        """Let the WS API connections of now neither hear nor answer, or end that."""
        for http in self._http_sockets:
            if http.connection is None:
                http.dead = dead

    async def _start_admin(self, host: str, port: int) -> None:
        app = web.Application()
        app.router.add_post("/faults", self._begin_fault)
        app.router.add_delete("/faults", self._end_faults)
        app.router.add_get("/faults", self._list_faults)
        app.router.add_get("/ledger", self._ledger)
        self._admin = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._admin.setup()
        sock = _bound(host, port)
        self.admin_port = sock.getsockname()[1]
        await web.SockSite(self._admin, sock).start()

    async def _begin_fault(self, request: web.Request) -> web.Response:
        try:
            values = await request.json()
            return web.json_response(self.faults.begin(values.pop("name"), **values))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _end_faults(self, request: web.Request) -> web.Response:
        self.faults.end()
        return web.json_response({})

    async def _list_faults(self, request: web.Request) -> web.Response:
        return web.json_response({"names": NAMES, "done": self.faults.done})

    async def _ledger(self, request: web.Request) -> web.Response:
        ledger = self.exchange.venue.ledger
        wallets = {account.key: account.wallet for account in ledger.own.values()}
        return web.json_response({"total": str(ledger.total()), "own": wallets})

    def _play(self, steps: list[dict[str, Any]]) -> None:
        loop = asyncio.get_running_loop()
        for step in steps:
            values = dict(step)
            after_s, name = float(values.pop("after_s")), str(values.pop("name"))
            loop.call_later(after_s, functools.partial(self.faults.begin, name, **values))

    async def stop(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in list(self.sockets):
            if stream.transport is not None:
                stream.transport.disconnect(graceful=False)
        for http in list(self._http_sockets):
            await http.ws.close()
        if self._admin is not None:
            await self._admin.cleanup()
        if self._streams is not None:
            self._streams.close()
        if self._runner is not None:
            await self._runner.cleanup()


def load_scenario(path: Path) -> list[dict[str, Any]]:
    """Read a scenario: a JSON list of {"after_s": seconds, "name": fault, …}. Raises ConfigError with every fault."""
    try:
        steps = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError([f"--scenario {path}: {error}"]) from error
    if not isinstance(steps, list):
        raise ConfigError([f"--scenario {path}: expected a list of steps"])
    wrong = [
        f"--scenario {path}: step {number}: expected after_s (seconds) and the name of a fault, got {step!r}"
        for number, step in enumerate(steps)
        if not isinstance(step, dict)
        or step.get("name") not in NAMES
        or not isinstance(step.get("after_s"), (int, float))
    ]
    if wrong:
        raise ConfigError(wrong)
    return steps


def _bind_pair(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    for attempt in range(50):
        first = _bound(host, port)
        try:
            return first, _bound(host, first.getsockname()[1] + 1)
        except (OSError, OverflowError) as error:
            first.close()
            if port or attempt == 49:
                raise ConfigError([f"port {port + 1}: {error}"]) from error
        except ConfigError:
            first.close()
            if port or attempt == 49:
                raise
    raise ConfigError(["no two free ports in a row"])


def _bound(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(128)
    except (OSError, OverflowError) as error:
        sock.close()
        raise ConfigError([f"port {port} on {host}: {error}"]) from error
    return sock


def _tls(cert: Any, key: Any) -> ssl.SSLContext | None:
    if cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with contextlib.suppress(NotImplementedError):
        context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"--tls-cert {cert}: {error}"]) from error
    return context
