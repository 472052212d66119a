"""Rehearsals: the way from a closed bar to a decision, run on the engine's own objects, with no effect at all.

What a sleeping engine loses is not the wake-up alone: after some milliseconds its code, its objects, its tables and
the forest have left the caches, and the same decision takes several times as long. A rehearsal takes the bar that would
follow a symbol's newest one through the same functions of the same decoder, sink, panel, core, journal and model. What
they write goes to copies: the symbol's state, rows, vector and bar file, the journal's records, counters and latencies.
The memory that stands behind those copies is read, so that the real bar finds it in the caches too.
"""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np

from engine.core import Counters
from engine.latency import Latencies
from engine.market.events import Sink, Source
from engine.market.lateness import Lateness
from engine.market.memory import Memory
from engine.market.routes import KINDS
from engine.market.wire import Decoder
from engine.sink import BAR_BYTES, OK, MarketSink
from engine.trading.account import DAY_MS
from kernels import closing, decision, rehearsal
from kernels.addresses import table_of
from kernels.compile import entry_point
from kernels.records import BAR, FEATURE_COUNT, FEATURES_PER_TIMEFRAME, RECORDS, SLOT_BYTES, TIMEFRAMES, Kind
from kernels.state import STATE_SIZE, new_state

MODEL = slice(decision.PREDICT, decision.ARGUMENT + 1)  # of the core's table
SCRATCH_SLOTS = 64  # of the journal: more than the records of a decision
FRAME = (
    b'{"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1800000060100,"s":"BTCUSDT","k":{"t":1800000000000,'
    b'"T":1800000059999,"s":"BTCUSDT","i":"1m","f":1,"L":99,"o":"83896.40","c":"83860.20","h":"83920.00",'
    b'"l":"83860.10","v":"114.602","n":2239,"x":true,"q":"9615538.66780","V":"48.488","Q":"4068722.10360","B":"0"}}}'
)


class Rehearsal:
    """Runs on the engine's loop, between frames. `done` counts the decisions rehearsed."""

    def __init__(self, sink: MarketSink, decoder: Decoder) -> None:
        self.done = 0
        self._sink, self._decoder, self._next = sink, decoder, 0
        self._memory, self._source = Memory(["BTCUSDT"]), Source(0, len(KINDS))
        if not decoder.scans(FRAME, self._memory, self._source):
            raise ValueError("kernels.frames refuses the frame of the rehearsals")  # the parser has one memory only
        self._counters, self._latencies = Counters(), Latencies()
        self._records = np.zeros(SCRATCH_SLOTS * SLOT_BYTES // 8, np.uint64)
        self._bars = np.zeros(1, BAR)
        self._bars[0] = (0, 100.0, 100.2, 99.9, 100.1, 10.0, 1_000.0, 5.0, 50.0, 1, 0, 0, 0)
        self._bars_at = self._bars.ctypes.data
        self._prepare, self._warm = entry_point(rehearsal.prepare), entry_point(rehearsal.warm)
        self._copy_panel()
        self._signal = np.zeros(1, RECORDS[Kind.SIGNAL])
        self._core_table, self._core_steps = sink.core.rehearsal_table(self._latencies, self._signal, self._counters)

    def _copy_panel(self) -> None:
        """Make a table of `kernels.closing.close_bar` for one symbol, and how far apart the parts of two lie in it."""
        frames, depth = len(TIMEFRAMES), closing.DEPTH
        slots, header, known = np.zeros(2, BAR), np.zeros(3, np.int64), np.zeros(4, np.int64)
        none, lateness = np.zeros(1, np.int64), Lateness(1).counts
        series = np.array([[table_of(slots, len(slots), header)] for _ in range(frames)])
        arrays = (
            np.stack([new_state(1) for _ in range(frames)]), np.zeros((frames, depth, 1, FEATURES_PER_TIMEFRAME)),
            np.zeros((frames, closing.MARKET_DEPTH, 3)), np.zeros((frames, closing.MARKET_DEPTH), np.int64),
            np.zeros((depth, 1), np.uint8), np.zeros((frames, 1), np.int64), np.full((frames, 1), -1, np.int64),
            np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, FEATURE_COUNT)),
            np.zeros(1, closing.BRIEF_DTYPE), series, table_of(none, none, known)[None],
            np.zeros((frames, 1), np.int64), self._latencies.counts, self._latencies.sums, lateness,
        )  # fmt: skip
        header[1] = len(slots)
        self._kept = arrays, slots, header, known, none  # the table does not keep them alive
        self._panel_table = table_of(*arrays, 1, self._sink.panel.deadline_ms, 1, 1)
        self._panel_steps = np.zeros(len(self._panel_table), np.int64)
        for at, step in (
            (closing.STATES, 8 * STATE_SIZE), (closing.ROWS, 8 * FEATURES_PER_TIMEFRAME), (closing.FILLED_ROWS, 1),
            (closing.NEWEST, 8), (closing.STAGED, 8), (closing.NEXT, 8), (closing.READY, 8), (closing.SETTLED, 8),
            (closing.VECTORS, 8 * FEATURE_COUNT), (closing.SERIES, 24), (closing.SAMPLES, 24), (closing.FIRST, 8),
            (closing.LATENESS, lateness.itemsize * lateness.size),
        ):  # fmt: skip
            self._panel_steps[at] = step

    def run(self) -> bool:
        """Rehearse the next symbol's next minute; False when something about it is out of the ordinary just now."""
        core, panel = self._sink.core, self._sink.panel
        symbol = self._next = (self._next + 1) % len(core.symbols)
        day_ms = core.desk.account.day_ms
        if symbol in panel.waiting_for_samples or core.clock.now_ms() - day_ms >= DAY_MS or core.journal.full:
            return False
        before = self._counters.signals
        self._read(symbol)
        self._in_place_of(symbol)
        self.done += self._counters.signals - before
        return self._counters.signals != before

    def _read(self, symbol: int) -> None:
        """Make the copies ready, and read what stands behind them."""
        sink, memory, sources = self._sink, self._decoder.memory.words, tuple(self._decoder.sources.values())
        source = sources[self.done % len(sources)]
        self._prepare(sink.panel.table, self._panel_table, symbol, self._bars)
        self._warm(sink.panel.table, sink.core.table, memory, source.words, symbol, self._latencies.sums)
        sink.core.journal.touch()
        sink.panel.files[0][symbol].touch()

    def _in_place_of(self, symbol: int) -> None:
        """Put the copies in the place of the symbol's parts, pass the rehearsed frame, and put all back."""
        sink, core, panel = self._sink, self._sink.core, self._sink.panel
        account, journal = core.desk.account, core.journal
        kept = (
            panel.table, core.table, core.counters, core.entries_blocked, core.desk.observer, sink.views_at,
            sink.closed, sink.advance, sink.last_bar_ms[symbol], core.desk.new_day, account.equity_usdt,
            account.peak_equity_usdt, account.day_start_equity_usdt, account.day_ms,
        )  # fmt: skip
        aside = journal.aside(self._records)
        self._core_table[MODEL] = core.table[MODEL]  # the model may be another one by now
        # two symbols' parts lie `steps` apart: the copy of one symbol stands where `symbol`'s part is looked for
        panel.table = self._panel_table - symbol * self._panel_steps
        core.table = self._core_table - symbol * self._core_steps
        core.counters, core.entries_blocked, core.desk.observer = self._counters, _blocked, None
        sink.views_at = self._bars_at - symbol * len(TIMEFRAMES) * BAR_BYTES
        sink.closed, sink.advance = _leave, _stay
        try:
            self._decoder.rehearse(FRAME, self._memory, self._source, cast(Sink, self))
        finally:
            journal.back(aside)
            (
                panel.table, core.table, core.counters, core.entries_blocked, core.desk.observer, sink.views_at,
                sink.closed, sink.advance, sink.last_bar_ms[symbol], core.desk.new_day, account.equity_usdt,
                account.peak_equity_usdt, account.day_start_equity_usdt, account.day_ms,
            ) = kept  # fmt: skip

    def on_bar(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        """Take the bar of the rehearsed frame: the next minute's of the symbol whose turn it is stands in its place."""
        sink, row = self._sink, self._next * len(TIMEFRAMES)
        sink.on_bar(self._next, 0, sink.views[row], 0, time.monotonic_ns())


def _blocked(symbol: int) -> bool:
    return True


def _leave(outcome: int, symbol: int, timeframe: int, bar: Any, now_ms: int) -> int:
    """Leave a bar that is out of the ordinary alone: it is rehearsed another time."""
    return OK


def _stay(now_ms: int) -> None:
    """Let no time pass."""
