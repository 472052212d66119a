"""The panel: feature states of all symbols and timeframes, live; closed bars and samples in, vectors out.

How the core uses it:

    panel = Panel(config.data_dir / "bars", symbols, on_vector=core.on_vector, warmup_bars=…, deadline_ms=…)
    panel.seed_samples(symbol, OPEN_INTEREST, samples)   # and FUNDING, from the start-up history
    panel.seed()                                         # folds the bar files; once, before the streams open

    code = panel.on_bar(symbol, timeframe, bar, now_ms)  # every closed bar, any order of symbols and timeframes
    usable_ms = panel.on_sample(symbol, kind, stamp_ms, value, now_ms)   # journal it with this usable_ms
    panel.on_next_funding(symbol, next_funding_ms)       # when a mark frame's next funding time has changed
    panel.on_time(now_ms)                                # a timer; about every 100 ms of exchange time

`on_vector(symbol, decision_ms, vector, vector_hash, bits)` is called from inside these, once per symbol and minute, in
time order, as soon as everything due at decision_ms is in: the symbol's 1m bar, the 15m and 1h bars that close at or
last before it, BTCUSDT's bars of the same closes, and the samples due. `vector` is float64[132], borrowed: the row of
`panel.vectors` that the symbol's next vector overwrites. `bits` is a `VectorBit` set: 0 may be traded; every other
vector is stored and flagged. All times are exchange milliseconds.

A bar that comes before BTCUSDT's (NO_BTC) or before its predecessor (GAP) is kept, up to `MAX_HELD` per series, and
stepped when the missing one arrives: repair a gap by passing the bars of `missing()` to `on_bar` in order. A gap that
cannot be repaired that way restarts the fold behind it: `refold(…)` on a history that the helper has repaired.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.latency import Latencies
from engine.market.lateness import Lateness
from engine.market.samples import CAPACITY, FUNDING, MINUTE_MS, OPEN_INTEREST
from engine.market.states import FILLED, Refold
from engine.market.vectors import OnVector, VectorBit, Vectors
from kernels import closing, features
from kernels.addresses import table_of
from kernels.bars import StepCode, bar_fault
from kernels.closing import DEPTH, MARKET_DEPTH
from kernels.compile import entry_point
from kernels.records import BAR, TIMEFRAME_MS, TIMEFRAMES

__all__ = ["FUNDING", "OPEN_INTEREST", "Panel", "Refold", "VectorBit"]

MAX_HELD = 128  # bars kept per series while an earlier one is missing
_VALUES = ("open", "high", "low", "close", "volume", "quote_volume", "taker_volume", "trades")

_OK, _GAP, _NO_BTC = int(StepCode.OK), int(StepCode.GAP), int(StepCode.NO_BTC)  # an enum costs a call on the hot path

_UNUSUAL, _WAITS, _SEVERAL = closing.UNUSUAL, closing.WAITS, closing.SEVERAL

StepReleased = Callable[[int, int, Any, int, int], int]  # symbol, timeframe, BAR record, its address, now_ms → StepCode
_BRIEF = struct.Struct("<qQddq")  # closing.BRIEF_DTYPE


class Panel(Vectors):
    """The live door; see the module. Symbols are indices 0…n−1. Not thread-safe: the engine's loop owns it.

    `sizes` are the keyword arguments of `States`: btc_symbol, warmup_bars, btc_warmup_bars, ring_bars, btc_ring_bars.
    """

    def __init__(
        self,
        folder: Path,
        symbols: Sequence[str],
        on_vector: OnVector,
        *,
        deadline_ms: int = 2_500,
        **sizes: Any,
    ) -> None:
        super().__init__(folder, symbols, on_vector, deadline_ms, **sizes)
        size, frames = len(self.symbols), range(len(TIMEFRAMES))
        self._stage = [np.zeros(size, BAR) for _ in frames]
        self._waiting = [np.zeros(size, np.int64) for _ in frames]  # symbols staged for BTCUSDT's next bar
        self._waiting_count = [0 for _ in frames]
        self._staged = np.full((len(frames), size), -1, np.int64)
        self._staged_open = [opens.data for opens in self._staged]
        self._stage_at = [stage.ctypes.data for stage in self._stage]
        self.step_released: StepReleased | None = None  # steps and decides in one call: `engine.sink`
        self._held: list[list[dict[int, npt.NDArray[Any]]]] = [[{} for _ in symbols] for _ in frames]
        self._fault = entry_point(bar_fault)
        self._step = entry_point(features.step)
        self._brief = np.zeros(1, closing.BRIEF_DTYPE)
        self._brief_memory = self._brief.view(np.uint8).data
        self.connect(Latencies(), Lateness(size))

    def seed(self) -> None:
        """Fold every series from its bar file; once, before the first call of `on_bar`."""
        for symbol, timeframe, bars in self.fold_files():
            for bar in bars:
                self.on_bar(symbol, timeframe, bar, int(bar["open_ms"]) + TIMEFRAME_MS[timeframe])

    # --- live ---

    def on_bar(self, symbol: int, timeframe: int, bar: Any, now_ms: int) -> int:
        """Take one closed bar (a BAR record). Returns the StepCode: OK stepped, NO_BTC and GAP kept for later.

        DUPLICATE, REVISION (other values; the first version stays) and OUT_OF_ORDER change nothing; MISALIGNED and
        BAD_… are refused: `refusal` words the fault. `now_ms` is the exchange time of arrival.
        """
        open_ms, step_ms = int(bar["open_ms"]), TIMEFRAME_MS[timeframe]
        newest = self.newest_open_ms[timeframe][symbol]
        if open_ms <= newest:
            return self._again(symbol, timeframe, bar, open_ms)
        held = self._held[timeframe][symbol]
        if newest >= 0 and open_ms > newest + step_ms:
            waits = self._staged_open[timeframe][symbol] == open_ms - step_ms or open_ms - step_ms in held
            return self._hold(held, step_ms, bar, _NO_BTC if waits else _GAP)
        if self._staged_open[timeframe][symbol] == open_ms:
            return int(StepCode.DUPLICATE)
        self._stage[timeframe][symbol] = bar
        if symbol == self.btc:
            code = self._step_btc(timeframe, open_ms)
            if code == _OK:
                self._release(timeframe, open_ms, now_ms)
        else:
            slot = open_ms // step_ms % MARKET_DEPTH
            if self.market_open_ms[timeframe][slot] != open_ms:
                return self._wait(symbol, timeframe, open_ms)
            code = self._step_one(symbol, timeframe, open_ms, slot)
        if code == _OK:
            self._finish(symbol, now_ms)
            if held:
                self._drain(symbol, timeframe, now_ms)
        return code

    def connect(self, latencies: Latencies, lateness: Lateness) -> None:
        """Count what closed bars take, and how late they come, in these from now on."""
        frames, symbols = range(len(TIMEFRAMES)), range(len(self.symbols))
        series = [[table_of(f.slots, f.capacity, f.words) for f in self.files[t]] for t in frames]
        samples = [table_of(*self.samples[s].series, self.samples[s].known) for s in symbols]
        self._series, self._held_samples = np.array(series), np.array(samples)
        self._counted = latencies.counts, latencies.sums, lateness.counts  # the table does not keep them alive
        self.table = table_of(
            self.all_states, self.all_rows, self.all_market, self.market_opens, self.filled_table, self.newest,
            self._staged, self.next_decision, self.ready, self._settled, self.vectors, self._brief, self._series,
            self._held_samples, self.first, *self._counted, len(self.symbols), self.deadline_ms, *CAPACITY,
        )  # fmt: skip

    def simple(self, symbol: int, timeframe: int) -> bool:
        """Whether `kernels.closing` may step the next bar of a series: nothing waits for it."""
        return not self._held[timeframe][symbol] and not (symbol == self.btc and self._waiting_count[timeframe])

    def completed(self, symbol: int) -> tuple[int, int, float, float, int]:
        """Return decision time, hash, close, ATR and bits of the vector that `kernels.closing` has just completed."""
        if self.waiting_for_samples:
            self.waiting_for_samples.discard(symbol)
        return _BRIEF.unpack_from(self._brief_memory)  # type: ignore[return-value]

    def closed(self, outcome: int, symbol: int, timeframe: int, bar: Any, now_ms: int) -> int:
        """Do what `kernels.closing` has left of a bar that completed no vector at once. Returns the StepCode."""
        if outcome == _UNUSUAL:
            bar["arrived_ms"] = now_ms
            return self.on_bar(symbol, timeframe, bar, now_ms)
        if outcome == _WAITS:
            self.waiting_for_samples.add(symbol)
        elif outcome == _SEVERAL:
            self._finish(symbol, now_ms)
        return _OK

    # --- questions ---

    def missing(self, symbol: int, timeframe: int) -> tuple[int, int]:
        """Return the open times (first, last) of the bars that keep a series waiting, or (−1, −1)."""
        held, newest = self._held[timeframe][symbol], self.newest_open_ms[timeframe][symbol]
        if not held or newest < 0:
            return -1, -1
        first, last = newest + TIMEFRAME_MS[timeframe], min(held) - TIMEFRAME_MS[timeframe]
        return (first, last) if first <= last and self._staged_open[timeframe][symbol] < 0 else (-1, -1)

    def waiting_for_btc(self, timeframe: int) -> int:
        """Return how many symbols have a bar that waits for BTCUSDT's."""
        return self._waiting_count[timeframe]

    @staticmethod
    def refusal(code: int, bar: Any) -> str:
        """Return the field and the value that a BAD_… or MISALIGNED code refuses."""
        name = StepCode(code).name
        fields = ["open_ms"] if name == "MISALIGNED" else [f for f in _VALUES if f.split("_")[-1] in name.lower()]
        return f"{name}: " + ", ".join(f"{field}={bar[field]}" for field in fields or _VALUES)

    # --- repaired history ---

    def swap(self, refold: Refold, now_ms: int) -> None:
        """Put a finished refold in place: rewrite the bar file, step what came in the meantime, complete vectors."""
        symbol, timeframe = refold.symbol, refold.timeframe
        file = self.files[timeframe][symbol]
        live = file.ordered()
        last = int(refold.bars["open_ms"][-1]) if len(refold.bars) else -1
        newer = live[live["open_ms"] > last]
        file.rewrite(refold.bars)
        self.install(refold)
        self._staged_open[timeframe][symbol] = -1
        self._forget_waiting(symbol, timeframe)
        held = self._held[timeframe][symbol]
        for open_ms in [x for x in held if x <= last]:
            del held[open_ms]
        for bar in newer:
            held.setdefault(int(bar["open_ms"]), np.array([bar], BAR))
        if symbol == self.btc:
            step_ms = TIMEFRAME_MS[timeframe]
            for open_ms in sorted({x for x in self._staged_open[timeframe] if x >= 0}):
                if self.market_open_ms[timeframe][open_ms // step_ms % MARKET_DEPTH] == open_ms:
                    self._release(timeframe, open_ms, now_ms)
        self._drain(symbol, timeframe, now_ms)
        self._finish(symbol, now_ms)

    # --- inside ---

    def _again(self, symbol: int, timeframe: int, bar: Any, open_ms: int) -> int:
        file = self.files[timeframe][symbol]
        back = (file.last_open_ms - open_ms) // file.step_ms
        if back >= min(file.count, file.capacity):
            return int(StepCode.OUT_OF_ORDER)
        known = file.slots[(file.count - 1 - back) % file.capacity]
        if known["open_ms"] != open_ms:
            return int(StepCode.OUT_OF_ORDER)
        same = all(
            known[name] == bar[name] or (known[name] != known[name] and bar[name] != bar[name]) for name in _VALUES
        )
        return int(StepCode.DUPLICATE if same else StepCode.REVISION)

    def _hold(self, held: dict[int, npt.NDArray[Any]], step_ms: int, bar: Any, code: int) -> int:
        kept = np.array([bar], BAR)
        open_ms = int(kept["open_ms"][0])
        if open_ms in held:
            return int(StepCode.DUPLICATE)
        fault: int = self._fault(kept, 0, step_ms)
        if fault == _OK and len(held) < MAX_HELD:
            held[open_ms] = kept
        return fault or code

    def _wait(self, symbol: int, timeframe: int, open_ms: int) -> int:
        fault: int = self._fault(self._stage[timeframe], symbol, TIMEFRAME_MS[timeframe])
        if fault:
            return fault
        self._staged_open[timeframe][symbol] = open_ms
        self._waiting[timeframe][self._waiting_count[timeframe]] = symbol
        self._waiting_count[timeframe] += 1
        return _NO_BTC

    def _forget_waiting(self, symbol: int, timeframe: int) -> None:
        count = self._waiting_count[timeframe]
        kept = [s for s in self._waiting[timeframe][:count] if s != symbol]
        self._waiting[timeframe][: len(kept)] = kept
        self._waiting_count[timeframe] = len(kept)

    def _step_btc(self, timeframe: int, open_ms: int) -> int:
        step_ms, symbol = TIMEFRAME_MS[timeframe], self.btc
        slot = open_ms // step_ms % MARKET_DEPTH
        code = self._step_one(symbol, timeframe, open_ms, slot)
        if code == _OK:
            row = self.rows[timeframe][open_ms // step_ms % DEPTH][symbol]
            market = self.market[timeframe][slot]
            market[0], market[1], market[2] = row[4], row[3], row[40]
            self.market_open_ms[timeframe][slot] = open_ms
        return code

    def _step_one(self, symbol: int, timeframe: int, open_ms: int, slot: int) -> int:
        step_ms, stage = TIMEFRAME_MS[timeframe], self._stage[timeframe]
        code: int = self._step(
            self.states[timeframe],
            symbol,
            stage,
            symbol,
            self.market[timeframe][slot],
            symbol == self.btc,
            step_ms,
            self.rows[timeframe][open_ms // step_ms % DEPTH],
        )
        if code == _OK:
            self._stepped(symbol, timeframe, open_ms, stage[symbol])
        return code

    def _stepped(self, symbol: int, timeframe: int, open_ms: int, bar: Any) -> None:
        self.files[timeframe][symbol].append(bar)
        self.newest_open_ms[timeframe][symbol] = open_ms
        if self.first_open_ms[timeframe][symbol] < 0:
            self.begin(symbol, timeframe, open_ms)
        if timeframe == 0:
            self.filled[open_ms // MINUTE_MS % DEPTH][symbol] = bool(int(bar["flags"]) & FILLED)

    def _release(self, timeframe: int, open_ms: int, now_ms: int) -> None:
        """Step the symbols whose bar waited for BTCUSDT's bar of open_ms."""
        count = self._waiting_count[timeframe]
        if not count:
            return
        staged = self._staged_open[timeframe]
        waiting = self._waiting[timeframe][:count].tolist()
        due = [s for s in waiting if staged[s] == open_ms]
        for symbol in waiting:
            if staged[symbol] < open_ms:
                staged[symbol] = -1  # BTCUSDT's fold restarted behind that bar: it can never be stepped
        later = [s for s in waiting if staged[s] > open_ms]
        self._waiting[timeframe][: len(later)] = later
        self._waiting_count[timeframe] = len(later)
        for symbol in due:
            staged[symbol] = -1
            if self._step_waiting(symbol, timeframe, open_ms, now_ms) == _OK and self._held[timeframe][symbol]:
                self._drain(symbol, timeframe, now_ms)

    def _step_waiting(self, symbol: int, timeframe: int, open_ms: int, now_ms: int) -> int:
        if self.step_released is not None:
            bar = self._stage[timeframe][symbol]
            return self.step_released(symbol, timeframe, bar, self._stage_at[timeframe] + symbol * BAR.itemsize, now_ms)
        slot = open_ms // TIMEFRAME_MS[timeframe] % MARKET_DEPTH
        code = self._step_one(symbol, timeframe, open_ms, slot)
        if code == _OK:
            self._finish(symbol, now_ms)
        return code

    def _drain(self, symbol: int, timeframe: int, now_ms: int) -> None:
        """Step the kept bars that follow the newest one without a hole."""
        held, step_ms = self._held[timeframe][symbol], TIMEFRAME_MS[timeframe]
        while held:
            bar = held.pop(self.newest_open_ms[timeframe][symbol] + step_ms, None)
            if bar is None or self.on_bar(symbol, timeframe, bar[0], now_ms) != _OK:
                return
