"""The order of a start, seen from outside: positions are guarded before, and without, any market data."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_process import EngineProcess
from simulated import Simulated
from test_live_simulator import amount

from engine.config import Config
from engine.replay import Report, registry_models, replay, runs

HELD = 2


def roomy(folder: Path) -> Simulated:
    """A simulator with limits that allow a position in each symbol."""
    risk = {"max_total_notional_usdt": 1e6, "max_correlated_usdt": 1e6}
    return Simulated(folder, balance_usdt=1_000_000, risk=risk)


async def with_positions(sim: Simulated) -> None:
    """Run an engine process once, so that its data folder is filled; then leave positions behind as a crash would."""
    with EngineProcess(sim.config, "first") as engine:
        await asyncio.to_thread(engine.wait_for, "ready")
    live = await sim.start_engine()
    await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
    for symbol in range(HELD):
        sim.decide(symbol)
    positions = live.parts.core.desk.positions
    await sim.until(lambda: positions.count == HELD and positions.rows["protected"][:HELD].all(), "protected", 20)
    await sim.stop_engine()


def replayed(config: Config) -> Report:
    """Replay the newest run of a data folder."""
    folder = config.data_dir / "journal"
    return replay(folder, config.engine_id, runs(folder, config.engine_id)[-1], registry_models(config))


@pytest.mark.timeout(900)
async def test_positions_are_guarded_while_the_history_cannot_be_had_and_entries_wait_for_it(tmp_path: Path) -> None:
    async with roomy(tmp_path) as sim:
        await with_positions(sim)
        sim.server.faults.begin("service_unavailable", path="/klines|/openInterestHist", count=1_000_000)
        with EngineProcess(sim.config) as engine:
            await asyncio.to_thread(engine.wait_for, "guarding")
            said = engine.said("guarding")
            assert said is not None and said["positions"] == HELD
            trading = await asyncio.to_thread(engine.ask, "trading")
            assert trading["reconciled"] and not trading["doubts"]
            assert list(trading["stops"].values()) == ["standing"] * HELD
            market = await asyncio.to_thread(engine.ask, "market")
            assert market["start"]["state"] and "history" not in market["start"]["seconds"], (
                "no market data, no decisions"
            )
            assert engine.said("ready") is None
            sim.server.faults.end()
            await asyncio.to_thread(engine.wait_for, "ready")
            assert (await asyncio.to_thread(engine.ask, "market"))["start"]["state"] == ""
            await asyncio.to_thread(engine.ask, "flatten")
            deadline = time.monotonic() + 60.0
            while (await asyncio.to_thread(engine.ask, "status"))["open_positions"]:
                assert time.monotonic() < deadline, "not flat in time"
            assert not any(amount(sim, symbol) for symbol in range(HELD)), "flat on the exchange too"
    report = await asyncio.to_thread(replayed, sim.config)
    assert report.difference is None and report.complete, str(report.difference)
    assert report.records["request"] > HELD and report.records["mark"] and report.records["trade"] == HELD


@pytest.mark.timeout(900)
async def test_a_first_start_without_history_is_refused_with_its_reason(tmp_path: Path) -> None:
    async with roomy(tmp_path) as sim:
        sim.server.faults.begin("service_unavailable", path="/klines", count=1_000_000)
        with EngineProcess(sim.config) as engine:
            code = await asyncio.to_thread(engine.process.wait, 180)
            assert code == 2
            assert "start-up history failed" in engine.log()
