"""Orders of others that reduce our position: each is followed to its end, also past what the streams missed."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig, agree, exits

from engine.exchange.replies import Reply
from engine.exchange.requests import Call
from kernels.records import Kind, Reason


def cut_after_first_trade(rig: LiveRig) -> None:
    """Both private streams break while a stop's child fills: what follows its first trade is never told."""
    events = [orjson.loads(payload) for payload in rig.venue._events]
    first = next(i for i, e in enumerate(events) if e["e"] == "ORDER_TRADE_UPDATE" and e["o"]["x"] == "TRADE")
    while len(rig.venue._events) > first + 1:
        rig.venue._events.pop()


def test_a_stop_that_fills_while_the_streams_break_is_followed_to_its_end(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.pieces = 2
    rig.venue.move("BTCUSDT", "98.80")
    cut_after_first_trade(rig)
    rig.trading.begin_reconcile()
    rig.run(4_000)
    assert rig.held == 0 and not rig.desk.orders and not rig.desk.exits
    (trade,) = rig.records(Kind.TRADE)
    assert (trade["reason"], trade["qty"]) == (Reason.EXCHANGE_STOP, pytest.approx(50.0))
    assert len(exits(rig)) <= 3
    rig.run(61_000, 500)  # the wallet is read each minute
    agree(rig)


def test_an_answer_that_came_late_does_not_book_the_trades_of_our_own_exit(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.core.instruments["market_max_qty"][0] = 30.0  # two orders
    rig.desk.exit(0, Reason.FLATTEN, rig.venue.now_ms)  # executed, and nothing told yet
    rig.trading.foreign.on_trades(0, Reply(200, result=list(rig.venue.trades)), rig.venue.now_ms, rig.venue.now_ms)
    rig.step()
    (trade,) = rig.records(Kind.TRADE)
    assert (trade["reason"], trade["qty"]) == (Reason.FLATTEN, pytest.approx(50.0))
    assert "external_close" not in rig.trading.alarm.counts
    agree(rig)


@pytest.mark.parametrize(("name", "reason"), [("adl_autoclose", Reason.ADL), ("bot-1", Reason.MANUAL)])
def test_orders_in_two_symbols_under_one_client_id_are_booked_to_each(
    tmp_path: Path, name: str, reason: Reason
) -> None:
    rig = LiveRig(tmp_path)
    for symbol in (0, 1):
        rig.open_long(symbol)
    rig.venue.pieces = 2
    rig.venue.manual("BTCUSDT", "-50", name=name)
    rig.venue.manual("ETHUSDT", "-20", name=name)
    events = [orjson.loads(payload) for payload in rig.venue._events]
    trades = [e for e in events if e["e"] == "ORDER_TRADE_UPDATE" and e["o"]["x"] == "TRADE"]
    btc, eth = ([e for e in trades if e["o"]["s"] == symbol] for symbol in ("BTCUSDT", "ETHUSDT"))
    rig.venue._events.clear()
    for event in (btc[0], eth[0], btc[1], eth[1]):  # both are open at once
        rig.venue._events.append(orjson.dumps(event))
    rig.run(200)
    assert rig.held == 1 and float(rig.venue.held["ETHUSDT"].amount) == pytest.approx(rig.desk.positions.rows[0]["qty"])
    (trade,) = rig.records(Kind.TRADE)
    assert (trade["symbol"], trade["reason"], trade["qty"]) == (0, reason, pytest.approx(50.0))
    rig.run(61_000, 500)
    assert not rig.desk.orders
    agree(rig)


def test_an_order_of_others_that_the_exchange_denies_is_given_up_and_the_account_read(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.pieces = 2
    rig.venue.manual("BTCUSDT", "-50", name="adl_autoclose")
    cut_after_first_trade(rig)
    rig.venue.faults[Call.ORDER_QUERY].extend(["code -2013"] * 1_000)
    rig.run(12_000, 50)
    assert rig.held == 0 and not rig.desk.orders and not rig.desk.exits
    rig.run(61_000, 500)
    agree(rig)
