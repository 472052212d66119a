"""Store: journal records to rows, candles of a file to rows, the newest candles out of many.

Bounds: the tail takes at least 200,000 records/s, the import at least 1,000,000 candles/s, and the newest 1,500
candles of a symbol come out of 50 million rows within 20 ms. TA_TEST_LONG=1 uses the 50 million; else 5 million.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine import journal
from kernels.records import RECORDS, Kind
from store import queries
from store.client import Store, connect
from store.importers import import_files
from store.tail import Tail

SYMBOLS = 100
ROWS = 50_000_000 if os.environ.get("TA_TEST_LONG") else 5_000_000
CANDLES = 500_000
MINUTES = 60_000  # of three symbols in the journal


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with connect("embedded", tmp_path) as opened:
        opened.scalar("SELECT 1")
        yield opened


def write_journal(folder: Path) -> int:
    """Write two marks, a book, a candle and a signal per minute. Return the last seq."""
    writer = journal.Writer(folder, "main", journal.new_run_id(folder), 64 << 20, lambda writer: None)
    fields = {}
    for kind in (Kind.MARK, Kind.BOOK, Kind.BAR, Kind.SIGNAL):
        record = np.zeros(1, RECORDS[kind])[0]
        fields[kind] = [
            value
            for name in (RECORDS[kind].names or ())[6:]
            for value in (record[name].tolist() if record[name].shape else [record[name].item()])
        ]
    opened = (RECORDS[Kind.BAR].names or ()).index("open_ms") - 6
    for i in range(MINUTES):
        now = 1_750_000_020_000 + i * 60_000
        fields[Kind.BAR][opened] = now
        for kind in (Kind.MARK, Kind.MARK, Kind.BOOK, Kind.BAR, Kind.SIGNAL):
            writer.write(kind, 1, now, *fields[kind])
    writer.close()
    return writer.seq


def test_tail_records_per_second(benchmark, store: Store, tmp_path: Path) -> None:
    last = write_journal(tmp_path / "journal")

    def follow() -> int:
        tail = Tail(store, [tmp_path / "journal"], tmp_path / "state")
        assert tail.drain()
        return tail.records

    def forget() -> None:
        for path in (tmp_path / "state").glob("*.json"):
            path.unlink()
        for table in ("candles_1m", "bars_seen", "signals"):
            store.command(f"TRUNCATE TABLE {table}")

    assert benchmark.pedantic(follow, setup=forget, rounds=5) == last
    rate = last / benchmark.stats.stats.min
    benchmark.extra_info["records_per_s"] = round(rate)
    assert rate >= 200_000


def test_import_candles_per_second(benchmark, store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    close = np.round(30_000 * np.exp(np.cumsum(rng.normal(0, 5e-4, CANDLES))), 1)
    opened = np.concatenate([close[:1], close[:-1]])
    times = pl.Series(1_600_000_020_000 + 60_000 * np.arange(CANDLES)).cast(pl.Datetime("ms", "UTC"))
    frame = pl.DataFrame(
        {
            "date": times,
            "open": opened,
            "high": np.maximum(opened, close) + 1,
            "low": np.minimum(opened, close) - 1,
            "close": close,
            "volume": np.round(rng.exponential(100, CANDLES), 3),
        }
    )
    path = tmp_path / "BTCUSDT-1m-futures.feather"
    frame.write_ipc(path)

    def empty() -> None:
        for table in ("candles_1m", "imports"):
            store.command(f"TRUNCATE TABLE {table}")

    (outcome,) = benchmark.pedantic(lambda: import_files(store, [path]), setup=empty, rounds=5)
    assert outcome.state == "stored" and queries.counts(store)["candles_1m"] == CANDLES
    rate = CANDLES / benchmark.stats.stats.min
    benchmark.extra_info["candles_per_s"] = round(rate)
    assert rate >= 1_000_000


def test_newest_candles_out_of_many(benchmark, store: Store) -> None:
    per_symbol = ROWS // SYMBOLS
    store.command(
        "INSERT INTO candles_1m (symbol, open_time, open, high, low, close, volume, version) "
        f"SELECT concat('S', toString(intDiv(number, {per_symbol})), 'USDT'), "
        f"toDateTime64('2020-01-01', 3, 'UTC') + toIntervalMinute(number % {per_symbol}), "
        "rand() / 1e6, rand(1) / 1e6, rand(2) / 1e6, rand(3) / 1e6, rand(4) / 1e6, 1 "
        f"FROM numbers({ROWS}) SETTINGS max_block_size = 2000000, min_insert_block_size_rows = 2000000"
    )
    for part in store.rows("SELECT DISTINCT partition_id FROM system.parts WHERE active AND table = 'candles_1m'"):
        store.command(f"OPTIMIZE TABLE candles_1m PARTITION ID '{part[0]}'")  # as the background merges leave it
    bars = benchmark(lambda: queries.last_bars(store, "S42USDT", 0, 1_500))
    assert len(bars) == 1_500 and (np.diff(bars["open_ms"]) == 60_000).all()
    benchmark.extra_info["rows"] = ROWS
    assert benchmark.stats.stats.median <= 0.020
