"""When a symbol's next vector is complete: the bars and samples due at its minute; made, flagged and handed on."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.market.samples import DELAY_MS, FUNDING, MINUTE_MS, OPEN_INTEREST
from engine.market.states import States
from kernels import features
from kernels.closing import DEPTH
from kernels.compile import entry_point
from kernels.records import FEATURE_COUNT, TIMEFRAME_MS

_OI_GRID_MS = 300_000
_QUARTER_MS, _HOUR_MS = TIMEFRAME_MS[1], TIMEFRAME_MS[2]

_KEPT_MS = [(DEPTH - 1) * MINUTE_MS, (DEPTH - 2) * _QUARTER_MS, (DEPTH - 2) * _HOUR_MS]

OnVector = Callable[[int, int, npt.NDArray[np.float64], int, int], None]
OnLost = Callable[[int, int, int], None]  # symbol, first and last decision time


class VectorBit(enum.IntFlag):
    """Why a complete vector may not be traded."""

    LATE = 1  # complete only after the deadline
    INPUT_LATE = 2  # a due open-interest or funding sample had not arrived by the deadline
    NOT_READY = 4  # a feature is not past its first defined bar
    FILLED = 8  # the 1m bar stands for a minute absent at the exchange


_LATE, _INPUT_LATE = int(VectorBit.LATE), int(VectorBit.INPUT_LATE)
_NOT_READY, _IS_FILLED = int(VectorBit.NOT_READY), int(VectorBit.FILLED)


class Vectors(States):
    """What `Panel` calls when a bar has been stepped, and the engine when a sample or a deadline has come.

    `lost` counts, by symbol, those whose rows were overwritten before everything due was in; `on_lost` is told.
    """

    def __init__(
        self, folder: Path, symbols: Sequence[str], on_vector: OnVector, deadline_ms: int, **sizes: Any
    ) -> None:
        super().__init__(folder, symbols, **sizes)
        size = len(self.symbols)
        self.on_vector, self.deadline_ms = on_vector, deadline_ms
        self.vectors = np.full((size, FEATURE_COUNT), np.nan)
        self.waiting_for_samples: set[int] = set()
        self.next_funding_ms = [0] * size
        self.lost = [0] * size
        self.on_lost: OnLost = lambda symbol, first_ms, last_ms: None
        self._settled = np.zeros(size, np.int64)
        self._settled_ms = self._settled.data
        self._vector_rows = list(self.vectors)
        self._complete = entry_point(features.complete)

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

    @property
    def lost_vectors(self) -> int:
        """Return how many vectors were lost, of all symbols."""
        return sum(self.lost)

    def decisions(self) -> dict[str, dict[str, int]]:
        """Return by symbol what became of the decisions due: times of the first and the next, how many were lost.

        `closed_ms` is the newest 1m bar's close, 0 before the first; all times in exchange ms, 0: none due yet.
        """
        return {
            name: {
                "first_ms": self.first_due_ms[s],
                "next_ms": self.next_ms[s],
                "closed_ms": self.newest_open_ms[0][s] + MINUTE_MS if self.next_ms[s] else 0,
                "lost": self.lost[s],
            }
            for s, name in enumerate(self.symbols)
        }

    def _finish(self, symbol: int, now_ms: int) -> None:
        """Complete the symbol's vectors, in time order, as far as everything due is in."""
        minutes, quarters, hours = self.newest_open_ms
        closed_ms, next_ms = minutes[symbol] + MINUTE_MS, self.next_ms
        if not next_ms[symbol] and minutes[symbol] >= 0:
            next_ms[symbol] = self.first_due_ms[symbol] = closed_ms
        while 0 < next_ms[symbol] <= closed_ms:
            decision_ms = next_ms[symbol]
            quarter, hour = decision_ms - decision_ms % _QUARTER_MS, decision_ms - decision_ms % _HOUR_MS
            kept_ms = self._kept_from(symbol, closed_ms)
            if decision_ms < kept_ms:
                self.lost[symbol] += (kept_ms - decision_ms) // MINUTE_MS
                next_ms[symbol] = kept_ms
                self.on_lost(symbol, decision_ms, kept_ms - MINUTE_MS)
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

    def _kept_from(self, symbol: int, closed_ms: int) -> int:
        """Return the earliest decision time for which no row is overwritten."""
        _, quarters, hours = self.newest_open_ms
        minutes_ms, quarters_ms, hours_ms = _KEPT_MS
        return max(closed_ms - minutes_ms, quarters[symbol] - quarters_ms, hours[symbol] - hours_ms)

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
