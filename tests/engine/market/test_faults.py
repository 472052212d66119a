"""The whole way of market data under the simulator's faults: after each, every bar is there, once, as REST has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest

from engine.exchange.budget import WeightBudget
from engine.exchange.rest import MarketRest, closed
from engine.market.assistant import Assistant
from engine.market.gaps import differs
from engine.market.lines import decode_bars
from engine.market.link import Policy
from engine.market.panel import Panel
from engine.market.rings import BarFile, bar_path
from engine.market.stream import Streams
from engine.market.wire import Decoder
from engine.repair import Repairer
from engine.sink import MarketSink
from kernels.records import TIMEFRAME_MS
from tests.engine.rig import SYMBOLS, Rig
from tests.engine.simulator.conftest import spawn

START_MS = 1_800_057_600_000  # behind the rig's clock
SPEED = 120
POLICY = Policy(message_gap_s=0.02, watch_s=0.1, dead_s=0.6, first_retry_s=0.05, longest_retry_s=1.0,
                quiet_s=(9.0, 9.0, 9.0, 0.5, 9.0))  # fmt: skip
FAULTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("drop_frame", {"count": 40}),
    ("truncate_frame", {"count": 20}),
    ("garbage_frame", {"count": 20}),
    ("duplicate_frame", {"count": 40}),
    ("hold_frames", {"count": 10}),
    ("half_open", {"route": "market"}),
    ("silent_stream", {"route": "public"}),
    ("cut_connections", {}),
    ("connection_storm", {"seconds": 0.7}),
    ("rate_limited", {"path": "/klines", "count": 2}),
    ("service_unavailable", {"path": "/klines", "count": 2}),
    ("ip_ban", {"seconds": 1.0}),
)


@pytest.fixture(scope="module")
def market() -> Iterator[SimpleNamespace]:
    process, facts = spawn(
        "--clock", "replay", "--symbols", ",".join(SYMBOLS), "--speed", str(SPEED), "--start-ms", str(START_MS),
        "--history-days", "3", "--ahead-days", "2", "--admin-port", "0", "--hold", "--quiet", "--updates", "120",
    )  # fmt: skip
    yield facts
    process.terminate()
    process.wait(60)


class Chain:
    """Streams, decoder, sink, panel, repairer and helper as the engine joins them."""

    def __init__(self, folder: Path, facts: SimpleNamespace) -> None:
        self.folder, self.facts = folder, facts
        self.rig = Rig(folder)
        self.assistant = Assistant(facts.rest_url, folder / "rate_budget")
        self.decoder = Decoder(SYMBOLS, self)  # type: ignore[arg-type]
        self.streams = Streams(facts.stream_url, self.decoder, policy=POLICY)

    async def start(self) -> None:
        await self.assistant.start()
        for name in SYMBOLS:
            for timeframe in range(3):
                size = 8_192 if name == "BTCUSDT" else 2_048
                file = BarFile.create(bar_path(self.folder / "bars", name, timeframe), name, timeframe, size)
                step = TIMEFRAME_MS[timeframe]
                ranges = [[name, timeframe, START_MS // step * step - 50 * step, START_MS]]
                answer = await self.assistant.ask("bars", ranges=ranges)
                file.rewrite(decode_bars(answer["bars"][0]))
                file.close()
        self.sink = MarketSink(self.rig.core, self.rig.parts.gateway, [])
        self.panel = Panel(self.folder / "bars", SYMBOLS, self.sink.on_vector)
        self.sink.panel = self.panel
        self.panel.seed()
        self.repairer = Repairer(self.assistant, self.sink, SYMBOLS)  # type: ignore[arg-type]
        self.decoder.sink = self.sink
        self.rig.clock.observe(START_MS)
        self.streams.start(self.repairer.look_again)
        await self.streams.wait_live(60)
        self.ticking = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            self.repairer.tick(self.rig.clock.now_ms())

    async def stop(self) -> None:
        self.ticking.cancel()
        await self.streams.stop()
        await self.assistant.stop()

    async def advance(self, minutes: int) -> int:
        """Wait until every series holds the bars of so many more minutes; return the last close time."""
        wanted = self.rig.clock.now_ms() // 60_000 * 60_000 + minutes * 60_000
        async with asyncio.timeout(120):
            while any(  # noqa: ASYNC110 - the condition belongs to the code under test
                newest + 60_000 < wanted for newest in self.panel.newest_open_ms[0]
            ):
                await asyncio.sleep(0.01)
        return wanted


@pytest.fixture
async def chain(tmp_path: Path, market: SimpleNamespace) -> AsyncIterator[Chain]:
    joined = Chain(tmp_path, market)
    await joined.start()
    yield joined
    await joined.stop()


async def test_every_bar_is_there_after_every_fault(chain: Chain) -> None:
    admin = f"http://127.0.0.1:{chain.facts.admin_port}/faults"
    await chain.advance(2)
    async with aiohttp.ClientSession() as session:
        for name, arguments in FAULTS:
            async with session.post(admin, json={"name": name, **arguments}) as reply:
                assert reply.status == 200, await reply.text()
            await chain.advance(2)
            if name in ("silent_stream", "half_open"):
                async with session.delete(admin) as reply:
                    assert reply.status == 200
    end_ms = await chain.advance(3)
    assert not chain.repairer.status()["incomplete"]
    counts = chain.decoder.counts()
    assert counts["faults"].get("not_json", 0) > 0 and counts["notes"]["duplicate"] > 0
    async with MarketRest(chain.facts.rest_url, WeightBudget()) as rest:
        for symbol, name in enumerate(SYMBOLS):
            for timeframe, step in enumerate(TIMEFRAME_MS):
                own = chain.panel.files[timeframe][symbol].ordered()
                assert (np.diff(own["open_ms"]) == step).all()
                whole = closed(await rest.history(name, timeframe, int(own["open_ms"][0]), end_ms), timeframe, end_ms)
                assert len(whole) > 40 and list(own["open_ms"][: len(whole)]) == list(whole["open_ms"])
                wrong = [int(b["open_ms"]) for a, b in zip(own, whole, strict=False) if differs(a, b)]
                assert not wrong, (name, timeframe, wrong)
    assert all(link.impossible == 0 for link in chain.streams.links)
