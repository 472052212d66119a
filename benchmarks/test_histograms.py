"""What the stage histograms of the running engine cost a kline frame's way to its decision: at most 2 %."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np

from benchmarks.path_rig import PathRig
from engine.latency import Latencies
from kernels import histogram

ROUNDS = 3_000
LOOP = 10_000
MOST = 0.02


def _nothing(latencies: Latencies | None, stage: int, value_ns: int) -> None:
    """Count nothing."""


@numba.njit
def _adds(counts: Any, sums: Any, times: int) -> None:
    for i in range(times):
        histogram.add(counts, sums, i % 4, 3_000 + 37 * (i % 200))


def test_the_stage_histograms_cost_at_most_two_percent_of_the_path(benchmark, tmp_path: Path) -> None:
    """Rounds with and without what Python counts are interleaved; what kernels count is timed in a loop of its own."""
    benchmark.group = "path"
    rig = PathRig(tmp_path, 1)
    rig.quotes()
    counted, silent = rig.core.latencies, Latencies()
    silent.counts, silent.sums = counted.counts, counted.sums  # for the kernels: Python's way to them is the copy's
    silent.add = partial(_nothing, None)  # type: ignore[assignment]
    took: dict[bool, list[int]] = {True: [], False: []}

    def decide(counting: bool) -> None:
        rig.larger_bars()
        frame = rig.closing_frames()[0]
        rig.core.latencies = counted if counting else silent
        started = time.perf_counter_ns()
        rig.decoder.feed(frame, started)
        took[counting].append(time.perf_counter_ns() - started)

    def rounds() -> None:
        for turn in range(ROUNDS):
            decide(turn % 2 == 0)

    before = counted.sums[:, histogram.COUNT].sum()
    decide(False)
    in_kernels = int(counted.sums[:, histogram.COUNT].sum() - before)
    benchmark.pedantic(rounds, rounds=1)
    _adds(counted.counts, counted.sums, 1)
    loops = []
    for _ in range(20):
        started = time.perf_counter_ns()
        _adds(counted.counts, counted.sums, LOOP)
        loops.append((time.perf_counter_ns() - started) / LOOP)
    kernel_ns = in_kernels * min(loops)
    shares = {}
    for name, figure in (("minimum", np.min), ("median", np.median)):
        path_ns = float(figure(took[True]))
        python_ns = path_ns - float(figure(took[False]))
        shares[name] = (python_ns + kernel_ns) / path_ns
        print(
            f"{name}: path {path_ns:,.0f} ns, histograms {python_ns:,.0f} ns in Python and "
            f"{kernel_ns:,.0f} ns for {in_kernels} in kernels: {100 * shares[name]:.2f} %"
        )
    benchmark.extra_info |= shares
    assert min(shares.values()) <= MOST, shares
