"""What labelling and training read from the store: bars, vectors and samples of one symbol."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backtest.history import History, unfunded
from engine.config import Config
from engine.errors import DataError
from engine.model.labels import LabelSettings
from engine.model.prepare import Vectors, fold
from kernels.bars import build_bars
from kernels.records import SAMPLE
from store import queries
from store.client import Store

Array = npt.NDArray[Any]

MINUTE_MS = 60_000


def label_settings(config: Config) -> LabelSettings:
    """Return barriers and costs as configured."""
    barriers, costs = config.barriers, config.costs
    return LabelSettings(
        barriers.tp_atr, barriers.sl_atr, barriers.time_limit_minutes, costs.taker_fee, costs.half_spread
    )


def choose_symbols(store: Store, config: Config, wanted: list[str]) -> list[str]:
    """Return the symbols to work on: those asked for, else those configured, that have candles.

    Raises DataError when an asked-for symbol has none, or when nothing is stored.
    """
    stored = set(queries.symbols(store))
    missing = [symbol for symbol in wanted if symbol not in stored]
    if missing:
        raise DataError(f"no 1m candles stored of {', '.join(missing)} (stored: {', '.join(sorted(stored)) or 'none'})")
    chosen = wanted or [symbol for symbol in config.market.symbols if symbol in stored] or sorted(stored)
    if not chosen:
        raise DataError("no 1m candles are stored: run `ta import PATH` or `ta collect` first")
    return chosen


def history(store: Store, symbol: str, to_ms: int) -> History:
    """Return a symbol's whole stored past before `to_ms`."""
    minutes, quarters, hours = stored_bars(store, symbol, to_ms)
    assert minutes is not None
    return History(
        symbol,
        minutes,
        quarters,
        hours,
        queries.mark_bars(store, symbol, 0, to_ms),
        queries.funding(store, symbol, 0, to_ms),
        settled_rates(store, symbol, to_ms),
        queries.open_interest(store, symbol, 0, to_ms),
        recorded_gaps(store, symbol),
    )


def read_symbol(store: Store, config: Config, symbol: str, to_ms: int) -> tuple[History, Vectors]:
    """Return a symbol's whole stored past before `to_ms` with its vectors; the fold starts at the first bar."""
    own, btc_symbol = history(store, symbol, to_ms), config.market.btc_symbol
    return own, fold(own, own if symbol == btc_symbol else history(store, btc_symbol, to_ms))


def stored_bars(store: Store, symbol: str, to_ms: int) -> tuple[Array | None, ...]:
    """Return 1m, 15m and 1h bars: larger ones as stored, else built of whole 1m bars; None where none is stored."""
    minutes = queries.bars(store, symbol, 0, 0, to_ms)
    found: list[Array | None] = [minutes]
    for timeframe in (1, 2):
        larger = queries.bars(store, symbol, timeframe, 0, to_ms)
        built = build_bars(minutes, timeframe)  # one hole would restart the fold: up to 200 bars without features
        joined = np.concatenate([larger, built[~np.isin(built["open_ms"], larger["open_ms"])]])
        found.append(joined[np.argsort(joined["open_ms"], kind="stable")] if len(larger) else None)
    return tuple(found)


def settled_rates(store: Store, symbol: str, to_ms: int) -> Array:
    """Return SAMPLE[n] whose value is the rate that was paid (the stored one is scaled to 8 h)."""
    rows = store.rows(
        "SELECT toUnixTimestamp64Milli(stamp_time), toUnixTimestamp64Milli(usable_time), rate * interval_hours / 8 "
        "FROM funding WHERE symbol = {symbol:String} "
        "AND stamp_time < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC') ORDER BY stamp_time",
        {"symbol": symbol, "to_ms": to_ms},
    )
    return np.array(rows, SAMPLE) if rows else np.zeros(0, SAMPLE)


def unfunded_minutes(store: Store, symbol: str, time_ms: Array) -> int:
    """Return how many of these decision times have no stored funding rate near: what happens there costs none."""
    return int(unfunded(settled_rates(store, symbol, queries.EVER_MS), time_ms - MINUTE_MS).sum())


def recorded_gaps(store: Store, symbol: str) -> Array:
    """Return int64[k, 2]: the minutes [from_ms, to_ms) that were recorded as absent at the exchange."""
    rows = store.rows(
        "SELECT toUnixTimestamp64Milli(from_time), toUnixTimestamp64Milli(to_time) FROM data_gaps "
        "WHERE symbol = {symbol:String} AND timeframe = '1m' AND gap_kind = 'filled' ORDER BY from_time",
        {"symbol": symbol},
    )
    gaps = np.array(rows, np.int64).reshape(-1, 2)
    gaps[:, 1] += MINUTE_MS  # recorded is the open time of the last one
    return gaps
