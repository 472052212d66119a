"""What the stage histograms of the running engine cost a kline frame's way to its decision: at most 2 %."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numba
import numpy as np

from benchmarks.path_rig import PathRig
from kernels import histogram

ROUNDS = 3_000
LOOP = 10_000
MOST = 0.02


@numba.njit
def _adds(counts: Any, sums: Any, times: int) -> None:
    for i in range(times):
        histogram.add(counts, sums, i % 4, 3_000 + 37 * (i % 200))


def test_the_stage_histograms_cost_at_most_two_percent_of_the_path(benchmark, tmp_path: Path) -> None:
    """How many values one decision counts, all of them in its kernels, times what one costs in a loop of its own."""
    benchmark.group = "path"
    rig = PathRig(tmp_path, 1)
    rig.quotes()
    latencies, took = rig.core.latencies, []

    def decide() -> None:
        rig.larger_bars()
        frame = rig.closing_frames()[0]
        started = time.perf_counter_ns()
        rig.decoder.feed(frame, started)
        took.append(time.perf_counter_ns() - started)

    def rounds() -> None:
        for _ in range(ROUNDS):
            decide()

    before = latencies.sums[:, histogram.COUNT].sum()
    decide()
    counted = int(latencies.sums[:, histogram.COUNT].sum() - before)
    assert counted >= 6
    benchmark.pedantic(rounds, rounds=1)
    _adds(latencies.counts, latencies.sums, 1)
    loops = []
    for _ in range(20):
        started = time.perf_counter_ns()
        _adds(latencies.counts, latencies.sums, LOOP)
        loops.append((time.perf_counter_ns() - started) / LOOP)
    cost_ns = counted * min(loops)
    shares = {name: cost_ns / float(figure(took)) for name, figure in (("minimum", np.min), ("median", np.median))}
    print(f"{counted} values, {cost_ns:,.0f} ns: {100 * shares['minimum']:.2f} % of the quickest path")
    benchmark.extra_info |= shares
    assert max(shares.values()) <= MOST, shares
