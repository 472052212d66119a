"""Starts of the engine on the simulated exchange: 20 open positions until all are guarded, 50 symbols until ready."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "engine" / "trading"))

from engine_process import EngineProcess
from simulated import Simulated
from test_restart import POSITIONS, crowded, open_all, reconciled

from engine.config import Config

ROUNDS = 5
LIMIT_S = 3.0
SYMBOLS = 50
HISTORY_DAYS = 70.0  # 1,500 bars of an hour, and more
WEIGHT_LIMIT = 1_000_000  # many starts within a minute are the benchmark's doing


def test_core_restart_with_twenty_open_positions(benchmark, tmp_path: Path) -> None:
    """Journal, sockets, preflight, reading of the account, stops: all that a restart does beside loading Python."""
    benchmark.group = "restart"
    took: list[float] = []

    async def restarts() -> None:
        async with crowded(tmp_path, WEIGHT_LIMIT) as sim:
            await open_all(sim)
            await asyncio.sleep(2.0)  # REST lags behind the stream; a restart within its lag reads once more
            for _ in range(ROUNDS):
                await sim.stop_engine()
                begun = time.perf_counter()
                live = await sim.start_engine()
                await sim.until(lambda live=live: reconciled(live), "reconciled", 30)
                took.append(time.perf_counter() - begun)

    benchmark.pedantic(lambda: asyncio.run(restarts()), rounds=1)
    benchmark.extra_info["restart_s"] = took
    print(f"core restart with {POSITIONS} positions: {min(took):.2f} to {max(took):.2f} s ({len(took)} restarts)")
    assert min(took) <= LIMIT_S


def test_process_restart_with_twenty_open_positions(benchmark, tmp_path: Path) -> None:
    """`ta engine` from its spawn until it says that every position is guarded, by the stream's mark prices, a confirmed
    stop and an account that has been read; and until its first decision is possible.
    """
    benchmark.group = "restart"
    guarding: list[float] = []
    ready: list[float] = []

    async def restarts() -> None:
        async with crowded(tmp_path, WEIGHT_LIMIT) as sim:
            await asyncio.to_thread(started, sim)  # the first start fetches the whole history
            live = await open_all(sim)
            assert live.parts.core.desk.positions.count == POSITIONS
            await sim.stop_engine()
            await asyncio.sleep(2.0)  # REST lags behind the stream; a restart within its lag reads once more
            for _ in range(ROUNDS):
                guarded_s, ready_s = await asyncio.to_thread(started, sim)
                guarding.append(guarded_s)
                ready.append(ready_s)

    benchmark.pedantic(lambda: asyncio.run(restarts()), rounds=1)
    benchmark.extra_info |= {"restart_s": guarding, "ready_s": ready}
    print(f"`ta engine` with {POSITIONS} positions: guarded {spread(guarding)}, ready {spread(ready)} from spawn")
    assert min(guarding) <= LIMIT_S


def started(sim: Simulated) -> tuple[float, float]:
    """Run `ta engine` until it is ready, kill it; return the seconds from spawn to guarded positions and to ready."""
    with EngineProcess(sim.config) as engine:
        return engine.wait_for("guarding"), engine.wait_for("ready")


def spread(seconds: list[float]) -> str:
    """Return the least and the most."""
    return f"{min(seconds):.2f} to {max(seconds):.2f} s"


def test_start_of_fifty_symbols(benchmark, tmp_path: Path) -> None:
    """`ta engine` in shadow mode from its spawn until its first decision is possible: on an empty data folder, which
    fetches the whole history, and with the history stored.
    """
    benchmark.group = "restart"
    cold: list[float] = []
    warm: list[float] = []

    async def starts() -> None:
        async with Simulated(
            tmp_path, weight_limit=WEIGHT_LIMIT, symbol_count=SYMBOLS, history_days=HISTORY_DAYS
        ) as sim:
            config = sim.config.model_copy(update={"mode": "shadow"})
            for took in (cold, *[warm] * ROUNDS):
                took.append(await asyncio.to_thread(ready, config))

    benchmark.pedantic(lambda: asyncio.run(starts()), rounds=1)
    benchmark.extra_info |= {"cold_s": cold, "warm_s": warm}
    print(
        f"`ta engine` with {SYMBOLS} symbols: ready {spread(warm)} from spawn, {cold[0]:.2f} s without stored history"
    )
    assert min(warm) <= LIMIT_S


def ready(config: Config) -> float:
    """Run `ta engine` until it is ready, kill it; return the seconds from its spawn."""
    with EngineProcess(config) as engine:
        return engine.wait_for("ready", 300.0)
