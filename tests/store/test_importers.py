"""Real layouts are read, a repeat changes nothing, and each kind of bad file is refused with its reason and row."""

from __future__ import annotations

import hashlib
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.records import BAR, BarFlag
from store import formats, quality, queries, writer
from store.client import Store
from store.errors import ImportRefused
from store.formats import Series
from store.importers import Options, Outcome, import_files, read_checked

HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)
MINUTE = 60_000


def kline_lines(bars: np.ndarray, unit: int = 1) -> list[str]:
    return [
        f"{bar['open_ms'] * unit},{bar['open']!r},{bar['high']!r},{bar['low']!r},{bar['close']!r},"
        f"{bar['volume']!r},{(bar['open_ms'] + MINUTE - 1) * unit},{bar['quote_volume']!r},"
        f"{int(bar['trades'])},{bar['taker_volume']!r},1.0,0"
        for bar in [dict(zip(BAR.names or (), row.tolist(), strict=True)) for row in bars]
    ]


def write_csv(path: Path, lines: list[str], header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(([header] if header else []) + lines) + "\n")
    return path


def zipped(path: Path, check: bool = True) -> Path:
    target = path.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    if check:
        digest = hashlib.sha256(target.read_bytes()).hexdigest()
        target.with_name(target.name + ".CHECKSUM").write_text(f"{digest}  {target.name}\n")
    path.unlink()
    return target


def one(store: Store, path: Path, **options) -> Outcome:
    (outcome,) = import_files(store, [path], Options(**options))
    return outcome


def refusal(store: Store, path: Path, **options) -> str:
    before = queries.counts(store)
    outcome = one(store, path, **options)
    assert outcome.state == "refused", outcome
    assert queries.counts(store) == before  # nothing of it is stored
    return outcome.error


def expected_bars(bars: np.ndarray) -> np.ndarray:
    out = bars.copy()
    out["last_trade_id"], out["flags"] = -1, BarFlag.FILE
    return out


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("unit", [1, 1_000])
def test_bulk_klines_zip_with_checksum(store: Store, tmp_path: Path, make_bars, header: bool, unit: int) -> None:
    bars = make_bars(500)
    path = write_csv(tmp_path / "in" / "BTCUSDT-1m-2023-11.csv", kline_lines(bars, unit), HEADER if header else "")
    outcome = one(store, zipped(path))
    assert (outcome.state, outcome.table, outcome.symbol, outcome.rows) == ("stored", "candles_1m", "BTCUSDT", 500)
    assert queries.bars(store, "BTCUSDT", 0).tobytes() == expected_bars(bars).tobytes()


def test_a_repeated_import_changes_nothing(store: Store, tmp_path: Path, make_bars) -> None:
    path = write_csv(tmp_path / "in" / "BTCUSDT-1m-2023-11.csv", kline_lines(make_bars(300)))
    assert one(store, path).state == "stored"
    counts, rows = queries.counts(store), store.rows("SELECT * FROM candles_1m ORDER BY open_time")
    assert one(store, path).state == "unchanged"
    assert one(store, path, force=True).state == "stored"
    assert queries.counts(store) == counts
    assert store.rows("SELECT * FROM candles_1m ORDER BY open_time") == rows


def test_a_file_whose_rows_were_deleted_is_stored_again(store: Store, tmp_path: Path, make_bars) -> None:
    bars = make_bars(100)
    path = zipped(write_csv(tmp_path / "in" / "BTCUSDT-1m-2023-11.csv", kline_lines(bars)))
    rates = write_csv(
        tmp_path / "in" / "BTCUSDT-fundingRate-2023-11.csv", ["1700006400003,8,0.0001", "1700035200007,8,0.0002"],
        "calc_time,funding_interval_hours,last_funding_rate",
    )  # fmt: skip
    states = [[one(store, file).state for file in (path, rates)] for _ in range(2)]
    assert states == [["stored", "stored"], ["unchanged", "unchanged"]]
    store.command("DELETE FROM candles_1m WHERE symbol = 'BTCUSDT' AND volume > 5")
    store.command("TRUNCATE TABLE funding")
    assert [one(store, file).state for file in (path, rates)] == ["stored", "stored"]
    assert len(queries.bars(store, "BTCUSDT", 0)) == 100 and len(queries.funding(store, "BTCUSDT")) == 2


def test_candles_that_the_retention_would_delete_again_are_refused(store: Store, tmp_path: Path, make_bars) -> None:
    """ "43,200 rows stored", and an hour later none: a merge drops what is older than the store keeps."""
    path = write_csv(tmp_path / "BTCUSDT-1m-2023-11.csv", kline_lines(make_bars(100)))
    assert "older than store.retention_days = 30" in refusal(store, path, retention_days=30)
    now = time.time_ns() // 60_000_000_000 * MINUTE
    recent = make_bars(3_000, now - 30 * 86_400_000 - 1_000 * MINUTE)
    (note,) = one(store, write_csv(tmp_path / "ETHUSDT-1m-x.csv", kline_lines(recent)), retention_days=30).notes
    assert re.fullmatch(r"100\d candles are older than store.retention_days and will be deleted", note)


def test_other_bulk_types(store: Store, tmp_path: Path, make_bars) -> None:
    bars = make_bars(60)
    mark = bars.copy()
    for name in ("volume", "quote_volume", "taker_volume"):
        mark[name] = 0
    folder = tmp_path / "data" / "futures" / "um" / "monthly"
    marks = write_csv(folder / "markPriceKlines" / "ETHUSDT" / "1m" / "ETHUSDT-1m-2023-11.csv", kline_lines(mark))
    funding = write_csv(
        folder / "fundingRate" / "ETHUSDT" / "ETHUSDT-fundingRate-2023-11.csv",
        ["1700006400003,4,0.00005", "1700020800001,4,-0.00002"],
        "calc_time,funding_interval_hours,last_funding_rate",
    )
    metrics = write_csv(
        folder / "metrics" / "ETHUSDT" / "ETHUSDT-metrics-2023-11-15.csv",
        ["2023-11-15 00:05:00,ETHUSDT,1234.5,99.0,1,1,1,1", "2023-11-15 00:10:01,ETHUSDT,1235.5,99.0,1,1,1,1"],
        "create_time,symbol,sum_open_interest,sum_open_interest_value,a,b,c,d",
    )
    states = [one(store, path) for path in (marks, funding, metrics)]
    assert [outcome.table for outcome in states] == ["mark_1m", "funding", "open_interest"]
    assert queries.mark_bars(store, "ETHUSDT")["close"].tolist() == bars["close"].tolist()
    rates = queries.funding(store, "ETHUSDT")
    assert rates["value"].tolist() == pytest.approx([0.0001, -0.00004])  # per 8 h
    assert rates["stamp_ms"].tolist() == [1_700_006_400_000, 1_700_020_800_000]
    assert (rates["usable_ms"] - rates["stamp_ms"] == 300_000).all()
    interest = queries.open_interest(store, "ETHUSDT")
    assert interest["value"].tolist() == [1234.5, 1235.5]
    assert (interest["stamp_ms"] % MINUTE == 0).all()


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".feather"])
def test_named_columns_and_the_freqtrade_layout(store: Store, tmp_path: Path, make_bars, suffix: str) -> None:
    bars = make_bars(200)
    frame = pl.DataFrame(
        {
            "date": pl.Series(bars["open_ms"]).cast(pl.Datetime("ms", "UTC")),
            **{name: bars[name] for name in ("open", "high", "low", "close", "volume")},
        }
    )
    path = tmp_path / "in" / f"BTC_USDT_USDT-1m-futures{suffix}"
    path.parent.mkdir()
    if suffix == ".parquet":
        frame.write_parquet(path)
    elif suffix == ".feather":
        frame.write_ipc(path)
    else:
        import gzip

        text = frame.with_columns(pl.col("date").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv().encode()
        path.write_bytes(gzip.compress(text) if suffix == ".csv.gz" else text)
    assert one(store, path).symbol == "BTCUSDT"
    back = queries.bars(store, "BTCUSDT", 0)
    assert back["close"].tolist() == bars["close"].tolist() and back["open_ms"].tolist() == bars["open_ms"].tolist()
    assert np.isnan(back["taker_volume"]).all() and np.isnan(back["trades"]).all()  # absent is "not known", not 0


def test_gaps_are_recorded_once_and_repeated_rows_dropped(store: Store, tmp_path: Path, make_bars) -> None:
    bars = np.delete(make_bars(300), np.arange(100, 110))
    lines = kline_lines(bars)
    path = write_csv(tmp_path / "in" / "BTCUSDT-1m-x.csv", [*lines[:51], lines[50], *lines[51:]])
    outcome = one(store, path)
    assert outcome.missing == 10 and outcome.rows == 290 and len(outcome.notes) == 2
    one(store, path, force=True)
    gap = "toUnixTimestamp64Milli(from_time), toUnixTimestamp64Milli(to_time), bars"
    first = int(bars["open_ms"][99]) + MINUTE
    assert store.rows(f"SELECT symbol, {gap} FROM data_gaps") == [("BTCUSDT", first, first + 9 * MINUTE, 10)]


# --- what is refused ---


def edit(lines: list[str], row: int, column: int, value: str) -> list[str]:
    cells = lines[row].split(",")
    cells[column] = value
    return [*lines[:row], ",".join(cells), *lines[row + 1 :]]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (2, "1.0", "high or low does not enclose"),
        (3, "1000000", "high or low does not enclose"),
        (3, "0", "not positive"),
        (4, "-5", "not positive"),
        (4, "", "missing or not finite"),
        (4, "abc", "expected a number, got 'abc'"),
        (5, "-1", "volume is negative"),
        (9, "1e9", "taker volume exceeds volume"),
    ],
)
def test_a_bad_cell_is_refused_with_its_row(store: Store, tmp_path: Path, make_bars, column, value, reason) -> None:
    lines = edit(kline_lines(make_bars(50)), 20, column, value)
    error = refusal(store, write_csv(tmp_path / "in" / "BTCUSDT-1m-x.csv", lines))
    assert reason in error and "row 22" in error, error


def test_times_that_cannot_be(store: Store, tmp_path: Path, make_bars) -> None:
    bars = make_bars(50)
    lines = kline_lines(bars)
    path = tmp_path / "in" / "BTCUSDT-1m-x.csv"
    backwards = [*lines[:20], lines[25], lines[20], *lines[26:]]
    cases = {
        "runs backwards": backwards,
        "not a whole 1 min": edit(lines, 20, 0, str(int(bars["open_ms"][20]) + 500)),
        "outside 2017 to now": edit(lines, 0, 0, "1400000000000"),
        "differ in close": [*lines[:21], *edit([lines[20]], 0, 4, str(float(bars["low"][20]))), *lines[21:]],
        "rounded by a spreadsheet": [line.replace(line.split(",")[0], "1.69889E+12") for line in lines],
        "an order nobody can know": [line.replace(line.split(",")[0], "04.05.2023 10:00") for line in lines],
        "spreadsheet's day number": [
            f"{45_000 + i / 1440:.8f},{line.split(',', 1)[1]}" for i, line in enumerate(lines)
        ],
    }
    for reason, rows in cases.items():
        assert reason in refusal(store, write_csv(path, rows))


def test_files_that_are_not_what_their_name_says(store: Store, tmp_path: Path, make_bars) -> None:
    bars = make_bars(300)
    lines = kline_lines(bars)
    folder = tmp_path / "in"
    assert "name says 15m" in refusal(store, write_csv(folder / "BTCUSDT-15m-x.csv", lines))
    assert "says spot" in refusal(store, write_csv(folder / "spot" / "BTCUSDT-1m-x.csv", lines))
    assert "which symbol" in refusal(store, write_csv(folder / "prices-1m.csv", lines))
    mark = bars.copy()
    for name in ("volume", "quote_volume", "taker_volume"):
        mark[name] = 0
    assert "mark-price candles" in refusal(store, write_csv(folder / "BTCUSDT-1m-m.csv", kline_lines(mark)))
    flat = bars.copy()
    for name in ("open", "high", "low", "close"):
        flat[name][100:170] = flat["close"][99]
    for name in ("volume", "quote_volume", "taker_volume", "trades"):
        flat[name][100:170] = 0
    path = write_csv(folder / "BTCUSDT-1m-f.csv", kline_lines(flat))
    assert "70 candles in a row without a trade" in refusal(store, path)
    assert one(store, path, allow=frozenset({"flat"})).state == "stored"


def test_spot_is_known_by_its_halt(store: Store, tmp_path: Path, make_bars) -> None:
    start = 1_679_659_200_000  # 2023-03-24 12:00 UTC
    bars = make_bars(180, start)
    halted = np.delete(bars, np.arange(40, 120))
    folder = tmp_path / "in"
    assert "only spot stood still" in refusal(store, write_csv(folder / "BTCUSDT-1m-s.csv", kline_lines(halted)))
    assert one(store, write_csv(folder / "BTCUSDT-1m-g.csv", kline_lines(bars))).state == "stored"


def test_other_prices_and_shifted_hours_are_seen_against_what_is_stored(
    store: Store, tmp_path: Path, make_bars
) -> None:
    bars = make_bars(3_000)
    writer.insert_bars(store, "BTCUSDT", 0, bars, "rest")
    folder = tmp_path / "in"
    spot = bars.copy()
    for name in ("open", "high", "low", "close"):
        spot[name] *= 1.0004
    error = refusal(store, write_csv(folder / "BTCUSDT-1m-a.csv", kline_lines(spot)))
    assert "+4.0 basis points" in error and "spot prices" in error
    shifted = bars.copy()
    shifted["open_ms"] += 3 * 3_600_000
    error = refusal(store, write_csv(folder / "BTCUSDT-1m-b.csv", kline_lines(shifted)))
    assert "-3 h later" in error
    rng = np.random.default_rng(3)  # another symbol that moves with it, of which nothing is stored
    other = make_bars(3_000, seed=9)
    moves = 0.7 * np.diff(np.log(bars["close"]), prepend=np.log(100.0)) + rng.normal(0, 5e-4, 3_000)
    close = 10 * np.exp(np.cumsum(moves))
    opened = np.concatenate([[10.0], close[:-1]])
    other["open"], other["close"] = opened, close
    other["high"], other["low"] = np.maximum(opened, close), np.minimum(opened, close)
    good = write_csv(folder / "ETHUSDT-1m-a.csv", kline_lines(other))
    other["open_ms"] -= 2 * 3_600_000
    assert "+2 h later" in refusal(store, write_csv(folder / "SOLUSDT-1m-a.csv", kline_lines(other)))
    assert one(store, good).state == "stored"


def test_damaged_files(store: Store, tmp_path: Path, make_bars) -> None:
    folder = tmp_path / "in"
    good = zipped(write_csv(folder / "BTCUSDT-1m-x.csv", kline_lines(make_bars(50))))
    raw = bytearray(good.read_bytes())
    raw[60] ^= 0xFF
    good.write_bytes(raw)
    assert "expected sha256" in refusal(store, good)
    good.with_name(good.name + ".CHECKSUM").unlink()
    assert "cannot be read" in refusal(store, good)
    for name, content in (
        ("a.zip", b"PK"),
        ("BTCUSDT-1m.parquet", b"x" * 100),
        ("BTCUSDT-1m.feather", b""),
        ("a.csv", b""),
    ):
        (folder / name).write_bytes(content)
        assert refusal(store, folder / name)
    (folder / "notes.txt").write_text("hello")
    assert "unknown kind of file" in refusal(store, folder / "notes.txt")
    assert "2 columns" in refusal(store, write_csv(folder / "BTCUSDT-1m-y.csv", ["1,2", "3,4"], ""))
    with pytest.raises(ImportRefused, match="no file to import"):
        formats.find_files(tmp_path / "in" / "nothing")


def test_a_file_that_is_cut_off_is_refused(store: Store, tmp_path: Path, make_bars) -> None:
    """Without a checksum the last row is what tells: its volume was half a number, the columns behind it were gone."""
    path = write_csv(tmp_path / "BTCUSDT-1m-x.csv", kline_lines(make_bars(50)))
    whole = path.read_bytes()
    last = whole.splitlines()[-1]
    path.write_bytes(whole[: len(whole) - len(last) - 1] + b",".join(last.split(b",")[:6])[:-3])
    assert "row 51: the last row ends before quote_volume, trades, taker_volume" in refusal(store, path)


def test_columns_that_begin_with_whole_numbers_are_read(store: Store, tmp_path: Path, make_bars) -> None:
    bars = make_bars(11_000)
    for name in ("open", "high", "low", "close"):
        bars[name] = 100.0
        bars[name][10_500:] = 100.5
    bars["open"][10_500], bars["low"][10_500] = 100.0, 100.0
    lines = [line.replace("100.0,", "100,") for line in kline_lines(bars)]
    assert one(store, write_csv(tmp_path / "BTCUSDT-1m-x.csv", lines)).rows == 11_000
    assert one(store, write_csv(tmp_path / "ETHUSDT-1m-x.csv", lines, "")).rows == 11_000


def test_contracts_that_are_not_the_perpetual_are_refused(store: Store, tmp_path: Path, make_bars) -> None:
    """A mirror of the bulk files holds both beside BTCUSDT, and their names begin with it."""
    lines = kline_lines(make_bars(50))
    assert "delivery contract" in refusal(store, write_csv(tmp_path / "BTCUSDT_240329-1m-2024-01.csv", lines))
    assert "index-price" in refusal(store, write_csv(tmp_path / "indexPriceKlines" / "BTCUSDT-1m-x.csv", lines))


def test_prices_in_another_unit_are_refused(store: Store, tmp_path: Path, make_bars) -> None:
    bars = make_bars(400)
    joined = bars.copy()
    for name in ("open", "high", "low", "close"):
        joined[name][200:] *= 1_000
    path = write_csv(tmp_path / "PEPEUSDT-1m-x.csv", kline_lines(joined))
    assert "5 times another from one candle to the next at 2023-11-15T01:34" in refusal(store, path)
    first = write_csv(tmp_path / "PEPEUSDT-1m-a.csv", kline_lines(bars[:200]))
    assert one(store, first).state == "stored"
    second = write_csv(tmp_path / "PEPEUSDT-1m-b.csv", kline_lines(joined[200:]))
    assert "the stored candle beside it has close" in refusal(store, second)
    assert one(store, second, allow=frozenset({"jump"})).state == "stored"


def test_a_file_that_would_replace_many_stored_closes_is_refused(store: Store, tmp_path: Path, make_bars) -> None:
    bars = make_bars(1_000)
    writer.insert_bars(store, "BTCUSDT", 0, bars, "rest")
    other = bars.copy()
    other["close"][::3] = other["low"][::3]
    error = refusal(store, write_csv(tmp_path / "BTCUSDT-1m-a.csv", kline_lines(other)))
    assert "33% of 1000 closes differ" in error
    corrected = bars.copy()
    corrected["close"][:7] = corrected["low"][:7]
    outcome = one(store, write_csv(tmp_path / "BTCUSDT-1m-b.csv", kline_lines(corrected)))
    assert outcome.state == "stored" and outcome.notes == ["7 closes differ from those stored"]


def test_candles_without_a_trade_count_do_not_replace_whole_ones(store: Store, tmp_path: Path, make_bars) -> None:
    bars = make_bars(50)
    writer.insert_bars(store, "BTCUSDT", 0, bars, "rest")
    bars["trades"] = np.nan
    writer.insert_bars(store, "BTCUSDT", 0, bars, "file")
    assert np.isfinite(queries.bars(store, "BTCUSDT", 0)["trades"]).all()


def test_funding_as_percent_or_price_is_refused(store: Store, tmp_path: Path) -> None:
    lines = ["1700006400000,8,42000.0", "1700035200000,8,42010.0"]
    path = write_csv(
        tmp_path / "in" / "BTCUSDT-fundingRate-x.csv", lines, "calc_time,funding_interval_hours,last_funding_rate"
    )
    assert "expected a rate as a fraction" in refusal(store, path)


def test_rates_without_an_interval_have_that_of_their_times(store: Store, tmp_path: Path) -> None:
    hours = [8] * 30 + [4] * 10 + [1] * 50
    times = 1_700_006_400_000 + 3_600_000 * np.cumsum(hours)
    frame = pl.DataFrame({"date": times + 3, "open": np.full(len(hours), 1e-4)})
    path = tmp_path / "ETH_USDT_USDT-8h-funding_rate.feather"
    frame.write_ipc(path)
    assert one(store, path).state == "stored"
    stored = queries.funding(store, "ETHUSDT")
    np.testing.assert_array_equal(stored["value"], 1e-4 * 8 / np.array(hours))


@pytest.mark.shared_data
def test_the_real_feather_files(store: Store, shared_data: Path) -> None:
    outcomes = import_files(store, formats.find_files(shared_data / "klines"))
    assert {outcome.state for outcome in outcomes} == {"stored"}
    assert not sum(outcome.missing for outcome in outcomes)
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"):
        own = [outcome for outcome in outcomes if outcome.symbol == symbol and outcome.table == "candles_1m"]
        first, last = min(o.first_ms for o in own), max(o.last_ms for o in own)
        assert len(queries.bars(store, symbol, 0)) == (last - first) // MINUTE + 1  # 51 days without a gap
        stamps = queries.funding(store, symbol)["stamp_ms"]
        assert len(stamps) > 250 and set(np.diff(stamps).tolist()) == {8 * 3_600_000}
    shifted = pl.read_ipc(shared_data / "klines" / "ETHUSDT-1m-futures.2025-05.feather")
    times = shifted["date"].dt.epoch("ms").to_numpy() + 5 * 3_600_000
    columns = {name: shifted[name].to_numpy() for name in ("open", "high", "low", "close", "volume")}
    series = Series("x", "klines", "ADAUSDT", 0, times, columns)
    with pytest.raises(ImportRefused, match="-5 h later"):
        quality.compare(series, np.zeros(0, BAR), queries.bars(store, "BTCUSDT", 0))


@pytest.mark.shared_data
def test_reading_needs_no_store(shared_data: Path) -> None:
    ((series, findings),) = read_checked(shared_data / "klines" / "BTCUSDT-1m-futures.2025-05.feather")
    assert (series.symbol, series.timeframe, len(series.times_ms), findings) == ("BTCUSDT", 0, 43_199, [])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_file_breaks_the_reader(tmp_path: Path, make_bars, data: st.DataObject) -> None:
    lines = "\n".join([HEADER, *kline_lines(make_bars(20))]).encode()
    at = data.draw(st.integers(0, len(lines)))
    cut = data.draw(st.integers(0, 40))
    noise = data.draw(
        st.one_of(
            st.binary(max_size=20), st.sampled_from([b"NaN", b"inf", b"-1", b'"', b",,", b"\n\n", b"1e400", b"9" * 20])
        )
    )
    name = data.draw(
        st.sampled_from(["BTCUSDT-1m.csv", "BTCUSDT-1m.zip", "BTCUSDT-1m.parquet", "BTCUSDT-1m.feather", "x.csv.gz"])
    )
    path = tmp_path / name
    path.write_bytes(lines[:at] + noise + lines[at + cut :])
    try:
        for series, _ in read_checked(path):
            bars = quality.to_bars(series, BarFlag.FILE)
            assert (
                (np.diff(bars["open_ms"]) > 0).all() and (bars["low"] > 0).all() and (bars["high"] >= bars["low"]).all()
            )
    except ImportRefused as refused:
        assert str(refused).startswith(str(path))
