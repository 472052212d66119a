"""Whole paths without the socket: closing kline frame → decision, a mark frame over open positions, minute close."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.path_rig import PathRig
from kernels.stops import POSITION


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> PathRig:
    return PathRig(Path(tmp_path_factory.mktemp("one")), symbols=1)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> PathRig:
    return PathRig(Path(tmp_path_factory.mktemp("many")), symbols=600)


def test_kline_frame_to_decision(benchmark, one: PathRig) -> None:
    one.quotes()

    def setup() -> tuple[tuple[bytes], dict]:
        frame = one.closing_frames()[0]
        one.larger_bars()  # those that close with it come first: its frame completes the vector
        return (frame,), {}

    def run(frame: bytes) -> None:
        one.decoder.feed(frame, time.monotonic_ns())

    before = one.core.counters.signals
    benchmark.pedantic(run, setup=setup, rounds=600)
    assert one.core.counters.signals - before == 600  # a round without a decision would be the minimum
    assert one.core.predictor is not None


def test_minute_close_of_600_symbols(benchmark, many: PathRig) -> None:
    many.quotes()

    def setup() -> tuple[tuple[list[bytes]], dict]:
        frames = many.closing_frames()
        many.larger_bars()
        return (frames,), {}

    def run(frames: list[bytes]) -> None:
        feed = many.decoder.feed
        for frame in frames:
            feed(frame, time.monotonic_ns())

    before = many.core.counters.signals
    benchmark.pedantic(run, setup=setup, rounds=12)
    assert many.core.counters.signals - before == 12 * 600


def test_mark_frame_with_100_positions(benchmark, many: PathRig) -> None:
    """The guard's work on a tick that closes nothing: decode, journal, funding, the stop check of its position."""
    positions = many.core.desk.positions
    for symbol in range(positions.count, 100):
        row = np.zeros(1, POSITION)
        row["symbol"], row["side"], row["qty"], row["position_id"] = symbol, 1, 1.0, 10_000 + symbol
        row["entry_price"], row["tp_price"], row["sl_price"], row["deadline_ms"] = 100.0, 200.0, 50.0, 1 << 60
        positions.open(row, b"bench")
    clock = {"ms": many.now_ms + 1_000_000}

    def setup() -> tuple[tuple[bytes], dict]:
        clock["ms"] += 1_000
        return (
            (
                f'{{"e":"markPriceUpdate","E":{clock["ms"]},"s":"SYM007USDT","p":"100.01","r":"0.0001",'
                f'"T":{clock["ms"] + 3_600_000}}}'.encode(),
            ),
            {},
        )

    benchmark.pedantic(lambda frame: many.decoder.feed(frame, time.monotonic_ns()), setup=setup, rounds=3_000)
    assert many.core.counters.marks >= 3_000
