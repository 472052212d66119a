"""The end of a live position over an exchange in memory: exits, stops that fire, strangers, blindness, doubt."""

from __future__ import annotations

import itertools
import sys
from decimal import Decimal
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig, agree, exits, sent

from engine.exchange.replies import Reply
from engine.exchange.requests import Call
from engine.trading.blind import BlindGuard
from engine.trading.report import report
from kernels.records import Kind, Reason


def test_silent_exit_gets_a_second_order_by_another_route(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.faults[Call.ORDER_PLACE].append("silence")
    rig.venue.price["BTCUSDT"] = Decimal("98.9")
    rig.step()
    assert rig.held == 1
    rig.run(260)
    assert len(exits(rig)) == 1
    rig.run(60)
    assert rig.held == 0
    first, second = exits(rig)
    assert first["newClientOrderId"] != second["newClientOrderId"]
    routes = [route for _, r, route in rig.venue.requests if r.params.get("reduceOnly") == "true"]
    assert routes[:2] == [0, 1]
    assert len(rig.records(Kind.TRADE)) == 1
    assert not rig.desk.flat(0)  # the first exit's fate is still open
    rig.run(9_000, 100)
    assert rig.desk.flat(0)


def test_the_losing_exit_is_a_normal_end(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.stream_up = False
    rig.venue.faults[Call.ORDER_PLACE].append("lost_executed")
    rig.venue.price["BTCUSDT"] = Decimal("98.9")
    rig.venue.faults[Call.ORDER_QUERY].extend(["lost"] * 3)
    rig.run(1_000)
    assert len(exits(rig)) >= 2
    rig.run(5_000, 50)
    assert rig.held == 0
    assert rig.desk.orders == {}
    assert float(rig.venue.held["BTCUSDT"].amount) == 0.0
    assert len(rig.records(Kind.TRADE)) == 1


def test_price_band_and_remainder_continue_as_limit_orders_at_the_bound(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.faults[Call.ORDER_PLACE].append("code -4131")
    rig.venue.price["BTCUSDT"] = Decimal("98.9")
    rig.venue.fill_share = Decimal("0.5")
    rig.step()
    rig.run(200)
    rig.venue.fill_share = Decimal(1)
    rig.run(400)
    first, second, *_ = exits(rig)
    assert (first["type"], second["type"]) == ("MARKET", "LIMIT")
    assert second["price"] == "93.96"  # 98.9 × 0.95 = 93.955, on the tick inside the band
    assert rig.held == 0
    (trade,) = rig.records(Kind.TRADE)
    assert trade["qty"] == pytest.approx(50.0)
    agree(rig)


def test_a_large_exit_is_sliced_by_the_largest_market_order(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.core.instruments["market_max_qty"] = 20.0
    rig.venue.price["BTCUSDT"] = Decimal("98.9")
    rig.run(100)
    assert [p["quantity"] for p in exits(rig)] == ["20.000", "20.000", "10.000"]
    assert rig.held == 0
    (trade,) = rig.records(Kind.TRADE)
    assert (trade["qty"], trade["exit_price"]) == (pytest.approx(50.0), pytest.approx(98.9))


@pytest.mark.parametrize("child_first", [False, True])
def test_the_exchange_stop_closes_the_position_in_any_order_of_events(tmp_path: Path, child_first: bool) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.price["BTCUSDT"] = Decimal("98.5")
    (algo_id,) = rig.venue.algos
    rig.venue.trigger(algo_id, child_first)
    rig.deliver()
    rig.run(400)
    assert rig.held == 0
    assert exits(rig) == []
    (trade,) = rig.records(Kind.TRADE)
    assert (trade["reason"], trade["exit_price"]) == (Reason.EXCHANGE_STOP, 98.5)
    assert rig.trading.may_enter(0)
    agree(rig)


def test_stop_and_local_exit_in_the_same_millisecond(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.move("BTCUSDT", "98.0")  # the stop executes on the exchange; its events are still on the way
    rig.core.on_mark(0, 98.0, 0.0, 0, rig.venue.now_ms, 1)  # the local guard sends its exit: −2022
    assert len(exits(rig)) == 1
    rig.deliver()
    rig.run(4_000, 50)
    assert rig.held == 0
    assert rig.desk.orders == {}
    assert len(rig.records(Kind.TRADE)) == 1
    agree(rig)


def test_a_stop_that_fires_before_its_entry_is_booked_closes_it_by_its_own_fill(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.stream_up = False
    rig.decide()
    rig.step()  # the reply alone tells of the fill: its stop stands, its trade is asked for
    assert rig.trading.protection.standing(0) and rig.held == 0
    rig.venue.stream_up = True
    rig.venue.move("BTCUSDT", "98.5")
    rig.run(8_000, 50)
    assert rig.held == 0 and rig.desk.orders == {}
    (trade,) = rig.records(Kind.TRADE)
    assert (trade["reason"], trade["exit_price"]) == (Reason.EXCHANGE_STOP, 98.5)
    assert len(rig.records(Kind.FILL)) == 2
    assert not [r for r in rig.records(Kind.POSITION) if r["reason"] == Reason.ADJUST]


def test_a_manual_close_is_booked_with_its_own_fill(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.manual("BTCUSDT", "-50")
    rig.run(100)
    assert rig.held == 0
    (trade,) = rig.records(Kind.TRADE)
    assert trade["reason"] == Reason.MANUAL
    agree(rig)


def test_a_close_that_the_stream_missed_is_explained_by_own_trades(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.manual("BTCUSDT", "-50", silent=True)
    rig.venue._expiring.clear()
    rig.run(14_000, 100)
    assert rig.held == 0
    (trade,) = rig.records(Kind.TRADE)
    assert trade["exit_price"] == 100.0


@pytest.mark.parametrize("policy", ["guard", "ignore"])
def test_somebody_adds_to_our_position(tmp_path: Path, policy: str) -> None:
    rig = LiveRig(tmp_path, external=policy)
    rig.open_long()
    rig.venue.manual("BTCUSDT", "7")
    rig.run(5_000, 50)
    assert float(rig.desk.positions.rows[0]["qty"]) == (57.0 if policy == "guard" else 50.0)
    assert 0 in rig.desk.account.halted_symbols
    rig.venue.price["BTCUSDT"] = Decimal("98.9")
    rig.run(5_000, 50)
    assert rig.held == 0
    assert exits(rig)[0]["quantity"].rstrip("0").rstrip(".") == ("57" if policy == "guard" else "50")


def test_a_position_turned_over_is_exited_and_the_symbol_halted(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.manual("BTCUSDT", "-80")
    rig.run(8_000, 50)
    assert rig.held == 0
    assert float(rig.venue.held["BTCUSDT"].amount) == 0.0
    assert 0 in rig.desk.account.halted_symbols


@pytest.mark.parametrize("told", ["stream", "rest"])
def test_positions_older_than_our_last_fill_say_nothing(tmp_path: Path, told: str) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    read, since_ms = rig.venue._read, rig.venue.now_ms
    old = read(Call.POSITIONS, {})

    def late(call: Call, params: dict) -> Reply:  # positions lag behind the trades by seconds
        lags = call is Call.POSITIONS and rig.venue.now_ms < since_ms + 8_000
        return old if lags else read(call, params)

    rig.venue._read = late  # type: ignore[method-assign]
    rig.venue.stream_up = told == "stream"
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(1_000)
    assert rig.held == 0
    rig.trading.begin_reconcile()
    rig.trading.reconciler.refused(0, rig.venue.now_ms)  # whatever makes us look
    rig.run(6_000, 50)
    rig.venue.stream_up = True
    rig.run(3_000, 50)
    rig.trading.begin_reconcile()  # as the streams do when they come; the wallet is read too
    rig.run(1_000, 50)
    assert len(rig.records(Kind.TRADE)) == 1
    assert not [r for r in rig.records(Kind.POSITION) if r["reason"] == Reason.ADJUST]
    agree(rig)


@pytest.mark.parametrize("told", ["order", "account"])
def test_what_was_told_of_later_hides_no_position_that_has_not_changed_since(tmp_path: Path, told: str) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.manual("BTCUSDT", "3", silent=True)
    rig.step(100)
    now_ms = rig.venue.now_ms
    if told == "order":  # somebody's order that waits in the book: no fill, but later than the position's own time
        order = {"orderId": 5, "symbol": "BTCUSDT", "clientOrderId": "web_2", "side": 1, "type": "LIMIT",
                 "origType": "LIMIT", "origQty": "1", "executedQty": "0", "reduceOnly": False}  # fmt: skip
        rig.venue._order_event(order, "NEW", "NEW", Decimal(0), Decimal(0), 0)
    else:  # the exchange states it again, for another reason
        rows = [{"s": "BTCUSDT", "pa": "3", "ep": "100", "ps": "BOTH"}]
        rig.venue._event(
            {"e": "ACCOUNT_UPDATE", "E": now_ms, "T": now_ms, "a": {"m": "FUNDING_FEE", "B": [], "P": rows}}
        )
    rig.run(15_000, 50)
    assert rig.trading.alarm.counts["foreign_position"] == 1
    assert float(rig.venue.held["BTCUSDT"].amount) == 0.0 and rig.held == 0, "taken under guard and closed"


def test_a_lone_flat_read_never_disarms_the_guard(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    held = rig.venue.held
    truth = held["BTCUSDT"].amount
    held["BTCUSDT"].amount = Decimal(0)  # REST wrongly says flat, again and again; stream and stop say otherwise
    rig.run(25_000, 100)
    assert rig.held == 1
    held["BTCUSDT"].amount = truth
    rig.run(3_000, 100)
    agree(rig)


def test_a_statement_of_before_our_fill_is_no_second_source_for_flat(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(500)
    assert rig.trading.reconciler.stated[0].qty == 0.0
    tell = rig.venue._event
    rig.venue._event = lambda m: None if m["e"] == "ACCOUNT_UPDATE" else tell(m)  # type: ignore[method-assign]
    rig.venue.rest_lag_ms = 3_000
    rig.run(4_000)
    rig.open_long()  # told by its fill alone, and REST shows what was before it
    rig.run(2_900)
    assert rig.held == 1 and "adjusted" not in rig.trading.alarm.counts
    rig.run(70_000, 100)
    agree(rig)
    assert not rig.trading.reconciler.doubts


def test_a_close_that_nobody_told_of_is_waited_for_as_long_as_rest_may_lag(tmp_path: Path) -> None:
    """What REST shows is of before the entry, its stop expired and an exit refused: flat, but by which trade?"""
    rig = LiveRig(tmp_path)
    rig.venue.rest_lag_ms = 5_000
    rig.open_long()
    rig.run(400)
    rig.venue.manual("BTCUSDT", "-50", silent=True)
    rig.run(15_000, 50)
    assert rig.held == 0 and not rig.trading.reconciler.doubts
    (trade,) = rig.records(Kind.TRADE)
    assert trade["qty"] == 50.0 and rig.desk.trades_closed == 1
    assert trade["unprotected_ms"] <= 40, "its stop stood until it was gone, whenever we heard of it"
    assert not [r for r in rig.records(Kind.POSITION) if r["reason"] == Reason.ADJUST]
    rig.run(61_000, 500)  # the wallet is read each minute
    agree(rig)


def test_a_close_that_nobody_told_of_is_waited_for_until_own_trades_are_answered(tmp_path: Path) -> None:
    """Positions are read, the stop's end too; own trades are refused for longer than REST may lag."""
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.run(400)
    rig.venue.faults[Call.TRADES].extend(["503"] * 9)
    rig.venue.manual("BTCUSDT", "-50", silent=True)
    rig.run(25_000, 50)
    assert not rig.venue.faults[Call.TRADES], "so long were they refused"
    assert rig.held == 0 and not rig.trading.reconciler.doubts
    (trade,) = rig.records(Kind.TRADE)
    assert trade["qty"] == 50.0
    assert not [r for r in rig.records(Kind.POSITION) if r["reason"] == Reason.ADJUST]


def test_a_position_that_the_exchange_no_longer_knows_is_adjusted_once_an_exit_is_refused(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.held["BTCUSDT"].amount = Decimal(0)  # gone without an event: an account that was reset
    rig.run(12_000, 100)
    assert rig.held == 1 and 0 in rig.trading.reconciler.doubts, "flat by REST alone disarms no guard"
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(5_000, 100)
    assert rig.held == 0 and not rig.trading.reconciler.doubts
    assert 0 in rig.desk.account.halted_symbols and rig.trading.alarm.counts["adjusted"] == 1
    sent_by_then = len(exits(rig))
    rig.run(5_000, 100)
    assert len(exits(rig)) == sent_by_then <= 3, "nothing is sent for what is not there"


def test_blind_positions_are_polled_and_without_any_source_kept_only_behind_a_stop(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.run(3_100, marks=False)
    polls = len(sent(rig, Call.MARK))
    assert polls >= 1
    rig.venue.price["BTCUSDT"] = Decimal("98.95")  # seen by polling only
    rig.run(1_100, marks=False)
    assert rig.held == 0
    assert rig.trading.alarm.counts["blind"] >= 1
    assert report(rig.trading)["tasks"] == [], "what is over is no task for a person"


def test_after_a_start_the_streams_have_their_time_to_bring_a_price() -> None:
    polled: list[int] = []
    left: list[int] = []
    guard = BlindGuard(polled.append, lambda symbol: False, lambda symbol, now_ms: left.append(symbol))
    now_ms, none = 1_700_000_000_000, [0]
    guard.advance([0], none, none, now_ms)
    guard.advance([0], none, none, now_ms + 3_000)
    assert not polled and not guard.blind
    guard.advance([0], none, none, now_ms + 3_001)
    assert polled == [0] and guard.blind == {0} and not left
    guard.advance([0], none, none, now_ms + 15_001)
    assert left == [0]


def test_a_contract_that_is_closed_is_not_hammered_with_exits(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.faults[Call.ORDER_PLACE].extend(["code -4141"] * 2)
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(11_000)
    sent_ms = [ms for ms, r, _ in rig.venue.requests if r.call is Call.ORDER_PLACE and r.params.get("reduceOnly")]
    assert len(sent_ms) == 3, "two refusals and the exit"
    assert all(later - earlier >= 5_000 for earlier, later in itertools.pairwise(sent_ms))
    assert rig.held == 0


def test_a_symbol_whose_end_no_stream_told_is_entered_again(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.stream_up = False
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(1_000)
    rig.venue.stream_up = True
    assert not rig.held, "flat by our books, which learnt it from REST"
    rig.run(15_000)
    assert not rig.trading.reconciler.stated[0].qty
    rig.open_long()
    assert rig.held == 1
