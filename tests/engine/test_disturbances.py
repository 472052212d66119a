"""What holds the loop up is counted and timed: garbage collections, compilations, context switches."""

from __future__ import annotations

import gc
import select
import time

import numba

from engine.latency import Latencies
from engine.publish import Collections, Compilations, Switches
from kernels.histogram import COUNT, MAX
from kernels.records import Stage


def test_a_garbage_collection_is_counted_and_timed() -> None:
    latencies = Latencies()
    seen = Collections(latencies)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(seen._note)
    assert seen.count == latencies.sums[Stage.GC_PAUSE][COUNT] >= 1
    assert latencies.sums[Stage.GC_PAUSE][MAX] > 0


def test_a_compilation_is_counted_and_timed() -> None:
    latencies = Latencies()
    seen = Compilations(latencies)
    compiled = numba.njit(lambda x: x + 1)
    assert seen.count == 0
    assert compiled(1) == 2
    assert seen.count >= 1
    assert latencies.sums[Stage.COMPILATION][COUNT] == seen.count
    counted = seen.count
    assert compiled(2) == 3
    assert seen.count == counted


def test_waiting_is_a_voluntary_switch() -> None:
    switches = Switches()
    deadline = time.monotonic() + 60.0
    while switches.since()[0] == 0:
        assert time.monotonic() < deadline
        select.select([], [], [], 0.001)
    assert switches.since()[0] >= 1


def test_stages_are_forgotten_one_by_one_or_all_together() -> None:
    latencies = Latencies()
    for stage in (Stage.STEP, Stage.GC_PAUSE, Stage.COMPILATION):
        latencies.add(stage, 1_000)
    latencies.clear(Stage.GC_PAUSE, Stage.COMPILATION)
    assert [row[0] for row in latencies.rows()] == [Stage.STEP]
    latencies.clear()
    assert latencies.rows() == []
