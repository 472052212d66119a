"""Latency histograms, allocated at start, one per stage. Kernels add to `counts` and `sums` by themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from kernels import histogram
from kernels.compile import entry_point
from kernels.histogram import BUCKETS, COUNT, MAX, SUB_BITS, SUM
from kernels.records import Stage


class Latencies:
    """One histogram per stage: values ≥ 0 (nanoseconds, or milliseconds × 10⁶ for lateness).

    counts int64[stages, BUCKETS]; sums int64[stages, 3]: number, sum and largest value. `add(stage, value_ns)` counts
    one value of a `Stage`; a negative one (a clock that stepped) counts as 0.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((len(Stage), BUCKETS), np.int64)
        self.sums = np.zeros((len(Stage), 3), np.int64)
        self.add = partial(entry_point(histogram.add_at), self.counts.ctypes.data, self.sums.ctypes.data)

    def merge(self, other: Latencies) -> None:
        """Add another set's values to this one."""
        self.counts += other.counts
        self.sums[:, COUNT] += other.sums[:, COUNT]
        self.sums[:, SUM] += other.sums[:, SUM]
        np.maximum(self.sums[:, MAX], other.sums[:, MAX], out=self.sums[:, MAX])

    def clear(self, *stages: int) -> None:
        """Forget these stages; all of them when none is named."""
        rows: Any = list(stages) if stages else slice(None)
        self.counts[rows] = 0
        self.sums[rows] = 0

    def percentile(self, stage: int, fraction: float) -> int:
        """Return the upper edge of the bucket that holds the quantile, never above the maximum; 0 when empty."""
        number, _, largest = self.sums[stage].tolist()
        if not number:
            return 0
        bucket = int(np.searchsorted(np.cumsum(self.counts[stage]), fraction * number))
        return min(_upper_edge(bucket), largest)

    def rows(self) -> list[tuple[int, int, int, int, int, int, int]]:
        """Return (stage, count, p50, p99, p99.9, max, sum) of each stage with values."""
        out = []
        for stage in np.flatnonzero(self.sums[:, COUNT]).tolist():
            number, total, largest = self.sums[stage].tolist()
            p50, p99, p999 = (self.percentile(stage, fraction) for fraction in (0.5, 0.99, 0.999))
            out.append((stage, number, p50, p99, p999, largest, total))
        return out


def _upper_edge(bucket: int) -> int:
    if bucket < 8:
        return bucket
    shift = (bucket >> SUB_BITS) - 1
    return ((8 + (bucket & 7) + 1) << shift) - 1
