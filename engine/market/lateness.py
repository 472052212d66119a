"""How late closed bars arrive: one histogram per symbol and timeframe, in exchange milliseconds after the close."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.records import TIMEFRAMES

EDGES_MS: tuple[int, ...] = (25, 50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 2_500, 5_000, 10_000, 30_000, 60_000)
"""Upper edges, inclusive; the last bucket holds everything later. 2,500 is the default deadline of a decision."""

BUCKETS = len(EDGES_MS) + 1


class Lateness:
    """Counts, allocated at start."""

    def __init__(self, symbols: int) -> None:
        self._counts = [0] * (symbols * len(TIMEFRAMES) * BUCKETS)
        self._symbols = symbols

    def add(self, symbol: int, timeframe: int, late_ms: int) -> None:
        """Count one closed bar."""
        self._counts[(symbol * len(TIMEFRAMES) + timeframe) * BUCKETS + bisect_left(EDGES_MS, late_ms)] += 1

    def table(self) -> npt.NDArray[np.int64]:
        """Return a copy of the counts, int64[symbols, timeframes, BUCKETS]."""
        return np.array(self._counts, np.int64).reshape(self._symbols, len(TIMEFRAMES), BUCKETS)

    def worst(self, symbols: tuple[str, ...], timeframe: int, limit: int = 10) -> list[dict[str, Any]]:
        """Return the symbols with the largest share of bars later than the default deadline, worst first."""
        table = self.table()[:, timeframe]
        total, late = table.sum(axis=1), table[:, EDGES_MS.index(2_500) + 1 :].sum(axis=1)
        order = np.argsort(-late / np.maximum(total, 1), kind="stable")[:limit]
        return [{"symbol": symbols[i], "bars": int(total[i]), "late": int(late[i])} for i in order if late[i]]
