"""Inserts: numpy records and columns to Native blocks, one block per insert.

Which version of a candle a reader sees: complete bars win over bars without quote volume, trades or taker volume; the
exchange's own over built ones; a recorded revision over all. Equal bars are one row, however often they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from kernels.records import BAR, INSTRUMENT, LABEL, SAMPLE, TIMEFRAMES, BarFlag
from store import native
from store.client import Store
from store.native import Values
from store.schema import Column, Table, tables

ROWS_PER_INSERT = 250_000
INSERT_THREADS = 2
MINUTE_MS = 60_000
_RANK_SHIFT = 48
BUILT, FILLED, PARTIAL, COMPLETE, REVISED = range(1, 6)


def bar_versions(bars: npt.NDArray) -> npt.NDArray[np.uint64]:
    """Return the version of each bar: its rank, then, for a revision, the time it arrived."""
    flags = bars["flags"]
    partial = np.isnan(bars["taker_volume"]) | np.isnan(bars["quote_volume"]) | np.isnan(bars["trades"])
    rank = np.where(partial, PARTIAL, COMPLETE)
    rank = np.where(flags & BarFlag.FILLED, FILLED, rank)
    rank = np.where(flags & BarFlag.BUILT, BUILT, rank)
    revised = (flags & BarFlag.REVISION) != 0
    rank = np.where(revised, REVISED, rank).astype(np.uint64)
    return (rank << np.uint64(_RANK_SHIFT)) | np.where(revised, bars["arrived_ms"], 0).astype(np.uint64)


def insert_columns(store: Store, table: str, columns: Mapping[str, Values], *, token: str = "") -> int:
    """Insert named columns (arrays, sequences, or one string for all rows) into `table`. Returns the number of rows."""
    spec = tables()[table]
    unknown = sorted(set(columns) - set(spec.by_name))
    if unknown:
        raise ValueError(f"table {table} has no column {', '.join(unknown)}; it has {', '.join(spec.by_name)}")
    rows = max((len(values) for values in columns.values() if not isinstance(values, str)), default=1)

    def send(start: int) -> None:
        stop = start + ROWS_PER_INSERT
        part = {
            name: (spec.by_name[name].type, values if isinstance(values, str) else values[start:stop])
            for name, values in columns.items()
        }
        block = native.block(part, min(ROWS_PER_INSERT, rows - start))
        store.insert_block(table, list(part), block, f"{token}:{start}" if token else "")

    starts = range(0, rows, ROWS_PER_INSERT)
    if len(starts) == 1:
        send(0)
    else:  # compression is what costs, one core per insert, and it releases the GIL
        with ThreadPoolExecutor(INSERT_THREADS) as pool:
            list(pool.map(send, starts))
    return rows


def insert_bars(store: Store, symbol: str, timeframe: int, bars: npt.NDArray, source: str) -> int:
    """Insert closed candles (BAR[n]) of one symbol and timeframe; `source` is ws, rest, file, built or sim."""
    return _insert_bars(store, f"candles_{TIMEFRAMES[timeframe]}", symbol, bars, source)


def insert_mark_bars(store: Store, symbol: str, bars: npt.NDArray, source: str) -> int:
    """Insert 1m mark-price candles (BAR[n]; volumes NaN)."""
    return _insert_bars(store, "mark_1m", symbol, bars, source)


def insert_premium_bars(store: Store, symbol: str, bars: npt.NDArray, source: str) -> int:
    """Insert 1m premium-index candles (BAR[n])."""
    return _insert_bars(store, "premium_index", symbol, bars, source)


def insert_funding(
    store: Store,
    symbol: str,
    samples: npt.NDArray,
    source: str = "rest",
    mark_prices: npt.NDArray | None = None,
    interval_hours: int | npt.NDArray = 8,
) -> int:
    """Insert settled funding rates (SAMPLE[n], scaled to 8 h). Stamps, which jitter, are floored to the minute."""
    _check(samples, SAMPLE)
    marks = np.full(len(samples), np.nan) if mark_prices is None else mark_prices
    return insert_columns(
        store,
        "funding",
        {
            "symbol": symbol,
            "stamp_time": samples["stamp_ms"] // MINUTE_MS * MINUTE_MS,
            "usable_time": samples["usable_ms"],
            "rate": samples["value"],
            "mark_price": marks,
            "interval_hours": np.broadcast_to(interval_hours, len(samples)),
            "source": source,
        },
    )


def insert_open_interest(store: Store, symbol: str, samples: npt.NDArray, source: str = "rest") -> int:
    """Insert open-interest samples (SAMPLE[n], base quantity)."""
    _check(samples, SAMPLE)
    return insert_columns(
        store,
        "open_interest",
        {
            "symbol": symbol,
            "stamp_time": samples["stamp_ms"] // MINUTE_MS * MINUTE_MS,
            "usable_time": samples["usable_ms"],
            "value": samples["value"],
            "source": source,
        },
    )


def insert_instruments(store: Store, instruments: npt.NDArray, now_ms: int) -> int:
    """Insert instruments (INSTRUMENT[n]) as known at `now_ms`; the newest per symbol is what readers see."""
    _check(instruments, INSTRUMENT)
    spec = tables()["instruments"]
    columns: dict[str, Values] = {"time": np.full(len(instruments), now_ms)}
    for column in spec.columns:
        if column.source in (INSTRUMENT.names or ()):
            columns[column.name] = instruments[column.source]
    return insert_columns(store, "instruments", columns)


def insert_labels(
    store: Store,
    side: str,
    symbol: str,
    labels: npt.NDArray,
    version: int,
    *,
    config_hash: str = "",
    uniqueness: npt.NDArray | None = None,
) -> int:
    """Insert LABEL[n] of one symbol into `labels_<side>_1m`; a higher `version` replaces earlier labels of a time."""
    _check(labels, LABEL)
    table = f"labels_{side}_1m"
    columns: dict[str, Values] = {"symbol": symbol, "config_hash": config_hash}
    columns["version"] = np.full(len(labels), version)
    columns["uniqueness"] = np.full(len(labels), np.nan) if uniqueness is None else uniqueness
    columns |= {column.name: labels[column.source] for column in tables()[table].columns if column.source}
    return insert_columns(store, table, columns) if len(labels) else 0


def insert_row(store: Store, table: str, row: Mapping[str, object]) -> None:
    """Insert one row given as a mapping; times are ms. For jobs, models, audits."""
    insert_columns(store, table, {name: _one(value) for name, value in row.items()})


def _one(value: object) -> Values:
    return [value] if isinstance(value, str | int | float) else [str(value)]  # type: ignore[return-value]


def record_block(
    table: Table, records: npt.NDArray, engine_id: str, run_id: str, symbols: Sequence[str], extra: Mapping[str, Values]
) -> tuple[list[str], bytes]:
    """Return (column names, Native block) of journal records of one kind for their table.

    `symbols` maps a record's symbol index to its name; `extra` gives columns that no field holds.
    """
    rows = len(records)
    columns: dict[str, tuple[str, Values]] = {}
    for column in table.columns:
        if column.name in extra:
            values: Values = extra[column.name]
        elif column.name == "engine_id":
            values = engine_id
        elif column.name == "run_id":
            values = run_id
        elif column.source:
            values = _field(column, records, symbols)
        else:
            continue
        columns[column.name] = (column.type, values)
    return list(columns), native.block(columns, rows)


def _field(column: Column, records: npt.NDArray, symbols: Sequence[str]) -> Values:
    values = records[column.source]
    if column.part >= 0:
        return values[:, column.part]
    if column.source == "symbol" and values.dtype.kind == "u":
        kinds, where = np.unique(values, return_inverse=True)
        names = [symbols[index] if index < len(symbols) and symbols[index] else f"#{index}" for index in kinds.tolist()]
        return np.array([name.encode() for name in names], dtype="S32")[where] if len(names) > 1 else (names or [""])[0]
    if column.type.startswith("Enum8"):
        allowed = enum_values(column.type)
        return np.where(np.isin(values, allowed), values, 0)
    return values


def enum_values(kind: str) -> list[int]:
    """Return the numbers of an Enum8 type."""
    return [int(part.rpartition("=")[2]) for part in kind[len("Enum8(") : -1].split(",")]


def _insert_bars(store: Store, table: str, symbol: str, bars: npt.NDArray, source: str) -> int:
    _check(bars, BAR)
    spec = tables()[table]
    names = BAR.names or ()
    columns: dict[str, Values] = {"symbol": symbol, "source": source, "version": bar_versions(bars)}
    columns |= {column.name: bars[column.source] for column in spec.columns if column.source in names}
    return insert_columns(store, table, columns) if len(bars) else 0


def _check(array: npt.NDArray, dtype: np.dtype) -> None:
    if array.dtype != dtype:
        raise TypeError(f"expected an array of {dtype.names}, got {array.dtype}")
