"""`ta up --mode live` with its watchdog, as processes, over a position that an earlier run opened."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from simulated import KEY, SECRET, SYMBOLS, Simulated
from test_live_faults import entries, stop_of
from test_live_simulator import amount, opened

from control.supervise import environment
from engine.link import SnapshotReader
from engine.watchdog import STATUS_NAME
from tests.conftest import long_run

ROOT = Path(__file__).resolve().parents[3]
OTHER_KEY = "watchdog-key"
START_S = 90.0


@asynccontextmanager
async def system(sim: Simulated) -> AsyncIterator[asyncio.subprocess.Process]:
    """`ta up` over the data folder of `sim`; it is asked to end if the test did not."""
    accounts, urls = sim.exchange.venue.ledger.accounts, sim.config.exchange
    accounts[OTHER_KEY] = accounts[KEY]
    values: dict[str, Any] = {
        "exchange": {"name": "sim", "clock": "wall", "rest_url": urls.rest_url, "stream_url": urls.stream_url,
                     "ws_api_url": urls.ws_api_url},
        "market": {"symbols": SYMBOLS}, "control": {"port": 0},
        "watchdog": {"enabled": True, "after_s": 3.0},
        "secrets": {"api_key": KEY, "api_secret": SECRET, "watchdog_key": OTHER_KEY, "watchdog_secret": SECRET},
    }  # fmt: skip
    with (sim.folder / "up.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "control.cli", "--data-dir", str(sim.folder), "up", "--mode", "live", cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TA_LOCK_DIR": str(sim.folder / "locks")}
            | environment(values), stdout=log, stderr=log,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 180)


def engine_pid(sim: Simulated) -> int:
    """The process id of the newest engine that said it is ready; 0 before the first."""
    log = sim.folder / "logs" / "engine.log"
    found = re.findall(r'"ready":true,"pid":(\d+)', log.read_text(errors="replace")) if log.exists() else []
    return int(found[-1]) if found else 0


def guards(sim: Simulated) -> bool:
    """Whether the engine lives, holds our position and knows its stop confirmed."""
    view = SnapshotReader(sim.folder).read()
    held = view.positions[: int(view.status["open_positions"][0])] if view is not None and view.alive else []
    return len(held) == 1 and bool(held["protected"].all())


def shown(sim: Simulated) -> tuple[bytes, bytes, int]:
    """The guard that the engine shows among its open orders, its stage, and how many of its connections are live."""
    view = SnapshotReader(sim.folder).read()
    assert view is not None
    live = int((view.connections["state"] == b"live").sum())
    return view.orders["client_order_id"][0], view.orders["state"][0], live


def stops(sim: Simulated) -> int:
    venue = sim.exchange.venue
    return len([a for a in venue.algos.open_of(venue.ledger.accounts[KEY]) if a.s == sim.number(0)])


def watchdog(sim: Simulated) -> dict[str, Any]:
    path = sim.folder / STATUS_NAME
    told: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {"state": "", "fenced": 0, "acts": []}
    return told


@pytest.mark.timeout(900)
@pytest.mark.skipif(not long_run(0, 1), reason="a minute of real processes: TA_TEST_LONG=1")
async def test_the_system_guards_through_a_kill_and_ends_with_the_position_protected(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        await sim.start_engine()
        await opened(sim)
        held, first = amount(sim, 0), stop_of(sim).client_id
        await sim.stop_engine()
        async with system(sim) as up:
            await sim.until(lambda: engine_pid(sim) and guards(sim), "the engine took the position over", START_S)
            assert (amount(sim, 0), stop_of(sim).client_id) == (held, first)
            await sim.until(
                lambda: shown(sim) == (first.encode(), b"standing", 8), "its snapshot says all of it", START_S
            )
            await sim.until(lambda: watchdog(sim)["state"] == "watching", "the watchdog watches", START_S)
            # killed: whoever is first, watchdog or next engine, sees to the stop
            killed = engine_pid(sim)
            os.kill(killed, signal.SIGKILL)
            sim.exchange.venue.algos.cancel(stop_of(sim))
            await sim.until(lambda: stops(sim) == 1, "the missing stop is placed", 15)
            await sim.until(lambda: engine_pid(sim) != killed and guards(sim), "the next engine guards", START_S)
            # standing still: the watchdog fences it and sees to the stop, and it ends when it comes back
            hung, fenced = engine_pid(sim), watchdog(sim)["fenced"]
            os.kill(hung, signal.SIGSTOP)
            sim.exchange.venue.algos.cancel(stop_of(sim))
            await sim.until(lambda: stops(sim) == 1, "the watchdog placed the missing stop", 15)
            await sim.until(lambda: "stop_placed BTCUSDT" in "".join(watchdog(sim)["acts"]), "it says so", 15)
            assert watchdog(sim)["fenced"] == fenced + 1
            os.kill(hung, signal.SIGCONT)
            await sim.until(lambda: engine_pid(sim) != hung and guards(sim), "the next engine guards", START_S)
            await sim.until(lambda: watchdog(sim)["state"] == "watching", "the watchdog stood down", START_S)
            # a stop that is missing at SIGTERM, and whose first answers are lost, is placed before the engine leaves
            sim.server.faults.begin("service_unavailable", path="algoOrder", count=3)
            sim.exchange.venue.algos.cancel(stop_of(sim))
            up.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(up.wait(), 180) == 0
            assert stops(sim) == 1, "left without its stop"
        assert amount(sim, 0) == held and len(entries(sim)) == 1
        assert watchdog(sim)["fenced"] == fenced + 1, "an engine that said goodbye is left in peace"
        log = (sim.folder / "logs" / "engine.log").read_text(errors="replace")
        assert log.count("Traceback") == 0, log[-3_000:]
        assert "FencedError" in log or "took the lease" in log
