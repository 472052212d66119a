"""The sockets: REST and WS API by aiohttp on one port, streams by picows on the next (and by aiohttp on the
first too)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from typing import Any

from aiohttp import WSMsgType as HttpMessage
from aiohttp import web
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from engine.errors import ConfigError
from engine.simulator.exchange import Exchange
from engine.simulator.rest import Rest
from engine.simulator.streams import Connection, Hub, Target

PING_S = 180.0
PONG_S = 600.0
LIFE_S = 86_400.0


class StreamSocket(WSListener):  # type: ignore[misc]
    """One picows connection: frames in and out of a `Connection`; pings, pongs and the 24 h cut."""

    def __init__(self, hub: Hub, target: Target, sockets: set[StreamSocket]) -> None:
        self.hub = hub
        self.target = target
        self.sockets = sockets
        self.transport: WSTransport | None = None
        self.connection: Connection | None = None
        self.opened_s = self.ponged_s = self.pinged_s = time.monotonic()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Subscribe to what the address names."""
        self.transport = transport
        raw = transport.underlying_transport
        self.connection = Connection(self.hub, self.target, raw.write, raw.get_write_buffer_size)
        self.connection.start()
        self.sockets.add(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handle a control message, ping, pong or close. The frame's memory is borrowed and dies here."""
        if self.connection is None:
            return
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
            return
        if self.connection.too_fast(time.monotonic()):
            transport.send_close(WSCloseCode.POLICY_VIOLATION, b"Too many requests")
            transport.disconnect()
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.PONG:
            self.ponged_s = time.monotonic()
        elif frame.msg_type == WSMsgType.TEXT:
            self.connection.on_text(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Forget the connection."""
        self.sockets.discard(self)
        if self.connection is not None:
            self.hub.detach(self.connection)
            self.connection = None

    def tend(self, now_s: float) -> None:
        """Ping when due; cut who does not answer, and everybody after 24 hours."""
        if self.transport is None:
            return
        if now_s - self.opened_s > LIFE_S or now_s - max(self.ponged_s, self.opened_s) > PONG_S:
            self.transport.send_close(WSCloseCode.GOING_AWAY)
            self.transport.disconnect()
        elif now_s - self.pinged_s > PING_S:
            self.pinged_s = now_s
            self.transport.send_ping(str(int(time.time() * 1_000)).encode())


class Server:
    """Binds both ports and serves until closed."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.rest = Rest(exchange)
        self.sockets: set[StreamSocket] = set()
        self.port = 0
        self.stream_port = 0
        self._runner: web.AppRunner | None = None
        self._streams: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Bind and start. Raises ConfigError when a port is taken."""
        options = self.exchange.options
        rest_socket, stream_socket = _bind_pair(options.host, options.port)
        self.port, self.stream_port = rest_socket.getsockname()[1], stream_socket.getsockname()[1]
        context = _tls(options.tls_cert, options.tls_key)
        app = web.Application(client_max_size=2 << 20)
        app.router.add_get("/{route:(public|market|private)}/{form:(ws|stream)}{rest:(/.*)?}", self._http_stream)
        app.router.add_get("/{form:(ws|stream)}{rest:(/.*)?}", self._http_stream)
        app.router.add_route("*", "/{path:.*}", self.rest.handle)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.SockSite(self._runner, rest_socket, ssl_context=context).start()
        self._streams = await ws_create_server(
            self._accept, sock=stream_socket, ssl=context, enable_auto_pong=False, logger_name="simulator.streams"
        )
        self._tasks = [asyncio.create_task(self.exchange.run()), asyncio.create_task(self._tend())]

    def _accept(self, request: WSUpgradeRequest) -> StreamSocket | None:
        target = Target(request.path.decode("utf-8", "replace"))
        return StreamSocket(self.exchange.hub, target, self.sockets) if target.valid else None

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for stream in list(self.sockets):
                stream.tend(time.monotonic())

    async def _http_stream(self, request: web.Request) -> web.StreamResponse:
        """Serve a stream route on the REST port too."""
        ws = web.WebSocketResponse(compress=False, heartbeat=None)
        if not ws.can_prepare(request).ok:
            return await self.rest.handle(request)
        await ws.prepare(request)
        transport: Any = request.transport
        target = Target(request.raw_path)
        connection = Connection(self.exchange.hub, target, transport.write, transport.get_write_buffer_size)
        connection.start()
        try:
            async for message in ws:
                if connection.too_fast(time.monotonic()):
                    await ws.close(code=1008, message=b"Too many requests")
                elif message.type == HttpMessage.TEXT:
                    connection.on_text(message.data.encode())
        finally:
            self.exchange.hub.detach(connection)
        return ws

    async def stop(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in list(self.sockets):
            if stream.transport is not None:
                stream.transport.disconnect(graceful=False)
        if self._streams is not None:
            self._streams.close()
        if self._runner is not None:
            await self._runner.cleanup()


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
