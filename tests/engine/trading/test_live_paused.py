"""The engine process stopped (SIGSTOP) while it holds a position, and resumed: it trusts nothing until it has read."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from simulated import KEY, Simulated
from test_live_faults import entries, never_reversed, stop_of
from test_live_simulator import amount

from tests.conftest import long_run

ROOT = Path(__file__).resolve().parents[3]
CHILD = Path(__file__).resolve().parent / "paused_child.py"
PAUSE_S = long_run(4, 30)


class Child:
    """The process; `states` is everything it has said, newest last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.states: list[dict[str, Any]] = []

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line.startswith(b'{"held"'):
                self.states.append(json.loads(line))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def now(self, **wanted: Any) -> bool:
        """Whether its newest state has these values."""
        return bool(self.states) and all(self.states[-1][name] == value for name, value in wanted.items())


@asynccontextmanager
async def engine(sim: Simulated, folder: Path) -> AsyncIterator[Child]:
    urls = sim.config.exchange
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), str(folder), urls.rest_url, urls.stream_url, urls.ws_api_url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    child = Child(process)
    listening = asyncio.create_task(child.listen())
    try:
        yield child
    finally:
        process.kill()
        await process.wait()
        await listening


@pytest.mark.timeout(600)
@pytest.mark.parametrize("closed_meanwhile", [True, False])
async def test_a_stopped_engine_reads_everything_before_it_enters_again(tmp_path: Path, closed_meanwhile: bool) -> None:
    async with Simulated(tmp_path) as sim, engine(sim, tmp_path) as child:
        await sim.until(lambda: child.now(reconciled=True), "ready", 120)
        child.tell("enter 0")
        await sim.until(lambda: child.now(orders=0) and child.states[-1]["standing"][0], "a position and its stop")
        held, stop = amount(sim, 0), stop_of(sim)
        child.process.send_signal(signal.SIGSTOP)
        child.tell("enter 1")  # a decision that waits in the socket buffer, so to speak
        if closed_meanwhile:
            sim.exchange.venue.algos._trigger(stop)
            await sim.until(lambda: amount(sim, 0) == 0, "the exchange's stop has closed it")
        resume_s = time.monotonic() + PAUSE_S
        await sim.until(lambda: time.monotonic() > resume_s, "the pause", PAUSE_S + 5)
        before = len(child.states)
        child.process.send_signal(signal.SIGCONT)
        await sim.until(lambda: child.now(decisions=2, reconciled=True), "resumed and read", 30)
        assert child.states[-1]["stalls"] >= 1
        assert any(not state["reconciled"] for state in child.states[before:])
        assert len(entries(sim)) == 1, "the decision of before the pause entered nothing"
        if closed_meanwhile:
            await sim.until(lambda: child.now(held=[0.0, 0.0], trades=1), "the close is booked")
            await sim.until(lambda: child.states[-1]["free"][0], "free again")
        else:
            assert amount(sim, 0) == held and stop.status == "NEW"
            await sim.until(lambda: child.states[-1]["standing"][0], "still protected")
            assert child.states[-1]["trades"] == 0
        child.tell("enter 1")
        await sim.until(lambda: child.states[-1]["standing"][1], "entries go on", 15)
        assert len(entries(sim)) == 2
        account = sim.exchange.venue.ledger.accounts[KEY]
        assert never_reversed(sim) and account.position(sim.number(1), "BOTH").qty > 0
