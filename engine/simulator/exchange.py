"""The exchange as one object: market, time, streams; and the loop that moves it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

from engine.errors import ConfigError
from engine.simulator.market import (
    GENERATED_START_MS,
    WEEK_MS,
    Market,
    generate_market,
    generated_symbols,
    load_market,
)
from engine.simulator.options import HISTORY_DAYS, Options
from engine.simulator.path import MINUTE_MS
from engine.simulator.pump import Pace, Pump
from engine.simulator.recorded import Player, Recording, read_recording
from engine.simulator.streams import Hub
from engine.simulator.tape import Tape
from engine.simulator.venue import Venue

DAY_MS = 86_400_000
STEP_S = 0.002
WALL_STEP_S = 0.005
GRACE_MS = 2_999  # after the last minute asked for, so that its closing frames are out
REPORT_S = 10.0


def open_market(options: Options, recording: Recording | None = None) -> tuple[Market, int]:
    """Return (market, start time): loaded or generated, shifted to now under the wall clock."""
    wall_ms = int(time.time() * 1_000)
    if recording is not None:
        first_ms = recording.start_ms // MINUTE_MS * MINUTE_MS - DAY_MS
        count = (recording.end_ms - first_ms) // MINUTE_MS + 2
        prices = recording.prices
        market = generate_market(recording.symbols, first_ms, count, options.seed, options.edge, prices)
        market.source = f"recorded frames of {options.frames.name if options.frames else ''} over a generated market"
        return market, recording.start_ms
    if options.data is not None:
        market = load_market(options.data, options.symbols, options.seed)
        if options.clock == "wall":
            market.shift(weeks_to_now(market.first_ms, market.end_ms, wall_ms))
            return market, wall_ms
        return market, _start_in(market, options)
    history = options.history_days if options.history_days is not None else HISTORY_DAYS
    wall = options.clock == "wall"
    start_ms = wall_ms if wall else options.start_ms or GENERATED_START_MS
    symbols = options.symbols or generated_symbols(options.symbol_count)
    first_ms = (start_ms - int(history * DAY_MS)) // MINUTE_MS * MINUTE_MS
    count = (start_ms - first_ms) // MINUTE_MS + int(options.ahead_days * 1_440) + 1
    return generate_market(symbols, first_ms, count, options.seed, options.edge), start_ms


def weeks_to_now(first_ms: int, end_ms: int, now_ms: int) -> int:
    """Return the shift that puts `now_ms` inside the data with an hour to go: whole weeks, or days for short data."""
    for unit in (WEEK_MS, DAY_MS):
        shift = -(-(now_ms + 3_600_000 - end_ms) // unit) * unit
        if first_ms + shift + MINUTE_MS <= now_ms:
            return shift
    raise ConfigError(["--data: under the wall clock more than 25 hours of data are needed"])


def _start_in(market: Market, options: Options) -> int:
    start_ms = options.start_ms
    if start_ms is None and options.history_days is not None:
        start_ms = market.first_ms + int(options.history_days * DAY_MS) // MINUTE_MS * MINUTE_MS
    if start_ms is None:
        start_ms = market.first_ms + (market.end_ms - market.first_ms) // 2 // MINUTE_MS * MINUTE_MS
    if not market.first_ms + MINUTE_MS <= start_ms < market.end_ms:
        span = f"{market.first_ms + MINUTE_MS}…{market.end_ms - 1}"
        raise ConfigError([f"start: expected a time within the data ({span}), got {start_ms}"])
    return start_ms


def _service_ms() -> float:
    return time.monotonic() * 1_000


class Exchange:
    """Everything that the servers share. Build one per process; `run` is its clock."""

    def __init__(self, options: Options, say: Callable[[str], None] | None = None) -> None:
        self.options = options
        recording = read_recording(options.frames) if options.frames is not None else None
        self.market, self.start_ms = open_market(options, recording)
        self.player = Player(recording) if recording is not None else None
        speed = 1.0 if options.clock == "wall" else options.speed
        updates = options.updates or max(12, min(240, round(3_600 / speed)))
        books = options.books or updates
        self.tape = Tape(self.market, (updates, books), self.start_ms)
        self.pump = Pump(self.tape)
        self.hub = Hub(self.pump, lenient=options.profile == "demo")
        if self.player is not None:
            self.hub.recorded = self.player.names
        self.pace = Pace(speed, options.clock == "wall")
        self.venue = Venue(self.tape, lambda: self.now_ms, _service_ms, options.seed, options.latency)
        for entry in options.accounts:
            self.venue.open_account(entry.key, entry.secret, entry.balance_usdt)
        self.venue.ledger.keys.update(options.keys)
        self.hub.private = self.venue.users
        self.pump.on_step.append(self._step)
        self.pump.fine = self.venue.busy
        self.ended = False
        self._running_since_s = 0.0
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))

    @property
    def now_ms(self) -> int:
        """Exchange time: market time in a replay, wall time otherwise."""
        return int(time.time() * 1_000) if self.pace.wall else self.tape.now_ms

    @property
    def last_ms(self) -> int:
        """Market time at which the clock will halt."""
        end_ms = self.market.end_ms - 1
        if self.player is not None:
            end_ms = min(end_ms, self.player.recording.end_ms)
        if self.options.minutes is None:
            return end_ms
        return min(end_ms, self.start_ms + self.options.minutes * MINUTE_MS + GRACE_MS)

    def summary(self) -> dict[str, Any]:
        """Return what is served: the line printed when ready."""
        return {
            "market": self.market.source,
            "symbols": self.market.symbols,
            "clock": self.options.clock,
            "speed": self.pace.speed,
            "history_from_ms": self.market.first_ms,
            "start_ms": self.start_ms,
            "end_ms": self.market.end_ms,
            "last_ms": self.last_ms,
            "synthesised": self.market.synthesised,
            "updates_per_minute": int(self.tape.rates[0]),
            "books_per_minute": int(self.tape.rates[1]),
        }

    def _step(self, before_ms: int, now_ms: int) -> None:
        if self.player is not None:
            for name, payload in self.player.due(now_ms):
                self.hub.push(name, payload)
        if self.venue.ledger.accounts:
            self.venue.step(before_ms, now_ms)
            for name, payload in self.venue.risk.announcements:
                self.hub.push(name, payload)
            self.venue.risk.announcements.clear()

    async def run(self) -> None:
        """Move market time for ever; say when the data ends and what speed was reached."""
        step_s = WALL_STEP_S if self.pace.wall or self.pace.speed <= 10 else STEP_S
        self.pace.held = self.options.hold
        reported_s, reported_ms, frames = time.monotonic(), self.tape.now_ms, 0
        while True:
            await asyncio.sleep(step_s)
            if self.pace.held and self.hub.subscribed:
                self.pace.held = False
            if not self.pace.held and not self._running_since_s:
                self._running_since_s = time.monotonic()
            self.venue.tend(_service_ms())
            target = self.pace.target(self.tape.now_ms, self.pump.backlogged())
            if not self.ended:
                self.pump.advance(min(target, self.last_ms))
                if self.tape.now_ms >= self.last_ms:
                    self._end()
            elapsed = time.monotonic() - reported_s
            if elapsed >= REPORT_S:
                speed = (self.tape.now_ms - reported_ms) / elapsed / 1_000
                rate = (self.pump.frames - frames) / elapsed
                if not self.options.quiet and not self.pace.held and not self.ended:
                    self._say(f"simulator: speed {speed:.1f} of {self.pace.speed:g}, {rate:,.0f} frames/s rendered")
                reported_s, reported_ms, frames = time.monotonic(), self.tape.now_ms, self.pump.frames

    def _end(self) -> None:
        self.ended = True
        asked = self.options.minutes is not None and self.tape.now_ms < self.market.end_ms - 1
        why = "the minutes asked for have passed" if asked else "the data ends here"
        wall_s = max(time.monotonic() - self._running_since_s, 1e-3)
        speed = (self.tape.now_ms - self.start_ms) / wall_s / 1_000
        reached = f"speed {speed:.1f} of {self.pace.speed:g} reached over {wall_s:.1f} s"
        self._say(f"simulator: market clock halted at {self.tape.now_ms}: {why}; {reached}; still serving")
