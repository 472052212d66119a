"""An entry in live mode over an exchange in memory: lost answers, unknown fates, and the stop that must stand."""

from __future__ import annotations

import itertools
import sys
from decimal import Decimal
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig, agree, entries, exits, sent

from engine.exchange.requests import Call, Request
from engine.exchange.ws_api import Done
from engine.trading.protection import Stage
from kernels.decide import BIT
from kernels.records import Kind, OrderState, Reason


def test_a_trade_from_entry_to_stop_loss_with_its_stop_on_the_exchange(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    assert rig.held == 1
    agree(rig)
    (stop,) = sent(rig, Call.ALGO_PLACE)
    # local stop at 99.00 (one ATR), the exchange's max(0.15 × 1, 5 ticks) beyond it
    assert (stop["triggerPrice"], stop["side"], stop["closePosition"]) == ("98.85", "SELL", "true")
    rig.venue.price["BTCUSDT"] = Decimal("98.99")
    rig.step()
    assert rig.held == 0
    (trade,) = rig.records(Kind.TRADE)
    assert trade["reason"] == Reason.SL
    fees = 50 * 100.0 * 0.0005 + 50 * 98.99 * 0.0005
    assert trade["net_usdt"] == pytest.approx(50 * (98.99 - 100.0) - fees)
    assert trade["unprotected_ms"] <= 40
    assert not rig.trading.may_enter(0)  # until the old stop has expired
    rig.run(100)
    assert rig.trading.may_enter(0)
    agree(rig)


@pytest.mark.parametrize("fault", ["lost", "lost_executed", "503", "503_executed", "silence"])
def test_an_entry_of_unknown_fate_is_never_resent_and_ends_by_evidence(tmp_path: Path, fault: str) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.stream_up = False
    rig.venue.faults[Call.ORDER_PLACE].append(fault)
    rig.decide()
    rig.step(1_100 if fault == "silence" else 20)
    executed = fault.endswith("executed")
    if not executed:
        assert rig.desk.unknown(0)
        rig.decide()  # a new signal does not pass while the fate is open
        assert int(rig.records(Kind.SIGNAL)[-1]["gates"]) & BIT["unknown_order"]
    rig.run(8_000, 100)
    assert len(entries(rig)) == 1
    states = [int(o["state"]) for o in rig.records(Kind.ORDER)]
    assert OrderState.UNKNOWN in states
    assert states[-1] == (OrderState.FILLED if executed else OrderState.ABSENT)
    assert rig.held == int(executed)
    if executed:
        assert rig.trading.protection.slots[0].stage is Stage.STANDING


def test_rest_lagging_five_seconds_proves_nothing_absent(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.rest_lag_ms, rig.venue.stream_up = 5_000, False
    rig.venue.faults[Call.ORDER_PLACE].append("lost_executed")
    rig.decide()
    rig.run(9_000, 100)
    assert rig.held == 1
    assert OrderState.ABSENT not in [int(o["state"]) for o in rig.records(Kind.ORDER)]


def test_an_entry_no_transport_takes_is_rejected_not_kept(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ORDER_PLACE].append("no_route")
    rig.decide()
    rig.step()
    assert rig.desk.orders == {}
    assert rig.records(Kind.ORDER)[-1]["state"] == OrderState.REJECTED


def test_the_intent_stands_in_the_journal_when_an_order_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = LiveRig(tmp_path)
    send, found = rig.venue.send, []

    def watched(request: Request, done: Done, route: int = 0) -> str:
        if request.call is Call.ORDER_PLACE:
            newest = rig.records(Kind.ORDER)[-1]
            found.append((newest["client_order_id"].decode(), int(newest["state"]), request.params["newClientOrderId"]))
        return send(request, done, route)

    monkeypatch.setattr(rig.venue, "send", watched)
    rig.open_long()
    rig.venue.price["BTCUSDT"] = Decimal(90)
    rig.step()
    assert [name[-1] for name, _, _ in found] == ["e", "x"]
    assert all(name == asked and state == OrderState.INTENT for name, state, asked in found)


def test_the_reply_alone_arms_the_stop_and_own_trades_book_the_fill(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.stream_up = False
    rig.decide()
    rig.step()
    assert rig.trading.protection.slots[0].stage is Stage.STANDING
    assert rig.held == 0  # no trade with an id yet
    rig.run(400)
    assert rig.held == 1
    assert len(rig.records(Kind.FILL)) == 1
    rig.venue.stream_up = True
    rig.run(100)
    assert len(rig.records(Kind.FILL)) == 1


def test_stop_refused_three_times_because_the_fill_is_not_seen_yet(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ALGO_PLACE].extend(["code -4509"] * 3)
    rig.decide()
    rig.run(400, 10)
    times = [t for t, r, _ in rig.venue.requests if r.call is Call.ALGO_PLACE]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert [round(gap, -1) for gap in gaps] == [20, 50, 100]
    agree(rig)
    assert 170 <= rig.trading.unprotected_ms(int(rig.desk.positions.rows[0]["position_id"]), rig.venue.now_ms) <= 240


def test_an_existing_stop_is_adopted_when_ours_and_cancelled_when_not(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ALGO_PLACE].append("lost_executed")
    rig.decide()
    rig.run(300)
    agree(rig)  # placed, answer lost, −4130 on the retry (or the stream), adopted
    assert len([a for a in rig.venue.algos.values() if a["algoStatus"] == "NEW"]) == 1
    rig.venue.manual("ETHUSDT", "1", silent=True)
    stranger = {
        "symbol": "ETHUSDT",
        "side": "SELL",
        "type": "STOP_MARKET",
        "triggerPrice": "50",
        "clientAlgoId": "web_2",
    }
    assert rig.venue._place_algo(stranger).ok
    rig.venue.manual("ETHUSDT", "-1", silent=True)
    rig.venue._expiring.clear()
    rig.decide(1)
    rig.run(300)
    agree(rig)
    by_name = {a["clientAlgoId"]: a["algoStatus"] for a in rig.venue.algos.values()}
    assert by_name["web_2"] == "CANCELED"


def test_a_stop_whose_yes_was_lost_stands_although_nobody_may_ask(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ALGO_PLACE].append("lost_executed")
    rig.venue.faults[Call.OPEN_ALGOS].extend(["code -1003"] * 100)  # a hold of questions
    tell = rig.venue._event
    rig.venue._event = lambda m: None if m["e"] == "ALGO_UPDATE" else tell(m)  # type: ignore[method-assign]
    rig.decide()
    rig.run(3_000)
    assert rig.held == 1 and exits(rig) == [], "the trade is worth more than the answer"
    agree(rig)


def test_an_entry_that_rest_does_not_show_yet_is_protected_before_it_does(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.rest_lag_ms, rig.venue.stream_up = 4_000, False
    rig.venue.faults[Call.ORDER_PLACE].append("503_executed")
    rig.decide()
    rig.run(300)
    assert rig.held == 0 and float(rig.venue.held["BTCUSDT"].amount) == 50.0, "held, and nobody here knows"
    assert [a["algoStatus"] for a in rig.venue.algos.values()] == ["NEW"]
    rig.venue.stream_up = True
    rig.run(70_000, 100)
    assert len(entries(rig)) == 1 and exits(rig) == []
    agree(rig)


def test_a_stop_for_an_entry_that_may_never_have_been_is_tried_at_a_pace(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ORDER_PLACE].append("lost")
    rig.decide()
    rig.run(10_000)
    assert not rig.desk.orders and rig.trading.may_enter(0) and "stop_exit" not in rig.trading.alarm.counts
    assert 3 <= len(sent(rig, Call.ALGO_PLACE)) <= 8, "what is left of the order count is for exits"


@pytest.mark.parametrize("answer", ["lost", "503", "no_route"])
def test_an_entry_of_unknown_fate_is_protected_although_nobody_answers(tmp_path: Path, answer: str) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.stream_up = False
    rig.venue.faults[Call.ORDER_PLACE].append("lost_executed")
    rig.venue.faults[Call.ORDER_QUERY].extend([answer] * 1_000)
    rig.decide()
    rig.run(500)
    assert rig.held == 0 and float(rig.venue.held["BTCUSDT"].amount) == 50.0, "held, and nobody here knows"
    assert [a["algoStatus"] for a in rig.venue.algos.values()] == ["NEW"]
    rig.venue.faults[Call.ORDER_QUERY].clear()
    rig.venue.stream_up = True
    rig.run(3_000)
    rig.run(61_000, 500)  # the wallet is read each minute
    agree(rig)
    assert len(entries(rig)) == 1 and exits(rig) == []


@pytest.mark.parametrize("code", [-2021, -4142])
def test_a_stop_beyond_the_price_means_exit_now(tmp_path: Path, code: int) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ALGO_PLACE].append(f"code {code}")
    rig.decide()
    rig.run(100)
    assert rig.held == 0
    assert rig.records(Kind.TRADE)[-1]["reason"] == Reason.UNPROTECTED


def test_no_confirmed_stop_within_two_seconds_means_exit(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ALGO_PLACE].extend(["code -1111"] * 200)
    rig.decide()
    rig.run(1_900)
    assert rig.held == 1  # a filter error is no reason to sell at once: the local guard stands
    rig.run(300)
    assert rig.held == 0
    (trade,) = rig.records(Kind.TRADE)
    assert trade["reason"] == Reason.UNPROTECTED
    assert 1_900 <= trade["unprotected_ms"] <= 2_100
