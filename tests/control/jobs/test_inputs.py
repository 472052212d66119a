"""What jobs read of a symbol's past: larger bars without a hole wherever the 1m bars have none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from control.jobs.inputs import stored_bars
from kernels.bars import build_bars
from kernels.records import BarFlag
from store import writer
from store.client import Store, connect
from tests.market_data import generated_bars

QUARTER_MS = 900_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with connect("embedded", tmp_path) as opened:
        yield opened


def test_a_larger_bar_that_is_not_stored_is_built_of_its_minutes(store: Store) -> None:
    """One missing 15m bar left every feature of 15m undefined for 60 bars (BTCUSDT's regime: 200, for all symbols)."""
    minutes = generated_bars(2_880, 5)
    own = build_bars(minutes, 1)
    own["flags"] = BarFlag.REST
    own["volume"] += 1e-9  # the exchange's own sum, by which a stored bar is known here
    writer.insert_bars(store, "X", 0, minutes, "file")
    writer.insert_bars(store, "X", 1, own[np.r_[0:50, 51 : len(own) - 2]], "rest")
    _, quarters, hours = stored_bars(store, "X", 1 << 42)
    assert hours is None and quarters is not None
    assert (np.diff(quarters["open_ms"]) == QUARTER_MS).all() and len(quarters) == len(own)
    is_built = (quarters["flags"] & BarFlag.BUILT) != 0
    assert np.flatnonzero(is_built).tolist() == [50, len(own) - 2, len(own) - 1]
    np.testing.assert_array_equal(quarters["volume"][~is_built], own["volume"][~is_built])


def test_a_short_series_of_larger_bars_is_completed_to_the_front(store: Store) -> None:
    minutes = generated_bars(2_880, 5)
    own = build_bars(minutes, 1)
    writer.insert_bars(store, "X", 0, minutes, "file")
    writer.insert_bars(store, "X", 1, own[-20:], "rest")
    _, quarters, _ = stored_bars(store, "X", 1 << 42)
    assert quarters is not None and len(quarters) == len(own)
