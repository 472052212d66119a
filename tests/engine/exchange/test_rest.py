"""The REST client against a small server: pages, weight, limits, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from engine.errors import ExchangeError
from engine.exchange import filters, rows
from engine.exchange.budget import WeightBudget
from engine.exchange.rest import MARK_PRICE, MarketRest, closed
from tests.fake_exchange import FakeExchange, candle

NOW = 1_790_771_340_000 + 30_000
MINUTE = 60_000


@pytest.fixture
async def exchange() -> AsyncIterator[FakeExchange]:
    server = FakeExchange(NOW)
    await server.start()
    yield server
    await server.stop()


async def test_history_is_whole_ordered_and_paged_at_weight_two(exchange: FakeExchange) -> None:
    budget = WeightBudget(wall_s=lambda: 1_000_000.0)  # all in one minute
    async with MarketRest(exchange.rest_url, budget) as rest:
        first = NOW // MINUTE * MINUTE - 1_500 * MINUTE
        bars = await rest.history("BTCUSDT", 0, first, NOW)
    assert list(bars["open_ms"]) == list(range(first, NOW, MINUTE))
    row = candle(first, MINUTE)
    assert [float(row[i]) for i in (1, 2, 3, 4, 5, 7, 9)] == [
        bars[0][n] for n in ("open", "high", "low", "close", "volume", "quote_volume", "taker_volume")
    ]
    assert [query["limit"] for _, query in exchange.calls] == ["499"] * 4
    assert budget.used == 8
    assert len(closed(bars, 0, NOW)) == 1_500 and len(closed(bars, 0, NOW - 28_000)) == 1_499


async def test_mark_candles_know_no_volume(exchange: FakeExchange) -> None:
    async with MarketRest(exchange.rest_url, WeightBudget()) as rest:
        bars = await rest.klines("BTCUSDT", 0, NOW - 600_000, NOW, series=MARK_PRICE)
    assert len(bars) == 10 and np.isnan(bars["volume"]).all() and (bars["close"] > 0).all()


async def test_samples_are_floored_scaled_and_usable_five_minutes_later(exchange: FakeExchange) -> None:
    async with MarketRest(exchange.rest_url, WeightBudget()) as rest:
        rates, _ = await rest.funding("BTCUSDT", NOW - 86_400_000)
        interest = await rest.open_interest("BTCUSDT", limit=12)
    assert len(rates) == 3 and (rates["stamp_ms"] % 28_800_000 == 0).all() and (rates["value"] == 0.0001).all()
    assert len(interest) == 12 and (interest["usable_ms"] - interest["stamp_ms"] == 300_000).all()


async def test_a_rate_is_scaled_by_the_interval_that_it_ended(exchange: FakeExchange) -> None:
    """Contracts change from 8 to 4 and 1 hours and back: today's listing says nothing about last month's rates."""
    day = NOW // 86_400_000 * 86_400_000 - 70 * 86_400_000
    hours = [8] * 6 + [4] * 12 + [1] * 1_200 + [4] * 6
    exchange.settlements = [day + 3_600_000 * sum(hours[: k + 1]) for k in range(len(hours))]
    exchange.now_ms = exchange.settlements[-1] + 30_000
    async with MarketRest(exchange.rest_url, WeightBudget()) as rest:
        whole, told = await rest.funding("BTCUSDT", exchange.settlements[1], None, 4)
        newest, alone = await rest.funding("BTCUSDT", exchange.settlements[-1] - 60_000, None, 1)
    assert whole["stamp_ms"].tolist() == exchange.settlements[1:]  # more than one page, none left out
    assert told.tolist() == hours[1:]
    np.testing.assert_array_equal(whole["value"], 0.0001 * 8.0 / np.array(hours[1:]))
    assert newest.tolist() == whole[-1:].tolist() and alone.tolist() == [4]


async def test_an_outage_does_not_make_every_contract_fund_each_8_hours(exchange: FakeExchange) -> None:
    exchange.funding_hours = {"ETHUSDT": 4}
    async with MarketRest(exchange.rest_url, WeightBudget()) as rest:
        assert await rest.funding_hours() == {"ETHUSDT": 4}
        exchange.answers = [web.Response(status=400, text='{"code":-1000,"msg":"unknown"}')]
        with pytest.raises(ExchangeError, match="unknown"):
            await rest.funding_hours()
        exchange.answers = [web.Response(status=404, text="not here")]
        assert await rest.funding_hours() == {}


async def test_a_429_stops_every_process_for_the_time_it_names(exchange: FakeExchange, tmp_path: Path) -> None:
    wall = [1_000_000.0]
    shared = tmp_path / "weight"
    here, there = (WeightBudget(shared, wall_s=lambda: wall[0]) for _ in range(2))
    here.ban(7.0)
    assert there.take(1) == 7.0
    wall[0] += 7.5
    assert there.take(1) == 0.0 and here.used == 1
    exchange.answers = [web.Response(status=429, headers={"Retry-After": "0"}, text='{"code":-1003,"msg":"slow"}')]
    async with MarketRest(exchange.rest_url, WeightBudget()) as rest:
        assert await rest.server_time_ms() == NOW
        assert rest.retries == 1


async def test_outages_are_retried_and_refusals_are_not(exchange: FakeExchange) -> None:
    exchange.answers = [web.Response(status=503, text="Service Unavailable."), web.Response(text="<html>")]
    async with MarketRest(exchange.rest_url, WeightBudget()) as rest:
        with pytest.raises(ExchangeError, match="html"):
            await rest.server_time_ms()
        exchange.answers = [web.Response(status=400, text='{"code":-1121,"msg":"Invalid symbol."}')]
        with pytest.raises(ExchangeError, match=r"-1121: .*Invalid symbol"):
            await rest.klines("NOPE", 0)
        assert len(exchange.calls) == 3
        exchange.answers = [web.Response(status=418, headers={"Retry-After": "600"}, text="{}")]
        with pytest.raises(ExchangeError):
            await rest.server_time_ms()
        with pytest.raises(ExchangeError, match="banned"):
            await rest.server_time_ms()
        assert len(exchange.calls) == 4


def test_the_budget_waits_for_the_next_minute_and_believes_the_headers() -> None:
    wall = [1_200_000.0]
    budget = WeightBudget(share=0.5, wall_s=lambda: wall[0])
    assert budget.take(1_000) == 0.0 and budget.take(200) == 0.0
    assert budget.take(1) == pytest.approx(60.05)
    wall[0] += 61
    assert budget.take(1) == 0.0 and budget.used == 1
    budget.correct(1_199)
    assert budget.take(1) == 0.0 and budget.take(1) > 0.0
    budget.set_limit(6_000)
    assert budget.take(1) == 0.0


async def test_a_pool_that_is_used_up_is_waited_for_and_is_no_ban(exchange: FakeExchange) -> None:
    async with MarketRest(exchange.rest_url, WeightBudget()) as rest:
        wall = [3_000_299.9]
        rest._pools["funding"] = WeightBudget(wall_s=lambda: wall[0], limit=1, window_s=300)
        await rest.funding("BTCUSDT", NOW - 86_400_000, None)
        asking = asyncio.ensure_future(rest.funding("ETHUSDT", NOW - 86_400_000, None))
        async with asyncio.timeout(60):
            while not rest.limited:  # noqa: ASYNC110 - waits for the code under test
                await asyncio.sleep(0.001)
        assert len(exchange.calls) == 1 and not asking.done()
        wall[0] += 1
        assert len((await asyncio.wait_for(asking, 60))[0]) == 3


async def test_exchange_info_becomes_instruments(exchange: FakeExchange, tmp_path: Path) -> None:
    async with MarketRest(exchange.rest_url, WeightBudget()) as rest:
        table = await rest.instruments()
    row = table[0]
    assert bytes(row["symbol"]) == b"BTCUSDT" and row["trading"] == row["perpetual"] == 1
    names = ("tick_size", "step_size", "min_qty", "max_qty", "market_max_qty", "min_notional_usdt", "percent_price_up")
    assert [row[n] for n in names] == [0.1, 0.001, 0.001, 1000, 120, 50, 1.05]
    assert (row["maintenance_rate"], row["max_leverage"], row["market_take_bound"]) == (0.025, 20.0, 0.05)
    assert row["funding_hours"] == 8 and filters.tradable(table) == ["BTCUSDT", "ETHUSDT"]
    filters.save(tmp_path / "instruments", table)
    assert (filters.load(tmp_path / "instruments") == table).all()


@pytest.mark.parametrize(
    "raw", [{"code": 1}, [[1, 2]], [candle(60_000, 60_000)[:3] + ["x"] * 9], [candle(61_000, 60_000)]]
)
def test_rows_that_are_no_candles_are_refused(raw: object) -> None:
    with pytest.raises(ExchangeError):
        rows.bars(raw, 0)


def test_rows_out_of_order_are_refused_by_row() -> None:
    with pytest.raises(ExchangeError, match="row 1"):
        rows.bars([candle(120_000, MINUTE), candle(60_000, MINUTE)], 0)
