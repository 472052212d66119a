"""`GET /api/candles`: the end of a series without reading all of it, holes or not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control import candles
from control.candles import CandleReads, Range
from control.problems import ApiError
from control.reader import StoreReader
from kernels.records import BAR, BarFlag
from store import writer
from store.client import Store, connect

MINUTE = 60_000
T0 = 1_700_000_040_000
NEWEST = T0 + 400_000 * MINUTE  # nine months behind the first ones


def bars(first_ms: int, count: int) -> np.ndarray:
    rows = np.zeros(count, BAR)
    rows["open_ms"] = first_ms + MINUTE * np.arange(count)
    rows["close"], rows["flags"] = rows["open_ms"] / 1e6, BarFlag.REST
    return rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: Any) -> Iterator[Store]:
    folder: Path = tmp_path_factory.mktemp("store")
    with connect("embedded", folder) as opened:
        for part in (bars(T0, 50_000), bars(NEWEST, 3)):
            writer.insert_bars(opened, "BTCUSDT", 0, part, "rest")
        writer.insert_bars(opened, "ETHUSDT", 0, bars(T0, 7), "rest")
        yield opened


class Counting(StoreReader):
    """Keeps what was asked."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[dict[str, Any]] = []

    async def lines(self, sql: str, parameters: dict[str, Any] | None = None) -> list[bytes]:
        self.asked.append(dict(parameters or {}))
        return await super().lines(sql, parameters)


@pytest.fixture
def ask(store: Store, services: Any, client: Any, bearer: Any) -> Any:
    services.reader, headers = Counting(store), bearer()

    def get(**query: Any) -> tuple[list[int], list[dict[str, Any]]]:
        services.reader.asked.clear()
        answer = client.get("/api/candles", params=query, headers=headers)
        assert answer.status_code == 200, answer.text
        asked = [values for values in services.reader.asked if "limit" in values]
        opens = [item["open_ms"] for item in answer.json()["items"]]
        return [(open_ms - T0) // MINUTE for open_ms in opens], asked

    return get


def test_the_newest_candles_are_read_from_the_end(ask: Any) -> None:
    opens, asked = ask(symbol="BTCUSDT", limit=500, to_ms=T0 + 50_000 * MINUTE)
    assert opens == list(range(49_500, 50_000))
    assert asked[1]["from_ms"] == T0 + (49_999 - 1_000) * MINUTE and len(asked) == 2  # not from the beginning


def test_what_lies_before_a_long_hole_is_found(ask: Any) -> None:
    opens, asked = ask(symbol="BTCUSDT", limit=5)
    assert opens == [49_998, 49_999, 400_000, 400_001, 400_002] and len(asked) == 3


def test_ranges_and_symbols_without_candles(ask: Any) -> None:
    assert ask(symbol="BTCUSDT", from_ms=T0 + 10 * MINUTE, to_ms=T0 + 13 * MINUTE)[0] == [10, 11, 12]
    assert ask(symbol="ETHUSDT", limit=3)[0] == [4, 5, 6]
    assert ask(symbol="ETHUSDT", from_ms=T0 + 5 * MINUTE, limit=500)[0] == [5, 6]
    assert ask(symbol="NOPEUSDT")[0] == []


def test_symbols_asked_for_at_a_time_are_read_together_and_as_they_are_alone(store: Store) -> None:
    reader, reads = Counting(store), CandleReads()
    names = ["BTCUSDT", "ETHUSDT", "BTCUSDT", "NOPEUSDT"]
    recent = Range("1m", 0, 1 << 42, 3)

    async def run() -> None:
        found = await asyncio.gather(*(reads.read(reader, name, recent, NEWEST + 3 * MINUTE) for name in names))
        together = [values for values in reader.asked if "symbols" in values]
        assert [values["symbols"] for values in together] == [["BTCUSDT", "ETHUSDT", "NOPEUSDT"]]
        assert len(reader.asked) > 1  # what is older than the range was asked for one by one
        assert found == [await candles._alone(reader, name, recent) for name in names]
        assert [len(items) for items in found] == [3, 3, 3, 0] and not reads._waiting

    asyncio.run(run())
    reader.close()


def test_many_candles_are_not_one_statement(store: Store) -> None:
    reader, reads = Counting(store), CandleReads()
    wanted = Range("1m", 0, 1 << 42, 5_000)

    async def run() -> None:
        newest_ms = T0 + 50_000 * MINUTE
        await asyncio.gather(*(reads.read(reader, name, wanted, newest_ms) for name in ("BTCUSDT", "ETHUSDT")))
        assert [values["symbols"] for values in reader.asked if "symbols" in values] == [["BTCUSDT"], ["ETHUSDT"]]

    asyncio.run(run())
    reader.close()


def test_a_store_that_fails_fails_everybody_who_waits_and_nobody_after(store: Store) -> None:
    reader, reads = Counting(store), CandleReads()
    wanted, right = Range("1m", 0, 1 << 42, 3), candles._OF_MANY

    async def run() -> None:
        candles._OF_MANY = "SELECT nonsense"
        both = [reads.read(reader, name, wanted, NEWEST) for name in ("BTCUSDT", "ETHUSDT")]
        failed = await asyncio.gather(*both, return_exceptions=True)
        assert all(isinstance(error, ApiError) and error.status == 503 for error in failed)
        candles._OF_MANY = right
        assert len(await reads.read(reader, "BTCUSDT", wanted, NEWEST + 3 * MINUTE)) == 3

    try:
        asyncio.run(run())
    finally:
        candles._OF_MANY = right
        reader.close()
