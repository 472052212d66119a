"""Every feature against the slow twin of its definition, and against TA-Lib where the definition says TA-Lib."""

from __future__ import annotations

import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import talib

from kernels import features, schema
from kernels.records import BAR, SAMPLE
from tests import market_data, naive

MARKETS = [  # price level, tick
    (1e-5, 0.0),
    (1e-5, 1e-8),
    (0.02, 1e-5),
    (100.0, 0.0),
    (60_000.0, 0.1),
    (1e5, 0.0),
]
AS_OF = ("oi_change", "funding_z")


def named(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: rows[:, k] for k, name in enumerate(schema.NAMES)}


SCALE = dict.fromkeys(("rsi", "adx", "plus_di", "minus_di", "stoch_k", "stoch_d", "mfi", "cci"), 100.0)
SCALE |= dict.fromkeys(("bb_pctb", "rsi_z", "vwap_distance", "taker_imbalance", "btc_corr_60", "btc_beta_60"), 1.0)
SCALE |= {"slope": 1e-2}


def compare(bars: np.ndarray, btc: np.ndarray | None) -> None:
    """|ours − twin| ≤ 1e-13 · max(|twin|, s) on every bar, none left out; NaN at the same places."""
    rows, codes = features.fold(bars, 0, btc)
    assert not codes.any()
    ours, twin = named(rows), naive.features(bars, btc)
    twin["rsi_z"] = naive.z_score(ours["rsi"])  # a function of the rsi column, which is compared by itself
    assert set(twin) == set(schema.NAMES) - set(AS_OF)
    for name, expected in twin.items():
        tolerance = 1e-13 * np.maximum(abs(expected), SCALE.get(name, 0.0))
        same = (abs(ours[name] - expected) <= tolerance) | (np.isnan(ours[name]) & np.isnan(expected))
        wrong = np.flatnonzero(~same)
        assert not len(wrong), (name, len(wrong), wrong[0], ours[name][wrong[0]], expected[wrong[0]])


@pytest.mark.parametrize(("price", "tick"), MARKETS)
def test_against_the_twin(price: float, tick: float, long_run) -> None:
    count = long_run(12_000, 1_000_000)
    bars = market_data.generated_bars(count, 21, price, tick=tick)
    compare(bars, market_data.generated_bars(count, 22, 60_000.0))


def test_btcusdt_itself_against_the_twin() -> None:
    compare(market_data.generated_bars(8_000, 23, 60_000.0, tick=0.1), None)


def test_missing_columns_are_nan_and_nothing_else() -> None:
    bars = market_data.generated_bars(4_000, 24)
    bars["quote_volume"][500:600] = np.nan
    bars["taker_volume"] = np.nan
    bars["trades"][1_000:] = np.nan
    bars["volume"][2_000] = np.nan
    compare(bars, market_data.generated_bars(4_000, 25))


@pytest.mark.parametrize("count", [1, 2, 14, 15, 61, 75, 200, 201])
def test_short_histories(count: int) -> None:
    compare(market_data.generated_bars(count, 26), market_data.generated_bars(count, 27))


def test_a_market_that_never_moves() -> None:
    bars = market_data.generated_bars(300, 28)
    for name in ("open", "high", "low", "close"):
        bars[name] = 0.3
    bars["volume"] = 0.0
    bars["quote_volume"] = 0.0
    bars["taker_volume"] = 0.0
    bars["trades"] = 0.0
    compare(bars, bars)
    last = named(features.fold(bars, 0, bars)[0][-1:])
    for name in ("volatility", "bb_width", "rsi", "adx", "plus_di", "minus_di", "stoch_k", "cci", "mfi", "slope"):
        assert last[name][0] == 0.0, name
    for name in ("vol_ratio", "bb_pctb", "rsi_z", "volume_ma_ratio", "volume_std", "vwap_distance", "taker_buy_ratio"):
        assert math.isnan(last[name][0]), name


def test_as_of_columns_against_the_twin() -> None:
    minutes = 3_000
    bars = market_data.generated_bars(minutes, 30)
    oi = market_data.generated_samples(800, 31, 300_000, market_data.START_MS - 60_000_000)
    oi = np.concatenate([oi[:300], oi[310:]])  # a hole of 50 minutes
    funding = market_data.generated_samples(100, 32, 28_800_000, market_data.START_MS - 97 * 28_800_000, 1e-4)
    funding["value"][-9:-4] = funding["value"][-9]
    known = {"oi": oi.tolist(), "funding": funding.tolist()}
    for timeframe, size in ((0, 9), (1, 30), (2, 90)):
        own = bars if timeframe == 0 else features.build_bars(bars, timeframe)
        rows, _ = features.fold(own, timeframe, None, oi, funding)
        step_ms = (60_000, 900_000, 3_600_000)[timeframe]
        for k in range(0, len(own), 7 if timeframe == 0 else 1):
            t = int(own["open_ms"][k]) + step_ms
            now, then = naive.open_interest(known["oi"], t), naive.open_interest(known["oi"], t - 15 * step_ms)
            assert rows[k, 38] == pytest.approx(now / then - 1, rel=1e-12, abs=1e-15, nan_ok=True), (timeframe, k)
            expected = naive.funding_z(known["funding"], t, size)
            assert rows[k, 39] == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True), (timeframe, k)
        assert np.isfinite(rows[:, 38]).any() and np.isfinite(rows[:, 39]).any()


def test_equal_rates_give_zero_and_old_rates_nan() -> None:
    bars = market_data.generated_bars(60, 33)
    funding = np.zeros(9, SAMPLE)
    funding["stamp_ms"] = market_data.START_MS - 28_800_000 * np.arange(9, 0, -1)
    funding["usable_ms"] = funding["stamp_ms"] + 300_000
    funding["value"] = 1e-4
    rows, _ = features.fold(bars, 0, None, None, funding)
    assert (rows[:, 39] == 0.0).all()
    assert np.isnan(features.fold(bars, 0, None, None, funding[1:])[0][:, 39]).all()
    funding["stamp_ms"] -= 28_800_000
    rows, _ = features.fold(bars, 0, None, None, funding)
    assert not rows[:, 39][bars["open_ms"] + 60_000 <= market_data.START_MS].any()
    assert np.isnan(rows[1:, 39]).all()  # older than two intervals


def talib_outputs(bars: np.ndarray) -> dict[str, np.ndarray]:
    h, low, c, v = (np.ascontiguousarray(bars[x]) for x in ("high", "low", "close", "volume"))
    out = {"atr": talib.ATR(h, low, c, 14), "adx": talib.ADX(h, low, c, 14), "rsi": talib.RSI(c, 14)}
    out |= {"plus_di": talib.PLUS_DI(h, low, c, 14), "minus_di": talib.MINUS_DI(h, low, c, 14)}
    out["stoch_k"], out["stoch_d"] = talib.STOCH(h, low, c, 14, 3, 0, 3, 0)
    out |= {name: x / c for name, x in zip(("macd", "macd_signal", "macd_hist"), talib.MACD(c, 12, 26, 9), strict=True)}
    out |= {"cci": talib.CCI(h, low, c, 20), "mfi": talib.MFI(h, low, c, v, 14)}
    upper, middle, lower = talib.BBANDS(c, 20, 2, 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        out |= {"bb_width": (upper - lower) / middle, "bb_pctb": (c - lower) / (upper - lower)}
    fast, slow = talib.EMA(c, 20), talib.EMA(c, 50)
    out |= {"ma_cross": fast / slow - 1, "ma_distance": c / slow - 1}
    out["slope"] = talib.LINEARREG_SLOPE(np.log(c), 20)
    return out


def exact(name: str, bars: np.ndarray, at: int) -> Decimal:
    """A window's bb_width, bb_pctb or cci in rational numbers, from the doubles that TA-Lib's formula starts from."""
    window = bars[at - 19 : at + 1]
    values = (window["high"] + window["low"] + window["close"]) / 3 if name == "cci" else window["close"]
    x = [Fraction(float(value)) for value in values]
    mean = sum(x) / 20
    if name == "cci":
        return decimal_of((x[-1] - mean) / (Fraction(0.015) * sum(abs(value - mean) for value in x) / 20))
    deviation = decimal_of(sum((value - mean) ** 2 for value in x) / 20).sqrt()
    if name == "bb_width":
        return 4 * deviation / decimal_of(mean)
    return (decimal_of(x[-1] - mean) + 2 * deviation) / (4 * deviation)


def decimal_of(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


@pytest.mark.parametrize(("price", "tick"), MARKETS)
def test_against_talib(price: float, tick: float, long_run) -> None:
    """|ours − TA-Lib| ≤ 1e-9 · max(|TA-Lib|, s) on every bar but those where TA-Lib is proved to be off itself.

    TA-Lib takes the variance of its bands from sums of squares and subtracts a rounded mean in CCI; where a window's
    prices hardly differ (about 1 bar in 100,000) that costs it more than 1e-9. Each such bar is worked out in rational
    numbers: our value must be within 1e-13 of the exact one. In flat windows both sides are exactly 0, bb_pctb is 0/0.
    """
    assert talib.__version__ == "0.8.2"
    assert talib.__ta_version__.startswith(b"0.8.1")
    bars = market_data.generated_bars(long_run(150_000, 1_000_000), 41, price, tick=tick)
    ours, scale = named(features.fold(bars, 0, None)[0]), dict.fromkeys(("atr", "bb_width"), 0.0)
    scale |= dict.fromkeys(("bb_pctb", "ma_cross", "ma_distance"), 1.0)
    scale |= dict.fromkeys(("macd", "macd_signal", "macd_hist"), 1e-3)
    getcontext().prec = 60
    for name, theirs in talib_outputs(bars).items():
        size = scale.get(name, 100.0)
        tolerance = 1e-12 if name == "slope" else 1e-9 * np.maximum(abs(theirs), size)
        nothing = np.isnan(theirs) if name != "bb_pctb" else ~np.isfinite(theirs)
        same = (abs(ours[name] - theirs) <= tolerance) | (np.isnan(ours[name]) & nothing)
        wrong = np.flatnonzero(~same)
        if name in ("bb_width", "bb_pctb", "cci"):
            assert len(wrong) <= 1e-4 * len(bars), name
            for at in wrong:
                true = exact(name, bars, int(at))
                limit = Decimal("1e-13") * max(abs(true), Decimal(size))
                assert abs(Decimal(float(ours[name][at])) - true) <= limit, (name, at)
                assert abs(Decimal(float(theirs[at])) - true) >= 9_999 * limit, (name, at)
        else:
            assert not len(wrong), (name, len(wrong), wrong[0], ours[name][wrong[0]], theirs[wrong[0]])


@pytest.mark.shared_data
def test_real_candles_against_the_twin_and_talib(shared_data, long_run) -> None:
    import polars as pl

    frames = {}
    for symbol in ("BTC", "ETH"):
        frame = pl.read_ipc(shared_data / "klines" / f"{symbol}USDT-1m-futures.2025-05.feather")
        frame = frame.head(long_run(8_000, 43_000))
        bars = np.zeros(len(frame), BAR)
        bars["open_ms"] = frame["date"].dt.epoch("ms").to_numpy()
        for name in ("open", "high", "low", "close", "volume"):
            bars[name] = frame[name].to_numpy()
        for name in ("quote_volume", "taker_volume", "trades"):
            bars[name] = np.nan
        frames[symbol] = bars
    size = min(len(x) for x in frames.values())
    compare(frames["ETH"][:size], frames["BTC"][:size])
    compare(frames["BTC"][:size], None)


def test_larger_bars_are_built_from_complete_minutes_only() -> None:
    bars = market_data.generated_bars(700, 50)
    bars = np.delete(bars, [65, 300, 301, 302])
    for timeframe, minutes in ((1, 15), (2, 60)):
        built = features.build_bars(bars, timeframe)
        expected = naive.build(bars, minutes)
        assert len(built) == len(expected) < 700 // minutes
        for bar, row in zip(built, expected, strict=True):
            assert bar["open_ms"] == row[0]
            for name, value in zip(("open", "high", "low", "close"), row[1:5], strict=True):
                assert bar[name] == value
            for name, value in zip(("volume", "quote_volume", "taker_volume", "trades"), row[5:], strict=True):
                assert bar[name] == pytest.approx(value, rel=1e-12)
