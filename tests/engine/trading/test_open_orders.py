"""What the snapshot shows of open orders: state, route and beginning of each, and the guards that stand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig, sent
from rig import SYMBOLS, Rig, config

from engine.exchange.requests import Call
from engine.link import ORDERS, Snapshot, SnapshotReader
from engine.market.wire import Decoder, Sink
from engine.operator import Operator
from engine.publish import Publisher
from engine.trading.report import guards
from kernels.records import Mode, Reason


class Shown:
    """A publisher over a rig, and what another process reads of it."""

    def __init__(self, rig: Rig | LiveRig, folder: Path) -> None:
        live = isinstance(rig, LiveRig)
        mode = Mode.LIVE if live else Mode.SHADOW
        snapshot = Snapshot(folder, len(SYMBOLS), len(rig.desk.positions.rows))
        decoder = Decoder(SYMBOLS, cast(Sink, None), rig.clock.now_ms())
        operator = Operator(rig.parts, SYMBOLS, mode)
        there = (lambda: guards(cast(LiveRig, rig).trading)) if live else list
        self.publisher = Publisher(snapshot, rig.core, operator, decoder, mode, lambda: 0.0, there)
        self.reader = SnapshotReader(folder)

    def rows(self) -> list[dict[str, Any]]:
        self.publisher.publish()
        view = self.reader.read()
        assert view is not None and len(view.orders) == ORDERS
        names = view.orders.dtype.names
        return [dict(zip(names, row, strict=True)) for row in view.orders.tolist() if row[0]]


def test_an_entry_is_shown_until_it_ends_and_its_guard_until_the_position_does(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    shown = Shown(rig, tmp_path)
    assert shown.rows() == []
    rig.decide()
    decided_ms = rig.clock.now_ms()
    (entry,) = shown.rows()
    (order,) = rig.desk.orders.values()
    assert (entry["client_order_id"], entry["symbol"], entry["side"]) == (order.client_order_id.encode(), 0, 1)
    assert (entry["type"], entry["state"], entry["reduce_only"]) == (b"limit_ioc", b"sent", 0)
    assert (entry["route"], entry["qty"], entry["created_ms"]) == (order.route.encode(), order.qty, decided_ms)
    assert entry["route"] != b"" and entry["reason"] == Reason.ENTRY
    rig.step()
    (stop,) = shown.rows()
    (asked,) = sent(rig, Call.ALGO_PLACE)
    assert (stop["type"], stop["state"], stop["reason"]) == (b"stop_market", b"standing", Reason.SL)
    assert (stop["side"], stop["reduce_only"], stop["price"]) == (-1, 1, float(asked["triggerPrice"]))
    assert stop["qty"] != stop["qty"], "the whole position, whatever its size"
    assert stop["created_ms"] == rig.desk.positions.rows[0]["opened_ms"]
    rig.core.close_position(0, Reason.MANUAL)
    assert [row["reason"] for row in shown.rows()] == [Reason.MANUAL, Reason.SL]
    rig.run(5_000, 100)
    assert shown.rows() == []


def test_a_paper_order_is_shown_while_it_waits_for_the_book(tmp_path: Path) -> None:
    rig = Rig(tmp_path, config(latency_ms=50.0))
    shown = Shown(rig, tmp_path)
    rig.open_long()
    (waiting,) = shown.rows()
    assert (waiting["state"], waiting["route"], waiting["type"]) == (b"sent", b"", b"limit_ioc")
    rig.mark(0, 100.0, after_ms=60)
    assert shown.rows() == []
    rig.core.close_position(0, Reason.MANUAL)
    (waiting,) = shown.rows()
    assert (waiting["state"], waiting["route"], waiting["type"]) == (b"sent", b"", b"market")
    assert (waiting["side"], waiting["reduce_only"], waiting["price"]) == (-1, 1, 0.0)
    rig.mark(0, 100.0, after_ms=60)
    assert shown.rows() == []
