"""Engines as processes of their own, forked, watched and killed by tests; the simulated exchange is in the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from simulated import KEY, SYMBOLS, Simulated

from engine.trading.lock import key_hash

ROOT = Path(__file__).resolve().parents[3]
CHILD = Path(__file__).resolve().parent / "crash_child.py"
IN_START = 0.2  # share of the kills that hit an engine which is still taking over


class Engines:
    """Starts engines one after the other, each over what the one before left, and kills them."""

    def __init__(self, sim: Simulated, chance: random.Random, hold: bool = False) -> None:
        self.sim, self.chance, self._hold = sim, chance, hold
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Engines:
        exchange = self.sim.config.exchange
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, str(CHILD), str(self.sim.folder), exchange.rest_url, exchange.stream_url,
            exchange.ws_api_url, "hold" if self._hold else "", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        )  # fmt: skip
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)  # with the engine that it may have forked
        await self._process.wait()

    @property
    def lease_path(self) -> Path:
        """The lease of the engines' key."""
        return self.sim.folder / "locks" / f"{key_hash(KEY)}.lease"

    async def start(self) -> int:
        """Fork an engine and return its process id."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(b"start\n")
        return int((await self.line("pid"))["pid"])

    async def settled(self) -> dict[str, Any]:
        """Wait until the engine has taken over; return what it says it holds."""
        return await self.line("state")

    async def line(self, wanted: str) -> dict[str, Any]:
        """Wait for the engine's next line with this key. A `fault` fails the test."""
        assert self._process is not None and self._process.stdout is not None
        while line := await asyncio.wait_for(self._process.stdout.readline(), 120):
            with contextlib.suppress(orjson.JSONDecodeError):  # log lines go to the same stream
                found: dict[str, Any] = orjson.loads(line)
                assert "fault" not in found, found["fault"]
                if wanted in found:
                    return found
        raise AssertionError(f"the engine ended before it said {wanted!r}")

    def trade(self, pid: int) -> None:
        """Let a settled engine trade from now on."""
        os.kill(pid, signal.SIGUSR1)

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def live_and_die(self) -> dict[str, Any] | None:
        """One engine's life: start, take over, agree with the exchange, trade, die; None: it died while starting."""
        pid = await self.start()
        if self.chance.random() < IN_START:
            await asyncio.sleep(self.chance.uniform(0.0, 0.6))
            self.kill(pid)
            return None
        said = await self.settled()
        check_agreement(self.sim, said)
        self.trade(pid)
        await asyncio.sleep(self.chance.uniform(0.0, 0.8))
        self.kill(pid)
        return said


def check_agreement(sim: Simulated, said: dict[str, Any]) -> None:
    """What the engine holds is what the exchange says, and each position stands behind exactly one stop of ours."""
    venue = sim.exchange.venue
    account = venue.ledger.accounts[KEY]
    for symbol, name in enumerate(SYMBOLS):
        number = sim.number(symbol)
        lot = 10 ** venue.ledger.instruments[number].qty_decimals
        qty = account.position(number, "BOTH").qty / lot
        assert said["state"].get(name, 0.0) == pytest.approx(qty), (name, said, qty)
        stops = [algo for algo in venue.algos.open_of(account) if algo.s == number and algo.close_position]
        if qty:
            assert len(stops) == 1, (name, said, stops)
