"""PnL statistics against figures worked out by hand, and scipy and numpy where they have the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kernels import metrics

EQUITY = np.array([100.0, 110.0, 99.0, 99.0, 108.9, 120.0])


def test_returns_by_hand() -> None:
    assert metrics.returns(EQUITY)[:4] == pytest.approx([0.10, -0.10, 0.0, 0.10])


def test_sharpe_is_the_one_sample_t_statistic_rescaled() -> None:
    values = np.random.default_rng(1).normal(0.001, 0.02, 250)
    t = stats.ttest_1samp(values, 0.0).statistic
    assert metrics.sharpe(values, 365.0) == pytest.approx(t / math.sqrt(250) * math.sqrt(365.0), rel=1e-12)


def test_sortino_by_hand() -> None:
    values = np.array([0.02, -0.01, 0.03, -0.02])
    downside = math.sqrt((0.01**2 + 0.02**2) / 4)
    assert metrics.sortino(values, 1.0) == pytest.approx(0.005 / downside)


def test_drawdown_by_hand_and_by_the_slow_way() -> None:
    assert metrics.max_drawdown(EQUITY) == pytest.approx(0.10)
    curve = 100.0 * np.exp(np.cumsum(np.random.default_rng(2).normal(0, 0.02, 300)))
    slow = max(1.0 - curve[j] / curve[i] for i in range(300) for j in range(i, 300))
    assert metrics.max_drawdown(curve) == pytest.approx(slow)


def test_trade_figures_by_hand() -> None:
    net = np.array([5.0, -2.0, 0.0, 3.0, -2.0])
    assert metrics.profit_factor(net) == 2.0
    assert metrics.expectancy(net) == pytest.approx(0.8)
    assert metrics.win_rate(net) == pytest.approx(0.4)


def test_empty_and_constant_series_are_no_error() -> None:
    nothing = np.zeros(0)
    for figure in (metrics.profit_factor, metrics.expectancy, metrics.win_rate):
        assert math.isnan(figure(nothing))
    assert math.isnan(metrics.sharpe(np.zeros(9), 365.0)) and math.isnan(metrics.sortino(np.ones(9), 365.0))
    assert metrics.max_drawdown(nothing) == 0.0
    assert metrics.profit_factor(np.array([1.0])) == math.inf
