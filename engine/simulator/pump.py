"""Moves market time forward and hands every due frame to every connection that listens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.simulator import events, render
from engine.simulator.events import KINDS
from engine.simulator.path import MINUTE_MS, SLOT_MS
from engine.simulator.tape import Tape, event_buffer

CHUNK_EVENTS = 8_192
BACKLOG_BYTES = 1 << 20  # the market waits while a client has more than this unsent

KIND_SUFFIXES = [f"@kline_{name}" for name in events.INTERVALS]
KIND_SUFFIXES += ["@markPrice@1s", "@markPrice", "@bookTicker", "@trade", "@aggTrade"]


class Listener(Protocol):
    """What the pump needs of a connection."""

    mask: npt.NDArray[np.uint8]
    combined: bool

    def write(self, frames: bytes) -> None: ...
    def backlog(self) -> int: ...


class Pump:
    """Owns the tape's time. `advance` renders each frame once and copies it to the connections; no frame is
    built for nobody."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        symbols = len(tape.market.symbols)
        self.symbols = symbols
        self.listeners: set[Any] = set()
        self.on_step: list[Callable[[int, int], None]] = []
        self.fine: Callable[[], bool] = lambda: False  # whether every 100 ms of the market matters
        self.frames = 0
        self.wanted: npt.NDArray[np.uint8] = np.zeros((KINDS, symbols), np.uint8)
        names = [name.lower() + suffix for suffix in KIND_SUFFIXES for name in tape.market.symbols]
        self.stream_ids = {name: number for number, name in enumerate(names)}
        wrappers = [f'{{"stream":"{name}","data":' for name in names]
        self._prefixes, self._prefix_lengths = render.table(wrappers, render.PREFIX_BYTES)
        self._scratch = event_buffer(tape.market, tape.rates)
        self._events = np.zeros((4, 0), np.int64)
        self._next = 0
        self._payloads = np.zeros(CHUNK_EVENTS * render.FRAME_BYTES, np.uint8)
        self._ends = np.zeros(CHUNK_EVENTS, np.int64)
        self._out = np.zeros(CHUNK_EVENTS * (render.FRAME_BYTES + render.PREFIX_BYTES + 8), np.uint8)
        self._build()

    def changed(self) -> None:
        """Recount who wants what; call after any change of a mask or of the set of listeners."""
        wanted = np.zeros(KINDS * self.symbols, np.uint8)
        for listener in self.listeners:
            wanted |= listener.mask
        if not np.array_equal(wanted, self.wanted.ravel()):
            self.wanted = wanted.reshape(KINDS, self.symbols)
            self._build()

    def backlogged(self) -> bool:
        """Return whether some client is too far behind for the market to move on."""
        return any(listener.backlog() > BACKLOG_BYTES for listener in self.listeners)

    def _build(self) -> None:
        tape, market = self.tape, self.tape.market
        count = events.build(
            market.bars,
            tape.index,
            market.begin,
            tape.open_ms,
            market.keys,
            self.wanted,
            tape.closed,
            tape.rates,
            tape.run,
            self._scratch,
        )
        found = self._scratch[:, :count]
        self._events = np.ascontiguousarray(found[:, np.argsort(found[0], kind="stable")])
        self._next = int(np.searchsorted(self._events[0], tape.now_ms, side="right"))

    def advance(self, until_ms: int) -> None:
        """Move market time to `until_ms`, at most to the end of the data, sending what falls due."""
        tape = self.tape
        until_ms = min(until_ms, tape.market.end_ms - 1)
        while tape.now_ms < until_ms:
            before_ms = tape.now_ms
            minute_end = tape.open_ms + MINUTE_MS
            stop = min(until_ms, minute_end - 1)
            if self.fine():
                stop = min(stop, before_ms - before_ms % SLOT_MS + SLOT_MS)
            self._send(int(np.searchsorted(self._events[0], stop, side="right")))
            tape.now_ms = stop
            for step in self.on_step:
                step(before_ms, stop)
            if until_ms >= minute_end:
                tape.load()
                tape.now_ms = minute_end
                self._build()
                self._next = 0
                self._send(int(np.searchsorted(self._events[0], minute_end, side="right")))
                for step in self.on_step:
                    step(stop, minute_end)

    def _send(self, last: int) -> None:
        tape, market = self.tape, self.tape.market
        while self._next < last:
            first, end = self._next, min(last, self._next + CHUNK_EVENTS)
            render.render(
                self._events, first, end, market.bars, tape.index, tape.open_ms, market.keys, tape.run, tape.base,
                tape.done, tape.spans, tape.static, tape.funding, tape.names, tape.lengths, tape.rates,
                self._payloads, self._ends,
            )  # fmt: skip
            self.frames += end - first
            for listener in list(self.listeners):
                size = render.gather(
                    self._payloads, self._ends, self._events, first, end, self.symbols, listener.mask,
                    listener.combined, self._prefixes, self._prefix_lengths, self._out,
                )  # fmt: skip
                if size:
                    listener.write(self._out[:size].tobytes())
            self._next = end


class Pace:
    """Turns wall time into market time: speed, pauses, and what was reached."""

    def __init__(self, speed: float, wall: bool) -> None:
        self.speed = speed
        self.wall = wall
        self.held = False
        self._last = time.monotonic()
        self._market_ms = 0.0

    def target(self, now_ms: int, waiting: bool) -> int:
        """Return the market time that is due; `waiting` holds it where it is. One call moves at most one minute."""
        clock = time.monotonic()
        elapsed, self._last = clock - self._last, clock
        if self.wall:  # wall time waits for nobody; the server cuts who is too slow
            return max(now_ms, int(time.time() * 1_000))
        if self.held or waiting:
            return now_ms
        self._market_ms += min(elapsed * self.speed * 1_000, MINUTE_MS)
        moved = int(self._market_ms)
        self._market_ms -= moved
        return now_ms + moved
