"""What is written comes back, to the last bit, whichever way it travels."""

from __future__ import annotations

import numpy as np

from kernels.records import BAR, INSTRUMENT, LABEL, SAMPLE, BarFlag
from store import queries, writer
from store.client import Store, connect


def test_bars_come_back_bit_for_bit_embedded_and_over_the_front(store: Store, tmp_path, make_bars) -> None:
    bars = make_bars(5_000)
    bars["taker_volume"][::7] = np.nan
    writer.insert_bars(store, "BTCUSDT", 0, bars, "file")
    with connect("embedded", tmp_path) as remote:
        writer.insert_bars(remote, "ETHUSDT", 1, bars, "file")
        for reader in (store, remote):
            assert queries.bars(reader, "BTCUSDT", 0).tobytes() == bars.tobytes()
            assert queries.bars(reader, "ETHUSDT", 1).tobytes() == bars.tobytes()
    assert queries.last_bars(store, "BTCUSDT", 0, 100).tobytes() == bars[-100:].tobytes()
    lower, upper = int(bars["open_ms"][10]), int(bars["open_ms"][20])
    assert queries.bars(store, "BTCUSDT", 0, lower, upper).tobytes() == bars[10:20].tobytes()
    assert queries.bars(store, "NONE", 0).dtype == BAR


def test_repeating_an_insert_changes_nothing(store: Store, make_bars) -> None:
    bars = make_bars(300)
    for _ in range(3):
        writer.insert_bars(store, "BTCUSDT", 0, bars, "file")
    assert queries.counts(store)["candles_1m"] == 300


def test_complete_bars_win_over_partial_ones_and_revisions_over_all(store: Store, make_bars) -> None:
    full = make_bars(4)
    partial, revised = full.copy(), full[:1].copy()
    partial["taker_volume"], partial["close"] = np.nan, 1.0
    revised["flags"] |= np.uint32(BarFlag.REVISION)
    revised["close"], revised["arrived_ms"] = 2.0, 5
    for bars in (full, revised, partial):
        writer.insert_bars(store, "X", 0, bars, "file")
    assert queries.bars(store, "X", 0)["close"].tolist() == [2.0, *full["close"][1:].tolist()]


def test_samples_are_floored_to_the_minute_and_labels_and_instruments_round_trip(store: Store) -> None:
    samples = np.zeros(2, SAMPLE)
    samples["stamp_ms"] = [1_700_000_000_003, 1_700_028_800_001]
    samples["usable_ms"] = samples["stamp_ms"] + 300_000
    samples["value"] = [1e-4, -2e-4]
    writer.insert_funding(store, "X", samples)
    writer.insert_open_interest(store, "X", samples)
    for read in (queries.funding(store, "X"), queries.open_interest(store, "X")):
        assert (read["stamp_ms"] % 60_000 == 0).all()
        assert read["value"].tolist() == [1e-4, -2e-4]

    labels = np.zeros(3, LABEL)
    labels["time_ms"] = 1_700_000_040_000 + 60_000 * np.arange(3)
    labels["reason"], labels["hold_minutes"], labels["net_return"] = [2, 3, 4], [1, 2, 360], [0.1, -0.1, 0.0]
    writer.insert_labels(store, "long", "X", labels, 1)
    assert queries.labels(store, "long", "X").tobytes() == labels.tobytes()
    assert store.rows("SELECT toString(reason) FROM labels_long_1m ORDER BY time") == [("tp",), ("sl",), ("time",)]

    instruments = np.zeros(2, INSTRUMENT)
    instruments["symbol"], instruments["tick_size"], instruments["trading"] = [b"AUSDT", b"BUSDT"], [0.1, 0.01], 1
    writer.insert_instruments(store, instruments, 1_700_000_000_000)
    assert queries.instruments(store).tobytes() == instruments.tobytes()


def test_holes_are_found(store: Store, make_bars) -> None:
    bars = make_bars(100)
    writer.insert_bars(store, "X", 0, np.delete(bars, [10, 11, 50]), "file")
    start = int(bars["open_ms"][0])
    assert queries.missing_ranges(store, "X") == [
        (start + 10 * 60_000, start + 12 * 60_000),
        (start + 50 * 60_000, start + 51 * 60_000),
    ]
    row = queries.coverage(store).row(0, named=True)
    assert (row["symbol"], row["bars"], row["missing"]) == ("X", 97, 3)
    assert queries.symbols(store) == ["X"]
