"""Bar files seeded from the store: the engine's start then asks REST for the rest only."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from control.cli.app import app, load_groups
from control.jobs.collect import Order, collect
from control.jobs.seed import seed
from engine.config import Config, load
from engine.exchange.budget import WeightBudget
from engine.exchange.rest import MarketRest
from engine.main import lock_folder
from engine.market.helper import Worker
from engine.market.rings import BarFile, bar_path
from engine.market.samples import read_samples
from kernels.records import BAR, SAMPLE, TIMEFRAME_MS
from store import queries, writer
from store.client import Store, connect
from tests.fake_exchange import FakeExchange

NOW = 1_790_771_340_000 + 30_000
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
load_groups()
NEED = {"": 1_500, "BTCUSDT": 6_000}


@pytest.fixture
async def exchange() -> AsyncIterator[FakeExchange]:
    server = FakeExchange(NOW)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(None, data_dir=tmp_path, market={"symbols": SYMBOLS})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with connect("embedded", tmp_path) as opened:
        yield opened


async def start_history(exchange: FakeExchange, folder: Path) -> dict[str, int]:
    """Run the engine's start-up history; return how many candle pages and rate pages it asked for."""
    exchange.calls.clear()
    async with MarketRest(exchange.rest_url, WeightBudget()) as rest:
        worker = Worker(rest, lambda event: None)
        await worker.history(
            str(folder / "bars"), str(folder / "samples"), SYMBOLS, NEED, {"": 2_048, "BTCUSDT": 8_192}, [0, 1, 2]
        )
    return {name: sum(path.endswith(name) for path, _ in exchange.calls) for name in ("klines", "fundingRate")}


def held(folder: Path, symbol: str, timeframe: int) -> np.ndarray:
    file = BarFile.open(bar_path(folder / "bars", symbol, timeframe))
    bars = file.ordered()
    file.close()
    return bars


async def test_a_first_start_needs_few_pages_and_ends_with_the_same_bars(
    exchange: FakeExchange, store: Store, config: Config, tmp_path: Path
) -> None:
    without = await start_history(exchange, tmp_path / "other")
    await collect(exchange.rest_url, store, Order(days=40.0, symbols=SYMBOLS, mark=False, open_interest=False), None)
    exchange.now_ms += 10 * 60_000
    assert seed(store, config)["rates"] > 180
    with_store = await start_history(exchange, tmp_path)
    assert with_store["klines"] < without["klines"] / 2
    assert (without["fundingRate"], with_store["fundingRate"]) == (2, 0)
    assert len(read_samples(tmp_path / "samples" / "ETHUSDT.funding")) >= 90
    await start_history(exchange, tmp_path / "fresh")
    for symbol in SYMBOLS:
        for timeframe in range(3):
            bars, fresh = held(tmp_path, symbol, timeframe), held(tmp_path / "fresh", symbol, timeframe)
            assert (np.diff(bars["open_ms"]) == TIMEFRAME_MS[timeframe]).all() and len(bars) >= len(fresh)
            for name in ("open_ms", "open", "high", "low", "close", "volume", "taker_volume", "trades"):
                assert (bars[name][-len(fresh) :] == fresh[name]).all(), (symbol, timeframe, name)
    assert seed(store, config) == {"bars": 0, "rates": 0}


async def test_bars_as_seen_stay_and_partial_candles_are_not_taken(
    exchange: FakeExchange, store: Store, config: Config, tmp_path: Path
) -> None:
    await collect(
        exchange.rest_url, store, Order(days=1.0, symbols=SYMBOLS, mark=False, funding=False, open_interest=False), None
    )
    bars = queries.bars(store, "ETHUSDT", 0)
    seen = bars[600:700].copy()
    seen["close"] += 0.01
    file = BarFile.create(bar_path(tmp_path / "bars", "ETHUSDT", 0), "ETHUSDT", 0, 2_048)
    file.rewrite(seen)
    file.close()
    partial = np.zeros(1, BAR)
    partial[0] = bars[-1]
    partial["open_ms"] += 60_000
    partial["taker_volume"] = np.nan
    writer.insert_bars(store, "ETHUSDT", 0, partial, "file")
    seed(store, config)
    after = held(tmp_path, "ETHUSDT", 0)
    assert after["open_ms"].tolist() == bars["open_ms"].tolist()
    assert (after["close"][600:700] == seen["close"]).all() and (after["close"][:600] == bars["close"][:600]).all()


async def test_a_hole_in_the_store_leaves_only_what_follows_it(
    exchange: FakeExchange, store: Store, config: Config, tmp_path: Path
) -> None:
    exchange.missing = {("ETHUSDT", "1m", NOW // 60_000 * 60_000 - 100 * 60_000)}
    await collect(
        exchange.rest_url, store, Order(days=0.5, symbols=SYMBOLS, mark=False, funding=False, open_interest=False), None
    )
    seed(store, config)
    assert len(held(tmp_path, "ETHUSDT", 0)) == 99
    assert len(held(tmp_path, "BTCUSDT", 0)) == 719


async def test_rates_with_a_hole_are_not_what_features_begin_with(
    exchange: FakeExchange, store: Store, config: Config, tmp_path: Path
) -> None:
    """The file would look up to date, REST would not be asked, and 90 rates would reach back too far."""
    samples = np.zeros(130, SAMPLE)
    samples["stamp_ms"] = NOW // 28_800_000 * 28_800_000 - 28_800_000 * np.arange(130)[::-1]
    samples["usable_ms"], samples["value"] = samples["stamp_ms"] + 300_000, 0.0001
    writer.insert_funding(store, "ETHUSDT", np.delete(samples, np.s_[80:85]), "engine")
    writer.insert_funding(store, "BTCUSDT", np.delete(samples, np.s_[20:25]), "engine")
    assert seed(store, config)["rates"] == 105  # BTCUSDT's behind the hole; of ETHUSDT too few are left
    await start_history(exchange, tmp_path)
    for symbol in SYMBOLS:
        rates = read_samples(tmp_path / "samples" / f"{symbol}.funding")
        assert len(rates) >= 90 and (np.diff(rates["stamp_ms"]) == 28_800_000).all()


def test_the_command_seeds_and_refuses_while_an_engine_runs(store: Store, config: Config, make_candles: None) -> None:
    def ta() -> Result:
        return CliRunner().invoke(app, ["--data-dir", str(config.data_dir), "seed", "--json"])

    assert json.loads(ta().stdout) == {"bars": 50, "rates": 0}
    with lock_folder(config.data_dir):
        refused = ta()
    assert refused.exit_code == 1 and "another engine runs on it" in refused.output


@pytest.fixture
def make_candles(store: Store) -> None:
    bars = np.zeros(50, BAR)
    bars["open_ms"] = NOW // 60_000 * 60_000 + 60_000 * np.arange(50)
    writer.insert_bars(store, "BTCUSDT", 0, bars, "rest")
