"""Bit equality: live step by step, the call for all symbols, and the fold are the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import features, schema
from kernels.features import StepCode
from kernels.records import TIMEFRAME_MS
from tests import market_data


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(np.ascontiguousarray(a).view(np.uint64), np.ascontiguousarray(b).view(np.uint64))


@pytest.mark.parametrize("timeframe", [0, 1, 2])
def test_live_steps_equal_the_fold(timeframe: int) -> None:
    bars = market_data.generated_bars(2_500, 1, timeframe=timeframe)
    btc = market_data.generated_bars(2_500, 2, 60_000.0, timeframe)
    folded, codes = features.fold(bars, timeframe, btc)
    btc_folded, _ = features.fold(btc, timeframe)
    state, btc_state = features.new_state(1), features.new_state(1)
    row, btc_row, step_ms = np.empty((1, 44)), np.empty((1, 44)), TIMEFRAME_MS[timeframe]
    for at in range(len(bars)):
        assert features.step(btc_state, 0, btc, at, np.full(3, np.nan), True, step_ms, btc_row) == StepCode.OK
        market = btc_row[0, [4, 3, 40]]
        assert features.step(state, 0, bars, at, market, False, step_ms, row) == StepCode.OK
        assert same_bits(row[0], folded[at]), at
        assert same_bits(btc_row[0], btc_folded[at]), at
    assert not codes.any()


def test_first_defined_bar_of_every_feature() -> None:
    bars = market_data.generated_bars(600, 3)
    btc = market_data.generated_bars(600, 4)
    oi = market_data.generated_samples(400, 5, 300_000, market_data.START_MS - 80_000_000)
    funding = market_data.generated_samples(40, 6, 28_800_000, market_data.START_MS - 39 * 28_800_000, 1e-4)
    rows, _ = features.fold(bars, 0, btc, oi, funding)
    for k, feature in enumerate(schema.SCHEMA):
        first = int(np.argmax(np.isfinite(rows[:, k])))
        assert np.isfinite(rows[first, k]), feature.name
        assert first == feature.first_bar, feature.name
