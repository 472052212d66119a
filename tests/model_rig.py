"""A small random problem with a bundle trained on it, shared by the model tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.model.bundle import write_bundle
from engine.model.dataset import Dataset, SymbolData, build
from engine.model.labels import label
from engine.model.train import TrainSettings, describe, train
from kernels.records import BAR
from kernels.schema import FEATURES

MINUTE_MS = 60_000
START_MS = 1_699_999_980_000
NOW_MS = 1_764_000_000_000


def random_bars(seed: int, minutes: int) -> np.ndarray:
    """A random walk from 100."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, minutes)))
    bars = np.zeros(minutes, BAR)
    bars["open_ms"] = START_MS + MINUTE_MS * np.arange(minutes)
    bars["close"], bars["open"] = close, np.concatenate([[100.0], close[:-1]])
    bars["high"] = np.maximum(bars["open"], close) * 1.0004
    bars["low"] = np.minimum(bars["open"], close) * 0.9996
    return bars


def random_part(seed: int, symbol: str, minutes: int = 3_000) -> SymbolData:
    """A random walk with vectors that know a little of it; NaN in every fifth feature."""
    bars = random_bars(seed, minutes)
    rng = np.random.default_rng(seed)
    labels = label(bars, bars["close"] * 0.004)
    vectors = rng.normal(size=(minutes, len(FEATURES)))
    vectors[: len(labels.long), 3] += 300 * labels.long["net_return"]
    vectors[:, 7] = np.round(vectors[:, 7])  # a feature with exact zeros
    vectors[:, ::5][rng.random(vectors[:, ::5].shape) < 0.1] = np.nan
    return SymbolData(symbol, bars["open_ms"] + MINUTE_MS, vectors, labels.long, labels.short)


@dataclass(frozen=True)
class Trained:
    data: Dataset
    boosters: dict[str, Any]
    settings: TrainSettings
    bundle: Path


SMALL = TrainSettings(rounds=12, threads=1, min_sum_hessian_in_leaf=0.5, extra={"min_data_in_leaf": 5})


def make_trained(folder: Path) -> Trained:
    """Train the small bundle below `folder`."""
    data = build([random_part(1, "BTCUSDT"), random_part(2, "ETHUSDT")])
    boosters = train(data, settings=SMALL)
    return Trained(data, boosters, SMALL, write_bundle(folder, boosters, data, describe(SMALL), NOW_MS))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("bundles"))
