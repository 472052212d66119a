"""Audit: recompute every live vector of a range from the stored candles and compare it with what the engine recorded.

Per symbol: does the hash of each signal's vector come out again from the bars as first seen and the recorded first
bars; does every stored feature column; are the stored candles the bars that were seen; and how far is the fold over the
whole history from it all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from control.jobs.history import adopt
from control.jobs.inputs import choose_symbols
from engine.config import Config
from kernels import audit
from kernels.features import fold_vectors
from kernels.records import BAR, FEATURES_PER_TIMEFRAME, TIMEFRAME_MS, TIMEFRAMES
from kernels.schema import NAMES, SCHEMA_HASH
from store import queries, writer
from store.client import Store

Array = npt.NDArray[Any]
FIRST_COLUMNS = tuple(f"first_{timeframe}_time" for timeframe in TIMEFRAMES)
SIGNALS = np.dtype(
    [
        ("decision_ms", "<i8"),
        ("vector_hash", "<u8"),
        ("first_1m_ms", "<i8"),
        ("first_15m_ms", "<i8"),
        ("first_1h_ms", "<i8"),
    ]
)
FIRSTS = ("first_1m_ms", "first_15m_ms", "first_1h_ms")
KEPT_TIMES = 5  # differing decision times named in a report


@dataclass(slots=True)
class AuditReport:
    """What the audit of one symbol in one run found. `differing` counts vectors; `columns` the stored features."""

    symbol: str
    engine_id: str
    run_id: str
    compared: int = 0
    differing: int = 0
    unreachable: int = 0
    differing_ms: list[int] = field(default_factory=list)
    columns: dict[str, audit.ColumnDifference] = field(default_factory=dict)
    rows_compared: dict[str, int] = field(default_factory=dict)
    candles_compared: int = 0
    candles_differing: dict[str, list[int]] = field(default_factory=dict)  # timeframe → open times
    foreign_schema: int = 0
    drift_vectors: int = 0
    drift_relative: float = 0.0
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything recorded could not be reproduced bit for bit."""
        return bool(self.differing or self.columns or self.candles_differing)


@dataclass(slots=True)
class _History:
    """Bars as seen and samples of one symbol."""

    bars: list[Array]
    open_interest: Array
    funding: Array
    compared: int = 0
    changed: dict[str, list[int]] = field(default_factory=dict)


def run(
    store: Store,
    config: Config,
    symbols: list[str],
    from_ms: int,
    to_ms: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[AuditReport]:
    """Audit the decision times [from_ms, to_ms) of `symbols` (empty: those configured), and store the result.

    One report per symbol and run that has signals in the range. Raises DataError when no candles are stored.
    """
    adopt(store, config)
    chosen = choose_symbols(store, config, symbols)
    now_ms = time.time_ns() // 1_000_000
    audit_id = f"a{now_ms}"
    btc_symbol = config.market.btc_symbol
    newest_ms = _newest(store, config.engine_id, to_ms)  # before any candle is read: the engine goes on meanwhile
    histories: dict[str, _History] = {}
    reports = []
    for done, symbol in enumerate(chosen):
        if progress is not None:
            progress(symbol, done, len(chosen))
        until_ms = min(to_ms, newest_ms.get(symbol, 0) + 1)
        for run_id in _runs(store, config.engine_id, symbol, from_ms, until_ms):
            for name in {symbol, btc_symbol} - histories.keys():
                histories[name] = _history(store, config.engine_id, name, to_ms)
            btc = None if symbol == btc_symbol else histories[btc_symbol]
            btc_signals = _signals(store, config.engine_id, run_id, btc_symbol, 0, to_ms)
            signals = _signals(store, config.engine_id, run_id, symbol, from_ms, until_ms)
            report = AuditReport(symbol, config.engine_id, run_id)
            report.candles_compared, report.candles_differing = histories[symbol].compared, histories[symbol].changed
            _audit_run(store, report, histories[symbol], btc, signals, btc_signals)
            reports.append(report)
        _write(store, [report for report in reports if report.symbol == symbol], audit_id, now_ms)
        if symbol != btc_symbol:
            histories.pop(symbol, None)
    if progress is not None:
        progress("done", len(chosen), len(chosen))
    return reports


def _audit_run(
    store: Store, report: AuditReport, own: _History, btc: _History | None, signals: Array, btc_signals: Array
) -> None:
    whole: tuple[Array, Array] | None = None
    features = [_features(store, report, timeframe) for timeframe in range(len(TIMEFRAMES))]
    for part, btc_first in _same_starts(signals, btc_signals, btc is None):
        first = [int(part[name][0]) for name in FIRSTS]
        try:
            close_ms, vectors = audit.recompute(
                own.bars, btc.bars if btc else None, first, btc_first, own.open_interest, own.funding
            )
        except ValueError as error:
            report.unreachable += len(part)
            report.detail = str(error)
            continue
        found, equal = audit.compare_hashes(close_ms, vectors, part["decision_ms"], part["vector_hash"])
        report.compared += int(found.sum())
        report.unreachable += int((~found).sum())
        wrong = part["decision_ms"][found & ~equal]
        report.differing += len(wrong)
        report.differing_ms += [int(x) for x in wrong[: KEPT_TIMES - len(report.differing_ms)]]
        for timeframe, (times, rows) in enumerate(features):
            _compare_features(report, timeframe, part["decision_ms"], times, rows, close_ms, vectors)
        if whole is None:
            whole = _whole_history(own, btc)
        _measure_drift(report, part["decision_ms"][found], close_ms, vectors, *whole)


def _same_starts(signals: Array, btc_signals: Array, is_btc: bool) -> list[tuple[Array, list[int]]]:
    """Split signals where the recorded first bars, their own or BTCUSDT's, change."""
    if is_btc:
        btc_firsts = np.stack([signals[name] for name in FIRSTS], axis=1)
    elif len(btc_signals):
        at = np.searchsorted(btc_signals["decision_ms"], signals["decision_ms"], side="right") - 1
        at = np.maximum(at, 0)
        btc_firsts = np.stack([btc_signals[name][at] for name in FIRSTS], axis=1)
    else:
        btc_firsts = np.zeros((len(signals), 3), np.int64)
    keys = np.concatenate([np.stack([signals[name] for name in FIRSTS], axis=1), btc_firsts], axis=1)
    cuts = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
    parts = np.split(np.arange(len(signals)), cuts)
    return [(signals[part], [int(x) for x in btc_firsts[part[0]]]) for part in parts if len(part)]


def _compare_features(
    report: AuditReport, timeframe: int, decisions: Array, times: Array, rows: Array, close_ms: Array, vectors: Array
) -> None:
    """Compare the stored rows of one timeframe that belong to these decisions with the recomputed columns."""
    inside = np.isin(times, decisions)
    at = np.searchsorted(close_ms, times[inside])
    there = at < len(close_ms)
    there[there] = close_ms[at[there]] == times[inside][there]
    recorded = np.ascontiguousarray(rows[inside][there])
    first = timeframe * FEATURES_PER_TIMEFRAME
    again = np.ascontiguousarray(vectors[at[there], first : first + FEATURES_PER_TIMEFRAME])
    name = TIMEFRAMES[timeframe]
    report.rows_compared[name] = report.rows_compared.get(name, 0) + len(recorded)
    for difference in audit.compare_columns(recorded, again):
        report.columns[f"{NAMES[difference.column]}_{name}"] = difference


def _measure_drift(
    report: AuditReport, decisions: Array, close_ms: Array, vectors: Array, whole_ms: Array, whole: Array
) -> None:
    both = np.intersect1d(np.intersect1d(decisions, close_ms), whole_ms)
    rows, largest = audit.drift(
        np.ascontiguousarray(vectors[np.searchsorted(close_ms, both)]),
        np.ascontiguousarray(whole[np.searchsorted(whole_ms, both)]),
    )
    report.drift_vectors += rows
    report.drift_relative = max(report.drift_relative, largest)


def _whole_history(own: _History, btc: _History | None) -> tuple[Array, Array]:
    other: list[Array | None] = [None, None, None] if btc is None else [*btc.bars]
    one, quarter, hour = own.bars
    return fold_vectors(one, quarter, hour, other[0], other[1], other[2], own.open_interest, own.funding)


# --- what is read ---


def _history(store: Store, engine_id: str, symbol: str, to_ms: int) -> _History:
    open_interest = queries.open_interest(store, symbol, 0, to_ms)
    history = _History([], open_interest, queries.funding(store, symbol, 0, to_ms))
    for timeframe, step_ms in enumerate(TIMEFRAME_MS):
        stored = queries.bars(store, symbol, timeframe, 0, to_ms)
        seen = _seen(store, engine_id, symbol, timeframe, to_ms)
        compared, changed = audit.changed_bars(seen, stored)
        history.compared += compared
        if len(changed):
            history.changed[TIMEFRAMES[timeframe]] = changed.tolist()
        joined = audit.first_seen(seen, stored)
        history.bars.append(joined[joined["open_ms"] + step_ms <= to_ms])
    return history


def _seen(store: Store, engine_id: str, symbol: str, timeframe: int, to_ms: int) -> Array:
    """Return BAR[] that the engine's runs took from the exchange, in order of arrival, those it refused left out."""
    runs = store.rows(
        "SELECT run_id FROM bars_seen WHERE engine_id = {engine:String} AND symbol = {symbol:String} "
        "GROUP BY run_id ORDER BY min(time), run_id",
        {"engine": engine_id, "symbol": symbol},
    )
    parts = [queries.bars_seen(store, symbol, timeframe, engine_id, str(run), 0, to_ms) for (run,) in runs]
    bars = np.concatenate([np.zeros(0, BAR), *parts])
    sound = (bars["high"] >= bars["low"]) & np.logical_and.reduce([bars[x] > 0 for x in ("open", "low", "close")])
    return bars[sound]


def _newest(store: Store, engine_id: str, to_ms: int) -> dict[str, int]:
    """Return the newest stored decision time of each symbol.

    A decision is stored after the bars that it was made of, BTCUSDT's too; what is stored while the audit runs may have
    come after its candles were read, and would seem to be made of nothing.
    """
    rows = store.rows(
        "SELECT symbol, toUnixTimestamp64Milli(max(decision_time)) FROM signals WHERE engine_id = {engine:String} "
        "AND decision_time < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC') GROUP BY symbol",
        {"engine": engine_id, "to_ms": to_ms},
    )
    return {str(symbol): int(newest) for symbol, newest in rows}


def _runs(store: Store, engine_id: str, symbol: str, from_ms: int, to_ms: int) -> list[str]:
    rows = store.rows(
        f"SELECT run_id FROM signals WHERE {_SCOPE} GROUP BY run_id ORDER BY min(decision_time), run_id",
        {"engine": engine_id, "symbol": symbol, "from_ms": from_ms, "to_ms": to_ms},
    )
    return [str(row[0]) for row in rows]


_SCOPE = (
    "engine_id = {engine:String} AND symbol = {symbol:String} "
    "AND decision_time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC') "
    "AND decision_time < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')"
)


def _signals(store: Store, engine_id: str, run_id: str, symbol: str, from_ms: int, to_ms: int) -> Array:
    sql = (
        f"SELECT decision_time, vector_hash, {', '.join(FIRST_COLUMNS)} FROM signals "
        f"WHERE {_SCOPE} AND run_id = {{run:String}} ORDER BY decision_time"
    )
    values = {"engine": engine_id, "symbol": symbol, "from_ms": from_ms, "to_ms": to_ms, "run": run_id}
    return np.frombuffer(store.raw(sql, "RowBinary", values), SIGNALS).copy()


def _features(store: Store, report: AuditReport, timeframe: int) -> tuple[Array, Array]:
    """Return (close_ms int64[n], float64[n, 44]) of the stored vectors of a run; another schema's are only counted."""
    scope = "symbol = {symbol:String} AND engine_id = {engine:String} AND run_id = {run:String}"
    values: dict[str, Any] = {"symbol": report.symbol, "engine": report.engine_id, "run": report.run_id}
    table = f"features_{TIMEFRAMES[timeframe]}"
    report.foreign_schema += int(
        store.scalar(f"SELECT count() FROM {table} WHERE {scope} AND schema_hash != {SCHEMA_HASH}", values)
    )
    sql = (
        f"SELECT close_time, {', '.join(NAMES)} FROM {table} WHERE {scope} AND schema_hash = {SCHEMA_HASH} "
        "ORDER BY close_time"
    )
    dtype = np.dtype([("close_ms", "<i8"), ("values", "<f8", (FEATURES_PER_TIMEFRAME,))])
    rows = np.frombuffer(store.raw(sql, "RowBinary", values), dtype)
    return rows["close_ms"].copy(), rows["values"].copy()


# --- what is written ---


def _write(store: Store, reports: list[AuditReport], audit_id: str, now_ms: int) -> None:
    """Insert, for one symbol over its runs, a row for the hashes and one per feature and candle table that differ."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        for row in _rows(report):
            key = (row["timeframe"], row["feature"])
            known = rows.setdefault(key, row)
            if known is not row:
                for name in ("compared", "differing"):
                    known[name] += row[name]
                for name in ("max_relative", "max_ulp", "drift"):
                    known[name] = max(known[name], row[name])
                known["detail"] = "; ".join(x for x in (known["detail"], row["detail"]) if x)
                known["run_id"] = row["run_id"]
    for row in rows.values():
        writer.insert_row(store, "audits", {"audit_id": audit_id, "time": now_ms, "version": now_ms} | row)


def _rows(report: AuditReport) -> list[dict[str, Any]]:
    detail = report.detail or ", ".join(str(x) for x in report.differing_ms)
    if report.unreachable:
        detail = f"{report.unreachable} vectors without their bars; {detail}"
    rows = [_row(report, "all", "vector_hash", report.compared, report.differing, detail)]
    rows[0]["drift"] = report.drift_relative
    for name, difference in report.columns.items():
        feature, timeframe = name.rsplit("_", 1)
        row = _row(report, timeframe, feature, difference.compared, difference.differing, "")
        row["max_relative"], row["max_ulp"] = min(difference.max_relative, 1e300), min(difference.max_ulp, 1e300)
        rows.append(row)
    for timeframe, times in report.candles_differing.items():
        named = "open times: " + ", ".join(str(x) for x in times[:KEPT_TIMES])
        rows.append(_row(report, timeframe, "candle", report.candles_compared, len(times), named))
    return rows


def _row(
    report: AuditReport, timeframe: str, feature: str, compared: int, differing: int, detail: str
) -> dict[str, Any]:
    return {
        "engine_id": report.engine_id, "run_id": report.run_id, "symbol": report.symbol, "timeframe": timeframe,
        "feature": feature, "compared": compared, "differing": differing, "max_relative": 0.0, "max_ulp": 0.0,
        "drift": 0.0, "detail": detail,
    }  # fmt: skip
