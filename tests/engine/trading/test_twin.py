"""Every live trade has its shadow twin, and what lies between the two is split without a remainder."""

from __future__ import annotations

import math
import sys
from collections import deque
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from live_rig import LiveRig
from simulated import Simulated

from engine import journal
from engine.exchange.requests import Call
from kernels.records import RECORDS, Kind, PositionEvent, Reason
from store import writer
from store.client import Store, connect
from store.schema import record_columns

FEE = 0.0005


def finals(rig: LiveRig | Simulated) -> list[np.void]:
    found = []
    for segment in journal.segments(rig.folder / "journal", "main"):
        found += [r for kind, r in journal.read_records(segment) if kind is Kind.TWIN]
    return [record for record in found if record["event"] == PositionEvent.FINAL]


def book(rig: LiveRig, bid: float, ask: float) -> None:
    rig.books[0] = (bid, 1_000.0, ask, 1_000.0, 0, rig.venue.now_ms, 0, 1)


def shortfall(folder: Path, rows: list[np.void]) -> list[dict]:
    """What the SQL view says of TWIN records."""
    with connect("embedded", folder / "store") as store:
        insert(store, rows)
        return store.frame("SELECT * FROM v_shortfall ORDER BY position_id").to_dicts()


def insert(store: Store, rows: list[np.void]) -> None:
    columns = {"engine_id": "main", "run_id": "7", "time": [int(r["time_ms"]) for r in rows]}
    for column in record_columns(RECORDS[Kind.TWIN]):
        values = [row[column.source].item() for row in rows]
        columns[column.name] = ["BTCUSDT"] * len(rows) if column.name == "symbol" else values
    writer.insert_columns(store, "twins", columns | {"seq": [int(r["seq"]) for r in rows]})


PARTS = ("decision_age_usdt", "compute_usdt", "network_usdt", "price_usdt", "fee_usdt", "funding_usdt")


def test_a_stopped_trade_and_its_twin_side_by_side(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.decide()
    book(rig, 100.03, 100.04)  # the book has moved when both orders meet it; the exchange fills at its price, 100.00
    rig.step()
    assert rig.held == 1
    rig.venue.price["BTCUSDT"] = Decimal("98.99")
    book(rig, 98.98, 98.99)
    rig.step()
    rig.step()
    assert rig.held == 0
    (twin,), (trade,) = finals(rig), rig.records(Kind.TRADE)
    assert (twin["position_id"], twin["reason"], twin["live_reason"]) == (trade["position_id"], Reason.SL, Reason.SL)
    assert (twin["entry_price"], twin["exit_price"]) == (100.04, 98.98)
    assert (twin["live_entry_price"], twin["live_exit_price"]) == (100.0, 98.99)
    assert twin["qty"] == twin["live_qty"] == trade["qty"] == 50.0
    gross, fees = 50 * (98.98 - 100.04), 50 * FEE * (98.98 + 100.04)
    assert twin["net_usdt"] == pytest.approx(gross - fees)
    assert twin["live_net_usdt"] == trade["net_usdt"]
    (row,) = shortfall(tmp_path, finals(rig))
    assert row["shortfall_usdt"] == pytest.approx(trade["net_usdt"] - twin["net_usdt"])
    assert sum(row[name] for name in PARTS) == pytest.approx(row["shortfall_usdt"])
    assert row["fee_usdt"] == pytest.approx(twin["fees_usdt"] - trade["fees_usdt"])
    # both legs got better than the twin's touch: 4 ticks at the entry, 1 at the exit, at the same middle of the book
    assert row["price_usdt"] == pytest.approx(50 * 0.04 + 50 * 0.01)
    assert row["decision_age_usdt"] == row["network_usdt"] == row["funding_usdt"] == 0.0


def test_the_book_that_moves_while_the_order_travels_is_the_network_s(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.decide()
    now_ms = rig.venue.now_ms
    rig.clock.observe(now_ms + 20)
    rig.core.desk.advance(now_ms + 20)  # the twin's modelled latency is over, the exchange has not answered yet
    book(rig, 100.49, 100.50)
    rig.step()
    rig.venue.price["BTCUSDT"] = Decimal("98.99")
    book(rig, 98.98, 98.99)
    rig.step()
    rig.step()
    (row,) = shortfall(tmp_path, finals(rig))
    drift = -50 * (100.495 - 99.995)
    assert row["network_usdt"] + row["compute_usdt"] == pytest.approx(drift)
    assert sum(row[name] for name in PARTS) == pytest.approx(row["shortfall_usdt"])


def test_an_operator_s_close_takes_the_twin_along(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.core.close_position(0, Reason.MANUAL)
    rig.step()
    rig.step()
    (twin,) = finals(rig)
    assert (twin["reason"], twin["live_reason"]) == (Reason.MANUAL, Reason.MANUAL)
    assert twin["exit_decided_ms"] == twin["live_exit_decided_ms"]


def test_the_exchange_s_stop_is_a_later_decision_than_the_guard_s(tmp_path: Path) -> None:
    """No mark tick arrives: the twin learns of the end when the exchange's stop has closed the position."""
    rig = LiveRig(tmp_path)
    rig.open_long()
    stop = next(iter(rig.venue.algos))
    rig.venue.price["BTCUSDT"] = Decimal("98.80")
    book(rig, 98.79, 98.80)
    rig.venue.trigger(stop)
    for _ in range(4):
        rig.step(marks=False)
    assert rig.held == 0
    (twin,) = finals(rig)
    assert twin["live_reason"] == twin["reason"] == Reason.EXCHANGE_STOP
    assert twin["exit_price"] == 98.79


def test_what_a_refused_entry_missed_is_a_line_of_its_own(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ORDER_PLACE] = deque(["code -2019"] * 2)
    rig.decide()
    rig.run(400)
    assert rig.held == 0 and not rig.desk.orders and finals(rig) == []
    rig.desk.account.halted_symbols.clear()
    rig.decide()  # refused as well: shadow trading would hold its position still
    rig.run(400)
    (second,) = finals(rig)
    assert second["closed_ms"] == 0
    rig.desk.account.halted_symbols.clear()
    rig.open_long()  # a live trade beside it has a twin of its own
    rig.parts.journal.close()
    rig = LiveRig(tmp_path, rig.venue)  # and a restart keeps both
    rig.run(400)
    rig.venue.price["BTCUSDT"] = Decimal("101.6")
    book(rig, 101.6, 101.61)
    rig.run(400)
    assert not rig.core.twins.open and rig.held == 0
    missed, traded = shortfall(tmp_path, finals(rig))
    gross, fees = 50 * (101.6 - 100.0), 50 * FEE * (100.0 + 101.6)
    assert missed["missed"] and missed["live_usdt"] == 0.0 and missed["qty"] == 50.0
    assert missed["twin_usdt"] == pytest.approx(gross - fees) == -missed["missed_usdt"] == -missed["shortfall_usdt"]
    assert not traded["missed"] and traded["missed_usdt"] == 0.0
    for row in (missed, traded):
        assert sum(row[name] for name in (*PARTS, "missed_usdt")) == pytest.approx(row["shortfall_usdt"], abs=1e-9)


def test_a_twin_outlives_the_process(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.step()
    before = rig.core.twins.state(rig.trading.symbols)
    assert before[0]["entry_price"] > 0.0
    rig.parts.journal.close()
    again = LiveRig(tmp_path, rig.venue)
    twins, restored = again.core.twins, again.parts.restored
    assert set(restored.twins) == {before[0]["position_id"]}
    after = twins.state(again.trading.symbols)
    assert [{k: v for k, v in row.items() if v == v} for row in after] == [
        {k: v for k, v in row.items() if v == v} for row in before
    ]
    again.venue.price["BTCUSDT"] = Decimal("98.99")
    book(again, 98.98, 98.99)
    again.step()
    again.step()
    (twin,) = finals(again)
    assert twin["live_qty"] == 50.0 and twin["exit_price"] == 98.98


async def test_live_session_on_the_simulator_leaves_a_twin_for_every_trade(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        desk, twins = live.parts.core.desk, live.parts.core.twins
        for turn in range(3):
            sim.decide(turn % 2)
            await sim.until(lambda symbol=turn % 2: desk.positions.slot_of[symbol] >= 0, "position open")
            slot = desk.positions.slot_of[turn % 2]
            sim.mark(turn % 2, float(desk.positions.rows[slot]["sl_price" if turn else "tp_price"]))
            await sim.until(lambda: not desk.positions.count and not twins.open, "both are over")
            await sim.until(lambda symbol=turn % 2: live.trading.may_enter(symbol), "the old stop is over")
        live.parts.core.desk.account.cooldown_until_ms.clear()
        rows = finals(sim)
        trades = [
            r for s in journal.segments(sim.folder / "journal", "main")
            for kind, r in journal.read_records(s) if kind is Kind.TRADE
        ]  # fmt: skip
        assert [r["position_id"] for r in rows] == [t["position_id"] for t in trades]
        assert len(trades) == 3
        for row, trade in zip(shortfall(tmp_path, rows), trades, strict=True):
            assert row["live_usdt"] == trade["net_usdt"]
            assert sum(row[name] for name in PARTS) == pytest.approx(row["shortfall_usdt"], abs=1e-9)
            assert all(math.isfinite(row[name]) for name in PARTS)
            assert row["entry_network_ms"] > 0.0 and row["exit_network_ms"] > 0.0
