"""What stands around the core in a backtest: a journal in memory, a model whose answers are known, instruments."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backtest.history import Grid
from engine.scratch import SCRATCH_WORDS, Scratch
from kernels.quiet import MINUTE_MS
from kernels.records import FEATURE_COUNT, INSTRUMENT, RECORDS, Kind

KEPT_KINDS = (Kind.ORDER, Kind.FILL, Kind.POSITION, Kind.TRADE)


class Tape(Scratch):
    """A journal in memory: what the result is made of, and nothing else. No file is opened."""

    def __init__(self, grid: Grid) -> None:
        self.engine_id, self.run_id, self.seq = "bt", 1, 0
        self.full, self.dropped, self.dropping = False, 0, 0
        self.counts = {kind: 0 for kind in Kind}
        self.rows: dict[Kind, list[tuple[Any, ...]]] = {kind: [] for kind in KEPT_KINDS}
        self.sides = np.zeros((len(grid.symbols), grid.minutes), np.int8)
        self.gates = np.zeros((len(grid.symbols), grid.minutes), np.uint64)
        self._first_ms = grid.first_ms
        self.words = np.zeros(SCRATCH_WORDS, np.uint64)
        self._signal = self.words.view(np.uint8)[: RECORDS[Kind.SIGNAL].itemsize].view(RECORDS[Kind.SIGNAL])

    def write(self, kind: Kind, mono_ns: int, time_ms: int, *fields: Any) -> int:
        """Keep what the result needs; seq counts that alone, so that both ways through a backtest name orders alike."""
        if kind not in self.rows:
            return self.seq or 1
        self.rows[kind].append((self.seq + 1, 0, int(kind), 0, 0, time_ms, *fields))
        return self._count(kind)

    def placed(self, kind: Kind) -> int:
        """Keep the side and the gates of a decision; only one that enters takes a seq."""
        if kind is not Kind.SIGNAL:
            return self.seq or 1
        signal = self._signal[0]
        symbol, at = signal["symbol"], (int(signal["decision_ms"]) - self._first_ms) // MINUTE_MS - 1
        self.sides[symbol, at], self.gates[symbol, at] = signal["side"], signal["gates"]
        return self._count(kind) if not signal["gates"] else self.seq or 1

    def _count(self, kind: Kind) -> int:
        self.seq += 1
        self.counts[kind] += 1
        return self.seq

    def flush(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing is open."""

    def table(self, kind: Kind) -> npt.NDArray[Any]:
        """Return the records of one kind."""
        return np.array(self.rows[kind], RECORDS[kind])


class Given:
    """Stands for the model inside the core: its answers were made in one batch; `answer` is the next one."""

    backend = "batch"

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.nan_unseen = np.zeros(FEATURE_COUNT, bool)
        self.nan_unseen[0] = True  # the row's first value is NaN where the real row had an unseen NaN
        self.answer = np.zeros(0)

    def predict_into(self, row: npt.NDArray[np.float32], out: npt.NDArray[np.float64]) -> None:
        """Write the answer of the decision under way."""
        out[:] = self.answer


def instrument_rows(instruments: npt.NDArray[Any] | None, symbols: list[str]) -> npt.NDArray[Any]:
    """Return the instruments in the order of `symbols`; without any, ones that limit nothing."""
    rows = np.zeros(len(symbols), INSTRUMENT)
    if instruments is None:
        rows["symbol"] = [name.encode() for name in symbols]
        rows["tick_size"] = rows["step_size"] = 1e-8
        rows["maintenance_rate"], rows["funding_hours"] = 0.004, 8
        rows["trading"] = rows["perpetual"] = 1
        return rows
    known = {bytes(row["symbol"]).decode(): row for row in instruments}
    absent = [name for name in symbols if name not in known]
    if absent:
        raise ValueError(f"instruments: expected {', '.join(symbols)}, got none for {', '.join(absent)}")
    for at, name in enumerate(symbols):
        rows[at] = known[name]
    return rows
