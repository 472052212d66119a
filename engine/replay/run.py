"""Replay: a recorded run's inputs through the same core, desk and panel; every record it wrote must come out again.

The journal's order is the order of calls: each input record is handed to the sink or the operator as it was, and what
the engine then writes is compared, record for record and bit for bit, with what follows in the journal. The clock reads
the time of the record that comes next; the book of each decision and fill, and what else the core was told from
outside, stand in the journal. Wall-clock time, sockets and threads have no part in it. A live run's order side comes
with `replay_live.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import journal
from engine.assemble import Parts, Preamble, wire
from engine.config import Config
from engine.errors import DataError
from engine.market.events import BOOK_ROW
from engine.market.gaps import GapKind
from engine.market.panel import Refold
from engine.market.samples import FUNDING, OPEN_INTEREST
from engine.model.opening import open_packed
from engine.model.registry import open_registry
from engine.operator import CLEAR_HALT, Operator
from engine.replay.live import LiveSide
from engine.replay.recording import Comparator, Difference, Differs, Ended, Recording, of_preamble
from engine.restore import from_snapshot
from engine.sink import MarketSink
from engine.start import Start, start_path
from engine.timers import Hold, Timer
from engine.trading.shadow import ShadowGateway
from kernels.records import BAR, INSTRUMENT, BarFlag, Kind, Mode

RATE_DECIMALS = 8  # the journal keeps a mark's funding rate as float32; the exchange states it with 8 decimals
BY_SYMBOL = frozenset({"close", "halt_symbol", "allow_symbol"})
OpenModel = Callable[[str, str], Any]
Progress = Callable[[int], None]


@dataclass
class Report:
    """What a replay found."""

    run_id: int
    version: str
    mode: str
    compared: int = 0
    snapshots: int = 0
    records: dict[str, int] = field(default_factory=dict)
    complete: bool = False
    difference: Difference | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class _Clock:
    """Reads the time of the record that comes next."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.bad = False

    def now_ms(self) -> int:
        return self._recording.time_ms()

    def observe(self, event_ms: int) -> None:
        """The journal says what time it was."""

    def good(self) -> bool:
        return not self.bad


def runs(folder: Path, engine_id: str) -> list[int]:
    """Return the run ids of a journal folder, oldest first."""
    return sorted({segment.run_id for segment in journal.segments(folder, engine_id)})


def replay(
    folder: Path, engine_id: str, run_id: int, models: OpenModel, progress: Progress = lambda seq: None
) -> Report:
    """Replay one run of a journal folder and report the first difference, if there is one.

    models(model_id, backend) returns the predictor that a MODEL record names. Raises DataError for a run that cannot
    be replayed at all: its start or first segment gone, another configuration.
    """
    with tempfile.TemporaryDirectory(prefix="ta-replay-") as scratch:
        run = Replay(folder, engine_id, run_id, models, Path(scratch))
        return run.run(progress)


def registry_models(config: Config) -> OpenModel:
    """Return a door to the registered bundles: (model id, backend) → predictor."""

    def find(model_id: str, backend: str) -> Any:
        return open_packed(open_registry(config).path(model_id), backend)

    return find


class Replay:
    """One replay under way: `scratch` takes the bar files that its panel writes."""

    def __init__(self, folder: Path, engine_id: str, run_id: int, models: OpenModel, scratch: Path) -> None:
        self.recording = Recording(folder, engine_id, run_id)
        start = Start(start_path(folder, engine_id, run_id))
        wanted = (Kind.CONFIG, Kind.INSTRUMENT)  # the listing as the run began: later changes are inputs
        opening = [found for found in self.recording.opening if found[0] in wanted and of_preamble(found)]
        stated = next(record for kind, record in opening if kind is Kind.CONFIG)
        config = start.config
        if bytes(stated["config_hash"]).decode() != config.hash():
            raise DataError(
                f"run {run_id}: made with configuration {bytes(stated['config_hash']).decode()[:12]}…, "
                f"its start file holds {config.hash()[:12]}…"
            )
        mode = Mode(int(stated["mode"]))
        self.report = Report(run_id, bytes(stated["version"]).decode(), mode.name.lower())
        self.journal = Comparator(self.recording)
        self.clock = _Clock(self.recording)
        self.books: npt.NDArray[Any] = np.zeros(len(start.symbols), BOOK_ROW)
        self._models, self._held = models, Hold(0)
        self.live: LiveSide | None = None
        instruments = _instruments(opening, len(start.symbols))
        if mode is Mode.LIVE:
            self.live = LiveSide(config, start.symbols, instruments, self.journal, self.clock, self._take_book)
        self._parts = self._wire(start, instruments)
        core = self._parts.core
        core.entries_blocked = lambda symbol: bool(self._held & Hold.GAP)
        gateway = self._parts.gateway
        if isinstance(gateway, ShadowGateway):
            gateway.driver = lambda: self._fill_recorded(gateway)
        self.operator = Operator(self._parts, start.symbols, mode)
        self.operator.open_model = self._open_model
        if self.live is not None:
            self.live.join(self._parts)
            self.operator.ladder = self.live.trading.kill
        self.sink = MarketSink(core, gateway, config.market.store_features)
        self.sink.panel = start.panel(scratch, self._on_vector)
        self.sink.panel.step_released = self._step_released
        self._left = self.sink.panel.fold_files()

    def _wire(self, start: Start, instruments: npt.NDArray[Any]) -> Parts:
        restored = from_snapshot(self.recording.opening, start.symbols)
        if restored is None:
            raise DataError(f"run {self.recording.run_id}: its first segment has no snapshot")

        def open_journal(preamble: Preamble) -> Comparator:
            self.journal.pass_preamble()
            return self.journal

        gateway = self.live.gateway if self.live is not None else None
        parts = wire(start.config, start.symbols, instruments, self.books, self.clock, restored, open_journal, gateway)
        self.journal.state = parts.state
        return parts

    # --- the loop ---

    def run(self, progress: Progress) -> Report:
        """Feed every input; the report says how far it got."""
        report, recording = self.report, self.recording
        try:
            while (found := recording.next()) is not None:
                kind, record = found
                before = self.journal.seq
                self._feed(kind, record)
                if self.journal.seq == before:
                    self.journal.pass_preamble()
                    raise recording.difference(kind, record, "record", f"a {kind.name} record", "nothing")
                if not self.journal.compared & 0x3FFF:
                    progress(self.journal.seq)
            report.complete = True
        except Ended:
            report.complete = True
        except Differs as found:
            report.difference = found.difference
        report.compared, report.snapshots = self.journal.compared, self.journal.snapshots
        report.records = {kind.name.lower(): n for kind, n in self.journal.counts.items() if n}
        return report

    def _feed(self, kind: Kind, record: np.void) -> None:
        """Hand one recorded input to what received it; the records of its effects are consumed by the journal."""
        if kind is Kind.LATENCY:
            self._pass()
            return
        if (
            kind is Kind.ORDER and self.live is None
        ):  # a further round of an exit, started by time alone: its own time says when
            self._parts.core.desk.advance(int(record["time_ms"]))
            return
        self.recording.note_input()
        if kind is Kind.BAR:
            self._bar(record)
        elif kind is Kind.MARK:
            rate = round(float(record["funding_rate"]), RATE_DECIMALS)
            self.sink.on_mark(
                int(record["symbol"]), float(record["price"]), rate, int(record["next_funding_ms"]),
                int(record["event_ms"]), int(record["mono_ns"]),
            )  # fmt: skip
        elif kind in (Kind.FUNDING, Kind.OPEN_INTEREST):
            sort = FUNDING if kind is Kind.FUNDING else OPEN_INTEREST
            hours = int(record["interval_hours"]) if kind is Kind.FUNDING else 0
            self.sink.on_sample(int(record["symbol"]), sort, int(record["stamp_ms"]), float(record["value"]), hours)
        elif kind is Kind.TIMER:
            self._timer(record)
        elif kind in (Kind.INPUT, Kind.TICK) and self.live is not None:
            self.live.feed(kind, record)
        elif kind is Kind.BOOK and self.live is None:
            self._parts.core.desk.advance(int(record["time_ms"]))  # a waiting order meets this book
        elif kind is Kind.COMMAND:
            self._command(record)
        elif kind is Kind.MODEL:
            self.operator.load_model(bytes(record["model_id"]).decode(), bytes(record["actor"]).decode())
        elif kind is Kind.INSTRUMENT:
            row = _instrument(record)
            self._parts.core.on_instrument(int(record["index"]), row, int(record["time_ms"]))
        elif kind is Kind.GAP:
            self._gap(record)

    def _pass(self) -> None:
        """Step over a record that changes nothing."""
        self.journal.take()

    # --- inputs ---

    def _bar(self, record: np.void) -> None:
        bar = _bar_of(record)
        if int(bar["flags"]) & BarFlag.REVISION:
            self._pass()  # a later version of a closed bar: the first one stays as seen
            return
        self._state_as_recorded(int(record["symbol"]), 1)
        self.sink.take_bar(
            int(record["symbol"]), int(record["timeframe"]), bar, int(record["late_ms"]), int(record["mono_ns"])
        )

    def _timer(self, record: np.void) -> None:
        timer, now_ms = int(record["timer"]), int(record["time_ms"])
        if timer == Timer.SAMPLES:
            self.sink.on_time(now_ms)
        elif timer == Timer.ACCOUNT:
            self._parts.core.on_account_timer(now_ms)
        elif timer == Timer.CHECK_ALL:
            self._parts.core.check_all()
        elif timer == Timer.MARKET:
            self.sink.begin(self._left)

    def _gap(self, record: np.void) -> None:
        self._pass()
        if int(record["gap_kind"]) != GapKind.RESTARTED:
            return
        symbol, timeframe = int(record["symbol"]), int(record["timeframe"])
        bars = np.zeros(int(bytes(record["detail"]).split()[0]), BAR)
        now_ms = int(record["time_ms"])
        for i in range(len(bars)):
            found = self.recording.next()
            if found is None or found[0] is not Kind.BAR:
                raise Ended
            bars[i] = _bar_of(found[1])
            now_ms = int(found[1]["time_ms"])
            self._pass()
        panel = self.sink.panel
        assert panel is not None
        btc = None if symbol == panel.btc else panel.files[timeframe][panel.btc].ordered()
        panel.swap(Refold(symbol, timeframe, bars, btc).run(), now_ms)

    def _command(self, record: np.void) -> None:
        verb, argument = bytes(record["verb"]).decode(), bytes(record["argument"]).decode()
        args: dict[str, Any] = {}
        if verb in BY_SYMBOL:
            args = {"symbol": argument}
        elif verb in ("promote", "rollback") and argument:
            args = {"bundle_path": argument}
        elif verb in ("predictor", "kill"):
            args = {{"predictor": "predictor", "kill": "until"}[verb]: argument}
        elif argument == CLEAR_HALT:
            args = {"clear_halt": True}
        elif argument:
            args = {"reason": argument}
        call = self.operator.handle(verb, bytes(record["actor"]).decode(), args, bytes(record["command_id"]).decode())
        try:
            call.send(None)  # it awaits nothing
        except (StopIteration, ValueError):
            return
        raise RuntimeError(f"command {verb} waits for something")

    def _open_model(self, path: str) -> Any:
        found = self.recording.next()
        if found is None:
            raise Ended
        kind, record = found
        if kind is not Kind.MODEL:
            raise DataError(bytes(record["result"]).decode() if kind is Kind.COMMAND else f"{path}: was not served")
        model_id, backend = bytes(record["model_id"]).decode(), bytes(record["backend"]).decode()
        try:
            return self._models(model_id, backend)
        except (DataError, OSError) as error:
            raise self.recording.difference(Kind.MODEL, record, "model_id", model_id, str(error)) from error

    # --- what the core asks while it handles an input ---

    def _on_vector(
        self, symbol: int, decision_ms: int, values: npt.NDArray[np.float64], vector_hash: int, bits: int
    ) -> None:
        """Decide on a vector that no bar has just completed."""
        self._state_as_recorded(symbol, 0)
        self.sink.on_vector(symbol, decision_ms, values, vector_hash, bits)

    def _step_released(self, symbol: int, timeframe: int, bar: Any, address: int, now_ms: int) -> int:
        """Step a bar that has waited for BTCUSDT's, with what its decision was made on."""
        self._state_as_recorded(symbol, 0)
        return self.sink.step_released(symbol, timeframe, bar, address, now_ms)

    def _state_as_recorded(self, symbol: int, ahead: int) -> None:
        """Put the recorded book and facts of a decision in place, if its BOOK record stands `ahead` of the cursor.

        A BOOK that a waiting shadow order met is followed by the timer of its fill; a decision's by its signal.
        """
        found, after = self.recording.next(ahead), self.recording.next(ahead + 1)
        if found is None or found[0] is not Kind.BOOK or int(found[1]["symbol"]) != symbol:
            return
        if after is not None and after[0] is Kind.TIMER and int(after[1]["timer"]) == Timer.SHADOW_FILL:
            return
        self._take_book(found[1])
        self._held = Hold(int(found[1]["spare"]))
        self.clock.bad = bool(self._held & Hold.CLOCK)
        self.journal.full = bool(self._held & Hold.FULL)
        if self.live is not None:
            self.live.held = self._held
        if self._held & Hold.AUDIT:
            self._parts.core.audit_failed.add(symbol)
        else:
            self._parts.core.audit_failed.discard(symbol)

    def _take_book(self, record: np.void) -> None:
        row = self.books[int(record["symbol"])]
        for name in ("bid", "bid_qty", "ask", "ask_qty", "event_ms"):
            row[name] = record[name]

    def _fill_recorded(self, gateway: ShadowGateway) -> None:
        """Let waiting orders meet the books that the journal shows next."""
        while (found := self.recording.next()) is not None and found[0] is Kind.BOOK:
            after = self.recording.next(1)
            if after is None:
                raise Ended
            if after[0] is not Kind.TIMER or int(after[1]["timer"]) != Timer.SHADOW_FILL:
                return
            if not gateway.waiting:
                raise self.recording.difference(*after, "timer", "a shadow fill", "no order is waiting")
            self._take_book(found[1])
            gateway.fill_next(int(after[1]["time_ms"]))


def _bar_of(record: np.void) -> npt.NDArray[Any]:
    """Return the BAR[1] row of a BAR record, as the sink expects it: a record that it may write to."""
    bar = np.zeros(1, BAR)
    for name in BAR.names or ():
        bar[name] = record[name]
    return bar[0]


def _instrument(record: np.void) -> np.void:
    """Return the INSTRUMENT row of an INSTRUMENT record."""
    row = np.zeros(1, INSTRUMENT)
    for name in INSTRUMENT.names or ():
        row[name] = record[name]
    found: np.void = row[0]
    return found


def _instruments(opening: Sequence[tuple[Kind, np.void]], count: int) -> npt.NDArray[Any]:
    table = np.zeros(count, INSTRUMENT)
    for kind, record in opening:
        if kind is Kind.INSTRUMENT:
            table[int(record["index"])] = _instrument(record)
    return table
