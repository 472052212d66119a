"""The 132 features in order, what each one means, the 8 targets, and the hash that models and vectors carry."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from kernels.records import FEATURE_COUNT, FEATURES_PER_TIMEFRAME, TARGET_COUNT, TIMEFRAMES

SCHEMA_VERSION = 4  # raise it when a formula, a rule for NaN or the arithmetic of any feature changes


class Feature(NamedTuple):
    """One of the 44 features of a timeframe. Windows and `first_bar` count bars of that timeframe, from 0."""

    name: str
    family: str
    formula: str
    window: str
    first_bar: int
    source: str


_OHLC, _VOLUME, _TAKER, _BTC = "o h l c", "volume", "taker volume", "own and BTCUSDT c"

SCHEMA: tuple[Feature, ...] = (
    Feature("ret_1", "price", "c / c[1] − 1", "2", 1, _OHLC),
    Feature("ret_5", "price", "c / c[5] − 1", "6", 5, _OHLC),
    Feature("ret_15", "price", "c / c[15] − 1", "16", 15, _OHLC),
    Feature("ret_60", "price", "c / c[60] − 1", "61", 60, _OHLC),
    Feature("log_ret", "price", "ln(c / c[1])", "2", 1, _OHLC),
    Feature("body_pct", "price", "(c − o) / o", "1", 0, _OHLC),
    Feature("upper_wick_pct", "price", "(h − max(o, c)) / c", "1", 0, _OHLC),
    Feature("lower_wick_pct", "price", "(min(o, c) − l) / c", "1", 0, _OHLC),
    Feature("atr", "volatility", "TA-Lib ATR(14), price units", "whole past", 14, _OHLC),
    Feature("atr_pct", "volatility", "atr / c", "whole past", 14, _OHLC),
    Feature("volatility", "volatility", "sample standard deviation of log_ret", "60", 60, _OHLC),
    Feature("range_pct", "volatility", "(h − l) / c", "1", 0, _OHLC),
    Feature("parkinson_vol", "volatility", "sqrt(mean of ln(h/l)² / (4 ln 2)) (Parkinson 1980)", "20", 19, _OHLC),
    Feature("vol_ratio", "volatility", "sample std of log_ret over 15 / the same over 60", "60", 60, _OHLC),
    Feature("bb_width", "volatility", "(upper − lower) / middle of TA-Lib BBANDS(20, 2, 2, SMA)", "20", 19, _OHLC),
    Feature("bb_pctb", "volatility", "(c − lower) / (upper − lower) of the same bands", "20", 19, _OHLC),
    Feature("adx", "trend", "TA-Lib ADX(14)", "whole past", 27, _OHLC),
    Feature("plus_di", "trend", "TA-Lib PLUS_DI(14)", "whole past", 14, _OHLC),
    Feature("minus_di", "trend", "TA-Lib MINUS_DI(14)", "whole past", 14, _OHLC),
    Feature("trend", "trend", "sign of (c, EMA20) against EMA50, 0 where they disagree", "whole past", 49, _OHLC),
    Feature("ma_cross", "trend", "EMA20 / EMA50 − 1", "whole past", 49, _OHLC),
    Feature("ma_distance", "trend", "c / EMA50 − 1", "whole past", 49, _OHLC),
    Feature("slope", "trend", "Σ (k − 9.5)(ln c[19−k] − ln c) / 665, k = 0…19", "20", 19, _OHLC),
    Feature("rsi", "momentum", "TA-Lib RSI(14)", "whole past", 14, _OHLC),
    Feature("rsi_z", "momentum", "(rsi − mean) / population std of rsi over 60", "whole past", 73, _OHLC),
    Feature("stoch_k", "momentum", "TA-Lib STOCH(14, 3, 3) slow %K", "18", 17, _OHLC),
    Feature("stoch_d", "momentum", "TA-Lib STOCH(14, 3, 3) slow %D", "18", 17, _OHLC),
    Feature("macd", "momentum", "TA-Lib MACD(12, 26, 9) line / c", "whole past", 33, _OHLC),
    Feature("macd_signal", "momentum", "its signal / c", "whole past", 33, _OHLC),
    Feature("macd_hist", "momentum", "its histogram / c", "whole past", 33, _OHLC),
    Feature("cci", "momentum", "TA-Lib CCI(20)", "20", 19, _OHLC),
    Feature("mfi", "momentum", "TA-Lib MFI(14)", "15", 14, _VOLUME),
    Feature("volume_ma_ratio", "volume", "v / mean of v", "20", 19, _VOLUME),
    Feature("volume_std", "volume", "population std of v / mean of v", "20", 19, _VOLUME),
    Feature("vwap_distance", "volume", "c / (Σ q / Σ v) − 1", "60", 59, _VOLUME),
    Feature("taker_buy_ratio", "volume", "tb / v", "1", 0, _TAKER),
    Feature("taker_imbalance", "volume", "Σ (2 tb − v) / Σ v", "15", 14, _TAKER),
    Feature("trade_count_ratio", "volume", "n / mean of n", "20", 19, _VOLUME),
    Feature("oi_change", "structure", "OI(t) / OI(t − 15 bars) − 1, both as-of", "16", 0, "open interest"),
    Feature(
        "funding_z", "structure", "z-score of the newest of K settled rates, K = 9, 30, 90", "K rates", 0, "funding"
    ),
    Feature("btc_regime", "structure", "sign of BTCUSDT's (c, EMA50) against its EMA200", "whole past", 199, _BTC),
    Feature("btc_corr_60", "structure", "Pearson correlation of log_ret with BTCUSDT's", "60", 60, _BTC),
    Feature("btc_beta_60", "structure", "covariance with / variance of BTCUSDT's log_ret", "60", 60, _BTC),
    Feature("btc_rel_60", "structure", "ret_60 − BTCUSDT's ret_60", "61", 60, _BTC),
)
"""The 44 features of one timeframe, in order."""

NAMES: tuple[str, ...] = tuple(feature.name for feature in SCHEMA)
FAMILIES: tuple[str, ...] = ("price", "volatility", "trend", "momentum", "volume", "structure")
FEATURES: tuple[str, ...] = tuple(f"{name}_{timeframe}" for timeframe in TIMEFRAMES for name in NAMES)
INDEX: dict[str, int] = {name: index for index, name in enumerate(FEATURES)}
FUNDING_RATES: tuple[int, ...] = (9, 30, 90)  # K of funding_z per timeframe
PRICE_UNIT_FEATURES: tuple[str, ...] = tuple(f"atr_{timeframe}" for timeframe in TIMEFRAMES)
MAY_BE_NAN: frozenset[str] = frozenset(
    f"{feature.name}_{timeframe}"
    for feature in SCHEMA
    if feature.source not in (_OHLC, _BTC)
    for timeframe in TIMEFRAMES
)
"""Features whose input may be missing; a vector may be ready although one of them is NaN."""

READY_OWN_BARS = 1 + max(f.first_bar for f in SCHEMA if f.source in (_OHLC, _BTC) and f.name != "btc_regime")
READY_BTC_BARS = 1 + SCHEMA[NAMES.index("btc_regime")].first_bar

TARGETS: tuple[str, ...] = (
    "er_long",
    "er_short",
    "q05_long",
    "q05_short",
    "e_mae_long",
    "e_mae_short",
    "e_hold_long",
    "e_hold_short",
)


def schema_hash(version: int = SCHEMA_VERSION, features: tuple[str, ...] = FEATURES) -> int:
    """Return the 64-bit hash over the formulas' version and the names in order."""
    text = f"{version}:" + ",".join(features)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


SCHEMA_HASH: int = schema_hash()

if (len(NAMES), len(FEATURES), len(TARGETS)) != (FEATURES_PER_TIMEFRAME, FEATURE_COUNT, TARGET_COUNT):
    raise ValueError("the schema and the record dtypes disagree")
