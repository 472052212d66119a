"""One stream connection kept alive for ever: connect, subscribe, roll over before the exchange cuts, reconnect."""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from ssl import SSLContext
from typing import Any

import orjson
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from engine.connections import Line
from engine.market.bounds import MAX_FRAME_BYTES
from engine.market.events import Source
from engine.market.wire import Decoder

log = logging.getLogger(__name__)
MAX_QUEUED_MESSAGES = 256  # control messages of one connection; more would take longer than a reconnect
NAMES_PER_MESSAGE = 200


@dataclass(frozen=True)
class Policy:
    """Times of the stream connections, in seconds of wall time."""

    message_gap_s: float = 0.2  # the exchange allows 10 messages a second, pings and pongs included
    reply_s: float = 10.0
    first_retry_s: float = 0.25
    longest_retry_s: float = 30.0
    connect_gap_s: float = 0.1  # between any two handshakes, so that an outage does not end in a storm
    steady_s: float = 60.0  # a connection that lived this long has redeemed earlier failures
    lifetime_s: float = 23 * 3600.0  # the exchange cuts at 24 h
    overlap_s: float = 10.0  # how long the old connection may wait for the new one's first frame
    ping_idle_s: float = 20.0
    ping_reply_s: float = 10.0
    watch_s: float = 1.0
    quiet_s: tuple[float, ...] = (90.0, 90.0, 90.0, 5.0, 30.0)  # by kind: marks come each second, others with trades
    dead_s: float = 15.0  # no frame at all on a connection that carries mark prices


class State(enum.IntEnum):
    IDLE = 0
    CONNECTING = 1
    SUBSCRIBING = 2
    LIVE = 3
    ROLLING = 4
    WAITING = 5
    STOPPED = 6


class Event(enum.IntEnum):
    CONNECT = 0
    OPENED = 1
    ACKNOWLEDGED = 2
    ROLL = 3
    ROLLED = 4
    LOST = 5
    STOP = 6


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.IDLE, Event.CONNECT): State.CONNECTING,
    (State.WAITING, Event.CONNECT): State.CONNECTING,
    (State.CONNECTING, Event.OPENED): State.SUBSCRIBING,
    (State.CONNECTING, Event.LOST): State.WAITING,
    (State.SUBSCRIBING, Event.ACKNOWLEDGED): State.LIVE,
    (State.SUBSCRIBING, Event.LOST): State.WAITING,
    (State.LIVE, Event.ACKNOWLEDGED): State.LIVE,
    (State.LIVE, Event.ROLL): State.ROLLING,
    (State.LIVE, Event.LOST): State.WAITING,
    (State.ROLLING, Event.ROLLED): State.LIVE,
    (State.ROLLING, Event.ACKNOWLEDGED): State.ROLLING,
    (State.ROLLING, Event.LOST): State.WAITING,
    **{(state, Event.STOP): State.STOPPED for state in State},
}
"""The life of a link. A pair that is not here changes nothing and is counted."""


class Connection(WSListener):  # type: ignore[misc]
    """One socket: hands frames to the decoder and paces the control messages.

    `on_ws_frame` is the hot callback. picows owns the frame's buffer only until the callback returns; the payload is
    taken as bytes, which orjson parses fastest, and dies there too.
    """

    def __init__(self, decoder: Decoder, source: Source, policy: Policy, clock_ns: Callable[[], int]) -> None:
        self.source = source
        self.transport: WSTransport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.opened_ns = clock_ns()
        self.refused = 0
        self._feed = decoder.feed
        self._clock_ns = clock_ns
        self._policy = policy
        self._parts: list[bytes] = []
        self._part_bytes = 0
        self._queue: deque[bytes] = deque()
        self._pacing: asyncio.TimerHandle | None = None
        self._next_id = 1
        self._unanswered: dict[int, int] = {}
        source.on_reply = self._on_reply

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the transport; subscriptions are sent by the link."""
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Stamp the arrival and decode. A text frame in one piece is the only case that matters for speed."""
        if frame.msg_type is WSMsgType.TEXT and frame.fin:
            self._feed(frame.get_payload_as_bytes(), self._clock_ns(), self.source)
        elif frame.msg_type is WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            self._fragment(frame)

    def _fragment(self, frame: WSFrame) -> None:
        """Collect a message that came in pieces, up to `MAX_FRAME_BYTES`."""
        if frame.msg_type is not WSMsgType.CONTINUATION:
            self._parts, self._part_bytes = [], 0
        self._part_bytes += frame.payload_size
        if self._part_bytes <= MAX_FRAME_BYTES:
            self._parts.append(frame.get_payload_as_bytes())
        if frame.fin:
            self._feed(b"".join(self._parts), self._clock_ns(), self.source)
            self._parts, self._part_bytes = [], 0

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Wake the link; nothing is repaired here."""
        if self._pacing is not None:
            self._pacing.cancel()
        for waiting in (self.lost, self.acknowledged):
            if not waiting.done():
                waiting.set_result(None)

    def request(self, method: str, names: Iterable[str]) -> None:
        """Queue SUBSCRIBE or UNSUBSCRIBE messages; they leave one every `message_gap_s`."""
        listed = list(names)
        for first in range(0, len(listed), NAMES_PER_MESSAGE):
            if len(self._queue) >= MAX_QUEUED_MESSAGES:
                return self.close()
            message = {"method": method, "params": listed[first : first + NAMES_PER_MESSAGE], "id": self._next_id}
            self._unanswered[self._next_id] = self._clock_ns()
            self._next_id += 1
            self._queue.append(orjson.dumps(message))
        if self._pacing is None:
            self._send_next()
        return None

    def _send_next(self) -> None:
        self._pacing = None
        if self._queue and self.transport is not None and not self.lost.done():
            self.transport.send(WSMsgType.TEXT, self._queue.popleft())
            self._pacing = asyncio.get_running_loop().call_later(self._policy.message_gap_s, self._send_next)

    def _on_reply(self, data: dict[str, Any]) -> None:
        number = data.get("id")
        if isinstance(number, int):
            self._unanswered.pop(number, None)
        if data.get("result", 0) is not None:
            self.refused += 1
            log.warning("the exchange refused a subscription: %s", data)
        if not self._unanswered and not self.acknowledged.done():
            self.acknowledged.set_result(None)

    def overdue(self, now_ns: int) -> bool:
        """Tell whether a control message has been without answer for too long."""
        limit_ns = int((self._policy.reply_s + len(self._queue) * self._policy.message_gap_s) * 1e9)
        return any(now_ns - sent_ns > limit_ns for sent_ns in self._unanswered.values())

    def close(self) -> None:
        """Drop the socket at once."""
        if self.transport is not None:
            self.transport.disconnect(graceful=False)


class ConnectPacer:
    """Lets handshakes of all links pass one at a time with a pause between them."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._lock = asyncio.Lock()
        self._next_s = 0.0

    async def turn(self) -> None:
        """Wait until the next handshake may begin."""
        async with self._lock:
            now_s = asyncio.get_running_loop().time()
            if now_s < self._next_s:
                await asyncio.sleep(self._next_s - now_s)
            self._next_s = asyncio.get_running_loop().time() + self._gap_s


class Link:
    """One replica of one stream set. A single task owns its connection, so a reconnect cannot run twice at once."""

    def __init__(
        self,
        index: int,
        url: str,
        streams: Iterable[int],
        names: Callable[[int], str],
        decoder: Decoder,
        policy: Policy,
        pacer: ConnectPacer,
        random: Random,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        ssl_context: SSLContext | None = None,
    ) -> None:
        self.index = index
        self.url = url
        self.streams = list(streams)
        self.state = State.IDLE
        self.connection: Connection | None = None
        self.reconnects = 0
        self.rolls = 0
        self.impossible = 0
        self.on_lost: Callable[[], None] = lambda: None
        self.retired = Source(index, 0)
        self._names = names
        self._decoder = decoder
        self._policy = policy
        self._pacer = pacer
        self._random = random
        self._clock_ns = clock_ns
        self._ssl_context = ssl_context
        self._roll = asyncio.Event()

    def _happen(self, event: Event) -> None:
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            self.impossible += 1
        else:
            self.state = state

    async def run(self) -> None:
        """Keep the link alive until cancelled."""
        failures = 0
        try:
            while True:
                self._happen(Event.CONNECT)
                try:
                    connection = await self._open()
                except (OSError, WSError, TimeoutError) as error:
                    log.info("link %d: %s: %s", self.index, self.url, error)
                    failures += 1
                else:
                    lived_s = await self._keep(connection)
                    self.on_lost()
                    failures = 1 if lived_s >= self._policy.steady_s else failures + 1
                self._happen(Event.LOST)
                self.reconnects += 1
                await asyncio.sleep(self.back_off_s(failures))
        finally:
            self._happen(Event.STOP)
            if self.connection is not None:
                self.connection.close()

    def back_off_s(self, failures: int) -> float:
        """Return how long to wait before attempt `failures` + 1: doubling, capped, and jittered over its upper half."""
        longest_s = min(self._policy.longest_retry_s, self._policy.first_retry_s * 2.0 ** min(failures - 1, 16))
        return longest_s * (0.5 + 0.5 * self._random.random())

    async def _open(self) -> Connection:
        await self._pacer.turn()
        source = self._decoder.source(self.index)
        policy = self._policy
        _, connection = await ws_connect(
            lambda: Connection(self._decoder, source, policy, self._clock_ns),
            self.url,
            ssl_context=self._ssl_context,
            max_frame_size=MAX_FRAME_BYTES,
            enable_auto_ping=True,
            auto_ping_idle_timeout=policy.ping_idle_s,
            auto_ping_reply_timeout=policy.ping_reply_s,
            logger_name="engine",
        )
        connection.request("SUBSCRIBE", [self._names(stream) for stream in self.streams])
        return connection

    async def _keep(self, connection: Connection) -> float:
        """Stay with the connection, rolling over in time, until the socket is gone; return how long it lived."""
        self._adopt(connection)
        self._happen(Event.OPENED)
        await connection.acknowledged
        self._happen(Event.ACKNOWLEDGED)
        while not connection.lost.done():
            rolling = asyncio.create_task(self._roll.wait())
            wanted: set[asyncio.Future[Any]] = {connection.lost, rolling}
            due_s = self._roll_due_s(connection)
            await asyncio.wait(wanted, timeout=due_s, return_when=asyncio.FIRST_COMPLETED)
            rolling.cancel()
            self._roll.clear()
            if connection.lost.done():
                break
            self._happen(Event.ROLL)
            connection = await self._roll_over(connection)
            self._happen(Event.ROLLED)
        return (self._clock_ns() - connection.opened_ns) / 1e9

    def _roll_due_s(self, connection: Connection) -> float:
        """Return the time to the planned roll-over: spread over 5 % of a lifetime, retried often once it is due."""
        lifetime_s = self._policy.lifetime_s
        age_s = (self._clock_ns() - connection.opened_ns) / 1e9
        return max(lifetime_s * (1.0 - 0.05 * self._random.random()) - age_s, min(60.0, lifetime_s / 10))

    async def _roll_over(self, old: Connection) -> Connection:
        """Open the successor beside `old`, wait for its first data, then drop `old`; on failure keep `old`."""
        try:
            new = await self._open()
        except (OSError, WSError, TimeoutError) as error:
            log.warning("link %d: roll-over failed, staying: %s", self.index, error)
            return old
        deadline_s = asyncio.get_running_loop().time() + self._policy.overlap_s
        while not new.source.firsts + new.source.lags and asyncio.get_running_loop().time() < deadline_s:
            if new.lost.done():
                return old
            await asyncio.sleep(0.05)
        self._adopt(new)
        self.rolls += 1
        old.close()
        return new

    def _adopt(self, connection: Connection) -> None:
        if self.connection is not None:
            gone, total = self.connection.source, self.retired
            for name in ("frames", "faults", "firsts", "lags", "lag_ns"):
                setattr(total, name, getattr(total, name) + getattr(gone, name))
        self.connection = connection

    def roll(self) -> None:
        """Ask for a roll-over now: a fresh socket first, then the old one goes."""
        self._roll.set()

    def reconnect(self) -> None:
        """Drop the socket; the link's own task reconnects."""
        if self.connection is not None:
            self.connection.close()

    def subscribe(self, stream: int) -> None:
        """Carry one more stream from now on."""
        if stream not in self.streams:
            self.streams.append(stream)
        if self.connection is not None:
            self.connection.request("SUBSCRIBE", [self._names(stream)])

    def unsubscribe(self, stream: int) -> None:
        """Carry a stream no longer."""
        if stream in self.streams:
            self.streams.remove(stream)
        if self.connection is not None:
            self.connection.request("UNSUBSCRIBE", [self._names(stream)])

    def resubscribe(self, stream: int) -> None:
        """Subscribe a stream anew on the same socket."""
        if self.connection is not None:
            self.connection.request("UNSUBSCRIBE", [self._names(stream)])
            self.connection.request("SUBSCRIBE", [self._names(stream)])

    def line(self) -> Line:
        """Return what the snapshot shows of this link."""
        frames, faults = self.retired.frames, self.retired.faults
        if self.connection is not None:
            frames, faults = frames + self.connection.source.frames, faults + self.connection.source.faults
        route, state = self.url.rsplit("/", 2)[-2], self.state.name.lower()
        return Line(f"link {self.index}", route, state, frames, faults, self.reconnects, len(self.streams))

    def score(self) -> dict[str, Any]:
        """Return this link's row of the latency league."""
        parts = [self.retired, *([self.connection.source] if self.connection is not None else [])]
        lags = sum(part.lags for part in parts)
        return {
            "link": self.index,
            "url": self.url,
            "state": self.state.name.lower(),
            "streams": len(self.streams),
            "frames": sum(part.frames for part in parts),
            "faults": sum(part.faults for part in parts),
            "first": sum(part.firsts for part in parts),
            "second": lags,
            "mean_lag_us": sum(part.lag_ns for part in parts) / lags / 1e3 if lags else 0.0,
            "reconnects": self.reconnects,
            "rolls": self.rolls,
        }
