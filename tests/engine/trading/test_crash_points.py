"""A run that dies before any one of its journal records: the next one completes what it left, each thing once."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig
from rig import SYMBOLS

from kernels.records import Kind, PositionEvent, Reason
from tests.conftest import long_run


class Dead(BaseException):
    """No handler of faults may outlive the process."""


def dies_at(rig: LiveRig, left: int) -> list[int]:
    """Let the process be dead from its `left`-th journal record on; return what counts the records."""
    journal, counted = rig.parts.journal, [0]

    def watched(inner: Any) -> Any:
        def call(*args: Any) -> Any:
            counted[0] += 1
            if counted[0] >= left:
                raise Dead
            return inner(*args)

        return call

    journal.write = watched(journal.write)  # type: ignore[method-assign]
    journal.place = watched(journal.place)  # type: ignore[method-assign]
    return counted


def live(rig: LiveRig) -> None:
    """Two entries, one of them filled in part; one is left in two parts, the other stands."""
    rig.decide(0)
    rig.step(marks=False)
    rig.venue.fill_share = Decimal("0.5")
    rig.decide(1)
    rig.step(marks=False)
    rig.core.close_position(0, Reason.MANUAL)
    rig.step(marks=False)
    rig.venue.fill_share = Decimal(1)
    rig.run(400, marks=False)
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(100, marks=False)


def check(rig: LiveRig) -> None:
    """Our books are the exchange's, and the journal tells each fill and each trade once."""
    fills, trades = rig.records(Kind.FILL), rig.records(Kind.TRADE)
    booked = sorted(int(fill["trade_id"]) for fill in fills)
    assert booked == [trade["id"] for trade in rig.venue.trades], "each fill once"
    for symbol, name in enumerate(SYMBOLS):
        slot, held = rig.desk.positions.slot_of[symbol], float(rig.venue.held[name].amount)
        assert (slot >= 0) == (held != 0.0), name
        if slot >= 0:
            assert float(rig.desk.positions.rows[slot]["qty"]) == pytest.approx(held)
            assert rig.trading.protection.standing(symbol)
    assert rig.desk.orders == {} and rig.desk.account.halted_symbols == set()
    assert not [r for r in rig.records(Kind.POSITION) if r["reason"] == Reason.ADJUST]
    closed = {int(r["position_id"]) for r in rig.records(Kind.POSITION) if r["event"] == PositionEvent.FINAL}
    assert sorted(int(trade["position_id"]) for trade in trades) == sorted(closed), "each trade once"
    for trade in trades:
        own = [fill for fill in fills if fill["position_id"] == trade["position_id"]]
        out = [fill for fill in own if fill["side"] == -trade["side"]]
        money = -sum(float(f["side"] * f["qty"] * f["price"] + f["fee_usdt"]) for f in own)
        assert trade["net_usdt"] == pytest.approx(money, abs=1e-9)
        assert trade["qty"] == pytest.approx(sum(float(fill["qty"]) for fill in out))
        price = sum(float(fill["qty"] * fill["price"]) for fill in out) / trade["qty"]
        assert trade["exit_price"] == pytest.approx(price)
        final = [t for t in rig.records(Kind.TWIN) if t["event"] == PositionEvent.FINAL]
        told = [t for t in final if t["position_id"] == trade["position_id"]]
        assert [float(t["live_net_usdt"]) for t in told] == [pytest.approx(float(trade["net_usdt"]))], "its twin"
    assert rig.core.twins is not None and rig.core.twins.faults == 0
    assert rig.desk.account.losing_streak == sum(trade["net_usdt"] < 0 for trade in trades)
    assert rig.desk.account.wallet_usdt == pytest.approx(float(rig.venue.wallet), abs=1e-9)


def life_that_dies(folder: Path, point: int, heard: bool = False) -> int:
    """Return how many records the life took, when it did not die.

    heard: the streams of the next run, which stand before it has taken anything over, tell what is still to be told.
    """
    rig = LiveRig(folder)
    counted, records = dies_at(rig, point), 0
    try:
        live(rig)
        records = counted[0]
    except Dead:
        rig.parts.journal.close()
        rig.venue._answers.clear()  # nobody hears them any more
        if not heard:
            rig.venue._events.clear()
        rig.venue.fill_share = Decimal(1)
        rig = LiveRig(folder, rig.venue)
    rig.run(7_000, 50)
    check(rig)
    rig.parts.journal.close()
    return records


@pytest.mark.parametrize("heard", [False, True])
def test_death_before_any_record_is_mended_by_the_next_run(tmp_path: Path, heard: bool) -> None:
    records = life_that_dies(tmp_path / "whole", 10**9)
    assert records > 50
    for point in range(1, records, long_run(5, 1)):
        life_that_dies(tmp_path / str(point), point, heard)
