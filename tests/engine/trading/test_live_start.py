"""What a start finds: stops and fills that nobody booked, snapshots it cannot read, accounts not to be entered with."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig, agree
from rig import SYMBOLS
from simulated import KEY, Simulated
from test_live_faults import delay, entries, one_trade, stop_of
from test_live_simulator import amount, gone, opened, standing

from engine import restore
from engine.errors import DataError
from engine.exchange.requests import Call
from kernels.decide import BIT
from kernels.records import Kind, Reason


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


def test_an_entry_whose_decision_a_power_cut_took_is_guarded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.stream_up = False
    rig.venue.faults[Call.ORDER_PLACE].append("lost_executed")
    rig.decide()
    rig.parts.journal.close()
    rig.venue.stream_up = True
    monkeypatch.setattr(restore, "_apply_entry", lambda *arguments: None)
    again = LiveRig(tmp_path, rig.venue)
    again.run(2_000)
    assert again.held == 1 and again.trading.protection.standing(0)
    row = again.desk.positions.rows[0]
    assert (row["sl_price"], row["tp_price"]) == (pytest.approx(98.0, abs=0.2), pytest.approx(102.0, abs=0.2))
    agree(again)


def test_a_smaller_limit_on_positions_bounds_entries_and_no_guard(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long(0)
    rig.open_long(1)
    rig.parts.journal.close()
    again = LiveRig(tmp_path, rig.venue, risk={"max_positions": 1})
    again.venue.manual(SYMBOLS[2], "-3", silent=True)  # and a stranger beside them, that no stream told of
    again.run(15_000, 50)
    assert again.held == 2 and float(again.venue.held[SYMBOLS[2]].amount) == 0.0, "guarded, and the stranger closed"
    agree(again)


async def test_a_list_of_stops_that_is_seconds_late_exits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay(monkeypatch, view=4_500.0)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        since_ms = live.trading.protection.slots[0].stage_ms
        await sim.until(lambda: sim.clock.now_ms() > since_ms + 1_200, "a while")
        live.trading.begin_reconcile()
        await sim.until(lambda: live.trading.sweeps.reconciled, "everything was read")
        assert standing(sim, 0) and "stop_gone" not in live.trading.alarm.counts
        assert not live.parts.core.desk.exits


def test_a_fault_of_the_twins_stops_no_trade(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    twins = rig.core.twins
    assert twins is not None
    twins.open[int(rig.desk.positions.rows[0]["position_id"])].twin = None  # type: ignore[assignment]
    rig.venue.price[SYMBOLS[0]] = Decimal("98.9")
    rig.run(200)
    assert rig.held == 0 and twins.faults > 0
    assert len(rig.records(Kind.TRADE)) == 1


async def test_what_speaks_against_entries_keeps_no_position_from_its_guards(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        await sim.start_engine()
        await opened(sim)
        await sim.stop_engine()
        venue = sim.exchange.venue
        venue.ledger.accounts[KEY].multi_assets = True
        venue.views.at_once(venue.ledger.accounts[KEY])
        live = await sim.start_engine()
        await sim.until(lambda: live.guarding([0]), "guarded again")
        assert "multi-assets mode" in live.trading.alarm.open["entries_closed", -1]
        assert "multi-assets mode" in live.summary()["resting"]["ETHUSDT"]
        sim.decide(1)
        assert live.parts.core.counters.refusals[BIT["symbol_halted"]] == 1 and not live.parts.core.desk.orders
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]) * 0.999)
        await gone(sim)
        assert one_trade(sim)["reason"] == Reason.SL
