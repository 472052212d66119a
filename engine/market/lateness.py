"""How late closed bars arrive: one histogram per symbol and timeframe, in exchange milliseconds after the close."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.closing import LATE_BUCKETS as BUCKETS
from kernels.closing import LATE_EDGES_MS as EDGES_MS
from kernels.closing import count_late
from kernels.records import TIMEFRAMES

__all__ = ["BUCKETS", "EDGES_MS", "Lateness"]


class Lateness:
    """Counts, allocated at start: int64[symbols, timeframes, BUCKETS], to which `kernels.closing` adds.

    The edges are inclusive, the last bucket holds everything later; 2,500 is the default deadline of a decision.
    """

    def __init__(self, symbols: int) -> None:
        self.counts = np.zeros((symbols, len(TIMEFRAMES), BUCKETS), np.int64)

    def add(self, symbol: int, timeframe: int, late_ms: int) -> None:
        """Count one closed bar."""
        count_late(self.counts, symbol, timeframe, late_ms)

    def table(self) -> npt.NDArray[np.int64]:
        """Return a copy of the counts."""
        return self.counts.copy()

    def worst(self, symbols: tuple[str, ...], timeframe: int, limit: int = 10) -> list[dict[str, Any]]:
        """Return the symbols with the largest share of bars later than the default deadline, worst first."""
        table = self.table()[:, timeframe]
        total, late = table.sum(axis=1), table[:, EDGES_MS.index(2_500) + 1 :].sum(axis=1)
        order = np.argsort(-late / np.maximum(total, 1), kind="stable")[:limit]
        return [{"symbol": symbols[i], "bars": int(total[i]), "late": int(late[i])} for i in order if late[i]]
