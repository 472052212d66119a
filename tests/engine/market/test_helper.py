"""The spawned helper process: start-up history into bar files, ranges, samples, and its death."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ExchangeError
from engine.exchange import filters
from engine.exchange.budget import WeightBudget
from engine.market.assistant import Assistant
from engine.market.lines import decode_bars
from engine.market.rings import BarFile, bar_path
from engine.market.samples import OPEN_INTEREST, SampleFile, read_samples, sample_path
from engine.market.series import filled, holes, unbroken
from kernels.records import BAR, TIMEFRAME_MS, BarFlag
from tests.fake_exchange import FakeExchange

NOW = 1_790_771_340_000 + 30_000
MINUTE = 60_000


@pytest.fixture
async def exchange() -> AsyncIterator[FakeExchange]:
    server = FakeExchange(NOW)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def assistant(exchange: FakeExchange, tmp_path: Path) -> AsyncIterator[Assistant]:
    events: list[dict[str, Any]] = []
    helper = Assistant(exchange.rest_url, tmp_path / "weight", events.append)
    helper.events = events  # type: ignore[attr-defined]
    await helper.start()
    yield helper
    await helper.stop()


def ask_history(assistant: Assistant, folder: Path) -> Any:
    return assistant.ask(
        "history",
        bars_dir=str(folder / "bars"),
        samples_dir=str(folder / "samples"),
        symbols=["BTCUSDT", "ETHUSDT"],
        warmup={"": 600, "BTCUSDT": 1_200},
        capacity={"": 2_048, "BTCUSDT": 8_192},
        timeframes=[0, 1, 2],
    )


async def test_history_fills_warm_up_then_only_the_tail(
    assistant: Assistant, exchange: FakeExchange, tmp_path: Path
) -> None:
    exchange.missing = {("ETHUSDT", "1m", NOW // MINUTE * MINUTE - k * MINUTE) for k in (50, 51)}
    result = await ask_history(assistant, tmp_path)
    assert result["filled"] == 2 and not result["short"]
    for symbol, need in (("BTCUSDT", 1_200), ("ETHUSDT", 600)):
        for timeframe, step in enumerate(TIMEFRAME_MS):
            file = BarFile.open(bar_path(tmp_path / "bars", symbol, timeframe))
            bars = file.ordered()
            last = (NOW - 3_000) // step * step - step
            assert list(bars["open_ms"]) == list(range(last - (len(bars) - 1) * step, last + step, step))
            assert need - 1 <= len(bars) <= need
            file.close()
    assert len(read_samples(tmp_path / "samples" / "BTCUSDT.funding")) >= 90
    assert len(read_samples(tmp_path / "samples" / "ETHUSDT.open_interest")) == 500
    exchange.now_ms += 5 * MINUTE
    exchange.calls.clear()
    result = await ask_history(assistant, tmp_path)
    assert not [path for path, _ in exchange.calls if path.endswith("fundingRate")]  # nothing was settled since
    assert result["bars"] == 12  # five new minutes and one quarter hour of two symbols
    assert {event["done"] for event in assistant.events if event["event"] == "progress"} == {1, 2}  # type: ignore[attr-defined]


async def test_open_interest_that_the_engine_kept_is_not_asked_for_again(
    assistant: Assistant, exchange: FakeExchange, tmp_path: Path
) -> None:
    await ask_history(assistant, tmp_path)
    fetched = {name: tmp_path / "samples" / f"{name}.open_interest" for name in ("BTCUSDT", "ETHUSDT")}
    for name, hole in (("ETHUSDT", False), ("BTCUSDT", True)):
        kept = SampleFile(sample_path(tmp_path / "bars", name))
        rows = read_samples(fetched[name])
        kept.merge(OPEN_INTEREST, np.delete(rows, -50) if hole else rows)
        kept.close()
        fetched[name].unlink()
    await ask_history(assistant, tmp_path)
    assert not fetched["ETHUSDT"].exists()
    assert fetched["BTCUSDT"].exists(), "one sample is missing: all are read again"


async def test_a_clock_that_began_again_leaves_no_bars_of_the_future(
    assistant: Assistant, exchange: FakeExchange, tmp_path: Path
) -> None:
    await ask_history(assistant, tmp_path)
    exchange.now_ms -= 180 * MINUTE
    await ask_history(assistant, tmp_path)
    for timeframe, step in enumerate(TIMEFRAME_MS):
        file = BarFile.open(bar_path(tmp_path / "bars", "ETHUSDT", timeframe))
        bars = file.ordered()
        file.close()
        last = (exchange.now_ms - 3_000) // step * step - step
        assert bars["open_ms"][-1] == last and len(bars) >= 599 and (np.diff(bars["open_ms"]) == step).all()


async def test_ranges_come_back_closed_only_in_order(assistant: Assistant) -> None:
    first = NOW // MINUTE * MINUTE - 3 * MINUTE
    result = await assistant.ask("bars", ranges=[["ETHUSDT", 0, first, NOW], ["BTCUSDT", 0, first, first + MINUTE]])
    several, one = (decode_bars(text) for text in result["bars"])
    assert list(several["open_ms"]) == [first, first + MINUTE, first + 2 * MINUTE] and result["server_ms"] == NOW
    assert list(one["open_ms"]) == [first] and one["flags"][0] == BarFlag.REST


async def test_instruments_samples_and_time(assistant: Assistant, tmp_path: Path) -> None:
    result = await assistant.ask("instruments", path=str(tmp_path / "instruments"))
    assert result["tradable"] == ["BTCUSDT", "ETHUSDT"] and len(filters.load(tmp_path / "instruments")) == 2
    counts = await assistant.ask("samples", kind="open_interest", symbols=["ETHUSDT"], from_ms=[NOW - 600_000])
    rows = [event["rows"] for event in assistant.events if event["event"] == "sample"]  # type: ignore[attr-defined]
    assert counts == {"symbols": 1, "rows": 2, "faults": 0} and len(rows[0]) == 2
    sample = await assistant.ask("time")
    assert sample["server_ms"] == NOW and sample["sent_ns"] < sample["received_ns"]


async def test_a_wrong_question_gets_a_reason(assistant: Assistant) -> None:
    with pytest.raises(ExchangeError, match="KeyError"):
        await assistant.ask("no such job")
    with pytest.raises(ExchangeError, match="TypeError"):
        await assistant.ask("bars", wrong=1)


async def test_a_killed_helper_is_replaced_and_asked_again(assistant: Assistant, exchange: FakeExchange) -> None:
    assert await assistant.ask("time")
    process = assistant._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    question = asyncio.create_task(assistant.ask("time"))
    await asyncio.sleep(0)
    os.kill(process.pid, signal.SIGKILL)
    assert (await asyncio.wait_for(question, 60))["server_ms"] == NOW
    assert assistant.restarts == 1


def bars_at(*opens: int) -> np.ndarray:
    bars = np.zeros(len(opens), BAR)
    bars["open_ms"] = opens
    bars["close"] = np.arange(1, len(opens) + 1)
    return bars


def test_short_holes_are_filled_and_long_ones_start_the_run_again() -> None:
    bars = bars_at(0, MINUTE, 4 * MINUTE, 100 * MINUTE, 102 * MINUTE)
    assert holes(bars["open_ms"], 0) == [
        (2 * MINUTE, 4 * MINUTE),
        (5 * MINUTE, 100 * MINUTE),
        (101 * MINUTE, 102 * MINUTE),
    ]
    run, count = unbroken(bars, 0)
    assert list(run["open_ms"]) == [100 * MINUTE, 101 * MINUTE, 102 * MINUTE] and count == 1
    assert run[1]["close"] == run[1]["open"] == 4.0 and run[1]["volume"] == 0.0
    assert run[1]["flags"] & BarFlag.FILLED
    assert len(filled(bars[1], 2 * MINUTE, 4 * MINUTE, 0)) == 2


async def test_the_helper_leaves_thirty_percent_of_the_weight(
    assistant: Assistant, exchange: FakeExchange, tmp_path: Path
) -> None:
    budget = WeightBudget(tmp_path / "weight")
    budget.set_limit(40)
    ranges = [["BTCUSDT", 0, NOW - (i + 2) * 600 * MINUTE, NOW - (i + 1) * 600 * MINUTE] for i in range(20)]
    if time.time() % 60 > 50:  # what is on its way when the minute turns counts in both
        await asyncio.sleep(60 - time.time() % 60)
    asked = asyncio.create_task(assistant.ask("bars", ranges=ranges))
    done, _ = await asyncio.wait({asked}, timeout=1.0)
    assert not done, "all of it weighs more than a minute has"
    assert budget.used <= 28
    asked.cancel()
