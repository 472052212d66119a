"""From the decoder's events to the core: clock, journal, feature panel, then the decision, in that order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sized
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core import Core, Vector
from engine.market.gaps import GapKind, Range
from engine.market.lateness import Lateness
from engine.market.panel import Panel, VectorBit
from engine.market.samples import FUNDING, OPEN_INTEREST
from engine.timers import Timer
from engine.trading.live import LiveGateway
from engine.trading.shadow import ShadowGateway
from kernels import minute
from kernels.bars import StepCode
from kernels.closing import MAX_LATE_MS, RELEASED, STREAMED
from kernels.compile import entry_point
from kernels.decision import DECIDED, REFUSALS, SIDE, SIGNED
from kernels.journal import NO_BAR
from kernels.records import BAR, FEATURES_PER_TIMEFRAME, TIMEFRAME_MS, BarFlag, Kind
from kernels.schema import FEATURES, SCHEMA_HASH

LATE, INPUT_LATE = int(VectorBit.LATE), int(VectorBit.INPUT_LATE)  # plain ints: an IntFlag costs 1.5 us each
NOT_READY, FILLED = int(VectorBit.NOT_READY), int(VectorBit.FILLED)
ATR_15M = FEATURES.index("atr_15m")
TIMEFRAME_COUNT, BAR_BYTES = len(TIMEFRAME_MS), BAR.itemsize
OK, RESTARTED, KEPT = int(StepCode.OK), int(StepCode.RESTARTED), (int(StepCode.NO_BTC), int(StepCode.DUPLICATE))
MAX_LARGER = 4_096  # 15m and 1h bars that wait to be compared with their 1m bars; 600 symbols close 1,200 at an hour
MINUTE_MS, HOUR_MS = TIMEFRAME_MS[0], TIMEFRAME_MS[2]


class MarketSink:
    """Takes what `engine.market.wire.Decoder` decoded. Called on the engine's loop, from inside a frame's callback."""

    def __init__(self, core: Core, gateway: ShadowGateway | LiveGateway, stored: list[str]) -> None:
        self.core = core
        self._panel: Panel
        self.closed: Callable[[int, int, int, Any, int], int]  # what is left of a bar that completed no vector
        self.on_settled: Callable[[int, int, int], None] = lambda symbol, settled_ms, now_ms: None
        self._funding_hours = core.instruments["funding_hours"]  # a view: the listing is kept current in its memory
        self.gap_seen = 0
        self.revisions = 0
        self.undecided = 0
        self.lateness = Lateness(len(core.symbols))
        self.larger: deque[tuple[int, int, npt.NDArray[Any]]] = deque(maxlen=MAX_LARGER)
        self.last_bar_ms = [0] * len(core.symbols)
        self.advance = core.desk.advance
        core.closes = self._closes
        self.books_wanted: Sized = gateway.queue if isinstance(gateway, ShadowGateway) else ()
        self._stored = [name in stored for name in core.symbols]
        self._take_bar = entry_point(minute.take_bar)
        self._bar, self.views, self.views_at = np.zeros(1, BAR), list[Any](), 0
        self._bar_at = self._bar.ctypes.data
        self._recv_ns = 0
        self._next_funding = [0] * len(core.symbols)

    @property
    def panel(self) -> Panel:
        """The feature panel; set once, before the first bar: it needs `on_vector`."""
        return self._panel

    @panel.setter
    def panel(self, panel: Panel) -> None:
        self._panel, self.closed, panel.step_released = panel, panel.closed, self.step_released
        panel.on_lost = self.on_lost
        panel.connect(self.core.latencies, self.lateness)

    def begin(self, left: list[tuple[int, int, npt.NDArray[Any]]]) -> None:
        """Note in the journal that the panel is folded; step the bars (symbol, timeframe, BAR[]) that its fold left."""
        self.core.journal.write(Kind.TIMER, time.monotonic_ns(), self.core.clock.now_ms(), Timer.MARKET, 0, 0, 0)
        for symbol, timeframe, bars in left:
            for bar in bars:
                self._panel.on_bar(symbol, timeframe, bar, int(bar["open_ms"]) + TIMEFRAME_MS[timeframe])

    def on_bar(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        """Take a closed bar: journal it as seen, step the features; decisions follow from inside the panel."""
        self.core.clock.observe(event_ms)
        self.take_bar(symbol, timeframe, bar, STREAMED, recv_ns)

    def on_repaired(self, symbol: int, timeframe: int, bar: Any) -> None:
        """Take a bar that REST delivered in place of the stream, in time order; not if the stream was faster."""
        if self._panel.newest_open_ms[timeframe][symbol] >= int(bar["open_ms"]):
            return
        late_ms = self.core.clock.now_ms() - int(bar["open_ms"]) - TIMEFRAME_MS[timeframe]
        self.take_bar(symbol, timeframe, bar, min(late_ms, MAX_LATE_MS), time.monotonic_ns())

    def take_bar(self, symbol: int, timeframe: int, bar: Any, late_ms: int, recv_ns: int) -> None:
        """Journal a bar as seen, step the features, decide on what it completes (replay enters here).

        late_ms: exchange time from the bar's close to its arrival; STREAMED: by the clock, and counted.
        """
        now_ms = self._now_ms()
        outcome = self._take(symbol, timeframe, bar, now_ms, late_ms, recv_ns)
        code = OK if outcome >= DECIDED else self.closed(outcome, symbol, timeframe, bar, now_ms)
        self.last_bar_ms[symbol] = now_ms
        if timeframe:
            self.larger.append((symbol, timeframe, bar.copy()))
        if code > RESTARTED and code not in KEPT:
            self._refused(symbol, timeframe, code, bar, now_ms)
        self.advance(now_ms)

    def _now_ms(self) -> int:
        """Return the time of an input that may be decided on; the order side first looks at what came before it."""
        now_ms, observer = self.core.clock.now_ms(), self.core.desk.observer
        if observer is not None:
            observer.look(now_ms)
        return now_ms

    def _take(self, symbol: int, timeframe: int, bar: Any, now_ms: int, late_ms: int, recv_ns: int) -> int:
        """Journal and step a bar, and decide on what it completes; returns the code of `kernels.minute`."""
        self.core.counters.bars[timeframe] += 1
        self._recv_ns = recv_ns
        address = self._address(symbol * TIMEFRAME_COUNT + timeframe, bar)
        return self._pass(symbol, timeframe, address, now_ms, late_ms, 0)

    def step_released(self, symbol: int, timeframe: int, bar: Any, address: int, now_ms: int) -> int:
        """Step a bar that has waited for BTCUSDT's, and decide on what it completes. Returns the StepCode."""
        outcome = self._pass(symbol, timeframe, address, now_ms, RELEASED, NO_BAR)
        return OK if outcome >= DECIDED else self.closed(outcome, symbol, timeframe, bar, now_ms)

    def _pass(self, symbol: int, timeframe: int, address: int, now_ms: int, late_ms: int, known: int) -> int:
        """Do the same with a bar at an address, of whose records `known` (NO_BAR or 0) is written."""
        core, panel, journal, recv_ns = self.core, self._panel, self.core.journal, self._recv_ns
        at = journal.place_bar(known)  # first: it may find the disk full
        standing = core.standing(symbol, now_ms)
        outcome: int = self._take_bar(
            panel.table, core.table, symbol, timeframe, now_ms, late_ms, recv_ns, symbol == panel.btc,
            panel.simple(symbol, timeframe), address, journal.words, at, journal.seq + 1, journal.dropping, *standing,
        )  # fmt: skip
        signed = outcome == SIGNED
        position_id = journal.placed_bar(3 if signed else (2 if outcome == DECIDED else 1))
        if core.desk.new_day:
            core.desk.begin_day(now_ms)
        if outcome < DECIDED:
            return outcome
        decision_ms, vector_hash, _, _, bits = panel.completed(symbol)
        if signed and core.out[REFUSALS] and not self._stored[symbol]:
            return outcome
        vector = self._vector(symbol, decision_ms, panel.vectors[symbol], vector_hash, bits)
        if not signed:
            core.settle(vector, now_ms, recv_ns)
        elif not core.out[REFUSALS]:
            core.enter(vector, core.out[SIDE], position_id, now_ms, recv_ns)
        if self._stored[symbol]:
            self._store_vector(vector)
        return outcome

    def borrow_bars(self, views: list[Any], address: int) -> None:
        """Take note of the decoder's bars (row symbol × 3 + timeframe): kernels read those where they are."""
        self.views, self.views_at = views, address

    def _address(self, row: int, bar: Any) -> int:
        """Return where a bar stands: in the decoder's memory, or a copy of it in ours."""
        if self.views and bar is self.views[row]:
            return self.views_at + row * BAR_BYTES
        self._bar[0] = bar
        return self._bar_at

    def on_revision(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        """Record a second, differing version of a closed bar; the first one stays as seen."""
        self.core.clock.observe(event_ms)
        bar["arrived_ms"] = self.core.clock.now_ms()
        self.revised(symbol, timeframe, bar, int(BarFlag.WS))

    def revised(self, symbol: int, timeframe: int, bar: Any, source: int) -> None:
        """Journal a later version of a closed bar (flag REVISION): training reads it, features and replay never do."""
        now_ms, open_ms = self.core.clock.now_ms(), int(bar["open_ms"])
        late_ms = min(now_ms - open_ms - TIMEFRAME_MS[timeframe], MAX_LATE_MS)
        self.revisions += 1
        self.core.journal.write(Kind.BAR, time.monotonic_ns(), now_ms, symbol, timeframe, late_ms, *bar.item())
        self._gap(symbol, timeframe, GapKind.REVISION, open_ms, open_ms, "revision of a closed bar", source)

    def on_restarted(self, part: Range, bars: npt.NDArray[Any]) -> None:
        """Journal the bars with which a fold starts again behind a hole that is too long to be filled."""
        now_ms = self.core.clock.now_ms()
        self.note_gap(part, GapKind.RESTARTED, f"{len(bars)} bars from {int(bars['open_ms'][0])}", int(BarFlag.REST))
        for bar in bars:
            late_ms = min(now_ms - int(bar["open_ms"]) - TIMEFRAME_MS[part.timeframe], MAX_LATE_MS)
            self.core.journal.write(
                Kind.BAR, time.monotonic_ns(), now_ms, part.symbol, part.timeframe, late_ms, *bar.item()
            )

    def on_mark(
        self, symbol: int, price: float, funding_rate: float, next_funding_ms: int, event_ms: int, recv_ns: int
    ) -> None:
        """Take a mark price: guards first, then the funding calendar."""
        self.core.on_mark(symbol, price, funding_rate, next_funding_ms, event_ms, recv_ns)
        if next_funding_ms != self._next_funding[symbol]:
            self.on_next_funding(symbol, next_funding_ms, event_ms)

    def on_next_funding(self, symbol: int, next_funding_ms: int, event_ms: int) -> None:
        """Take a changed time of the next settlement: the rates before it are settled, whether this saw it or not."""
        known_ms = self._next_funding[symbol]
        settled_ms = known_ms if known_ms <= event_ms else 0
        before_ms = next_funding_ms - (self._funding_hours.item(symbol) or 8) * HOUR_MS
        if settled_ms < before_ms <= event_ms:
            settled_ms = before_ms
        if settled_ms:
            self.on_settled(symbol, settled_ms, event_ms)
        self._next_funding[symbol] = next_funding_ms
        self._panel.on_next_funding(symbol, next_funding_ms)

    def on_book(
        self,
        symbol: int,
        bid: float,
        bid_qty: float,
        ask: float,
        ask_qty: float,
        update_id: int,
        event_ms: int,
        recv_ns: int,
    ) -> None:
        """The decoder keeps the book; only waiting shadow orders want to know at once."""
        if self.books_wanted:
            self.core.on_book(symbol, event_ms)

    def on_vector(
        self, symbol: int, decision_ms: int, values: npt.NDArray[np.float64], vector_hash: int, bits: int
    ) -> None:
        """Hand a complete vector to the core (called by the panel, from inside `on_bar` or a sample)."""
        vector = self._vector(symbol, decision_ms, values, vector_hash, bits)
        self.core.on_vector(vector, self._recv_ns or time.monotonic_ns())
        if self._stored[symbol]:
            self._store_vector(vector)

    def on_lost(self, symbol: int, first_ms: int, last_ms: int) -> None:
        """Name the minutes that stay without a decision: what it needs came when its rows were overwritten."""
        self.undecided += (last_ms - first_ms) // MINUTE_MS + 1
        detail = "no decision: a bar that it needs came too late"
        self._gap(symbol, 0, GapKind.UNDECIDED, first_ms - MINUTE_MS, last_ms - MINUTE_MS, detail)

    def _vector(
        self, symbol: int, decision_ms: int, values: npt.NDArray[np.float64], vector_hash: int, bits: int
    ) -> Vector:
        panel = self._panel
        back = (panel.newest_open_ms[0][symbol] + MINUTE_MS - decision_ms) // MINUTE_MS
        return Vector(
            symbol, decision_ms, values, vector_hash, panel.files[0][symbol].close_of(back), values.item(ATR_15M),
            bits & LATE != 0, bits & INPUT_LATE != 0, bits & NOT_READY == 0, bits & FILLED != 0,
            panel.first_bars(symbol),
        )  # fmt: skip

    def _closes(self, symbol: int, open_ms: int, count: int) -> npt.NDArray[np.float64]:
        """Return the closes of the 1m bars that end with the one opened at `open_ms`; NaN where there is none."""
        file = self._panel.files[0][symbol]
        newest = file.count - 1 - (file.last_open_ms - open_ms) // TIMEFRAME_MS[0]
        index = np.arange(newest - count + 1, newest + 1)
        found = (index >= max(0, file.count - file.capacity)) & (index < file.count)
        return np.where(found, file.slots["close"][index % file.capacity], np.nan)

    def on_sample(self, symbol: int, kind: int, stamp_ms: int, value: float, hours: int) -> None:
        """Take a sample that the helper fetched; it may complete vectors that waited for it."""
        now_ms = self._now_ms()
        self._recv_ns = time.monotonic_ns()
        usable_ms = self._panel.insert_sample(symbol, kind, stamp_ms, value, now_ms)
        if usable_ms < 0:
            return
        if kind == FUNDING:
            self.core.journal.write(
                Kind.FUNDING, self._recv_ns, now_ms, stamp_ms, usable_ms, value, float("nan"), symbol, hours, 0
            )
        elif kind == OPEN_INTEREST:
            self.core.journal.write(Kind.OPEN_INTEREST, self._recv_ns, now_ms, stamp_ms, usable_ms, value, symbol, 0, 0)
        self._panel.complete_late(symbol, now_ms)

    def on_time(self, now_ms: int) -> None:
        """Complete, flagged, the vectors whose samples did not arrive by the deadline."""
        if self._panel.overdue(now_ms):
            self._recv_ns = time.monotonic_ns()
            self.core.journal.write(Kind.TIMER, self._recv_ns, now_ms, Timer.SAMPLES, 0, 0, 0)
            self._panel.on_time(now_ms)

    def _store_vector(self, vector: Vector) -> None:
        for timeframe in range(len(TIMEFRAME_MS)):
            if vector.close_ms % TIMEFRAME_MS[timeframe] == 0:
                part = vector.values[timeframe * FEATURES_PER_TIMEFRAME : (timeframe + 1) * FEATURES_PER_TIMEFRAME]
                self.core.journal.write(
                    Kind.FEATURES, time.monotonic_ns(), self.core.clock.now_ms(), vector.symbol, timeframe, 0,
                    vector.close_ms, SCHEMA_HASH, *part.tolist(),
                )  # fmt: skip

    def _refused(self, symbol: int, timeframe: int, code: int, bar: Any, now_ms: int) -> None:
        open_ms = int(bar["open_ms"])
        if code == StepCode.GAP:
            first, last = self._panel.missing(symbol, timeframe)
            if first > 0:
                self._gap(symbol, timeframe, GapKind.MISSING, first, last, "bars missing before a closed bar")
        else:
            self._gap(symbol, timeframe, GapKind.REFUSED, open_ms, open_ms, self._panel.refusal(code, bar))

    def note_gap(self, part: Range, kind: GapKind, detail: str, source: int) -> None:
        """Record what became of a range of bars; `source` holds BarFlag bits."""
        last_ms = max(part.from_ms, part.to_ms - TIMEFRAME_MS[part.timeframe])
        self._gap(part.symbol, part.timeframe, kind, part.from_ms, last_ms, detail, source)

    def _gap(
        self, symbol: int, timeframe: int, kind: int, from_ms: int, to_ms: int, detail: str, source: int = 0
    ) -> None:
        self.gap_seen += 1
        self.core.counters.gaps += 1
        bars, now_ms = (to_ms - from_ms) // TIMEFRAME_MS[timeframe] + 1, self.core.clock.now_ms()
        self.core.journal.write(
            Kind.GAP, time.monotonic_ns(), now_ms, symbol, timeframe, kind, source, from_ms, to_ms, bars,
            detail.encode()[:64],
        )  # fmt: skip
