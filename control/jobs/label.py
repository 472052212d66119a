"""Fill `labels_long_1m` and `labels_short_1m` for a range of decision times, symbols in parallel."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from control.jobs.inputs import MINUTE_MS, choose_symbols, history, label_settings, read_symbol, unfunded_minutes
from engine.backtest.history import History
from engine.config import Config
from engine.errors import DataError
from engine.model.cluster import Cluster
from engine.model.dataset import average_uniqueness
from engine.model.labels import Labels
from engine.model.prepare import Vectors, label_history
from engine.model.train import Progress
from kernels.records import Reason
from store import writer
from store.client import Store

LAST_MS = 1 << 42  # 2109: what DateTime64 can hold and no candle reaches
WORKERS = 2  # kernels release the GIL; the store answers one statement at a time anyway


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What one symbol got: rows per side, exits by reason over both sides, and why minutes were left out."""

    symbol: str
    rows_long: int
    rows_short: int
    on_mark: int
    exits: dict[str, int]
    counts: dict[str, int]
    unfunded: int = 0  # labels whose minute has no stored funding rate near: their net returns leave it out


def run(
    store: Store,
    config: Config,
    symbols: list[str],
    from_ms: int,
    to_ms: int,
    progress: Progress | None = None,
    cluster: str = "",
) -> list[LabelReport]:
    """Label the decision times [from_ms, to_ms) of `symbols` (empty: those configured) and store the rows.

    cluster: a Dask scheduler's address; empty: here, in parallel over symbols. Paths never look at bars that close
    after `to_ms`. Raises DataError when there is nothing to label.
    """
    chosen = choose_symbols(store, config, symbols)
    if cluster:
        with extract_folder(config) as folder, open_cluster(cluster, folder) as opened:
            found = on_cluster(store, config, opened, chosen, from_ms, to_ms, progress)
            return [report for report, _, _ in found]
    version = time.time_ns() // 1_000_000
    settings = label_settings(config)
    done = 0

    def one(symbol: str) -> LabelReport:
        nonlocal done
        own, vectors = read_symbol(store, config, symbol, to_ms)
        report = _store(store, config, symbol, label_history(own, vectors, settings), from_ms, to_ms, version)
        done += 1
        if progress is not None:
            progress(symbol, done, len(chosen))
        return report

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(one, chosen))


def on_cluster(
    store: Store,
    config: Config,
    cluster: Cluster,
    symbols: list[str],
    from_ms: int,
    to_ms: int,
    progress: Progress | None,
) -> Iterator[tuple[LabelReport, Vectors, Labels]]:
    """Fold and label `symbols` on a cluster, store the labels, and yield what came back of each."""
    version = time.time_ns() // 1_000_000

    def read(symbol: str) -> History:
        return history(store, symbol, to_ms)

    prepared = cluster.prepare(symbols, read, config.market.btc_symbol, label_settings(config), progress)
    for vectors, labels in prepared:
        yield _store(store, config, vectors.symbol, labels, from_ms, to_ms, version), vectors, labels


@contextmanager
def extract_folder(config: Config) -> Iterator[Path]:
    """Yield a folder below the data folder for what workers read; it is removed at the end."""
    folder = config.data_dir / "work" / f"extract-{time.time_ns()}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_cluster(address: str, folder: Path) -> Iterator[Cluster]:
    """Yield a client of a Dask scheduler. Raises DataError when none answers at the address."""
    try:
        cluster = Cluster(address, folder)
    except (OSError, ValueError) as error:
        raise DataError(f"cluster {address}: expected a Dask scheduler (tcp://host:8786), got: {error}") from error
    try:
        yield cluster
    finally:
        cluster.close()


def _remove_stale(store: Store, side: str, symbol: str, from_ms: int, to_ms: int, version: int) -> None:
    """Remove labels of an earlier run at minutes that have none any more: other barriers, or a gap found since.

    [from_ms, to_ms): the minutes whose whole path this run could see.
    """
    stale = (
        "symbol = {symbol:String} AND version < {version:UInt64} "
        "AND time >= fromUnixTimestamp64Milli({from_ms:Int64}, 'UTC') "
        "AND time < fromUnixTimestamp64Milli({to_ms:Int64}, 'UTC')"
    )
    values = {"symbol": symbol, "version": version, "from_ms": from_ms, "to_ms": min(to_ms, LAST_MS)}
    if store.scalar(f"SELECT count() FROM labels_{side}_1m WHERE {stale}", values):
        store.command(f"DELETE FROM labels_{side}_1m WHERE {stale}", values)


def _store(
    store: Store, config: Config, symbol: str, found: Labels, from_ms: int, to_ms: int, version: int
) -> LabelReport:
    judged_ms = to_ms - config.barriers.time_limit_minutes * MINUTE_MS
    exits = {reason.name.lower(): 0 for reason in (Reason.TP, Reason.SL, Reason.TIME)}
    rows = {}
    for side, labels in (("long", found.long), ("short", found.short)):
        uniqueness = average_uniqueness(labels["time_ms"], labels["hold_minutes"])
        inside = labels["time_ms"] >= from_ms
        kept = labels[inside]
        writer.insert_labels(
            store, side, symbol, kept, version, config_hash=label_settings(config).hash(), uniqueness=uniqueness[inside]
        )
        _remove_stale(store, side, symbol, from_ms, judged_ms, version)
        rows[side] = kept
        for name in exits:
            exits[name] += int((kept["reason"] == Reason[name.upper()]).sum())
    on_mark = int(rows["long"]["on_mark"].sum())
    without = unfunded_minutes(store, symbol, rows["long"]["time_ms"])
    return LabelReport(symbol, len(rows["long"]), len(rows["short"]), on_mark, exits, found.counts, without)
