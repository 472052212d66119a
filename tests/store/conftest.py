"""A store of one test: embedded, below its own folder, closed before the next one opens (one path per process)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kernels.records import BAR, BarFlag
from store.client import Store, connect


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with connect("embedded", tmp_path) as opened:
        yield opened


@pytest.fixture
def make_bars():
    """Return a function making `count` valid 1m bars from `start_ms` on, from a seeded walk."""

    def make(count: int, start_ms: int = 1_700_000_040_000, seed: int = 1) -> np.ndarray:
        rng = np.random.default_rng(seed)
        bars = np.zeros(count, BAR)
        close = 100.0 * np.exp(np.cumsum(rng.normal(0, 1e-3, count)))
        opened = np.concatenate([[100.0], close[:-1]])
        bars["open_ms"] = start_ms + 60_000 * np.arange(count)
        bars["open"], bars["close"] = opened, close
        bars["high"] = np.maximum(opened, close) * (1 + rng.uniform(0, 1e-3, count))
        bars["low"] = np.minimum(opened, close) * (1 - rng.uniform(0, 1e-3, count))
        bars["volume"] = rng.uniform(1, 10, count)
        bars["quote_volume"] = bars["volume"] * close
        bars["taker_volume"] = bars["volume"] * 0.5
        bars["trades"] = rng.integers(1, 100, count)
        bars["last_trade_id"] = np.arange(count)
        bars["flags"] = BarFlag.FILE
        return bars

    return make
