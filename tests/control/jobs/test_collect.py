"""Collecting over REST: complete, resumable, and honest about what failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from control.jobs.collect import DAY_MS, Order, Summary, collect, missing_pages
from control.jobs.history import adopt_brackets
from control.jobs.inputs import settled_rates
from engine.config import load
from engine.errors import DataError
from engine.exchange.filters import BRACKETS_NAME
from engine.trading.margin import Tier, keep_brackets
from kernels.records import SAMPLE
from store import queries, writer
from store.client import Store, connect
from tests.fake_exchange import FakeExchange, candle

NOW = 1_790_771_340_000 + 30_000  # half a minute into a minute: the first whole one opens later
MINUTE = 60_000


@pytest.fixture
async def exchange() -> AsyncIterator[FakeExchange]:
    server = FakeExchange(NOW)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with connect("embedded", tmp_path) as opened:
        yield opened


def run(exchange: FakeExchange, store: Store, **order: object) -> asyncio.Future[Summary]:
    return asyncio.ensure_future(collect(exchange.rest_url, store, Order(**order), None))  # type: ignore[arg-type]


async def test_everything_arrives_once_and_a_repeat_asks_for_nothing(exchange: FakeExchange, store: Store) -> None:
    steps: list[tuple[int, int, str]] = []
    order = Order(days=2.0, symbols=["ETHUSDT"])
    await collect(exchange.rest_url, store, order, None, lambda *step: steps.append(step))
    bars = queries.bars(store, "ETHUSDT", 0)
    assert len(bars) == 2 * 1_440 - 1 and (np.diff(bars["open_ms"]) == MINUTE).all()
    assert bars["close"][5] == float(candle(int(bars["open_ms"][5]), MINUTE)[4])
    assert len(queries.mark_bars(store, "ETHUSDT")) == 2 * 1_440 - 1
    assert (len(queries.bars(store, "ETHUSDT", 1)), len(queries.bars(store, "ETHUSDT", 2))) == (191, 47)
    assert len(queries.funding(store, "ETHUSDT")) == 6 and len(queries.open_interest(store, "ETHUSDT")) == 576
    assert steps[-1][0] == steps[-1][1]
    exchange.calls.clear()
    summary = await run(exchange, store, days=2.0, symbols=["ETHUSDT"])
    assert not [path for path, _ in exchange.calls if "lines" in path or "openInterest" in path]
    assert sum(summary.rows.values()) == 2  # exchangeInfo's two instruments
    assert len(queries.bars(store, "ETHUSDT", 0)) == 2 * 1_440 - 1
    await run(exchange, store, days=3.0, symbols=["ETHUSDT"])
    assert len(queries.funding(store, "ETHUSDT")) == 9 and len(queries.bars(store, "ETHUSDT", 2)) == 71


async def test_the_premium_index_is_collected_when_asked_for(exchange: FakeExchange, store: Store) -> None:
    summary = await run(exchange, store, days=1.0, symbols=["ETHUSDT"], timeframes=[], premium=True)
    assert summary.rows["premium_index"] == 1_439 and not summary.faults
    rows = store.rows("SELECT min(low) < 0, max(high) > 0, countIf(isNaN(volume)), count() FROM premium_index")
    assert rows == [(1, 1, 1_439, 1_439)]
    again = await run(exchange, store, days=1.0, symbols=["ETHUSDT"], timeframes=[], premium=True)
    assert "premium_index" not in again.rows


def test_brackets_that_a_live_engine_read_reach_the_store_when_they_change(store: Store, tmp_path: Path) -> None:
    config = load(None, data_dir=tmp_path)
    assert adopt_brackets(store, config) == 0
    tiers = [Tier(0.0, 50_000.0, 0.004, 0.0, 125), Tier(50_000.0, 600_000.0, 0.005, 50.0, 100)]
    keep_brackets(tmp_path / BRACKETS_NAME, {"BTCUSDT": tiers, "ETHUSDT": tiers[:1]}, NOW)
    assert (adopt_brackets(store, config), adopt_brackets(store, config)) == (3, 0)
    keep_brackets(tmp_path / BRACKETS_NAME, {"BTCUSDT": tiers, "ETHUSDT": tiers[1:]}, NOW + 1)
    assert adopt_brackets(store, config) == 1
    sql = "SELECT cap_usdt, leverage FROM brackets WHERE symbol = 'ETHUSDT' ORDER BY time DESC LIMIT 1"
    assert store.rows(sql) == [(600_000.0, 100)]


async def test_an_interrupted_run_resumes_where_it_stopped(exchange: FakeExchange, store: Store) -> None:
    await run(exchange, store, from_ms=NOW - DAY_MS, to_ms=NOW - DAY_MS // 2, symbols=["BTCUSDT"], mark=False)
    first = len(queries.bars(store, "BTCUSDT", 0))
    exchange.calls.clear()
    await run(exchange, store, from_ms=NOW - DAY_MS, symbols=["BTCUSDT"], mark=False, timeframes=[0])
    assert 0 < first < len(queries.bars(store, "BTCUSDT", 0)) == 1_439
    assert sum(path == "/fapi/v1/klines" for path, _ in exchange.calls) == 2  # of three pages


async def test_a_hole_between_stored_rates_is_filled(exchange: FakeExchange, store: Store) -> None:
    """A month imported, and the engine's own rates of today: what lies between must be asked for."""
    order = {"symbols": ["BTCUSDT"], "mark": False, "timeframes": [], "open_interest": False}
    await run(exchange, store, from_ms=NOW - 30 * DAY_MS, to_ms=NOW - 20 * DAY_MS, **order)
    newest = np.zeros(6, SAMPLE)
    newest["stamp_ms"] = NOW // 28_800_000 * 28_800_000 - 28_800_000 * np.arange(6)[::-1]
    newest["usable_ms"], newest["value"] = newest["stamp_ms"] + 300_000, 0.0001
    writer.insert_funding(store, "BTCUSDT", newest, "engine")
    await run(exchange, store, from_ms=NOW - 30 * DAY_MS, **order)
    stamps = queries.funding(store, "BTCUSDT")["stamp_ms"]
    assert len(stamps) == 90 and (np.diff(stamps) == 28_800_000).all()


async def test_collecting_a_few_days_leaves_no_hole_behind_older_rates(exchange: FakeExchange, store: Store) -> None:
    order = {"symbols": ["BTCUSDT"], "mark": False, "timeframes": [], "open_interest": False}
    await run(exchange, store, from_ms=NOW - 30 * DAY_MS, to_ms=NOW - 20 * DAY_MS, **order)
    await run(exchange, store, days=2.0, **order)
    stamps = queries.funding(store, "BTCUSDT")["stamp_ms"]
    assert len(stamps) == 90 and (np.diff(stamps) == 28_800_000).all()


async def test_rates_keep_the_interval_that_each_ended(exchange: FakeExchange, store: Store) -> None:
    first = NOW // DAY_MS * DAY_MS - 3 * DAY_MS
    hours = [8, 8, 8, 4, 4, 4]
    exchange.settlements = [first + 3_600_000 * sum(hours[: k + 1]) for k in range(len(hours))]
    exchange.funding_hours = {"BTCUSDT": 4}
    order = {"symbols": ["BTCUSDT"], "mark": False, "timeframes": [], "open_interest": False}
    await run(exchange, store, from_ms=first, **order)
    paid = [row[2] for row in settled_rates(store, "BTCUSDT", NOW).tolist()]
    np.testing.assert_allclose(paid, 0.0001, rtol=1e-15)
    np.testing.assert_allclose(queries.funding(store, "BTCUSDT")["value"], 0.0001 * 8 / np.array(hours), rtol=1e-15)


async def test_a_series_that_fails_does_not_stop_the_others(exchange: FakeExchange, store: Store) -> None:
    summary = await run(exchange, store, days=0.1, symbols=["BTCUSDT"], mark=False, timeframes=[0])
    assert not summary.faults
    exchange.now_ms += 600_000
    original = exchange._answer

    def answer(path: str, query: dict[str, str]) -> object:
        if path == "/futures/data/openInterestHist":
            raise web.HTTPBadRequest(text='{"code":-1130,"msg":"startTime is invalid."}')
        return original(path, query)

    exchange._answer = answer  # type: ignore[method-assign]
    summary = await run(exchange, store, days=0.1, symbols=["BTCUSDT"], mark=False, timeframes=[0])
    assert len(summary.faults) == 1 and "startTime is invalid" in summary.faults[0]
    assert summary.rows["candles_1m"] >= 10


async def test_an_unlisted_symbol_is_refused_by_name(exchange: FakeExchange, store: Store) -> None:
    with pytest.raises(DataError, match="NOPEUSDT"):
        await run(exchange, store, symbols=["NOPEUSDT"])


def test_pages_that_are_whole_are_skipped() -> None:
    have = np.array([*range(10), *range(12, 20)], np.int64) * MINUTE
    assert missing_pages(have, 0, 20 * MINUTE + 5, MINUTE, 5 * MINUTE) == [10 * MINUTE]
    assert missing_pages(have, 0, 26 * MINUTE, MINUTE, 5 * MINUTE) == [10 * MINUTE, 20 * MINUTE, 25 * MINUTE]
    assert missing_pages(have[:0], 0, 30_000, MINUTE) == []
