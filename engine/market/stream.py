"""All market streams: redundant links over the routed addresses, and the watchdog that judges each stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random
from ssl import SSLContext
from typing import Any

from engine.connections import Line
from engine.market.link import ConnectPacer, Link, Policy, State
from engine.market.routes import (
    MARK_KIND,
    MAX_STREAMS_PER_CONNECTION,
    decode_number,
    plan,
    socket_url,
    stream_name,
)
from engine.market.wire import Decoder

PATIENCE_DOUBLINGS = 7  # a quiet stream is asked for ever less often, at least every 128 × its patience


class Streams:
    """Drive a decoder from `replicas` links per stream set; the first arrival wins inside the decoder.

    Build and use it on one event loop. `start` returns at once; `wait_live` waits for the exchange.
    """

    def __init__(
        self,
        stream_url: str,
        decoder: Decoder,
        replicas: int = 2,
        policy: Policy | None = None,
        random: Random | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        ssl_context: SSLContext | None = None,
        streams_per_connection: int = MAX_STREAMS_PER_CONNECTION,
    ) -> None:
        self.policy = policy or Policy()
        self.symbols: Sequence[str] = decoder.symbols
        self.resubscribed = 0
        self.moved = 0
        self._streams_per_connection = streams_per_connection
        self._clock_ns = clock_ns
        self._tasks: list[asyncio.Task[None]] = []
        pacer = ConnectPacer(self.policy.connect_gap_s)
        sets = plan(self.symbols, streams_per_connection)
        self.links = [
            Link(
                replica * len(sets) + number,
                socket_url(stream_url, some.route),
                some.streams,
                self.name,
                decoder,
                self.policy,
                pacer,
                random or Random(),
                clock_ns,
                ssl_context,
            )
            for replica in range(replicas)
            for number, some in enumerate(sets)
        ]
        self._judges = [_Judge(link, len(self.symbols), self.policy.quiet_s) for link in self.links]

    def name(self, stream: int) -> str:
        """Return the exchange's name of a stream number."""
        symbol, kind = decode_number(stream, len(self.symbols))
        return stream_name(self.symbols[symbol], kind)

    def start(self, on_lost: Callable[[], None] | None = None) -> None:
        """Start all links and the watchdog. `on_lost` is called whenever a connection has been lost."""
        if on_lost is not None:
            for link in self.links:
                link.on_lost = on_lost
        for link in self.links:
            self._tasks.append(asyncio.create_task(link.run(), name=f"link-{link.index}"))
        self._tasks.append(asyncio.create_task(self._watch(), name="stream-watchdog"))

    async def stop(self) -> None:
        """Close every connection and wait until all tasks have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def wait_live(self, timeout_s: float = 30.0) -> None:
        """Wait until every link is subscribed. Raises TimeoutError naming the links that are not."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while any(link.state is not State.LIVE for link in self.links):
            if asyncio.get_running_loop().time() > deadline_s:
                late = [
                    f"{link.url} ({link.state.name.lower()})" for link in self.links if link.state is not State.LIVE
                ]
                raise TimeoutError(f"no live stream after {timeout_s:g} s: {', '.join(late)}")
            await asyncio.sleep(0.02)

    @property
    def live(self) -> bool:
        """True while every stream set has at least one live link."""
        half = {link.url for link in self.links}
        return all(
            any(link.state in (State.LIVE, State.ROLLING) for link in self.links if link.url == url) for url in half
        )

    def lines(self) -> list[Line]:
        """Return what the snapshot shows of each link."""
        return [link.line() for link in self.links]

    def league(self) -> list[dict[str, Any]]:
        """Return one row per link: firsts, seconds and their mean lag, faults, reconnects."""
        return [link.score() for link in self.links]

    async def _watch(self) -> None:
        """Judge one link per step, so that no step costs more than a fraction of a millisecond."""
        while True:
            for judge in self._judges:
                await asyncio.sleep(self.policy.watch_s / len(self._judges))
                self._inspect(judge)

    def _inspect(self, judge: _Judge) -> None:
        link, now_ns = judge.link, self._clock_ns()
        connection = link.connection
        if link.state not in (State.LIVE, State.SUBSCRIBING, State.ROLLING) or connection is None:
            return
        if connection.overdue(now_ns) or judge.dead(now_ns, self.policy.dead_s):
            link.reconnect()
            return
        for stream in judge.quiet(now_ns):
            seen_elsewhere = self._seen_elsewhere(stream, link)
            kind = decode_number(stream, len(self.symbols))[1]
            if not seen_elsewhere and kind != MARK_KIND:
                continue  # a quiet market looks the same: judged against the other link, never alone
            if judge.doubt(stream, now_ns) == 1 or not seen_elsewhere:
                self.resubscribed += 1
                link.resubscribe(stream)
            else:
                self._move(stream, link)

    def _seen_elsewhere(self, stream: int, link: Link) -> bool:
        own = link.connection.source.newest[stream] if link.connection is not None else 0
        return any(
            other is not link and other.connection is not None and other.connection.source.newest[stream] > own
            for other in self.links
        )

    def _move(self, stream: int, link: Link) -> None:
        """Give a stream that stays silent here to another connection of the route, else take a fresh connection."""
        self.moved += 1
        for other in self.links:
            free = other.url == link.url and stream not in other.streams and other.state is State.LIVE
            if free and len(other.streams) < self._streams_per_connection:
                link.unsubscribe(stream)
                other.subscribe(stream)
                return
        link.roll()


class _Judge:
    """What the watchdog remembers of one link."""

    def __init__(self, link: Link, symbols: int, quiet_s: tuple[float, ...]) -> None:
        self.link = link
        self._quiet_s = quiet_s
        self._symbols = symbols
        self._newest: list[int] = []
        self._changed_ns: dict[int, int] = {}
        self._doubts: dict[int, int] = {}
        self._frames = 0
        self._frames_ns = 0
        self._source: object = None

    def dead(self, now_ns: int, limit_s: float) -> bool:
        """Tell whether a connection that should get mark prices has delivered nothing at all for `limit_s`."""
        connection = self.link.connection
        if connection is None:
            return False
        source = connection.source
        if source is not self._source:
            self._source, self._frames, self._frames_ns = source, 0, now_ns
            self._newest = list(source.newest)
            self._changed_ns = dict.fromkeys(self.link.streams, now_ns)
        if source.frames != self._frames:
            self._frames, self._frames_ns = source.frames, now_ns
            return False
        carries_marks = any(decode_number(s, self._symbols)[1] == MARK_KIND for s in self.link.streams[:8])
        return carries_marks and now_ns - self._frames_ns > limit_s * 1e9

    def quiet(self, now_ns: int) -> list[int]:
        """Return the streams that have brought nothing new for longer than their kind's patience."""
        connection = self.link.connection
        if connection is None:
            return []
        newest, before, found = connection.source.newest, self._newest, []
        for stream in self.link.streams:
            if newest[stream] != before[stream] or stream not in self._changed_ns:
                before[stream] = newest[stream]
                self._changed_ns[stream] = now_ns
                self._doubts.pop(stream, None)
                continue
            patience_s = self._quiet_s[stream // self._symbols] * 2.0 ** self._doubts.get(stream, 0)
            if now_ns - self._changed_ns[stream] > patience_s * 1e9:
                found.append(stream)
        return found

    def doubt(self, stream: int, now_ns: int) -> int:
        """Doubt a stream once more; its clock starts again with double patience. Returns how often in a row."""
        self._changed_ns[stream] = now_ns
        self._doubts[stream] = min(self._doubts.get(stream, 0) + 1, PATIENCE_DOUBLINGS)
        return self._doubts[stream]
