"""The life of an order against every fault of the simulator, begun at its entry, at its stop and at its exit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from simulated import KEY, Simulated
from test_live_faults import delay, entries, never_reversed
from test_live_simulator import amount, gone, standing, trades

from engine.simulator.faults import ANSWERS, NAMES
from tests.conftest import long_run

STAGES = ("entry", "stop", "exit")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "drop_frame": {"count": 6, "route": "private"},
    "duplicate_frame": {"count": 12, "route": "private"},
    "truncate_frame": {"count": 6, "route": "private"},
    "garbage_frame": {"count": 6, "route": "private"},
    "hold_frames": {"count": 3, "route": "private"},
    "drop_event": {"count": 4},
    "duplicate_event": {"count": 12},
    "late_event": {"late_ms": 1_200},
    "partial_fill_then_silence": {"count": 1},
    "connection_storm": {"seconds": 1.0},
    "clock_skew": {"skew_ms": 30_000},
    "ip_ban": {"seconds": 2.0},
    "filter_change": {"symbol": "BTCUSDT"},
    "status_change": {"symbol": "BTCUSDT", "status": "PRE_SETTLE"},
    "bracket_change": {"symbol": "BTCUSDT"},
    "settlement": {"symbol": "BTCUSDT"},
    "liquidate": {"key": KEY},
    "stop_trading_permission": {"key": KEY},
}
# while these last nothing can leave the position: the promise is that it is left as soon as they are over
LOCKED = {"clock_skew", "ip_ban", "status_change", "stop_trading_permission", "connection_storm"}
ALL = [(fault, stage) for fault in NAMES for stage in STAGES]
CASES = ALL[:: long_run(13, 1)]


def begin(sim: Simulated, fault: str, stage: str) -> None:
    arguments = dict(ARGUMENTS.get(fault, {}))
    if fault in ANSWERS:
        arguments = {"path": "algoOrder.place" if stage == "stop" else "order.place", "count": 2}
    sim.server.faults.begin(fault, **arguments)


def lift(sim: Simulated) -> None:
    """End what would last for ever."""
    venue = sim.exchange.venue
    sim.server.faults.end()
    venue.ledger.accounts[KEY].can_trade = True
    item = venue.instrument(sim.number(0))
    if item.status == "PRE_SETTLE":
        item.status = "TRADING"


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("fault", "stage"), CASES)
async def test_no_fault_loses_doubles_reverses_or_bares_a_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, stage: str
) -> None:
    delay(monkeypatch, algo_sees=100.0)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        desk = live.parts.core.desk
        if stage == "entry":
            begin(sim, fault, stage)
        sim.decide()
        if stage == "stop":
            await sim.until(lambda: amount(sim, 0) != 0, "filled")
            begin(sim, fault, stage)
        locked = fault in LOCKED and stage != "exit"
        await sim.until(lambda: not desk.orders or locked, "the entry's fate is known", 20)
        if locked:
            await sim.until(lambda: bool(desk.exits) or not desk.orders, "the fault has shown", 20)
            lift(sim)
            await sim.until(lambda: not desk.orders, "the entry's fate is known", 20)
        if amount(sim, 0):
            await sim.until(lambda: standing(sim, 0) or amount(sim, 0) == 0, "protected or out", 5)
        if amount(sim, 0):
            if stage == "exit":
                begin(sim, fault, stage)
            if desk.positions.count:
                sim.mark(0, float(desk.positions.rows[0]["sl_price"]))
            if fault in LOCKED:
                tried = lambda: any(run.rounds >= 3 for run in desk.exits.values())  # noqa: E731
                await sim.until(lambda: tried() or amount(sim, 0) == 0, "exits are tried", 20)
                lift(sim)
        await gone(sim, seconds=40)
        assert len(entries(sim)) <= 1
        assert never_reversed(sim)
        found = trades(sim)
        assert len(found) == desk.trades_closed == bool(entries(sim) and entries(sim)[0].filled)
        if found and fault not in LOCKED:
            assert found[0]["unprotected_ms"] <= 2_600, "two seconds, and what the exit takes"
        await sim.until(lambda: live.trading.protection.slots == {}, "no stop is left", 15)
        venue = sim.exchange.venue
        assert venue.algos.open_of(venue.ledger.accounts[KEY]) == []
