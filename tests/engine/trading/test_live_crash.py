"""kill -9 at random points of trading: the next start is protected and agrees with the exchange."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from simulated import KEY, Simulated

from tests.conftest import long_run

ROOT = Path(__file__).resolve().parents[3]
CHILD = Path(__file__).resolve().parent / "crash_child.py"
SYMBOLS = 2


@pytest.mark.timeout(3_600)
async def test_kill_at_random_points_leaves_nothing_naked_or_doubled(tmp_path: Path) -> None:
    chance = random.Random(11)
    async with Simulated(tmp_path) as sim:
        exchange = sim.config.exchange
        for _ in range(long_run(2, 100)):
            child = await asyncio.create_subprocess_exec(
                sys.executable, str(CHILD), str(tmp_path), exchange.rest_url, exchange.stream_url, exchange.ws_api_url,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            assert child.stdout is not None
            while not (line := await asyncio.wait_for(child.stdout.readline(), 120)).startswith(b"ready"):
                assert line, "the engine ended before it was ready"
            await asyncio.sleep(chance.uniform(0.0, 1.5))
            child.kill()
            await child.wait()
        venue = sim.exchange.venue
        account = venue.ledger.accounts[KEY]
        live = await sim.start_engine()
        desk, trading = live.parts.core.desk, live.trading
        await sim.until(lambda: trading.sweeps.reconciled and not desk.orders and not trading.reconciler.doubts,
                        "every fate known", 20)  # fmt: skip
        for symbol in range(SYMBOLS):
            slot = desk.positions.slot_of[symbol]
            held = account.position(sim.number(symbol), "BOTH").qty
            assert (slot >= 0) == (held != 0)
            if slot >= 0:
                scale = abs(held) / float(desk.positions.rows[slot]["qty"])
                assert scale == pytest.approx(round(scale)), "quantities differ"
                await sim.until(lambda symbol=symbol: trading.protection.standing(symbol), "protected", 3)
        orders = list(venue.matcher.of(account).all.values())
        ours = [order.client_id for order in orders if order.client_id.endswith(("-e", "-x"))]
        assert len(ours) == len(set(ours))
        assert any(name.endswith("-e") for name in ours)
