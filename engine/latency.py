"""Latency histograms: logarithmic buckets, allocated at start, one per stage; a value costs a shift and an addition."""

from __future__ import annotations

from kernels.records import Stage

SUB_BITS = 3  # 8 buckets per power of two: a percentile is at most 12.5 % too high
BUCKETS = 64 << SUB_BITS


class Histogram:
    """Counts of values ≥ 0 (nanoseconds, or milliseconds × 10⁶ for lateness)."""

    __slots__ = ("count", "counts", "max_ns", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        for i in range(BUCKETS):
            self.counts[i] = 0
        self.count = self.sum_ns = self.max_ns = 0

    def add(self, value_ns: int) -> None:
        """Count one value; a negative one (a clock that stepped) counts as 0."""
        if value_ns < 8:
            bucket = value_ns if value_ns > 0 else 0
        else:
            shift = value_ns.bit_length() - 4
            bucket = ((shift + 1) << SUB_BITS) | ((value_ns >> shift) & 7)
        self.counts[bucket] += 1
        self.count += 1
        self.sum_ns += value_ns
        if value_ns > self.max_ns:
            self.max_ns = value_ns

    def percentile(self, fraction: float) -> int:
        """Return the upper edge of the bucket that holds the quantile, never above the maximum; 0 when empty."""
        wanted = fraction * self.count
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return min(_upper_edge(bucket), self.max_ns)
        return 0


def _upper_edge(bucket: int) -> int:
    if bucket < 8:
        return bucket
    shift = (bucket >> SUB_BITS) - 1
    return ((8 + (bucket & 7) + 1) << shift) - 1


class Latencies:
    """One histogram per stage."""

    def __init__(self) -> None:
        self.stages = [Histogram() for _ in Stage]

    def add(self, stage: Stage, value_ns: int) -> None:
        """Count one value of `stage`."""
        self.stages[stage].add(value_ns)

    def merge(self, other: Latencies) -> None:
        """Add another set's values to this one."""
        for mine, theirs in zip(self.stages, other.stages, strict=True):
            if theirs.count:
                mine.counts[:] = [a + b for a, b in zip(mine.counts, theirs.counts, strict=True)]
                mine.count += theirs.count
                mine.sum_ns += theirs.sum_ns
                mine.max_ns = max(mine.max_ns, theirs.max_ns)

    def clear(self) -> None:
        """Forget everything."""
        for stage in self.stages:
            if stage.count:
                stage.clear()

    def rows(self) -> list[tuple[int, int, int, int, int, int, int]]:
        """Return (stage, count, p50, p99, p99.9, max, sum) of each stage with values."""
        return [
            (stage, h.count, h.percentile(0.5), h.percentile(0.99), h.percentile(0.999), h.max_ns, h.sum_ns)
            for stage, h in enumerate(self.stages)
            if h.count
        ]
