"""An entry of unknown fate while questions are held back (a 429 over REST): its stop does not wait for an answer."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from simulated import Simulated
from test_live_faults import entries, placements
from test_live_simulator import amount, standing

from engine.exchange.budget import WeightBudget, shared_path


def hold_questions(sim: Simulated) -> None:
    WeightBudget(shared_path(sim.config.exchange.rest_url, sim.folder)).ban(60.0)


def allow_questions(sim: Simulated) -> None:
    shared_path(sim.config.exchange.rest_url, sim.folder).unlink()


async def test_a_hold_of_questions_does_not_keep_an_entry_of_unknown_fate_naked(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        hold_questions(sim)
        sim.server.faults.begin("lost_acknowledgement", path="order.place")
        sim.server.faults.begin("drop_event", count=4, events="ORDER_TRADE_UPDATE/TRADE_LITE/ACCOUNT_UPDATE")
        sim.decide()
        desk = live.parts.core.desk
        await sim.until(lambda: standing(sim, 0), "protected although nobody may ask", 3)
        assert amount(sim, 0) and desk.positions.count == 0 and desk.orders
        allow_questions(sim)
        await sim.until(lambda: desk.positions.count == 1, "its fate is known", 5)
        assert desk.positions.rows[0]["protected"] == 1 and not live.trading.protection.slots[0].presumed
        assert "stop_exit" not in live.trading.alarm.counts and len(entries(sim)) == 1


async def test_a_stop_placed_in_doubt_goes_with_an_entry_that_never_was(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        codes = placements(sim)
        hold_questions(sim)
        sim.server.faults.begin("lost_request", path="order.place")
        sim.decide()
        await sim.until(lambda: len(codes) > 1, "tried, at a pace", 4)
        assert set(codes) == {-4509}
        allow_questions(sim)
        desk = live.parts.core.desk
        await sim.until(lambda: not desk.orders, "proved absent", 15)
        await sim.until(lambda: not live.trading.protection.slots, "its stop is given up")
        assert not amount(sim, 0) and not desk.positions.count and live.trading.may_enter(0)
        assert "stop_exit" not in live.trading.alarm.counts
