"""One WebSocket each: a stream connection of the stream port (picows), or any of the REST port (aiohttp).

Both ping every three minutes, cut who does not answer in ten, and everybody after 24 hours; all on wall time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSMsgType as HttpMessage
from aiohttp import web
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from engine.simulator.streams import Connection, Hub, Target

PING_S = 180.0
PONG_S = 600.0
LIFE_S = 86_400.0
PINGS_PER_S = 5  # on the WS API, pings and pongs together
SLOW_BYTES = 16 << 20  # unsent bytes at which a client under the wall clock is cut; a replay waits instead


class StreamSocket(WSListener):  # type: ignore[misc]
    """One picows connection: frames in and out of a `Connection`; pings, pongs and the 24 h cut."""

    def __init__(self, hub: Hub, target: Target, sockets: set[StreamSocket], wall: bool) -> None:
        self.hub = hub
        self.target = target
        self.sockets = sockets
        self.wall = wall
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
        if self.connection is None or self.connection.dead:
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
        if self.wall and self.transport.underlying_transport.get_write_buffer_size() > SLOW_BYTES:
            self.transport.disconnect(graceful=False)
        elif now_s - self.opened_s > LIFE_S or now_s - max(self.ponged_s, self.opened_s) > PONG_S:
            self.transport.send_close(WSCloseCode.GOING_AWAY)
            self.transport.disconnect()
        elif now_s - self.pinged_s > PING_S and not (self.connection and self.connection.dead):
            self.pinged_s = now_s
            self.transport.send_ping(str(int(time.time() * 1_000)).encode())


class HttpSocket:
    """One WebSocket of the REST port: a stream route's `connection`, or none on the WS API. `dead`: half open."""

    def __init__(self, ws: web.WebSocketResponse, transport: Any, connection: Connection | None) -> None:
        self.ws = ws
        self.transport = transport
        self.connection = connection
        self.dead = False
        self.opened_s = self.ponged_s = self.pinged_s = time.monotonic()
        self._pings: list[float] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def route(self) -> str:
        """The stream route, or "ws-api"."""
        return self.connection.target.route if self.connection is not None else "ws-api"

    async def texts(self) -> AsyncIterator[str | bytes]:
        """Yield the client's messages; answer its pings; cut it when it sends too fast."""
        async for message in self.ws:
            now_s = time.monotonic()
            if self.dead or (self.connection is not None and self.connection.dead):
                continue
            if message.type in (HttpMessage.PING, HttpMessage.PONG):
                self.ponged_s = now_s if message.type is HttpMessage.PONG else self.ponged_s
                self._pings = [stamp for stamp in self._pings if now_s - stamp < 1.0] + [now_s]
            too_many = self.connection is None and len(self._pings) > PINGS_PER_S
            if too_many or (self.connection is not None and self.connection.too_fast(now_s)):
                await self.ws.close(code=1008, message=b"Too many requests")
            elif message.type is HttpMessage.PING:
                await self.ws.pong(message.data)
            elif message.type in (HttpMessage.TEXT, HttpMessage.BINARY):
                yield message.data

    def tend(self, now_s: float) -> None:
        """Ping when due; cut who does not answer, and everybody after 24 hours."""
        if now_s - self.opened_s > LIFE_S or now_s - self.ponged_s > PONG_S:
            self.cut(True)
        elif now_s - self.pinged_s > PING_S and not self.dead:
            self.pinged_s = now_s
            self._later(self.ws.ping(str(int(time.time() * 1_000)).encode()))

    def cut(self, politely: bool) -> None:
        """End the connection: with a close frame, or at once."""
        if politely:
            self._later(self.ws.close(code=1001))
        elif self.transport is not None:
            self.transport.abort()

    def _later(self, call: Any) -> None:
        task = asyncio.ensure_future(call)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the client may be gone already
