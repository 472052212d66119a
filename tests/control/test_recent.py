"""Pages from memory against the same pages by SQL: any filter, any cursor, rows that arrive late, rows cut off."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.listing import Query, page
from control.reader import StoreReader
from control.recent import Lists, Recent, paged
from control.routes.records import TRADES
from kernels.records import RECORDS, Kind, Mode, Reason
from store.client import Store, connect
from store.schema import tables
from store.writer import record_block

START_MS = 1_700_000_000_000
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
KEPT = 60


def insert(store: Store, rng: np.random.Generator, count: int, engine: str, run: str, seq: int, minute: int) -> None:
    """Store trades of one run; several share a closing time, and a run may be behind the others."""
    trades = np.zeros(count, RECORDS[Kind.TRADE])
    trades["seq"] = seq + np.arange(count)
    trades["closed_ms"] = START_MS + 60_000 * (minute + np.arange(count) // 3)
    trades["symbol"], trades["side"] = rng.integers(0, 3, count), rng.choice([-1, 1], count)
    trades["reason"], trades["mode"] = rng.choice([Reason.TP, Reason.SL], count), Mode.SHADOW
    trades["model_id"] = rng.choice([b"m1", b"m2"], count)
    columns, block = record_block(tables()["trades"], trades, engine_id=engine, run_id=run, symbols=SYMBOLS, extra={})
    store.insert_block("trades", columns, block)


class CountingReader(StoreReader):
    """Counts statements."""

    statements = 0

    async def lines(self, sql: str, parameters: dict[str, Any] | None = None) -> list[bytes]:
        self.statements += 1
        return await super().lines(sql, parameters)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with connect("embedded", tmp_path) as opened:
        yield opened


@pytest.fixture
def reader(store: Store) -> Iterator[CountingReader]:
    made = CountingReader(store)
    yield made
    made.close()


def some_query(rng: np.random.Generator) -> Query:
    def maybe(values: list[Any]) -> Any:
        return values[int(rng.integers(0, len(values)))]

    return Query(
        limit=maybe([1, 3, 10, 100]),
        from_ms=maybe([None, None, START_MS + 60_000 * int(rng.integers(0, 40))]),
        to_ms=maybe([None, None, START_MS + 60_000 * int(rng.integers(0, 60))]),
        equals={
            "symbol": maybe([None, *SYMBOLS, "XRPUSDT"]), "model_id": maybe([None, "m1", "no' OR 1=1"]),
            "reason": maybe([None, "tp"]), "side": maybe([None, "long"]),
        },
    )  # fmt: skip


async def walk(recent: Recent, reader: StoreReader, query: Query) -> int:
    """Follow a query's pages in memory and in the store side by side; returns how many memory had."""
    known = 0
    while True:
        expected = await page(reader, recent.listing, query)
        lines = await recent.page(reader, query)
        if lines is not None:
            known += 1
            assert paged(recent.listing, lines, query.limit) == expected
        if expected.next is None:
            return known
        query = dataclasses.replace(query, before=expected.next)


@pytest.mark.parametrize("kept", [KEPT, 1_000], ids=["some are cut off", "all are kept"])
def test_pages_from_memory_are_those_of_the_store(store: Store, reader: CountingReader, kept: int) -> None:
    rng = np.random.default_rng(5)
    insert(store, rng, 100, "main", "77", 1, 0)
    clock = [0.0]
    windows = (120_000, 600_000) if kept == KEPT else ()
    listing = dataclasses.replace(TRADES, kept=kept, windows_ms=windows)
    recent = Recent(listing, lambda: clock[0], chunk=25)

    async def run() -> None:
        assert (
            await recent.page(reader, Query(newest_ms=START_MS + 34 * 60_000)) is None
        )  # the first is the store's: nobody waits for all of them
        await recent.filled()
        known = 0
        for turn in range(6):
            for _ in range(12):
                known += await walk(recent, reader, some_query(rng))
            clock[0] += 1
            insert(store, rng, 10, "main", "77", 101 + 10 * turn, 34 + 3 * turn)
            insert(store, rng, 5, "second", "78", 1 + 5 * turn, 30 + turn)  # late: others are ahead of it
        assert known > 60
        assert len(recent._lines) <= kept * 1.1

    asyncio.run(run())


def test_what_is_kept_costs_one_statement_for_all_who_ask_at_a_time(store: Store, reader: CountingReader) -> None:
    rng = np.random.default_rng(6)
    insert(store, rng, 100, "main", "77", 1, 0)
    lists = Lists()

    async def run() -> None:
        await lists.page(reader, TRADES, Query())
        recent = lists._recent["trades"]
        await recent.filled()
        recent.clock_s = lambda: (recent._asked_s or 0.0) + 1_000.0
        before = reader.statements
        asked = [lists.page(reader, TRADES, some_query(rng)) for _ in range(50)]
        await asyncio.gather(*asked)
        assert reader.statements == before + 1

    asyncio.run(run())


def test_more_new_rows_than_are_kept_begin_it_anew(store: Store, reader: CountingReader) -> None:
    rng = np.random.default_rng(7)
    insert(store, rng, 20, "main", "77", 1, 0)
    clock = [0.0]
    recent = Recent(dataclasses.replace(TRADES, kept=KEPT), lambda: clock[0], chunk=25)

    async def run() -> None:
        await recent.page(reader, Query())
        await recent.filled()
        assert recent.since_ms == -1
        insert(store, rng, 90, "main", "77", 21, 10)
        clock[0] += 1
        await recent.page(reader, Query())
        await recent.filled()
        assert await walk(recent, reader, Query(limit=10)) in (5, 6)
        assert KEPT <= len(recent._lines) <= KEPT * 1.1 and recent.since_ms > START_MS

    asyncio.run(run())
