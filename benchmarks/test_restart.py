"""Restart of a live engine with 20 open positions until all are protected and reconciled, on the simulated exchange."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "engine" / "trading"))

from simulated import KEY, SECRET, Simulated
from test_restart import POSITIONS, RISK, crowded, open_all, reconciled

from engine.link import command

ROUNDS = 5
LIMIT_S = 3.0
WAIT_S = 60.0


def forget_weight(sim: Simulated) -> None:
    """Many starts within a minute are the benchmark's doing: they get the whole request weight each."""
    (sim.config.data_dir / "rate_budget").unlink(missing_ok=True)


def test_core_restart_with_twenty_open_positions(benchmark, tmp_path: Path) -> None:
    """Journal, sockets, preflight, reading of the account, stops: all that a restart does beside loading Python."""
    benchmark.group = "restart"
    took: list[float] = []

    async def restarts() -> None:
        async with crowded(tmp_path) as sim:
            await open_all(sim)
            await asyncio.sleep(2.0)  # REST lags behind the stream; a restart within its lag reads once more
            for _ in range(ROUNDS):
                await sim.stop_engine()
                forget_weight(sim)
                begun = time.perf_counter()
                live = await sim.start_engine()
                await sim.until(lambda live=live: reconciled(live), "reconciled", 30)
                took.append(time.perf_counter() - begun)

    benchmark.pedantic(lambda: asyncio.run(restarts()), rounds=1)
    benchmark.extra_info["restart_s"] = took
    print(f"core restart with {POSITIONS} positions: {min(took):.2f} to {max(took):.2f} s ({len(took)} restarts)")
    assert min(took) <= LIMIT_S


def test_process_restart_with_twenty_open_positions(benchmark, tmp_path: Path) -> None:
    """`ta engine` from its spawn: Python and compiled kernels loaded, history brought up to date, then as above."""
    benchmark.group = "restart"
    took: list[float] = []

    async def restarts() -> None:
        async with crowded(tmp_path) as sim:
            await asyncio.to_thread(started, sim)  # the first start fetches the whole history
            live = await open_all(sim)
            assert live.parts.core.desk.positions.count == POSITIONS
            await sim.stop_engine()
            took.extend([await asyncio.to_thread(started, sim) for _ in range(3)])

    benchmark.pedantic(lambda: asyncio.run(restarts()), rounds=1)
    benchmark.extra_info["restart_s"] = took
    print(f"`ta engine` with {POSITIONS} positions: {min(took):.2f} to {max(took):.2f} s from spawn")


def started(sim: Simulated) -> float:
    """Run `ta engine` until it is reconciled, kill it, and return the seconds it took."""
    forget_weight(sim)
    exchange = sim.config.exchange
    values = {
        "MODE": "live", "MARKET__SYMBOLS": json.dumps(sim.symbols), "EXCHANGE__REST_URL": exchange.rest_url,
        "EXCHANGE__WS_API_URL": exchange.ws_api_url, "EXCHANGE__STREAM_URL": exchange.stream_url,
        "SECRETS__API_KEY": KEY, "SECRETS__API_SECRET": SECRET,
    }  # fmt: skip
    values |= {f"RISK__{name.upper()}": str(value) for name, value in RISK.items()}
    environment = os.environ | {f"TA_{name}": value for name, value in values.items()}
    line = [sys.executable, "-m", "control.cli", "--data-dir", str(sim.folder), "engine"]
    begun = time.perf_counter()
    with open(sim.folder / "engine.log", "ab") as log:
        process = subprocess.Popen(line, env=environment, stdout=log, stderr=log)
    try:
        while not _reconciled(sim.folder):
            assert process.poll() is None, (sim.folder / "engine.log").read_text()[-2_000:]
            assert time.perf_counter() - begun < WAIT_S, "not reconciled"
            time.sleep(0.01)
        return time.perf_counter() - begun
    finally:
        process.kill()
        process.wait()


def _reconciled(folder: Path) -> bool:
    try:
        result = command(folder, "trading", actor="benchmark")["result"]
    except (ConnectionError, TimeoutError):
        return False
    return bool(result["reconciled"] and not result["doubts"] and set(result["stops"].values()) <= {"standing"})
