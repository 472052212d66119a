"""What a start finds: a stop whose entry's fill nobody booked, and a snapshot that it cannot read."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig
from rig import SYMBOLS
from simulated import KEY, Simulated
from test_live_faults import delay, entries, stop_of
from test_live_simulator import amount, gone, standing

from engine import restore
from engine.errors import DataError


async def test_the_stop_of_an_entry_whose_fill_nobody_booked_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay(monkeypatch, view=1_500.0)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        # the reply alone tells of the fill: the stop is placed, and the run dies before a trade is known
        sim.server.faults.begin("drop_event", count=4, events="ORDER_TRADE_UPDATE/TRADE_LITE/ACCOUNT_UPDATE")
        sim.decide()
        await sim.until(lambda: standing(sim, 0), "the stop stands")
        assert live.parts.core.desk.positions.count == 0
        held, stop = amount(sim, 0), stop_of(sim)
        await sim.stop_engine()
        live = await sim.start_engine()
        assert live.parts.restored.positions == [] and len(live.parts.restored.entries) == 1
        assert live.trading.protection.standing(0), "adopted before anything else"
        desk = live.parts.core.desk
        await sim.until(lambda: desk.positions.count == 1 and not desk.orders, "the fill is found")
        assert float(desk.positions.rows[0]["protect_price"]) > 0.0 and desk.positions.rows[0]["protected"]
        assert stop_of(sim) is stop and amount(sim, 0) == held and len(entries(sim)) == 1
        sim.mark(0, float(desk.positions.rows[0]["sl_price"]))
        await gone(sim)
        venue = sim.exchange.venue
        await sim.until(lambda: venue.algos.open_of(venue.ledger.accounts[KEY]) == [], "no stop is left")


@pytest.mark.parametrize("found", [1, restore.SNAPSHOT_FORMAT + 1])
def test_a_snapshot_of_another_format_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: int
) -> None:
    dumps = orjson.dumps

    def older(value: object) -> bytes:  # what another release wrote
        return dumps(value | {"format": found} if isinstance(value, dict) and "format" in value else value)

    monkeypatch.setattr(restore.orjson, "dumps", older)
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.parts.journal.close()
    monkeypatch.undo()
    with pytest.raises(DataError, match=rf"has format {found}; this release reads {restore.SNAPSHOT_FORMAT}"):
        restore.restore(tmp_path / "journal", rig.config.engine_id, SYMBOLS)
    with pytest.raises(DataError, match="Close the positions with the release that wrote it"):
        LiveRig(tmp_path, rig.venue)
