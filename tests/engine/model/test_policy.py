"""The policy on labels and the bootstrap, on cases worked out by hand."""

import numpy as np
import pytest

from engine.model.dataset import Dataset
from engine.model.evaluate import calibration, drift, pinball, training_bins
from engine.model.policy import DAY_MS, MINUTE_MS, PolicySettings, bootstrap, daily, sides, trade
from kernels.schema import FEATURES

GOOD = np.array([0.002, 0.001, -0.01, -0.01, 0.002, 0.002, 60.0, 60.0])


def rows(n: int, hold: float = 10.0, reach: float = 0.005) -> Dataset:
    targets = np.tile([0.004, -0.003, 0.0, 0.0, 0.0, 0.0, hold, hold], (n, 1))
    none = np.empty((n, 0))
    times = MINUTE_MS * np.arange(n)
    return Dataset(none, targets, none, none, np.full(n, reach), times, np.zeros(n, np.uint16), ("BTCUSDT",), 360)


@pytest.mark.parametrize(
    ("change", "side"),
    [
        ({}, 1),
        ({0: 0.0005}, -1),
        ({0: 0.001}, 0),  # a tie
        ({0: -0.1, 1: -0.2}, 0),
        ({2: -0.04}, 0),
        ({4: 0.006}, 0),
        ({6: 361.0}, 0),
        ({6: 0.5}, 0),
    ],
)
def test_the_side_and_its_gates(change: dict, side: int) -> None:
    prediction = GOOD.copy()
    for column, value in change.items():
        prediction[column] = value
    assert sides(prediction[None], np.array([0.005]), PolicySettings()).tolist() == [side]


def test_one_position_per_symbol_sized_by_atr() -> None:
    data = rows(25)
    trades = trade(data, np.tile(GOOD, (25, 1)), PolicySettings(risk_fraction=0.01, max_leverage=5.0))
    assert trades.row.tolist() == [0, 10, 20]
    assert trades.pnl.tolist() == pytest.approx([0.004 * 2.0] * 3)  # 0.01 / 0.005 of equity
    tight = trade(rows(25, reach=0.0001), np.tile(GOOD * [1, 1, 1, 1, 0, 0, 1, 1], (25, 1)))
    assert tight.pnl.tolist() == pytest.approx([0.004 * 5.0] * 3)  # capped by leverage


def test_days_and_bootstrap() -> None:
    data = rows(3)
    trades = trade(data, np.tile(GOOD, (3, 1)))
    assert daily(trades, np.array([0, 1])).tolist() == [trades.pnl.sum(), 0.0]
    assert (bootstrap(np.full(20, 0.5), 1) == 10.0).all()
    spread = bootstrap(np.array([1.0, -1.0] * 50), 1)
    assert abs(spread.mean()) < 1.0 and 8.0 < spread.std() < 12.0  # sqrt(100)
    assert DAY_MS == 24 * 60 * MINUTE_MS


def test_pinball_calibration_and_drift() -> None:
    actual = np.array([1.0, -1.0])
    assert pinball(actual, np.zeros(2), np.ones(2)) == pytest.approx((0.05 + 0.95) / 2)
    deciles = calibration(np.arange(100.0), np.arange(100.0))
    assert [d["actual"] for d in deciles] == [d["predicted"] for d in deciles]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5_000, len(FEATURES))).astype(np.float32)
    x[::4, 2] = np.nan
    bins = training_bins(x)
    same = drift(bins, x)
    assert max(same.values()) < 1e-6
    moved = x.copy()
    moved[:, 1] += 1.0
    moved[:, 2] = 0.0
    shifted = drift(bins, moved)
    assert shifted[FEATURES[1]] > 0.5 and shifted[FEATURES[2]] > 1.0 and shifted[FEATURES[3]] < 1e-6
