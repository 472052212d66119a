"""The watchdog against the simulated exchange: a standing engine, a dead one, and one that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from engines import Engines, check_agreement
from simulated import KEY, SECRET, Simulated
from test_live_faults import delay

from engine.config import load
from engine.errors import ConfigError
from engine.exchange import filters
from engine.exchange.budget import WeightBudget
from engine.exchange.requests import entry_order
from engine.exchange.rest import MarketRest
from engine.trading.lock import Lease
from engine.watchdog import Watchdog

OTHER_KEY = "watchdog-key"
AFTER_S = 3.0


@contextlib.asynccontextmanager
async def watched(sim: Simulated) -> AsyncIterator[Watchdog]:
    """A watchdog on the simulated exchange, with a key of its own on the same account."""
    accounts = sim.exchange.venue.ledger.accounts
    accounts[OTHER_KEY] = accounts[KEY]
    async with MarketRest(sim.config.exchange.rest_url, WeightBudget()) as rest:
        filters.save(sim.folder / "instruments.bin", await rest.instruments())
    watchdog = Watchdog(watchdog_config(sim))
    task = asyncio.get_running_loop().create_task(watchdog.run())
    try:
        yield watchdog
    finally:
        watchdog.stop()
        await task


def watchdog_config(sim: Simulated, key: str = OTHER_KEY) -> Any:
    exchange = sim.config.exchange.model_dump()
    return load(
        mode="live", data_dir=sim.folder, market={"symbols": sim.config.market.symbols}, exchange=exchange,
        watchdog={"after_s": AFTER_S}, secrets={"api_key": KEY, "watchdog_key": key, "watchdog_secret": SECRET},
    )  # fmt: skip


def stops(sim: Simulated, symbol: int = 0) -> list[Any]:
    venue = sim.exchange.venue
    return [a for a in venue.algos.open_of(venue.ledger.accounts[KEY]) if a.s == sim.number(symbol)]


def amount(sim: Simulated, symbol: int = 0) -> int:
    return sim.exchange.venue.ledger.accounts[KEY].position(sim.number(symbol), "BOTH").qty


def sent(sim: Simulated) -> list[str]:
    """Every order and algo order that the exchange has seen."""
    venue = sim.exchange.venue
    account = venue.ledger.accounts[KEY]
    orders = [order.client_id for order in venue.matcher.of(account).all.values()]
    return orders + [algo.client_id for algo in venue.algos.open_of(account)]


async def trading(engines: Engines) -> int:
    """Start an engine that opens one position and keeps it; return its process id once its stop stands."""
    pid = await engines.start()
    await engines.settled()
    os.kill(pid, signal.SIGUSR1)
    await engines.sim.until(lambda: amount(engines.sim) != 0 and len(stops(engines.sim)) == 1, "position and stop")
    return pid


async def test_an_engine_that_resumes_after_the_watchdog_acted_sends_nothing(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim, Engines(sim, random.Random(3), hold=True) as engines, watched(sim) as dog:
        pid = await trading(engines)
        assert dog.fenced == 0
        os.kill(pid, signal.SIGSTOP)
        sim.exchange.venue.algos.cancel(stops(sim)[0])
        await sim.until(lambda: len(stops(sim)) == 1, "the watchdog placed the missing stop", AFTER_S + 5)
        assert dog.fenced == 1
        assert amount(sim) != 0, "protected, so not flattened"
        before = sent(sim)
        os.kill(pid, signal.SIGCONT)
        assert (await engines.line("fenced"))["fenced"]
        assert sent(sim) == before, "a fenced engine sent something"
        await engines.start()
        check_agreement(sim, await engines.settled())
        held = Lease(engines.lease_path)
        number = held.newest
        held.close()
        assert number == 3, "the engine, the watchdog, and the engine that started again"
        assert dog.fenced == 1


async def test_a_position_that_rest_does_not_show_yet_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay(monkeypatch, view=4_950.0)
    async with Simulated(tmp_path) as sim, Engines(sim, random.Random(5), hold=True) as engines, watched(sim) as dog:
        engines.kill(await trading(engines))
        sim.exchange.venue.algos.cancel(stops(sim)[0])
        await sim.until(lambda: len(stops(sim)) == 1, "the watchdog placed the missing stop", AFTER_S + 4)
        assert dog.fenced == 1 and amount(sim) != 0


async def test_what_cannot_be_protected_is_flattened_and_nothing_else(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim, Engines(sim, random.Random(4), hold=True) as engines, watched(sim) as dog:
        pid = await trading(engines)
        engines.kill(pid)
        sim.server.faults.begin("service_unavailable", path="/fapi/v1/algoOrder", count=1_000)
        sim.exchange.venue.algos.cancel(stops(sim)[0])
        by_hand = entry_order("ETHUSDT", 1, "1.000", f"{sim.price(1) * 1.01:.2f}", "by-hand-e")
        assert (await dog.rest.call(by_hand)).ok
        await sim.until(lambda: amount(sim) == 0, "ours is flat", AFTER_S + 8)
        assert amount(sim, 1) != 0, "a person's position was touched"
        assert dog.fenced == 1
        await sim.until(lambda: any(act.startswith("flattened BTCUSDT") for act in dog.acts), "it says so")


def assert_silent_since(lease: Lease, begun_s: float) -> None:
    """The lease counts its silence from the last beat, which came after `begun_s` of this machine's clock."""
    silent_s = lease.silent_s()
    assert silent_s is not None and 0.0 <= silent_s <= time.monotonic() - begun_s


async def test_an_engine_that_said_goodbye_is_left_in_peace(tmp_path: Path) -> None:
    lease, begun_s = Lease(tmp_path / "key.lease"), time.monotonic()
    assert lease.take() == 1
    assert_silent_since(lease, begun_s)
    lease.goodbye()
    assert lease.silent_s() is None
    other, begun_s = Lease(tmp_path / "key.lease"), time.monotonic()
    assert other.take() == 2
    assert lease.lost()
    assert not other.lost()
    lease.beat()  # a fenced engine's heartbeat counts for nothing
    assert_silent_since(other, begun_s)
    other.close()
    lease.close()
    assert lease.lost()


async def test_the_watchdog_refuses_the_engines_own_key(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        with pytest.raises(ConfigError, match="is the engine's key"):
            Watchdog(watchdog_config(sim, KEY))
