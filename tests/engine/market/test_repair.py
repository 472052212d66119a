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
from kernels import features
from kernels.records import BAR, SAMPLE, TIMEFRAME_MS, BarFlag, Kind
from tests.engine.rig import SYMBOLS, Rig
from tests.market_data import generated_bars

MINUTE = 60_000
HISTORY = 300
LATER_MS = 1_158 * 86_400_000  # behind the rig's clock


class Rest:
    """Stands for the helper: answers from arrays, and keeps what was asked."""

    def __init__(self, bars: dict[str, np.ndarray]) -> None:
        self.bars, self.server_ms = bars, 0
        self.larger: dict[tuple[str, int], np.ndarray] = {}  # 15m and 1h bars by (symbol, timeframe)
        self.asked: list[list[Any]] = []
        self.down = False

    async def ask(self, job: str, ranges: list[list[Any]]) -> dict[str, Any]:
        if self.down:
            raise ExchangeError(503, 0, "Service Unavailable.")
        self.asked += ranges
        found = []
        for symbol, timeframe, from_ms, to_ms in ranges:
            bars = self.larger[symbol, timeframe] if timeframe else self.bars[symbol]
            opens = bars["open_ms"]
            closed = opens + TIMEFRAME_MS[timeframe] + 3_000 <= self.server_ms
            good = (opens >= from_ms) & (opens < to_ms) & closed
            found.append(encode_bars(bars[good]))
        return {"server_ms": self.server_ms, "bars": found}


class Bench:
    """`lacking`: None for 1m bars alone; else a history in all timeframes without its newest so many minutes."""

    def __init__(self, folder: Path, lacking: int | None = None) -> None:
        self.bars = {name: generated_bars(HISTORY + 320, seed) for seed, name in enumerate(SYMBOLS)}
        for bars in self.bars.values():
            bars["flags"] = BarFlag.REST
            bars["open_ms"] += LATER_MS
        self.rest = Rest({name: bars.copy() for name, bars in self.bars.items()})
        for name in SYMBOLS:
            for frame in range(3):
                file = BarFile.create(bar_path(folder / "bars", name, frame), name, frame, 8_192 if name == "BTCUSDT" else 2_048)  # fmt: skip  # noqa: E501
                if frame and lacking is not None:
                    self.rest.larger[name, frame] = features.build_bars(self.bars[name], frame)
                if frame == 0 or lacking is not None:
                    bars = self.rest.larger[name, frame] if frame else self.bars[name]
                    end_ms = int(self.bars[name]["open_ms"][HISTORY - (lacking or 0)])
                    file.rewrite(bars[bars["open_ms"] + TIMEFRAME_MS[frame] <= end_ms])
                file.close()
        self.rig = Rig(folder)
        self.sink = MarketSink(self.rig.core, self.rig.parts.gateway, [])
        self.sink.panel = Panel(folder / "bars", SYMBOLS, self.sink.on_vector)
        self.sink.panel.seed()
        self.repairer = Repairer(self.rest, self.sink, SYMBOLS)  # type: ignore[arg-type]
        self.start_ms = int(self.bars[SYMBOLS[0]]["open_ms"][HISTORY])

    def stream(self, symbol: int, minute: int) -> None:
        bar = np.array([self.bars[SYMBOLS[symbol]][HISTORY + minute]], BAR)
        self.sink.on_bar(symbol, 0, bar[0], int(bar["open_ms"][0]) + MINUTE + 200, 1)

    def stream_larger(self, minute: int) -> None:
        """Stream the 15m and 1h bars that close with a minute."""
        close_ms = self.start_ms + (minute + 1) * MINUTE
        for symbol, name in enumerate(SYMBOLS):
            for frame in (1, 2):
                bars = self.rest.larger[name, frame]
                for bar in bars[bars["open_ms"] + TIMEFRAME_MS[frame] == close_ms]:
                    self.sink.on_bar(symbol, frame, bar.copy(), close_ms + 300, 1)

    def decided(self, symbol: int) -> list[int]:
        """Minutes whose bar a decision was made on."""
        made = (int(r["decision_ms"]) for r in self.rig.records(Kind.SIGNAL) if r["symbol"] == symbol)
        return [(decision_ms - self.start_ms) // MINUTE - 1 for decision_ms in made]

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


async def test_every_bar_behind_a_late_repair_that_ends_with_a_quarter_is_decided_on(tmp_path: Path) -> None:
    """An engine started within 3 s of an hour's end: REST is not believed yet about the bars that close there."""
    bench = Bench(tmp_path, lacking=1)
    for minute in range(40):
        for symbol in range(3):
            bench.stream(symbol, minute)
        bench.stream_larger(minute)
    assert [bench.decided(symbol) for symbol in range(3)] == [[], [], []]
    await bench.run(bench.start_ms + 40 * MINUTE + 3_000)
    for symbol in range(3):
        assert bench.opens(symbol)[-1] == 39
        assert bench.decided(symbol) == list(range(-1, 40))
    assert bench.sink.panel.lost_vectors == 0


async def test_every_bar_of_an_outage_is_decided_on_however_few_ranges_a_question_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.repair.RANGES_PER_QUESTION", 2)
    bench = Bench(tmp_path, lacking=0)
    await bench.run(bench.start_ms + 130 * MINUTE + 3_000)
    assert [bench.decided(symbol) for symbol in range(3)] == 3 * [list(range(130))]
    assert bench.sink.panel.lost_vectors == 0


async def test_minutes_too_far_behind_their_larger_bars_are_named_and_never_decided_on_other_rows(
    tmp_path: Path,
) -> None:
    """For five hours a symbol's larger bars come, of its minutes none: rows of 16 quarters are kept, not of 20."""
    bench = Bench(tmp_path, lacking=0)
    for minute in range(300):
        bench.stream(0, minute)
        bench.stream_larger(minute)
    await bench.run(bench.start_ms + 300 * MINUTE + 3_000)
    name, (lost_from, lost_to) = SYMBOLS[1], (0, 5 * 15 - 2)  # decisions before the newest 15 quarters of 16 rows
    assert bench.decided(1) == list(range(lost_to + 1, 300))
    (gap,) = [r for r in bench.rig.records(Kind.GAP) if r["gap_kind"] == GapKind.UNDECIDED and r["symbol"] == 1]
    named = [(int(gap[edge]) - bench.start_ms) // MINUTE for edge in ("from_ms", "to_ms")]
    assert (named, gap["bars"], gap["timeframe"]) == ([lost_from, lost_to], lost_to + 1, 0)
    assert bench.sink.panel.lost[1] == lost_to + 1 and bench.sink.undecided == bench.sink.panel.lost_vectors
    series = [[bench.bars[s], bench.rest.larger[s, 1], bench.rest.larger[s, 2]] for s in (name, SYMBOLS[0])]
    close_ms, vectors = features.fold_vectors(*series[0], *series[1], np.zeros(0, SAMPLE), np.zeros(0, SAMPLE))
    for record in bench.rig.records(Kind.SIGNAL):
        if record["symbol"] == 1:
            at = int(np.searchsorted(close_ms, record["decision_ms"]))
            assert record["vector_hash"] == features.vector_hash(vectors[at])


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
