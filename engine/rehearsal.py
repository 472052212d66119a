"""Rehearsals: the way from a closed bar to a decision, run on the engine's own objects, with no effect at all.

What a sleeping engine loses is not the wake-up alone: after some milliseconds its code, its objects, its tables and
the forest have left the caches, and the same decision takes several times as long. A rehearsal takes the bar that would
follow a symbol's newest one through the same functions of the same sink, panel, core, journal and model. What they
write goes to copies: the symbol's state, rows, vector and bar file, the journal's records, counters and latencies.
"""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np

from engine.core import Counters
from engine.latency import Latencies
from engine.market.events import Sink
from engine.market.lateness import Lateness
from engine.market.memory import Memory
from engine.market.wire import Decoder
from engine.sink import MarketSink
from engine.trading.account import DAY_MS
from kernels import closing, rehearsal
from kernels.addresses import table_of
from kernels.compile import entry_point
from kernels.records import BAR, FEATURE_COUNT, FEATURES_PER_TIMEFRAME, RECORDS, SLOT_BYTES, TIMEFRAMES, Kind
from kernels.state import STATE_SIZE, new_state

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
        self._memory, self._source = Memory(["BTCUSDT"]), decoder.source(0)
        self._counters, self._latencies = Counters(), Latencies()
        self._records = np.zeros(SCRATCH_SLOTS * SLOT_BYTES // 8, np.uint64)
        self._bars = np.zeros(1, BAR)
        self._bars[0] = (0, 100.0, 100.2, 99.9, 100.1, 10.0, 1_000.0, 5.0, 50.0, 1, 0, 0, 0)
        self._prepare = entry_point(rehearsal.prepare)
        self._copy_panel()
        self._copy_core()

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
            self._latencies.counts, self._latencies.sums, lateness,
        )  # fmt: skip
        self._kept = arrays, slots, header, known, none  # the table does not keep them alive
        self._panel_table = table_of(*arrays, 1, self._sink.panel.deadline_ms, 1, 1)
        self._panel_steps = np.zeros(len(self._panel_table), np.int64)
        for at, step in (
            (closing.STATES, 8 * STATE_SIZE), (closing.ROWS, 8 * FEATURES_PER_TIMEFRAME), (closing.FILLED_ROWS, 1),
            (closing.NEWEST, 8), (closing.STAGED, 8), (closing.NEXT, 8), (closing.READY, 8), (closing.SETTLED, 8),
            (closing.VECTORS, 8 * FEATURE_COUNT), (closing.SERIES, 24), (closing.SAMPLES, 24),
            (closing.LATENESS, lateness.itemsize * lateness.size),
        ):  # fmt: skip
            self._panel_steps[at] = step

    def _copy_core(self) -> None:
        self._signal = np.zeros(1, RECORDS[Kind.SIGNAL])
        self._core_table, self._core_steps = self._sink.core.rehearsal_table(self._latencies, self._signal)

    def on_bar(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        """Take the closed bar of the rehearsed frame: the next minute's is prepared already."""

    def run(self) -> bool:
        """Rehearse the next symbol's next minute; False when something about it is out of the ordinary just now."""
        sink, core, panel = self._sink, self._sink.core, self._sink.panel
        symbol = self._next = (self._next + 1) % len(core.symbols)
        account, now_ms = core.desk.account, core.clock.now_ms()
        if symbol in panel.waiting_for_samples or now_ms - account.day_ms >= DAY_MS or core.journal.full:
            return False
        self._decoder.rehearse(FRAME, self._memory, self._source, cast(Sink, self))
        self._prepare(panel.table, self._panel_table, symbol, self._bars)
        core.journal.touch()
        panel.files[0][symbol].touch()
        kept = (
            panel.table, core.table, core.counters, core.latencies, core.entries_blocked, core.desk.observer,
            account.equity_usdt, account.peak_equity_usdt, core.journal.aside(self._records),
        )  # fmt: skip
        # two symbols' parts lie `steps` apart: the copy of one symbol stands where `symbol`'s part is looked for
        panel.table = self._panel_table - symbol * self._panel_steps
        core.table = self._core_table - symbol * self._core_steps
        core.counters, core.latencies, core.entries_blocked, core.desk.observer = (
            self._counters, self._latencies, lambda symbol: True, None,
        )  # fmt: skip
        try:
            decided = sink.rehearse(symbol, self._bars[0], now_ms, time.monotonic_ns())
        finally:
            core.journal.back(kept[8])
            panel.table, core.table, core.counters, core.latencies, core.entries_blocked, core.desk.observer = kept[:6]
            account.equity_usdt, account.peak_equity_usdt = kept[6:8]
        self.done += decided
        return decided
