"""The engine process: the one place that builds its objects and runs its loop.

A start has two halves. First the guards: journal, account, sockets, stops, with the instruments as they are known.
Then, while those run, the market data: history, feature states; entries begin when it is complete.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy.typing as npt
import orjson

from engine.assemble import Parts, assemble
from engine.clock import EventClock, WallClock
from engine.config import Config
from engine.connections import Connections
from engine.early import EarlySink
from engine.errors import ConfigError, DataError, FencedError
from engine.exchange import filters
from engine.link import CommandServer, Snapshot
from engine.listing import ListingPoller
from engine.log import say
from engine.market.events import Sink
from engine.market.panel import Panel
from engine.market.routes import addresses
from engine.market.samples import FUNDING, OPEN_INTEREST, read_samples
from engine.market.stream import Streams
from engine.market.wire import Decoder
from engine.model.registry import open_registry
from engine.opening import INSTRUMENTS_NAME, Opening
from engine.operator import Operator
from engine.polling import SamplePoller
from engine.publish import Publisher, rss_bytes, since_spawn_s
from engine.rehearsal import Rehearsal
from engine.repair import Repairer
from engine.sink import MarketSink
from engine.spin import near_minute, rehearse, spare_core, spin
from engine.start import keep_start, panel_of
from engine.urgency import impatient, short_slice, take_core
from kernels.records import GATES, TIMEFRAMES, Mode, Stage

if TYPE_CHECKING:
    from engine.trading.start import Live

log = logging.getLogger("engine")
TICK_S = 0.02
PUBLISH_S = 0.25
SETTLE_S = 5.0  # a live engine that is told to stop waits so long for open orders and missing stops
LATENCY_S = 10.0
SUMMARY_NAME = "engine.summary.json"


class Engine:
    """One engine process: build with a configuration, `run` until SIGTERM."""

    def __init__(self, config: Config, opening: Opening | None = None) -> None:
        self.config = config
        self.symbols = list(config.market.symbols)
        self.mode = Mode.LIVE if config.mode == "live" else Mode.SHADOW
        self.clock = EventClock() if config.exchange.clock == "replay" else WallClock()
        self._stop = asyncio.Event()
        self._offset_ms = 0.0
        self.opening = opening or Opening(config)
        self.assistant = self.opening.assistant
        self.assistant.on_event = self._on_helper
        self.live: Live | None = None
        self._poller: SamplePoller | None = None
        self._repairer: Repairer | None = None
        self.began: dict[str, float] = {}  # what of the start was done, and after how many seconds of this process

    async def run(self) -> None:
        """Start, trade until told to stop, leave everything in order. Raises ConfigError for what cannot start."""
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
            await self.opening.begin()
            self._done("loaded")
            await self._build()
            self._done("built")
            await self._serve()
        finally:
            await self.opening.stop()

    # --- start: the guards ---

    async def _build(self) -> None:
        config = self.config
        instruments = await self.opening.instruments()
        if (sample := await self.opening.time()) is not None:
            self.clock.observe(int(sample["server_ms"]))
            self._fit_clock(sample)
        self.decoder = Decoder(self.symbols, cast(Sink, None), self.clock.now_ms())  # its book is the core's
        try:
            self.parts: Parts = await self._assemble(instruments, self.decoder.book)
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        self.parts.core.entries_blocked = lambda symbol: True  # until the market data is complete
        self.sink = MarketSink(self.parts.core, self.parts.gateway, config.market.store_features)
        self.early = EarlySink(self.sink)
        self.decoder.sink = cast(Sink, self.early)
        self._listing = ListingPoller(self.assistant, config.data_dir / INSTRUMENTS_NAME, self.parts.core)
        self.operator = Operator(self.parts, self.symbols, self.mode)
        self.operator.questions["market"] = self.market_report
        if self.live is not None:
            self.operator.questions["trading"] = self.live.summary
            self.operator.ladder = self.live.trading.kill
        snapshot = Snapshot(config.data_dir, len(self.symbols), len(self.parts.core.desk.positions.rows))
        self.publisher = Publisher(
            snapshot, self.parts.core, self.operator, self.decoder, self.mode, lambda: self._offset_ms,
            self.live.guards if self.live is not None else list,
            Connections(lambda: self._streams.lines() + (self.live.connection.lines() if self.live else [])),
        )  # fmt: skip
        self._streams = Streams(addresses(config).stream_url, self.decoder, config.exchange.connections)

    async def _assemble(self, instruments: npt.NDArray[Any], books: npt.NDArray[Any]) -> Parts:
        """Build the core: in shadow over a gateway without credentials, in live behind its preflight."""
        config = self.config
        if self.mode is Mode.SHADOW:
            return assemble(config, self.symbols, instruments, books, self.clock, config.data_dir / "journal")
        from engine.trading.start import open_live  # a shadow engine loads nothing that could send an order

        self.live = await open_live(config, self.symbols, instruments, books, self.clock)
        return self.live.parts

    # --- start: the market data ---

    async def _open_market(self) -> None:
        """Bring bars and samples up to date, fold them, take what arrived meanwhile; then decisions are made."""
        core, opening = self.parts.core, self.opening
        await opening.history()
        self._done("history")
        if opening.absent and not (core.desk.positions.count or core.desk.orders):
            raise ConfigError([f"market.symbols: the exchange does not list {', '.join(opening.absent)}"])
        self._listing.take(filters.load(self.config.data_dir / INSTRUMENTS_NAME), self.symbols)
        opening.state = "folding the history"
        with impatient():
            panel, left = await asyncio.to_thread(self._load_panel)
        self._done("folded")
        self.sink.panel = panel
        self._poller = self._sample_poller(panel)
        self.early.hand_on_fundings()
        self.sink.begin(left)
        self._load_production()
        await self.early.release()
        self.decoder.sink = cast(Sink, self.sink)
        self._repairer = Repairer(self.assistant, self.sink, self.symbols, panel.btc)
        core.entries_blocked = self._repairer.blocks
        opening.state = ""
        await self._ready()

    def _load_panel(self) -> tuple[Panel, list[tuple[int, int, npt.NDArray[Any]]]]:
        panel = self._panel()
        return panel, panel.fold_files()

    def _panel(self) -> Panel:
        panel = panel_of(self.config, self.config.data_dir / "bars", self.symbols, self.sink.on_vector)
        for symbol, name in enumerate(self.symbols):
            for kind, ending in ((FUNDING, "funding"), (OPEN_INTEREST, "open_interest")):
                panel.seed_samples(symbol, kind, read_samples(self.config.data_dir / "samples" / f"{name}.{ending}"))
        try:
            keep_start(self.config, self.parts.journal.run_id, panel)
        except OSError as error:
            log.warning("this run cannot be replayed, its start is not kept: %s", error)
        return panel

    def _sample_poller(self, panel: Panel) -> SamplePoller:
        has_open_interest = any(file.counts[OPEN_INTEREST] for file in panel.samples)
        poller = SamplePoller(self.assistant, self.sink, self.symbols, has_open_interest)
        for symbol, file in enumerate(panel.samples):
            for kind in (OPEN_INTEREST, FUNDING):
                poller.known(kind, symbol, file.newest_stamp(kind))
        self.sink.on_settled = poller.funding_settled
        return poller

    def _load_production(self) -> None:
        """Serve the production bundle, else what the previous run served; a bad one is said and nothing serves."""
        try:
            registry = open_registry(self.config)
            production = registry.production()
            path = str(registry.path(production.model_id)) if production else self.parts.restored.model_path
            if path:
                self.operator.load_model(path, "start")
        except (DataError, OSError) as error:
            log.error("model not served: %s", error)

    # --- run ---

    async def _serve(self) -> None:
        server = CommandServer(self.config.data_dir, self.operator.handle)
        opened: asyncio.Task[None] | None = None
        try:
            self._streams.start(self._look_again)
            await server.start()
            opened = asyncio.create_task(self._open_market(), name="market")
            await self._tick_until_stopped(opened)
            if self.live is not None:
                await self._settle(self.live)
        finally:
            gc.enable()
            if opened is not None:
                opened.cancel()
                await asyncio.gather(opened, return_exceptions=True)
            await server.stop()
            await self._streams.stop()
            if self.live is not None:
                await self.live.connection.close()
            self._finish()

    async def _ready(self) -> None:
        """The last steps before the first decision; then the memory rests and every compilation is a fault."""
        try:
            await self._streams.wait_live()
        except TimeoutError as error:
            log.warning("%s", error)
        self._done("streams")
        self.parts.core.check_all()
        control = self.config.control
        if control.auto_start if self.mode is Mode.SHADOW else control.live_auto_start:
            await self._auto_start()
        way = spin if self.config.busy_poll else partial(rehearse, due=partial(near_minute, self.clock))
        self._rehearsing = asyncio.create_task(way(Rehearsal(self.sink, self.decoder), self._stop), name="rehearsals")
        if self.config.busy_poll and not spare_core():
            log.warning("busy_poll on a single core: every other process of this machine waits for the engine")
        take_core(self.config.cpu)
        short_slice()
        gc.collect()
        gc.freeze()
        gc.disable()
        self.publisher.ready()
        self._done("ready")
        say(ready=True, pid=os.getpid(), symbols=len(self.symbols), after_s=self.began["ready"], start=self.began)

    def _done(self, part: str) -> None:
        self.began[part] = since_spawn_s()

    def _look_again(self) -> None:
        """A connection was lost: bars may be missing."""
        if self._repairer is not None:
            self._repairer.look_again()

    def _note_guarding(self) -> None:
        """Say, once, that every open position is guarded: by a mark price, and in live by a stop on the exchange."""
        core = self.parts.core
        held = core.desk.positions.rows["symbol"][: core.desk.positions.count].tolist()
        if all(core.mark_ms[symbol] for symbol in held) and (self.live is None or self.live.guarding(held)):
            self._done("guarding")
            say(guarding=True, positions=len(held), after_s=self.began["guarding"])

    async def _settle(self, live: Live) -> None:
        """Before a live engine leaves: no new entries, no position that an order on its way would open unguarded."""
        self.parts.core.entries_blocked = lambda symbol: True
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while live.tick(self.clock.now_ms()):
            if live.settled() or asyncio.get_running_loop().time() > deadline:
                live.goodbye()
                return
            await asyncio.sleep(TICK_S)

    async def _auto_start(self) -> None:
        try:
            await self.operator.handle("start", "engine", {}, "")
        except ValueError as error:
            log.warning("no session opened: %s", error)

    async def _tick_until_stopped(self, opened: asyncio.Task[None]) -> None:
        """Everything that is due by time rather than by a frame; each pass takes far less than a millisecond."""
        loop = asyncio.get_running_loop()
        next_publish = next_latency = next_flush = loop.time()
        while not self._stop.is_set():
            before = time.monotonic_ns()
            await asyncio.sleep(TICK_S)
            lag_ns = time.monotonic_ns() - before - int(TICK_S * 1e9)
            core = self.parts.core
            core.latencies.add(Stage.LOOP_LAG, lag_ns)
            if isinstance(self.clock, WallClock):
                self.clock.look()
            now_ms, now = self.clock.now_ms(), loop.time()
            if self.live is None:
                core.desk.advance(now_ms)
                self.operator.ladder.advance(now_ms)
                await self.operator.close_strays()
            else:
                if not self.live.tick(now_ms):
                    raise FencedError("another process took the lease of this key")
            if self._repairer is not None and self._poller is not None:
                self.sink.on_time(now_ms)
                self._poller.tick(now_ms)
                self._repairer.tick(now_ms)
                self._listing.tick(now)
            elif opened.done():
                opened.result()  # the market data cannot be had: raises why
            if "guarding" not in self.began:
                self._note_guarding()
            if now >= next_flush:
                next_flush = now + self.config.journal.flush_ms / 1_000
                core.journal.flush()
                core.journal.retry_allocation()
            if now >= next_latency:
                next_latency = now + LATENCY_S
                self.publisher.journal_latency()
                core.on_account_timer(now_ms)
                gc.collect(1)  # only what was made since the freeze: some 100 µs, and cycles cannot pile up
            if now >= next_publish:
                next_publish = now + PUBLISH_S
                self.publisher.publish()

    def _finish(self) -> None:
        """Entries stop with us; positions keep what protects them. Nothing is closed."""
        self.publisher.journal_latency()
        self.publisher.publish()
        self.parts.journal.close()
        summary = self.config.data_dir / SUMMARY_NAME
        summary.write_bytes(orjson.dumps(self._summary(), option=orjson.OPT_INDENT_2))

    def _summary(self) -> dict[str, Any]:
        counters, decoder = self.parts.core.counters, self.decoder
        return {
            "run_id": self.parts.journal.run_id,
            "frames": sum(decoder.accepted) + sum(decoder.notes) + sum(decoder.faults),
            "malformed": sum(decoder.faults),
            "candles": dict(zip(TIMEFRAMES, counters.bars, strict=True)),
            "marks": counters.marks,
            "vectors": counters.vectors,
            "late_vectors": counters.late_vectors,
            "signals": counters.signals,
            "decisions": self.sink.panel.decisions() if self._repairer else {},
            "entries": counters.entries,
            "trades": self.parts.core.desk.trades_closed,
            "net_usdt": self.parts.core.desk.net_usdt,
            "refusals": refusal_names(counters.refusals),
            "gaps": counters.gaps,
            "market": self.market_report(),
            "journal_records": self.parts.journal.seq,
            "records": {kind.name.lower(): n for kind, n in self.parts.journal.counts.items() if n},
            "rss_start_bytes": self.publisher.rss_start_bytes,
            "rss_end_bytes": rss_bytes(),
            "journal_dropped": self.parts.journal.dropped,
            "compilations_after_ready": self.publisher.compilations,
            "stages": self.publisher.summary(),
        }

    # --- the helper's messages ---

    def _on_helper(self, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "sample" and self._poller is not None:
            self._poller.take(message)
        elif event == "time":
            self._fit_clock(message)
        elif event == "progress":
            say(**message)
        elif event == "fault":
            log.warning("helper: %s", message.get("error"))

    def _fit_clock(self, sample: dict[str, Any]) -> None:
        """Fit the exchange's clock by one answer of its time endpoint; the offset to this machine's is for show."""
        now_ns, wall_ms = time.monotonic_ns(), time.time() * 1_000
        if isinstance(self.clock, WallClock):
            self.clock.fit.add(sample["sent_ns"], sample["received_ns"], sample["server_ms"])
            self._offset_ms = self.clock.fit.exchange_ms(now_ns) - wall_ms
        else:
            self._offset_ms = sample["server_ms"] - wall_ms

    def market_report(self) -> dict[str, Any]:
        """Return how the market data arrives: counts by kind, connections, repairs, lateness, clock."""
        fit = self.clock.fit if isinstance(self.clock, WallClock) else None
        return {
            "frames": self.decoder.counts(),
            "connections": self._streams.league(),
            "resubscribed": self._streams.resubscribed,
            "moved": self._streams.moved,
            "repairs": (self._repairer.status() if self._repairer else {})
            | {"revisions": self.sink.revisions, "undecided": self.sink.undecided},
            "start": {"state": self.opening.state, "seconds": self.began},
            "late_1m": self.sink.lateness.worst(tuple(self.symbols), 0),
            "clock": {
                "offset_ms": round(self._offset_ms, 3),
                "good": self.clock.good(),
                "error_ms": fit.error_ms if fit and fit.samples else None,
                "drift_ppm": fit.drift_ppm if fit else None,
            },
        }


def refusal_names(refusals: dict[int, int]) -> dict[str, int]:
    """Return counts by gate name."""
    return {name: refusals[1 << i] for i, name in enumerate(GATES) if refusals.get(1 << i)}
