"""What a policy earns is what the engine's backtest says; bootstrap and figures on cases worked out by hand."""

import numpy as np
import pytest

from engine import backtest
from engine.backtest.history import Given, lay_out
from engine.model.dataset import Dataset
from engine.model.evaluate import calibration, drift, pinball, policy_figures, training_bins
from engine.model.policy import DAY_MS, Earned, Market, bootstrap, earn, out_of_fold
from kernels.schema import FEATURES
from tests.engine.recorded import MINUTE_MS, instruments
from tests.engine.recorded import Market as Bars
from tests.engine.test_backtest import Rare, histories, settings


@pytest.fixture(scope="module")
def bars() -> Bars:
    return Bars(900)


def market_of(bars: Bars) -> Market:
    return Market(settings(), histories(bars), None, instruments())


def rare_rows(bars: Bars) -> tuple[Dataset, np.ndarray]:
    """The predictions of `Rare` at every live minute, as rows in time order over all symbols."""
    past = histories(bars)
    grid = lay_out(past, past[0], Rare(), bars.live_from_ms, 1 << 42)
    minutes = grid.first_ms + MINUTE_MS * np.arange(1, grid.minutes + 1)
    time_ms, symbol = np.repeat(minutes, len(past)), np.tile(np.arange(len(past), dtype=np.uint16), len(minutes))
    predictions = grid.predictions.transpose(1, 0, 2).reshape(-1, 8)
    none, names = np.empty((0, 0)), tuple(item.symbol for item in past)
    return Dataset(none, none, none, none, none, time_ms, symbol, names, 360), predictions


def test_out_of_fold_predictions_trade_as_the_model_that_made_them(bars: Bars) -> None:
    market = market_of(bars)
    given = out_of_fold(*rare_rows(bars))
    whole = backtest.run(market.config, market.histories, Rare(), market.instruments, from_ms=bars.live_from_ms)
    again = backtest.run(market.config, market.histories, given, market.instruments, from_ms=bars.live_from_ms)
    assert len(whole.trades) > 3
    assert again.equity_usdt.tobytes() == whole.equity_usdt.tobytes()
    assert again.gates.tobytes() == whole.gates.tobytes()


def test_minutes_without_a_prediction_are_not_traded(bars: Bars) -> None:
    data, predictions = rare_rows(bars)
    half = int(np.median(data.time_ms))
    late = data.time_ms > half
    cut = Dataset(data.x, *(data.x,) * 4, data.time_ms[late], data.symbol[late], data.symbols, 360)
    market, given = market_of(bars), out_of_fold(cut, predictions[late])
    result = backtest.run(market.config, market.histories, given, market.instruments, from_ms=bars.live_from_ms)
    assert len(result.trades) and result.trades["opened_ms"].min() > half


def test_days_of_equity_sum_to_the_net_result(bars: Bars) -> None:
    market = market_of(bars)
    earned = earn(market, Rare(), bars.live_from_ms)
    result = backtest.run(market.config, market.histories, Rare(), market.instruments, from_ms=bars.live_from_ms)
    assert earned.pnl.sum() == pytest.approx(result.equity_usdt[-1] / result.start_equity_usdt - 1.0)
    assert earned.trades == len(result.trades) and len(earned.days) == len(earned.pnl) == 2
    assert earned.whole_days == 0 and earned.to_ms - earned.from_ms == 900 * MINUTE_MS
    figures = policy_figures(earned, 7)
    assert figures["net"] == pytest.approx(earned.pnl.sum()) and figures["first_day"] == earned.days[0]
    assert figures["net_q05"] <= figures["net_q95"]


def test_halts_that_wait_for_a_person_do_not_end_the_evidence(bars: Bars) -> None:
    market = market_of(bars)
    halting = Market(settings(risk={"max_losing_streak": 1}), market.histories, None, market.instruments)
    free = earn(market, Rare(), bars.live_from_ms)
    held = earn(halting, Rare(), bars.live_from_ms)
    assert held.trades == free.trades


def test_a_model_of_given_predictions_says_nothing_of_rows_without_a_time() -> None:
    assert np.isnan(Given("none", {}).predict(np.zeros((2, 132)))).all()
    assert np.isnan(Given("none", {}).at("BTCUSDT", np.array([1, 2]))).all()


def test_days_and_bootstrap() -> None:
    assert (bootstrap(np.full(20, 0.5), 1) == 10.0).all()
    spread = bootstrap(np.array([1.0, -1.0] * 50), 1)
    assert abs(spread.mean()) < 1.0 and 8.0 < spread.std() < 12.0  # sqrt(100)
    assert Earned(0, 3 * DAY_MS + 5, np.arange(4), np.zeros(4), 0, 0.0).whole_days == 3


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
