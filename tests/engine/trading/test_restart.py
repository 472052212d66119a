"""A restart with many open positions: all of them protected and reconciled, whatever else uses the request weight."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulated import KEY, Simulated

from engine.exchange.budget import WeightBudget
from engine.trading.start import Live

POSITIONS = 20
RISK = {
    "max_notional_usdt": 2_000.0,
    "max_total_notional_usdt": 1e6,
    "max_correlated_usdt": 1e6,
    "max_positions": POSITIONS,
}


def crowded(folder: Path, weight_limit: int | None = None) -> Simulated:
    """A simulator and settings with room for all positions."""
    return Simulated(folder, weight_limit=weight_limit, symbol_count=POSITIONS, balance_usdt=1_000_000, risk=RISK)


async def open_all(sim: Simulated) -> Live:
    """Open a position in every symbol and wait until each has its stop."""
    live = await sim.start_engine()
    await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
    desk = live.parts.core.desk

    def all_open() -> bool:
        for symbol in range(POSITIONS):  # a loop that stood still refuses entries until it has reconciled: decided anew
            waits = desk.positions.slot_of[symbol] < 0 and not any(o.symbol == symbol for o in desk.orders.values())
            if waits and live.trading.sweeps.reconciled:
                sim.decide(symbol)
        return desk.positions.count == POSITIONS

    await sim.until(all_open, "all open", 30)
    await sim.until(lambda: protected(live), "all protected", 10)
    return live


def protected(live: Live) -> bool:
    """Whether every position has its confirmed stop, by our books."""
    rows = live.parts.core.desk.positions.rows[: live.parts.core.desk.positions.count]
    standing = all(live.trading.protection.standing(int(row["symbol"])) for row in rows)
    return len(rows) == POSITIONS and standing and bool(rows["protected"].all())


def reconciled(live: Live) -> bool:
    """Protected, everything read once, and no difference left between our books and the exchange's."""
    return protected(live) and live.trading.sweeps.reconciled and not live.trading.reconciler.doubts


async def test_restart_with_twenty_positions_while_a_collector_has_used_half_the_weight(tmp_path: Path) -> None:
    async with crowded(tmp_path) as sim:
        live = await open_all(sim)
        before = {symbol: slot.name for symbol, slot in live.trading.protection.slots.items()}
        account = sim.exchange.venue.ledger.accounts[KEY]
        held = [account.position(sim.number(symbol), "BOTH").qty for symbol in range(POSITIONS)]
        await sim.stop_engine()
        WeightBudget(sim.config.data_dir / "rate_budget").correct(1_300)
        live = await sim.start_engine()
        assert live.report.faults == []
        stood_still = lambda: "stall" in live.trading.alarm.counts  # noqa: E731
        await sim.until(lambda: reconciled(live) or stood_still(), "protected and reconciled", 10)
        # what a busy machine held up reads everything once more, for which there may be weight in the next minute only
        await sim.until(lambda: reconciled(live), "protected and reconciled after a standstill", 70)
        assert {symbol: slot.name for symbol, slot in live.trading.protection.slots.items()} == before
        assert [account.position(sim.number(symbol), "BOTH").qty for symbol in range(POSITIONS)] == held
        assert not live.parts.core.desk.orders
        assert len(live.parts.core.twins.open) == POSITIONS
