"""What is asked of REST about open interest and funding: what is due, of whom, and what an outage left out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine.market.samples import FUNDING, OPEN_INTEREST
from engine.polling import ASK_AGAIN_MS, GIVE_UP_MS, REACH_MS, SamplePoller
from engine.sink import MarketSink
from tests.engine.rig import SYMBOLS, Rig

HOUR_MS = 3_600_000
DAY_MS = 1_800_057_600_000  # a midnight, UTC


class Assistant:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def ask(self, job: str, **args: Any) -> dict[str, Any]:
        self.asked.append(args)
        return {}


class Sink:
    def __init__(self) -> None:
        self.samples: list[tuple[Any, ...]] = []

    def on_sample(self, *sample: Any) -> None:
        self.samples.append(sample)


@pytest.fixture
def poller() -> SamplePoller:
    made = SamplePoller(Assistant(), Sink(), SYMBOLS, False)  # type: ignore[arg-type]
    for symbol in range(len(SYMBOLS)):
        made.known(FUNDING, symbol, DAY_MS)
    return made


async def asked_at(poller: SamplePoller, now_ms: int) -> list[dict[str, Any]]:
    asked = poller._assistant.asked  # type: ignore[attr-defined]
    asked.clear()
    poller.tick(now_ms)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return list(asked)


async def test_a_contract_that_has_not_settled_is_not_asked_for(poller: SamplePoller) -> None:
    """With 300 contracts of 4 and 300 of 8 hours these questions alone were three times what the exchange allows."""
    settled = DAY_MS + 4 * HOUR_MS
    poller.funding_settled(1, settled, settled + 50)
    asked = await asked_at(poller, settled + 100)
    assert asked == [{"kind": "funding", "symbols": ["ETHUSDT"], "from_ms": [DAY_MS + 60_000]}]
    poller.take({"kind": "funding", "symbol": "ETHUSDT", "rows": [(settled, settled, 2e-4)], "hours": [4]})
    assert not await asked_at(poller, settled + ASK_AGAIN_MS + 200)
    assert poller._sink.samples == [(1, FUNDING, settled, 2e-4, 4)]  # type: ignore[attr-defined]


async def test_a_missing_sample_is_asked_for_again_and_given_up_in_the_end(poller: SamplePoller) -> None:
    settled = DAY_MS + 8 * HOUR_MS
    poller.funding_settled(0, settled, settled + 50)
    assert len(await asked_at(poller, settled + 100)) == 1
    assert not await asked_at(poller, settled + ASK_AGAIN_MS)
    assert len(await asked_at(poller, settled + ASK_AGAIN_MS + 200)) == 1
    poller.funding_settled(2, settled + HOUR_MS, settled + HOUR_MS + 60)  # news of one symbol
    asked = await asked_at(poller, settled + GIVE_UP_MS + 100)
    assert asked[0]["symbols"] == ["SOLUSDT"]


async def test_what_an_outage_left_out_is_asked_for(poller: SamplePoller) -> None:
    now = DAY_MS + 9 * HOUR_MS + 17 * 60_000  # the settlement is an hour old when the streams are back
    poller.funding_settled(0, DAY_MS + 8 * HOUR_MS, now)
    poller.funding_settled(1, DAY_MS + 9 * HOUR_MS, now)  # an hourly contract: nine rates are missing
    asked = await asked_at(poller, now)
    assert asked[0]["symbols"] == SYMBOLS[:2] and asked[0]["from_ms"] == [DAY_MS + 60_000] * 2


async def test_open_interest_of_an_outage_is_asked_for_and_a_dead_symbol_costs_a_day_at_most() -> None:
    poller = SamplePoller(Assistant(), Sink(), SYMBOLS, True)  # type: ignore[arg-type]
    poller.known(OPEN_INTEREST, 0, DAY_MS)
    poller.known(OPEN_INTEREST, 1, DAY_MS - 9 * REACH_MS)
    poller.known(OPEN_INTEREST, 2, DAY_MS + HOUR_MS)
    due = DAY_MS + HOUR_MS
    asked = await asked_at(poller, due + 4_000)
    assert asked == [{"kind": "open_interest", "symbols": SYMBOLS[:2], "from_ms": [DAY_MS + 60_000, due - REACH_MS]}]


def test_the_stream_tells_which_settlements_have_passed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.core.instruments["funding_hours"][1] = 4
    sink = MarketSink(rig.core, rig.parts.gateway, [])
    panel = type("Panel", (), {"on_next_funding": lambda *_: None})()
    sink._panel = panel  # type: ignore[assignment]
    settled: list[tuple[int, int, int]] = []
    sink.on_settled = lambda *told: settled.append(told)
    now = DAY_MS + 30_000
    sink.on_next_funding(0, DAY_MS + 8 * HOUR_MS, now)  # the first frame: the rate of midnight may not have been there
    sink.on_next_funding(1, DAY_MS + 4 * HOUR_MS, now)
    assert settled == [(0, DAY_MS, now), (1, DAY_MS, now)]
    settled.clear()
    now = DAY_MS + 17 * HOUR_MS  # behind an outage of 17 hours
    sink.on_next_funding(0, DAY_MS + 24 * HOUR_MS, now)
    assert settled == [(0, DAY_MS + 16 * HOUR_MS, now)]
    settled.clear()
    now = DAY_MS + 4 * HOUR_MS + 500  # from 4 to 8 hours, before the listing says so
    sink.on_next_funding(1, DAY_MS + 12 * HOUR_MS, now)
    assert settled == [(1, DAY_MS + 4 * HOUR_MS, now)]
    settled.clear()
    sink.on_next_funding(2, 0, now)  # a contract without funding
    assert not settled
