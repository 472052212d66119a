"""The backtest is the engine: the same decisions, fills and money as its core makes of the same inputs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from engine.backtest import KNOTS_MS, Driver, History, run, tearsheet
from engine.backtest.history import unfunded
from engine.backtest.results import Result
from engine.config import Config, load
from engine.errors import DataError
from engine.market.panel import Panel
from engine.market.rings import BarFile, bar_path
from engine.sink import MarketSink
from kernels.records import BAR, GATES, SAMPLE, TIMEFRAME_MS, Reason
from kernels.schema import READY_BTC_BARS
from tests.conftest import long_run
from tests.engine.recorded import HISTORY, MINUTE_MS, SYMBOLS, Market, PickyModel, instruments
from tests.market_data import START_MS

MINUTES = long_run(1_500, 14_400)
HOUR_MS = 3_600_000


class Rare(PickyModel):
    """Finds about one minute in five worth an entry."""

    def predict_into(self, row: np.ndarray, out: np.ndarray) -> None:
        super().predict_into(row, out)
        out[:2] -= 0.0095


def settings(**changes: dict[str, object]) -> Config:
    values: dict[str, dict[str, object]] = {
        "market": {"symbols": SYMBOLS},
        "barriers": {"tp_atr": 0.6, "sl_atr": 0.4, "time_limit_minutes": 60},
        "decision": {"max_mae_atr": 5.0, "max_tail": 0.9},
        "risk": {"max_losing_streak": 500, "max_notional_usdt": 2_000.0, "max_positions": 2},
    }
    for section, keys in changes.items():
        values[section] = values.get(section, {}) | keys
    return load(**values)


@pytest.fixture(scope="module")
def market() -> Market:
    return Market(MINUTES)


def settled(market: Market, symbol: int) -> np.ndarray:
    stamps = np.arange(START_MS, market.live_from_ms + MINUTES * MINUTE_MS, 2 * HOUR_MS)
    rates = np.zeros(len(stamps), SAMPLE)
    rates["stamp_ms"], rates["usable_ms"] = stamps, stamps + 300_000
    rates["value"] = np.round(np.random.default_rng(symbol).normal(1e-4, 1e-4, len(stamps)), 8)
    return rates


def histories(market: Market) -> list[History]:
    found = []
    for s, name in enumerate(SYMBOLS):
        bars = market.bars[s][0]
        mark = bars.copy()
        for field in ("open", "high", "low", "close"):
            mark[field] *= 1.0002
        mark = np.delete(mark, slice(HISTORY + 200, HISTORY + 220))
        found.append(History(name, bars, mark=mark, settled=settled(market, s)))
    return found


def trade(market: Market, config: Config, every_minute: bool = False) -> Result:
    return run(config, histories(market), Rare(), instruments(), from_ms=market.live_from_ms, every_minute=every_minute)


@pytest.fixture(scope="module")
def result(market: Market) -> Result:
    return trade(market, settings())


def assert_same(left: Result, right: Result) -> None:
    for name in ("sides", "gates"):
        assert np.array_equal(getattr(left, name), getattr(right, name)), name
    assert left.equity_usdt.tobytes() == right.equity_usdt.tobytes()
    for name in ("trades", "fills", "orders"):
        assert getattr(left, name).tobytes() == getattr(right, name).tobytes(), name
    assert left.hash() == right.hash()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"risk": {"max_day_loss": 0.004, "cooldown_minutes": 40}},
        {"risk": {"max_losing_streak": 3, "max_drawdown": 0.01}},
        {"costs": {"latency_ms": 0.0}, "risk": {"max_funding": 0.00015}},
        {"costs": {"latency_ms": 1_700.0, "half_spread": 0.0004}, "barriers": {"sl_atr": 0.1}},
    ],
)
def test_strides_give_what_the_core_gives_minute_by_minute(
    market: Market, changes: dict[str, dict[str, object]]
) -> None:
    config = settings(**changes)
    fast, slow = trade(market, config), trade(market, config, every_minute=True)
    assert slow.minutes_strided == 0
    assert fast.minutes_strided > MINUTES // 4
    assert len(fast.trades) > 3
    assert_same(fast, slow)


class Live(Driver):
    """Decides as the live engine does: closed bars into the sink, features stepped one by one, one row predicted."""

    def attach(self, market: Market, folder: Path) -> None:
        for s, name in enumerate(SYMBOLS):
            for timeframe in range(3):
                bars = market.bars[s][timeframe]
                path = bar_path(folder, name, timeframe)
                file = BarFile.create(path, name, timeframe, 131_072)
                file.rewrite(bars[bars["open_ms"] + TIMEFRAME_MS[timeframe] <= market.live_from_ms])
                file.close()
        self.market = market
        self.sink = MarketSink(self.core, self.gateway, [])
        self.panel = Panel(folder, SYMBOLS, self.sink.on_vector, warmup_bars=131_072, btc_warmup_bars=131_072)
        self.panel.seed()
        self.sink.panel = self.panel
        self.core.predictor = Rare()

    def _decide(self, symbol: int, now_ms: int) -> None:
        if symbol:
            return
        for each in range(len(SYMBOLS)):
            self._quote(each, now_ms, float(self.grid.closes[each, self._at, 1]))
        for timeframe, each in itertools.product((2, 1, 0), range(len(SYMBOLS))):
            if now_ms % TIMEFRAME_MS[timeframe] == 0:
                bars = self.market.bars[each][timeframe]
                bar = bars[np.searchsorted(bars["open_ms"], now_ms - TIMEFRAME_MS[timeframe])]
                self.sink.on_bar(each, timeframe, np.array([bar], BAR)[0], now_ms, 0)


def test_backtest_decides_as_the_live_engine_on_the_same_bars(market: Market, result: Result, tmp_path: Path) -> None:
    live = Live(
        settings(), histories(market), Rare(), instruments(), btc=None, from_ms=market.live_from_ms, to_ms=1 << 42
    )
    live.attach(market, tmp_path)
    live.drive(every_minute=True)
    assert_same(result, live.result())


def test_money_adds_up(result: Result) -> None:
    trades, fills = result.trades, result.fills
    assert {int(r) for r in trades["reason"]} >= {Reason.TP, Reason.SL, Reason.TIME}
    assert trades["net_usdt"] == pytest.approx(trades["gross_usdt"] - trades["fees_usdt"] + trades["funding_usdt"])
    assert (trades["funding_usdt"] != 0.0).sum() > 3
    for row in trades:
        parts = fills[fills["position_id"] == row["position_id"]]
        cash = -(parts["side"] * parts["qty"] * parts["price"]).sum()
        assert cash == pytest.approx(row["gross_usdt"], abs=1e-6)
        assert parts["fee_usdt"].sum() == pytest.approx(row["fees_usdt"])
    if result.open_positions == 0:
        assert result.equity_usdt[-1] == pytest.approx(10_000.0 + trades["net_usdt"].sum())


def test_stop_is_met_at_its_level_and_before_the_target(market: Market) -> None:
    """One entry by hand: a bar that holds both barriers ends at the stop, at the stop's own price."""
    bars = [b[0][: HISTORY + 3].copy() for b in market.bars]
    close = float(bars[0]["close"][HISTORY])
    for at, (high, low) in ((HISTORY + 1, (1.0, 1.0)), (HISTORY + 2, (1.2, 0.8))):
        bars[0]["open"][at] = bars[0]["close"][at] = close
        bars[0]["high"][at], bars[0]["low"][at] = close * high, close * low

    class Once(PickyModel):
        def predict(self, rows: np.ndarray) -> np.ndarray:
            out = np.tile(np.array([-1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 60.0, 60.0]), (len(rows), 1))
            out[0, 0] = 1.0
            return out

    config = settings(costs={"latency_ms": 20.0, "half_spread": 0.0, "taker_fee": 0.0})
    found = run(
        config, [History("BTCUSDT", bars[0])], Once(), instruments(), from_ms=market.live_from_ms,
    )  # fmt: skip
    (row,) = found.trades
    order = found.orders[found.orders["reduce_only"] == 1][0]
    assert row["reason"] == Reason.SL
    opened, closed = int(row["opened_ms"]), int(row["closed_ms"])
    assert opened == market.live_from_ms + MINUTE_MS + 20
    assert row["entry_price"] == pytest.approx(close, rel=1e-12)
    fall_per_ms = close * 0.2 / KNOTS_MS[1]
    crossed_ms = int(order["time_ms"]) - (market.live_from_ms + 2 * MINUTE_MS)
    stop = close - crossed_ms * fall_per_ms
    assert closed == int(order["time_ms"]) + 20
    assert row["exit_price"] == pytest.approx(stop - 20 * fall_per_ms, abs=2 * fall_per_ms)
    assert row["mae"] == pytest.approx((close - stop) / close, abs=2 * fall_per_ms / close)


def test_hole_in_the_bars_starts_the_warm_up_again(market: Market) -> None:
    bars = [np.delete(b[0], slice(HISTORY + 100, HISTORY + 200)) for b in market.bars]
    found = run(
        settings(), [History(n, b) for n, b in zip(SYMBOLS, bars, strict=True)], Rare(), instruments(),
        from_ms=market.live_from_ms,
    )  # fmt: skip
    warm = 240 + READY_BTC_BARS * 60 - 1  # whole hours from the first after the hole; the minute that closes the last
    not_ready = (found.gates & np.uint64(1 << GATES.index("not_ready"))) != 0
    after = not_ready[:, 201:warm][found.decided[:, 201:warm]]
    assert len(after) and after.all()
    assert not not_ready[:, warm:][found.decided[:, warm:]].any()
    assert not found.decided[:, 100:200].any()


def test_minutes_without_a_funding_rate_near_are_known() -> None:
    """Costs of a stretch whose rates were never stored are too low, and nothing else would show it."""
    hour = 3_600_000
    settled = np.zeros(5, SAMPLE)
    settled["stamp_ms"] = np.array([8, 16, 24, 48, 52]) * hour + 7
    minutes = np.arange(0, 72 * hour, 60_000)
    found = unfunded(settled, minutes)
    assert sorted(set((minutes[found] // hour).tolist())) == [*range(24, 48), *range(60, 72)]
    assert unfunded(settled[:0], minutes).all()


def test_tables_and_tear_sheet(result: Result, tmp_path: Path) -> None:
    sheet = tearsheet.save(result, tmp_path / "out").read_text()
    assert result.hash() in sheet and sheet.count("<svg") == 2 and "http-equiv" not in sheet
    assert sum(row["trades"] for row in result.by_symbol()) == len(result.trades)
    assert sum(row["net_usdt"] for row in result.by_month()) == pytest.approx(result.statistics()["net_usdt"])
    refused = result.refusals()
    for s, name in enumerate(SYMBOLS):
        er_low = (result.gates[s] >> np.uint64(3)) & np.uint64(1)
        assert refused[name]["er_low"] == int(er_low.sum())
    lines = (tmp_path / "out" / "trades.csv").read_text().splitlines()
    assert len(lines) == len(result.trades) + 1


def test_nothing_to_trade_is_said(market: Market) -> None:
    with pytest.raises(DataError, match="no 1m bars"):
        run(settings(), histories(market), Rare(), instruments(), from_ms=1 << 41)
    with pytest.raises(ValueError, match="need the history"):
        run(settings(), histories(market)[1:], Rare(), instruments())
