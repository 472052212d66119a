"""Typed reads: numpy records for kernels and models, polars frames for everything else.

Ranges are half-open, [from_ms, to_ms), in exchange milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kernels.records import BAR, INSTRUMENT, LABEL, SAMPLE, TIMEFRAME_MS, TIMEFRAMES
from store.client import Store
from store.schema import column_name, instrument_columns

if TYPE_CHECKING:
    import polars as pl

EVER_MS = 1 << 42  # the year 2109
_RANGE = (
    "symbol = {{symbol:String}} AND {stamp} >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC') "
    "AND {stamp} < fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC')"
)


def bars(store: Store, symbol: str, timeframe: int, from_ms: int = 0, to_ms: int = EVER_MS) -> npt.NDArray:
    """Return BAR[n] of closed candles whose open time is in the range, in time order."""
    return _bars(store, f"candles_{TIMEFRAMES[timeframe]}", symbol, from_ms, to_ms)


def mark_bars(store: Store, symbol: str, from_ms: int = 0, to_ms: int = EVER_MS) -> npt.NDArray:
    """Return BAR[n] of 1m mark-price candles in time order."""
    return _bars(store, "mark_1m", symbol, from_ms, to_ms)


def last_bars(store: Store, symbol: str, timeframe: int, count: int) -> npt.NDArray:
    """Return the newest `count` candles of a symbol, in time order.

    Reading a key once (`final`) rules out reading backwards from the end, so the newest time is asked for first, and
    then a range that holds `count` candles unless more than half of them are missing.
    """
    table = f"candles_{TIMEFRAMES[timeframe]}"
    newest = store.scalar(
        f"SELECT toUnixTimestamp64Milli(open_time) FROM {table} WHERE symbol = {{symbol:String}} "
        "ORDER BY symbol DESC, open_time DESC LIMIT 1 SETTINGS final = 0",
        {"symbol": symbol},
    )
    if newest is None:
        return np.zeros(0, BAR)
    found = bars(store, symbol, timeframe, int(newest) - 2 * count * TIMEFRAME_MS[timeframe], int(newest) + 1)
    if len(found) < count:
        found = bars(store, symbol, timeframe)
    return found[-count:]


def newest_bars(store: Store, names: list[str], timeframe: int, count: int) -> dict[str, npt.NDArray]:
    """Return per symbol the BAR[n] among the `count` newest intervals of the table, in time order, with one query."""
    table, row = f"candles_{TIMEFRAMES[timeframe]}", np.dtype([("which", "<u8"), ("bar", BAR)])
    newest = store.scalar(
        f"SELECT toUnixTimestamp64Milli(max(open_time)) FROM {table} WHERE symbol IN {{names:Array(String)}}",
        {"names": names},
    )
    sql = (
        f"SELECT indexOf({{names:Array(String)}}, symbol) AS which, {_fields(BAR)} FROM {table} "
        "WHERE symbol IN {names:Array(String)} AND open_time > fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC') "
        "ORDER BY symbol, open_time"
    )
    from_ms = int(newest or 0) - count * TIMEFRAME_MS[timeframe]
    rows = np.frombuffer(store.raw(sql, "RowBinary", {"names": names, "from_ms": from_ms}), row)
    return {name: rows["bar"][rows["which"] == index].copy() for index, name in enumerate(names, 1)}


def bars_seen(
    store: Store, symbol: str, timeframe: int, engine_id: str, run_id: str, from_ms: int = 0, to_ms: int = EVER_MS
) -> npt.NDArray:
    """Return BAR[n] exactly as a run folded them, in the order it did (a later version of a bar follows it)."""
    sql = (
        f"SELECT {_fields(BAR)} FROM bars_seen WHERE {_within('open_time')} AND timeframe = {{timeframe:String}} "
        "AND engine_id = {engine:String} AND run_id = {run:String} ORDER BY seq"
    )
    values = {"timeframe": TIMEFRAMES[timeframe], "engine": engine_id, "run": run_id}
    return np.frombuffer(store.raw(sql, "RowBinary", values | _range(symbol, from_ms, to_ms)), BAR).copy()


def funding(store: Store, symbol: str, from_ms: int = 0, to_ms: int = EVER_MS) -> npt.NDArray:
    """Return SAMPLE[n] of settled funding rates (scaled to 8 h) in time order."""
    return _samples(store, "funding", "rate", symbol, from_ms, to_ms)


def open_interest(store: Store, symbol: str, from_ms: int = 0, to_ms: int = EVER_MS) -> npt.NDArray:
    """Return SAMPLE[n] of open interest (base quantity) in time order."""
    return _samples(store, "open_interest", "value", symbol, from_ms, to_ms)


def labels(store: Store, side: str, symbol: str, from_ms: int = 0, to_ms: int = EVER_MS) -> npt.NDArray:
    """Return LABEL[n] of one side ("long" or "short") in time order; the range is of decision times."""
    sql = f"SELECT {_fields(LABEL)} FROM labels_{side}_1m WHERE {_within('time')} ORDER BY time"
    return np.frombuffer(store.raw(sql, "RowBinary", _range(symbol, from_ms, to_ms)), LABEL).copy()


def label_settings(store: Store, side: str, symbol: str, from_ms: int = 0, to_ms: int = EVER_MS) -> set[str]:
    """Return the hashes of the barriers and costs with which the labels of a range were made."""
    sql = f"SELECT DISTINCT config_hash FROM labels_{side}_1m WHERE {_within('time')}"
    return {str(row[0]) for row in store.rows(sql, _range(symbol, from_ms, to_ms))}


def symbols(store: Store, timeframe: int = 0) -> list[str]:
    """Return the symbols that have candles of a timeframe, sorted."""
    return [
        str(row[0])
        for row in store.rows(f"SELECT DISTINCT symbol FROM candles_{TIMEFRAMES[timeframe]} ORDER BY symbol")
    ]


def coverage(store: Store, timeframe: int = 0) -> pl.DataFrame:
    """Return per symbol: `bars`, `first_time`, `last_time`, `missing` (bars absent between the two)."""
    step_s = TIMEFRAME_MS[timeframe] // 1_000
    return store.frame(
        "SELECT symbol, count() AS bars, min(open_time) AS first_time, max(open_time) AS last_time, "
        f"toInt64(dateDiff('second', min(open_time), max(open_time)) / {step_s}) + 1 - toInt64(count()) AS missing "
        f"FROM candles_{TIMEFRAMES[timeframe]} GROUP BY symbol ORDER BY symbol"
    )


def missing_ranges(store: Store, symbol: str, timeframe: int = 0) -> list[tuple[int, int]]:
    """Return the holes between a symbol's first and last candle as [from_ms, to_ms) of open times."""
    step = TIMEFRAME_MS[timeframe]
    table = f"candles_{TIMEFRAMES[timeframe]}"
    sql = f"SELECT open_time FROM {table} WHERE symbol = {{symbol:String}} ORDER BY open_time"
    times = np.frombuffer(store.raw(sql, "RowBinary", {"symbol": symbol}), "<i8")
    where = np.nonzero(np.diff(times) > step)[0]
    return [(int(times[index]) + step, int(times[index + 1])) for index in where]


def instruments(store: Store) -> npt.NDArray:
    """Return INSTRUMENT[n], the newest known of each symbol, sorted by symbol."""
    frame = store.frame("SELECT * FROM instruments ORDER BY symbol")
    table = np.zeros(len(frame), INSTRUMENT)
    for column in instrument_columns():
        values = frame[column.name]
        if column.type.startswith("DateTime64"):
            values = values.dt.epoch("ms")
        table[column.source] = (
            values.to_numpy() if column.name != "symbol" else [name.encode() for name in values.to_list()]
        )
    return table


def trades(store: Store, limit: int = 500) -> pl.DataFrame:
    """Return the newest closed round trips."""
    return newest(store, "trades", limit)


def newest(store: Store, table: str, limit: int = 500) -> pl.DataFrame:
    """Return the newest rows of an engine table (signals, orders, fills, positions, trades, sessions, …)."""
    return store.frame(f"SELECT * FROM `{table}` ORDER BY time DESC, seq DESC LIMIT {int(limit)}")


def counts(store: Store) -> dict[str, int]:
    """Return the number of rows of every table, each key counted once."""
    from store.schema import tables

    parts = [f"SELECT '{name}' AS name, count() AS rows FROM `{name}`" for name in tables()]
    return {str(name): int(rows) for name, rows in store.rows(" UNION ALL ".join(parts))}


def _fields(dtype: np.dtype) -> str:
    """Return a select list whose RowBinary row is exactly one record of `dtype`."""
    names = []
    for name, (sub, *_) in (dtype.fields or {}).items():
        column = column_name(name)
        if name.startswith("spare"):
            names.append(f"toUInt{sub.itemsize * 8}(0)")
        else:
            names.append(f"`{column}`")
    return ", ".join(names)


def _within(stamp: str) -> str:
    return _RANGE.format(stamp=stamp)


def _range(symbol: str, from_ms: int, to_ms: int) -> dict[str, object]:
    return {"symbol": symbol, "from_ms": from_ms, "to_ms": to_ms}


def _bars(store: Store, table: str, symbol: str, from_ms: int, to_ms: int) -> npt.NDArray:
    sql = f"SELECT {_fields(BAR)} FROM `{table}` WHERE {_within('open_time')} ORDER BY open_time"
    return np.frombuffer(store.raw(sql, "RowBinary", _range(symbol, from_ms, to_ms)), BAR).copy()


def _samples(store: Store, table: str, value: str, symbol: str, from_ms: int, to_ms: int) -> npt.NDArray:
    sql = f"SELECT stamp_time, usable_time, `{value}` FROM `{table}` WHERE {_within('stamp_time')} ORDER BY stamp_time"
    return np.frombuffer(store.raw(sql, "RowBinary", _range(symbol, from_ms, to_ms)), SAMPLE).copy()
