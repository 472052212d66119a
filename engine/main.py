"""The engine process: the one place that builds its objects and runs its loop."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import orjson
import uvloop

from engine.assemble import Parts, assemble
from engine.clock import EventClock, WallClock
from engine.config import Config, without_keys
from engine.errors import ConfigError, DataError, ExchangeError, FencedError
from engine.exchange import filters
from engine.exchange.budget import shared_path
from engine.link import CommandServer, Snapshot
from engine.listing import ListingPoller
from engine.market.assistant import Assistant
from engine.market.events import Sink
from engine.market.helper import read_samples
from engine.market.panel import Panel
from engine.market.routes import addresses
from engine.market.samples import FUNDING, OPEN_INTEREST
from engine.market.stream import Streams
from engine.market.wire import Decoder
from engine.model.registry import open_registry
from engine.operator import Operator
from engine.polling import SamplePoller
from engine.publish import Publisher, rss_bytes
from engine.repair import Repairer
from engine.sink import MarketSink
from engine.spin import spare_core, spin
from engine.start import keep_start
from engine.trading.start import Live, check_config, open_live
from kernels.records import GATES, INSTRUMENT, TIMEFRAMES, Mode, Stage

log = logging.getLogger("engine")
TICK_S = 0.02
PUBLISH_S = 0.25
SETTLE_S = 5.0  # a live engine that is told to stop waits so long for open orders and missing stops
LATENCY_S = 10.0
REPLAY_POOL_SCALE = 1_000  # a replayed market runs up to so much faster than the wall clock that limits count by
SUMMARY_NAME = "engine.summary.json"


class Engine:
    """One engine process: build with a configuration, `run` until SIGTERM."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.symbols = list(config.market.symbols)
        self.mode = Mode.LIVE if config.mode == "live" else Mode.SHADOW
        self.clock = EventClock() if config.exchange.clock == "replay" else WallClock()
        self._stop = asyncio.Event()
        self._offset_ms = 0.0
        config.data_dir.mkdir(parents=True, exist_ok=True)
        urls = addresses(config.exchange)
        self._stream_url = urls.stream_url
        scale = REPLAY_POOL_SCALE if config.exchange.clock == "replay" else 1
        self.assistant = Assistant(urls.rest_url, shared_path(urls.rest_url, config.data_dir), self._on_helper, scale)
        self._poller: SamplePoller | None = None
        self.live: Live | None = None
        self._streams: Streams | None = None

    async def run(self) -> None:
        """Start, trade until told to stop, leave everything in order. Raises ConfigError for what cannot start."""
        lock = lock_folder(self.config.data_dir)
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
            await self.assistant.start()
            await self._build()
            await self._serve()
        finally:
            await self.assistant.stop()
            lock.close()

    # --- start ---

    async def _build(self) -> None:
        config = self.config
        instruments = await self._history()
        self.decoder = Decoder(self.symbols, cast(Sink, _Later()), self.clock.now_ms())
        try:
            self.parts: Parts = await self._assemble(instruments)
        except ValueError as error:
            raise ConfigError([str(error)]) from error
        self.sink = MarketSink(self.parts.core, self.parts.gateway, config.market.store_features)
        self.decoder.sink = self.sink
        self.sink.panel = self._panel()
        self._poller = self._sample_poller(self.sink)
        self._listing = ListingPoller(self.assistant, config.data_dir / "instruments.bin", self.parts.core)
        self._repairer = Repairer(self.assistant, self.sink, self.symbols, self.symbols.index(config.market.btc_symbol))
        self.parts.core.entries_blocked = self._repairer.blocks
        self.operator = Operator(self.parts, self.symbols, self.mode)
        if self.live is not None:
            self.operator.questions["trading"] = self.live.summary
            self.operator.ladder = self.live.trading.kill
        self._load_production()
        snapshot = Snapshot(config.data_dir, len(self.symbols), config.risk.max_positions)
        self.publisher = Publisher(
            snapshot, self.parts.core, self.operator, self.decoder, self.mode, lambda: self._offset_ms
        )

    async def _assemble(self, instruments: npt.NDArray[Any]) -> Parts:
        """Build the core: in shadow over a gateway without credentials, in live behind its preflight."""
        config, books = self.config, self.decoder.book
        if self.mode is Mode.SHADOW:
            return assemble(config, self.symbols, instruments, books, self.clock, config.data_dir / "journal")
        self.live = await open_live(config, self.symbols, instruments, books, self.clock)
        return self.live.parts

    async def _history(self) -> npt.NDArray[Any]:
        """Bring bar and sample files up to date over REST and return the instruments of our symbols."""
        config, market = self.config, self.config.market
        path = config.data_dir / "instruments.bin"
        try:
            await self.assistant.ask("instruments", path=str(path))
            table = filters.load(path)
            known = {bytes(row["symbol"]).decode(): row for row in table}
            absent = [name for name in self.symbols if name not in known]
            if absent:
                raise ConfigError([f"market.symbols: the exchange does not list {', '.join(absent)}"])
            await self.assistant.ask(
                "history",
                bars_dir=str(config.data_dir / "bars"),
                samples_dir=str(config.data_dir / "samples"),
                symbols=self.symbols,
                warmup={"": market.warmup_bars, market.btc_symbol: market.btc_warmup_bars},
                capacity={"": market.ring_bars, market.btc_symbol: market.btc_ring_bars},
                timeframes=list(range(len(TIMEFRAMES))),
            )
            server = await self.assistant.ask("time")
        except ExchangeError as error:
            raise ConfigError([f"exchange {config.exchange.name}: start-up history failed: {error}"]) from error
        self.clock.observe(int(server["server_ms"]))
        self._fit_clock(server)
        return np.array([known[name] for name in self.symbols], INSTRUMENT)

    def _panel(self) -> Panel:
        market = self.config.market
        panel = Panel(
            self.config.data_dir / "bars",
            self.symbols,
            self.sink.on_vector,
            deadline_ms=market.deadline_ms,
            btc_symbol=market.btc_symbol,
            warmup_bars=market.warmup_bars,
            btc_warmup_bars=market.btc_warmup_bars,
            ring_bars=market.ring_bars,
            btc_ring_bars=market.btc_ring_bars,
        )
        for symbol, name in enumerate(self.symbols):
            for kind, ending in ((FUNDING, "funding"), (OPEN_INTEREST, "open_interest")):
                panel.seed_samples(symbol, kind, read_samples(self.config.data_dir / "samples" / f"{name}.{ending}"))
        keep_start(self.config, self.parts.journal.run_id, panel)
        panel.seed()
        return panel

    def _sample_poller(self, sink: MarketSink) -> SamplePoller:
        panel = sink.panel
        assert panel is not None
        has_open_interest = any(file.counts[OPEN_INTEREST] for file in panel.samples)
        poller = SamplePoller(self.assistant, sink, self.symbols, has_open_interest)
        for symbol, file in enumerate(panel.samples):
            for kind in (OPEN_INTEREST, FUNDING):
                poller.known(kind, symbol, file.newest_stamp(kind))
        sink.on_settled = poller.funding_settled
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
        config = self.config
        server = CommandServer(config.data_dir, self.operator.handle)
        streams = Streams(self._stream_url, self.decoder, config.exchange.connections)
        streams.start(self._repairer.look_again)
        self._streams = streams
        self.operator.questions["market"] = self.market_report
        try:
            await streams.wait_live()
        except TimeoutError as error:
            log.warning("%s", error)
        await server.start()
        self.parts.core.check_all()
        if config.control.auto_start if self.mode is Mode.SHADOW else config.control.live_auto_start:
            await self._auto_start()
        spinning = asyncio.create_task(spin(config, self.parts.core, self._stop)) if config.busy_poll else None
        if spinning is not None and not spare_core():
            log.warning("busy_poll on a single core: every other process of this machine waits for the engine")
        await asyncio.sleep(0)
        gc.collect()
        gc.freeze()
        gc.disable()
        self.publisher.ready()
        print(orjson.dumps({"ready": True, "pid": os.getpid(), "symbols": len(self.symbols)}).decode(), flush=True)
        try:
            await self._tick_until_stopped()
            if self.live is not None:
                await self._settle(self.live)
        finally:
            gc.enable()
            if spinning is not None:
                spinning.cancel()
            await server.stop()
            await streams.stop()
            if self.live is not None:
                await self.live.connection.close()
            self._finish()

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

    async def _tick_until_stopped(self) -> None:
        """Everything that is due by time rather than by a frame; each pass takes far less than a millisecond."""
        loop = asyncio.get_running_loop()
        next_publish = next_latency = next_flush = loop.time()
        while not self._stop.is_set():
            before = time.monotonic_ns()
            await asyncio.sleep(TICK_S)
            lag_ns = time.monotonic_ns() - before - int(TICK_S * 1e9)
            core = self.parts.core
            core.latencies.add(Stage.LOOP_LAG, lag_ns)
            now_ms, now = self.clock.now_ms(), loop.time()
            if self.live is None:
                core.desk.advance(now_ms)
                self.operator.ladder.advance(now_ms)
                await self.operator.close_strays()
            else:
                if not self.live.tick(now_ms):
                    raise FencedError("another process took the lease of this key")
            assert self._poller is not None
            self.sink.on_time(now_ms)
            self._poller.tick(now_ms)
            self._repairer.tick(now_ms)
            self._listing.tick(now)
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
            print(orjson.dumps(message).decode(), flush=True)
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
            "connections": self._streams.league() if self._streams else [],
            "resubscribed": self._streams.resubscribed if self._streams else 0,
            "moved": self._streams.moved if self._streams else 0,
            "repairs": self._repairer.status() | {"revisions": self.sink.revisions},
            "late_1m": self.sink.lateness.worst(tuple(self.symbols), 0),
            "clock": {
                "offset_ms": round(self._offset_ms, 3),
                "good": self.clock.good(),
                "error_ms": fit.error_ms if fit and fit.samples else None,
                "drift_ppm": fit.drift_ppm if fit else None,
            },
        }


class _Later:
    """Stands for the sink until the core is built: the decoder owns the book rows that the core needs."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"a frame arrived before the engine was built: {name}")


def refusal_names(refusals: dict[int, int]) -> dict[str, int]:
    """Return counts by gate name."""
    return {name: refusals[1 << i] for i, name in enumerate(GATES) if refusals.get(1 << i)}


def lock_folder(data_dir: Path) -> Any:
    """Return the held lock of a data folder: two engines never share one. Raises ConfigError naming the holder."""
    file = open(data_dir / "engine.lock", "a+")  # noqa: SIM115 (held for the life of the process)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        raise ConfigError([f"data_dir {data_dir}: another engine runs on it (pid {file.read().strip()})"]) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def serve(config: Config) -> None:
    """Run the engine until SIGTERM or Ctrl-C. Raises ConfigError for what cannot start."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if config.mode == "live":
        check_config(config)
    config = without_keys(config)

    async def run() -> None:
        await Engine(config).run()

    uvloop.run(run())
