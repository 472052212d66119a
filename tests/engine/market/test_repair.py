"""The repairer on a real panel and journal: missing bars arrive from REST, corrections change nothing that was seen."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import ExchangeError
from engine.market.gaps import GapKind
from engine.market.lines import decode_bars, encode_bars
from engine.market.panel import Panel
from engine.market.rings import BarFile, bar_path
from engine.repair import Repairer
from engine.sink import MarketSink
from kernels.records import BAR, BarFlag, Kind
from tests.engine.rig import SYMBOLS, Rig
from tests.market_data import generated_bars

MINUTE = 60_000
HISTORY = 300
LATER_MS = 1_158 * 86_400_000  # behind the rig's clock


class Rest:
    """Stands for the helper: answers from arrays, and keeps what was asked."""

    def __init__(self, bars: dict[str, np.ndarray]) -> None:
        self.bars, self.server_ms = bars, 0
        self.asked: list[list[Any]] = []
        self.down = False

    async def ask(self, job: str, ranges: list[list[Any]]) -> dict[str, Any]:
        if self.down:
            raise ExchangeError(503, 0, "Service Unavailable.")
        self.asked += ranges
        found = []
        for symbol, _, from_ms, to_ms in ranges:
            bars = self.bars[symbol]
            opens = bars["open_ms"]
            good = (opens >= from_ms) & (opens < to_ms) & (opens + MINUTE + 3_000 <= self.server_ms)
            found.append(encode_bars(bars[good]))
        return {"server_ms": self.server_ms, "bars": found}


class Bench:
    def __init__(self, folder: Path) -> None:
        self.bars = {name: generated_bars(HISTORY + 200, seed) for seed, name in enumerate(SYMBOLS)}
        for bars in self.bars.values():
            bars["flags"] = BarFlag.REST
            bars["open_ms"] += LATER_MS
        for name in SYMBOLS:
            for frame in range(3):
                file = BarFile.create(bar_path(folder / "bars", name, frame), name, frame, 8_192 if name == "BTCUSDT" else 2_048)  # fmt: skip  # noqa: E501
                if frame == 0:
                    file.rewrite(self.bars[name][:HISTORY])
                file.close()
        self.rig = Rig(folder)
        self.rest = Rest({name: bars.copy() for name, bars in self.bars.items()})
        self.sink = MarketSink(self.rig.core, self.rig.parts.gateway, [])
        self.sink.panel = Panel(folder / "bars", SYMBOLS, self.sink.on_vector)
        self.sink.panel.seed()
        self.repairer = Repairer(self.rest, self.sink, SYMBOLS)  # type: ignore[arg-type]
        self.start_ms = int(self.bars[SYMBOLS[0]]["open_ms"][HISTORY])

    def stream(self, symbol: int, minute: int) -> None:
        bar = np.array([self.bars[SYMBOLS[symbol]][HISTORY + minute]], BAR)
        self.sink.on_bar(symbol, 0, bar[0], int(bar["open_ms"][0]) + MINUTE + 200, 1)

    def opens(self, symbol: int) -> list[int]:
        assert self.sink.panel is not None
        return [int(t - self.start_ms) // MINUTE for t in self.sink.panel.files[0][symbol].ordered()["open_ms"]]

    async def run(self, until_ms: int) -> None:
        """Tick until nothing is under way and nothing more can be asked at this moment."""
        self.rest.server_ms = until_ms
        self.rig.clock.observe(until_ms)
        async with asyncio.timeout(120):  # a restart folds in a thread; a loaded machine may take its time
            while True:
                self.repairer.tick(until_ms)
                if self.repairer._asking is not None:
                    await self.repairer._asking  # what it raises is a fault of the repairer
                elif not self.repairer._queue:
                    return

    def kinds(self) -> list[int]:
        return [int(record["gap_kind"]) for record in self.rig.records(Kind.GAP)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_bars_missed_on_the_stream_come_from_rest_in_order(bench: Bench) -> None:
    for symbol in range(3):
        bench.stream(symbol, 0)
    for minute in (1, 2, 3):
        bench.stream(0, minute)
        bench.stream(2, minute)
    bench.stream(1, 3)  # minutes 1 and 2 of symbol 1 were lost
    now_ms = bench.start_ms + 4 * MINUTE + 3_000
    bench.repairer.tick(now_ms)
    assert bench.repairer.blocks(1) and not bench.repairer.blocks(0)
    await bench.run(now_ms)
    assert bench.opens(1)[-4:] == [0, 1, 2, 3] and not bench.repairer.blocks(1)
    assert bench.rest.asked[0] == ["ETHUSDT", 0, bench.start_ms + MINUTE, bench.start_ms + 4 * MINUTE]
    assert bench.kinds() == [GapKind.MISSING, GapKind.REPAIRED]
    seen = [int(r["open_ms"] - bench.start_ms) // MINUTE for r in bench.rig.records(Kind.BAR) if r["symbol"] == 1]
    assert seen == [0, 3, 1, 2]  # bar 3 was there already: REST's copy of it is not journalled again


async def test_an_outage_is_survived_and_asked_about_again(bench: Bench) -> None:
    bench.rest.down = True
    now_ms = bench.start_ms + MINUTE + 3_000
    await bench.run(now_ms)
    assert bench.repairer.failed_questions == 1 and bench.repairer.blocks(0)
    bench.rest.down = False
    await bench.run(now_ms + 6_000)
    assert all(bench.opens(symbol)[-1] == 0 for symbol in range(3))
    assert bench.repairer.status()["repaired"] == 3 and bench.repairer.status()["incomplete"] == []


async def test_a_correction_a_minute_later_is_a_revision_and_not_folded(bench: Bench) -> None:
    await bench.run(bench.start_ms + MINUTE + 3_000)
    seen = decode_bars(encode_bars(bench.rest.bars["ETHUSDT"][HISTORY : HISTORY + 1]))
    bench.rest.bars["ETHUSDT"]["volume"][HISTORY] += 1.0
    for symbol in range(3):
        bench.stream(symbol, 1)
    await bench.run(bench.start_ms + 2 * MINUTE + 3_500)
    assert bench.repairer.corrected == 1 and bench.kinds()[-1] == GapKind.REVISION
    revision = bench.rig.records(Kind.BAR)[-1]
    assert revision["flags"] == BarFlag.REST | BarFlag.REVISION and revision["volume"] == seen["volume"][0] + 1.0
    assert bench.sink.panel is not None
    kept = bench.sink.panel.files[0][1].ordered()[-2]
    assert kept["volume"] == seen["volume"][0] and kept["open_ms"] == bench.start_ms


async def test_a_minute_absent_at_the_exchange_is_filled_once_a_later_one_exists(bench: Bench) -> None:
    bench.rest.bars["ETHUSDT"] = np.delete(bench.rest.bars["ETHUSDT"], HISTORY + 1)
    for symbol in (0, 2):
        for minute in (0, 1):
            bench.stream(symbol, minute)
    bench.stream(1, 0)
    await bench.run(bench.start_ms + 2 * MINUTE + 3_000)
    assert bench.opens(1)[-1] == 0 and bench.repairer.blocks(1)
    for symbol in (0, 2):
        bench.stream(symbol, 2)
    await bench.run(bench.start_ms + 3 * MINUTE + 3_000)
    assert bench.opens(1)[-3:] == [0, 1, 2] and bench.repairer.filled == 1
    assert GapKind.FILLED in bench.kinds()


async def test_a_hole_of_more_than_an_hour_starts_the_fold_again(bench: Bench) -> None:
    for name in SYMBOLS:
        bench.rest.bars[name] = np.delete(bench.rest.bars[name], range(HISTORY + 1, HISTORY + 80))
    await bench.run(bench.start_ms + 90 * MINUTE + 3_000)
    assert bench.repairer.restarts == 3
    assert bench.opens(1) == list(range(80, 90)) and not bench.repairer.blocks(1)
    assert bench.kinds().count(GapKind.RESTARTED) == 3
    for symbol in range(3):
        bench.stream(symbol, 90)
    assert bench.opens(2)[-1] == 90


async def test_larger_bars_are_held_against_their_minutes(bench: Bench) -> None:
    offset = -(bench.start_ms // MINUTE) % 15
    for minute in range(offset + 15):
        for symbol in range(3):
            bench.stream(symbol, minute)
    minutes = bench.bars["BTCUSDT"][HISTORY + offset : HISTORY + offset + 15]
    larger = np.zeros(1, BAR)
    larger["open_ms"] = minutes["open_ms"][0]
    larger["open"], larger["close"] = minutes["open"][0], minutes["close"][-1]
    larger["high"], larger["low"] = minutes["high"].max() * 1.5, minutes["low"].min()
    for name in ("volume", "quote_volume", "taker_volume", "trades"):
        larger[name] = minutes[name].sum()
    close_ms = int(larger["open_ms"][0]) + 15 * MINUTE
    bench.sink.on_bar(0, 1, larger[0], close_ms + 300, 1)
    bench.repairer.tick(close_ms + 500)
    assert bench.repairer.disagreements == 1 and bench.kinds() == [GapKind.DISAGREES]
    assert bytes(bench.rig.records(Kind.GAP)[0]["detail"]).startswith(b"high ")


def test_a_revision_on_the_stream_is_journalled_with_its_values(bench: Bench) -> None:
    bench.stream(1, 0)
    again = np.array([bench.bars["ETHUSDT"][HISTORY]], BAR)
    again["close"] = again["high"]
    again["flags"] = BarFlag.WS | BarFlag.REVISION
    bench.sink.on_revision(1, 0, again[0], bench.start_ms + MINUTE + 900, 1)
    record = bench.rig.records(Kind.BAR)[-1]
    assert record["close"] == again["close"][0] and record["flags"] & BarFlag.REVISION and record["arrived_ms"] > 0
    assert bench.kinds() == [GapKind.REVISION] and bench.sink.revisions == 1


async def test_a_fault_in_the_repairer_is_counted_and_said_and_asked_about_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(part: object, bars: object) -> bool:
        raise IndexError("off by one")

    monkeypatch.setattr("engine.repair.gaps.unbridgeable", broken)
    now_ms = bench.start_ms + MINUTE + 3_000
    await bench.run(now_ms)
    assert bench.repairer.status()["failed_questions"] == 1 and bench.repairer.blocks(0)
    assert "off by one" in caplog.text
    monkeypatch.undo()
    await bench.run(now_ms + 6_000)
    assert all(bench.opens(symbol)[-1] == 0 for symbol in range(3))
