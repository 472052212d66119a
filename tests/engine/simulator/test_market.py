"""The market itself: paths visit their candle, the generated law is as stated, files are checked row by row."""

from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError, DataError
from engine.market.rings import BarFile
from engine.simulator import path
from engine.simulator.market import GENERATED_START_MS, generate_market, generated_symbols, load_market, symbol_key
from engine.simulator.options import Options, check, parse, parse_account
from kernels.records import BAR

MINUTE = 60_000


def test_every_minute_visits_open_high_low_close_on_the_tick_grid() -> None:
    market = generate_market(generated_symbols(3), GENERATED_START_MS, 400, 3, 1.0)
    run = np.zeros((5, 3, path.SLOTS), np.int64)
    for index in range(400):
        open_ms = market.first_ms + index * MINUTE
        path.run_minute(market.bars, index, market.begin, open_ms, market.keys, market.ticks, market.units, run)
        bars = market.bars[:, :, index]
        np.testing.assert_array_equal(run[0, :, 0], bars[path.OPEN])
        np.testing.assert_array_equal(run[0].max(axis=1), bars[path.HIGH])
        np.testing.assert_array_equal(run[0].min(axis=1), bars[path.LOW])
        np.testing.assert_array_equal(run[0, :, -1], bars[path.CLOSE])
        assert not (run[0] % market.ticks[:, None]).any()
        assert (np.abs(run[3] / market.units[:, None] / run[0] - 1) < 0.02).all()  # the mark stays near the last price


def tilt_and_next_move(edge: float) -> float:
    """Correlation of the 15-minute taker share with the return of the next two hours."""
    market = generate_market(generated_symbols(2), GENERATED_START_MS, 60_000, 11, edge)
    window = np.ones(15)
    share = np.convolve(market.bars[path.TAKER, 1], window, "valid") / np.convolve(
        market.bars[path.VOLUME, 1], window, "valid"
    )
    close = market.bars[path.CLOSE, 1].astype(float)[14:]
    return float(np.corrcoef(share[:-120], close[120:] / close[:-120] - 1)[0, 1])


def test_the_edge_is_learnable_and_gone_at_zero() -> None:
    assert tilt_and_next_move(1.0) > 0.3
    assert abs(tilt_and_next_move(0.0)) < 0.1


def test_generated_returns_are_correlated_fat_tailed_and_clustered() -> None:
    market = generate_market(generated_symbols(2), GENERATED_START_MS, 60_000, 1, 0.0)
    moves = np.diff(np.log(market.bars[path.CLOSE].astype(float)), axis=1)
    assert 0.3 < np.corrcoef(moves)[0, 1] < 0.8
    for row in moves:
        scaled = row / row.std()
        assert (scaled**4).mean() > 3.5  # a normal law has 3
        assert np.corrcoef(np.abs(scaled[1:]), np.abs(scaled[:-1]))[0, 1] > 0.05


def test_another_seed_is_another_market_and_the_same_seed_the_same() -> None:
    one, same, other = (generate_market(["BTCUSDT"], GENERATED_START_MS, 50, seed, 1.0).bars for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def bars(count: int) -> np.ndarray:
    rows = np.zeros(count, BAR)
    rows["open_ms"] = GENERATED_START_MS + MINUTE * np.arange(count)
    rows["open"] = rows["close"] = 100.5
    rows["high"], rows["low"], rows["volume"] = 101.25, 100.0, 7.5
    for name in ("quote_volume", "taker_volume", "trades"):
        rows[name] = np.nan
    return rows


def write(folder: Path, symbol: str, rows: np.ndarray) -> None:
    file = BarFile.create(folder / f"{symbol}.1m", symbol, 0, max(len(rows), 8))
    file.rewrite(rows)
    file.close()


def test_missing_columns_are_invented_from_the_seed_and_named(tmp_path: Path) -> None:
    rows = np.delete(bars(30), slice(10, 13))
    write(tmp_path, "AAAUSDT", rows)
    market, again = load_market(tmp_path, None, 5), load_market(tmp_path, None, 5)
    np.testing.assert_array_equal(market.bars, again.bars)
    assert {"taker volume", "trades", "trade ids", "3 absent minutes (idle)"} <= set(market.synthesised)
    idle = market.bars[:, 0, 10:13]
    assert (idle[path.VOLUME] == 0).all()
    assert (idle[path.HIGH] == market.bars[path.CLOSE, 0, 9]).all()
    present = market.bars[:, 0, :10]
    assert (present[path.TAKER] > 0).all() and (present[path.TAKER] < present[path.VOLUME]).all()
    ids = market.bars[path.FIRST_ID, 0]
    np.testing.assert_array_equal(np.diff(ids), market.bars[path.TRADES, 0, :-1])


def test_symbols_whose_keys_need_63_bits_and_64_stand_in_one_folder(tmp_path: Path) -> None:
    """Numba took the first key for a signed integer and each that came after it, too."""
    names = ["CCCUSDT", "DDDUSDT", "EEEUSDT"]
    assert [symbol_key(name, 5) >> 63 for name in names] == [0, 1, 1]
    for name in names:
        write(tmp_path, name, bars(30))
    market = load_market(tmp_path, None, 5)
    assert market.symbols == names and (market.bars[path.TAKER] > 0).all()


@pytest.mark.parametrize(
    ("field", "row", "value", "message"),
    [
        ("high", 4, 99.0, "row 4: expected 0 < low"),
        ("close", 2, np.nan, "row 2: expected a finite close"),
        ("volume", 7, -1.0, "row 7: expected a finite volume"),
        ("open_ms", 5, 1, "row 5: expected rising whole minutes"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, field: str, row: int, value: float, message: str) -> None:
    rows = bars(12)
    rows[field][row] = value
    write(tmp_path, "AAAUSDT", rows)
    with pytest.raises(DataError, match=message):
        load_market(tmp_path, None, 5)


def test_refused_options_come_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check(Options(port=70_000, speed=0, data=tmp_path / "none"))
    assert len(caught.value.faults) == 3
    with pytest.raises(ConfigError):
        parse_account("keyonly")
    assert parse(["--account", "k:s:250"]).clock == "wall"
    assert parse([]).clock == "replay"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none"):
        load_market(tmp_path, None, 5)
