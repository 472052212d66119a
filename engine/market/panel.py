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

import enum
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.latency import Latencies
from engine.market.lateness import Lateness
from engine.market.samples import CAPACITY, DELAY_MS, FUNDING, MINUTE_MS, OPEN_INTEREST
from engine.market.states import FILLED, Refold, States
from kernels import closing, features
from kernels.addresses import table_of
from kernels.bars import StepCode, bar_fault
from kernels.closing import DEPTH, MARKET_DEPTH
from kernels.compile import entry_point
from kernels.records import BAR, FEATURE_COUNT, TIMEFRAME_MS, TIMEFRAMES

__all__ = ["FUNDING", "OPEN_INTEREST", "Panel", "Refold", "VectorBit"]

MAX_HELD = 128  # bars kept per series while an earlier one is missing
_OI_GRID_MS = 300_000
_QUARTER_MS, _HOUR_MS = TIMEFRAME_MS[1], TIMEFRAME_MS[2]
_VALUES = ("open", "high", "low", "close", "volume", "quote_volume", "taker_volume", "trades")

_OK, _GAP, _NO_BTC = int(StepCode.OK), int(StepCode.GAP), int(StepCode.NO_BTC)  # an enum costs a call on the hot path

_UNUSUAL, _VECTOR, _WAITS, _SEVERAL = closing.UNUSUAL, closing.VECTOR, closing.WAITS, closing.SEVERAL

_BRIEF = struct.Struct("<qQddq")  # closing.BRIEF_DTYPE

OnVector = Callable[[int, int, npt.NDArray[np.float64], int, int], None]


class VectorBit(enum.IntFlag):
    """Why a complete vector may not be traded."""

    LATE = 1  # complete only after the deadline
    INPUT_LATE = 2  # a due open-interest or funding sample had not arrived by the deadline
    NOT_READY = 4  # a feature is not past its first defined bar
    FILLED = 8  # the 1m bar stands for a minute absent at the exchange


_LATE, _INPUT_LATE = int(VectorBit.LATE), int(VectorBit.INPUT_LATE)
_NOT_READY, _IS_FILLED = int(VectorBit.NOT_READY), int(VectorBit.FILLED)


class Panel(States):
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
        super().__init__(folder, symbols, **sizes)
        size, frames = len(self.symbols), range(len(TIMEFRAMES))
        self.on_vector, self.deadline_ms = on_vector, deadline_ms
        self.vectors = np.full((size, FEATURE_COUNT), np.nan)
        self._stage = [np.zeros(size, BAR) for _ in frames]
        self._waiting = [np.zeros(size, np.int64) for _ in frames]  # symbols staged for BTCUSDT's next bar
        self._waiting_count = [0 for _ in frames]
        self._staged = np.full((len(frames), size), -1, np.int64)
        self._staged_open = [opens.data for opens in self._staged]
        self._codes = np.zeros(size, np.uint8)
        self._held: list[list[dict[int, npt.NDArray[Any]]]] = [[{} for _ in symbols] for _ in frames]
        self.waiting_for_samples: set[int] = set()
        self.next_funding_ms = [0] * size
        self._settled = np.zeros(size, np.int64)
        self._settled_ms = self._settled.data
        self.lost_vectors = 0
        self._fault = entry_point(bar_fault)
        self._step = entry_point(features.step)
        self._step_many = entry_point(features.step_many)
        self._complete = entry_point(features.complete)
        self._close_bar = entry_point(closing.close_bar)
        self._vector_rows = list(self.vectors)
        self._brief = np.zeros(1, closing.BRIEF_DTYPE)
        self._brief_memory = self._brief.view(np.uint8).data
        self._bar = np.zeros(1, BAR)
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
            self._held_samples, *self._counted, len(self.symbols), self.deadline_ms, *CAPACITY,
        )  # fmt: skip

    def close_bar(
        self, symbol: int, timeframe: int, bar: Any, now_ms: int, late_ms: int, mono_ns: int, begun_ns: int,
        words: npt.NDArray[np.uint64], at: int, seq: int,
    ) -> int:  # fmt: skip
        """Journal a closed bar at word `at`, and in the ordinary case step it: `kernels.closing`.

        `closed` must follow with the answer, once the journal has taken the record.
        """
        self._bar[0] = bar
        is_btc = symbol == self.btc
        simple = not self._held[timeframe][symbol] and not (is_btc and self._waiting_count[timeframe])
        return self._close_bar(  # type: ignore[no-any-return]
            self.table, symbol, timeframe, now_ms, late_ms, mono_ns, begun_ns, is_btc, simple, self._bar, words, at,
            seq,
        )  # fmt: skip

    def closed(self, outcome: int, symbol: int, timeframe: int, bar: Any, now_ms: int) -> int:
        """Do what `close_bar` has left: decide on its vector, or take an unusual bar. Returns the StepCode."""
        if outcome == _VECTOR:
            if self.waiting_for_samples:
                self.waiting_for_samples.discard(symbol)
            decision_ms, vector_hash, _, _, bits = _BRIEF.unpack_from(self._brief_memory)
            self.on_vector(symbol, decision_ms, self._vector_rows[symbol], vector_hash, bits)
        elif outcome == _UNUSUAL:
            bar["arrived_ms"] = now_ms
            return self.on_bar(symbol, timeframe, bar, now_ms)
        elif outcome == _WAITS:
            self.waiting_for_samples.add(symbol)
        elif outcome == _SEVERAL:
            self._finish(symbol, now_ms)
        return _OK

    def on_sample(self, symbol: int, kind: int, stamp_ms: int, value: float, now_ms: int) -> int:
        """Take an open-interest or funding sample; return the time from which features use it, −1 if it was known.

        In time (by 300 s after its stamp plus the deadline): from stamp + 300 s on. Later: from its arrival on.
        """
        usable_ms = self.insert_sample(symbol, kind, stamp_ms, value, now_ms)
        self.complete_late(symbol, now_ms)
        return usable_ms

    def insert_sample(self, symbol: int, kind: int, stamp_ms: int, value: float, now_ms: int) -> int:
        """Take a sample as `on_sample` does, but leave the vectors that wait for it to `complete_late`."""
        due_ms = stamp_ms // MINUTE_MS * MINUTE_MS + DELAY_MS
        usable_ms = due_ms if now_ms <= due_ms + self.deadline_ms else now_ms
        return usable_ms if self.samples[symbol].insert(kind, stamp_ms, usable_ms, value) else -1

    def complete_late(self, symbol: int, now_ms: int) -> None:
        """Complete the symbol's vectors that waited for a sample."""
        if symbol in self.waiting_for_samples:
            self._finish(symbol, now_ms)

    def on_next_funding(self, symbol: int, next_funding_ms: int) -> None:
        """Tell the next settlement; the one known before it is then settled, and its rate due 300 s later."""
        known = self.next_funding_ms[symbol]
        if next_funding_ms > known:
            self._settled_ms[symbol] = known
            self.next_funding_ms[symbol] = next_funding_ms

    def on_time(self, now_ms: int) -> None:
        """Complete, flagged INPUT_LATE, the vectors whose samples did not arrive by the deadline."""
        for symbol in self.overdue(now_ms):
            self._finish(symbol, now_ms)

    def overdue(self, now_ms: int) -> list[int]:
        """Return the symbols whose vector has waited for a sample up to the deadline, in order."""
        if not self.waiting_for_samples:
            return []
        return sorted(s for s in self.waiting_for_samples if now_ms >= self.next_ms[s] + self.deadline_ms)

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

    def pending_ms(self, symbol: int) -> int:
        """Return the decision time that the symbol's next vector will have (0: none known yet)."""
        return self.next_ms[symbol]

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
        """Step, in one call, the symbols whose bar waited for BTCUSDT's bar of open_ms."""
        count = self._waiting_count[timeframe]
        if not count:
            return
        step_ms, stage, staged = TIMEFRAME_MS[timeframe], self._stage[timeframe], self._staged_open[timeframe]
        waiting = self._waiting[timeframe][:count].tolist()
        due = [s for s in waiting if staged[s] == open_ms]
        for symbol in waiting:
            if staged[symbol] < open_ms:
                staged[symbol] = -1  # BTCUSDT's fold restarted behind that bar: it can never be stepped
        later = [s for s in waiting if staged[s] > open_ms]
        self._waiting[timeframe][: len(due)] = due
        self._step_many(
            self.states[timeframe],
            stage,
            self._waiting[timeframe],
            len(due),
            self.market[timeframe][open_ms // step_ms % MARKET_DEPTH],
            step_ms,
            self.rows[timeframe][open_ms // step_ms % DEPTH],
            self._codes,
        )
        self._waiting[timeframe][: len(later)] = later
        self._waiting_count[timeframe] = len(later)
        codes = self._codes.tolist()
        for symbol in due:
            staged[symbol] = -1
            if codes[symbol] == _OK:
                self._stepped(symbol, timeframe, open_ms, stage[symbol])
        for symbol in due:
            self._finish(symbol, now_ms)
            if self._held[timeframe][symbol]:
                self._drain(symbol, timeframe, now_ms)

    def _drain(self, symbol: int, timeframe: int, now_ms: int) -> None:
        """Step the kept bars that follow the newest one without a hole."""
        held, step_ms = self._held[timeframe][symbol], TIMEFRAME_MS[timeframe]
        while held:
            bar = held.pop(self.newest_open_ms[timeframe][symbol] + step_ms, None)
            if bar is None or self.on_bar(symbol, timeframe, bar[0], now_ms) != _OK:
                return

    def _finish(self, symbol: int, now_ms: int) -> None:
        """Complete the symbol's vectors, in time order, as far as everything due is in."""
        minutes, quarters, hours = self.newest_open_ms
        closed_ms, next_ms = minutes[symbol] + MINUTE_MS, self.next_ms
        if not next_ms[symbol] and minutes[symbol] >= 0:
            next_ms[symbol] = closed_ms
        while 0 < next_ms[symbol] <= closed_ms:
            decision_ms = next_ms[symbol]
            quarter, hour = decision_ms - decision_ms % _QUARTER_MS, decision_ms - decision_ms % _HOUR_MS
            if closed_ms - decision_ms >= DEPTH * MINUTE_MS:
                self.lost_vectors += 1
                next_ms[symbol] += MINUTE_MS
                continue
            if quarters[symbol] + _QUARTER_MS < quarter or hours[symbol] + _HOUR_MS < hour:
                return
            bits = _LATE if now_ms > decision_ms + self.deadline_ms else 0
            if not self._samples_in(symbol, decision_ms):
                if now_ms < decision_ms + self.deadline_ms:
                    self.waiting_for_samples.add(symbol)
                    return
                bits |= _INPUT_LATE
            if decision_ms < self.ready_ms[symbol]:
                bits |= _NOT_READY
            if self.filled[(decision_ms // MINUTE_MS - 1) % DEPTH][symbol]:
                bits |= _IS_FILLED
            self.waiting_for_samples.discard(symbol)
            self._emit(symbol, decision_ms, quarter, hour, bits)

    def _samples_in(self, symbol: int, decision_ms: int) -> bool:
        """Return whether the newest due samples have arrived. A symbol without any open interest owes none."""
        file = self.samples[symbol]
        if file.counts[OPEN_INTEREST]:
            due = (decision_ms - DELAY_MS) // _OI_GRID_MS * _OI_GRID_MS
            if file.newest_ms[OPEN_INTEREST] < due:
                return False
        settled = self._settled_ms[symbol] // MINUTE_MS * MINUTE_MS
        if not settled or settled + DELAY_MS > decision_ms:
            return True
        return file.newest_ms[FUNDING] >= settled

    def _emit(self, symbol: int, decision_ms: int, quarter: int, hour: int, bits: int) -> None:
        file = self.samples[symbol]
        vector_hash = self._complete(
            self.rows[0][(decision_ms // MINUTE_MS - 1) % DEPTH],
            self.rows[1][(quarter // _QUARTER_MS - 1) % DEPTH],
            self.rows[2][(hour // _HOUR_MS - 1) % DEPTH],
            symbol,
            decision_ms,
            file.series[OPEN_INTEREST],
            file.counts[OPEN_INTEREST],
            file.series[FUNDING],
            file.counts[FUNDING],
            self.vectors,
        )
        self.next_ms[symbol] = decision_ms + MINUTE_MS
        self.on_vector(symbol, decision_ms, self._vector_rows[symbol], vector_hash, bits)
