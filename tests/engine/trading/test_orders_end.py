"""Every order ends: whatever its books say, whatever the exchange still knows of it, and in whatever state it is."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from crash_lives import settle
from live_rig import LiveRig
from rig import SYMBOLS

from engine.exchange.requests import Call
from engine.exchange.user_data import OrderUpdate
from engine.trading.live import ENDED, Track
from engine.trading.orders import TERMINAL, Order, OrderType
from kernels.records import Kind, OrderState, Reason

DAY_MS = 86_400_000
OPEN = [state for state in OrderState if state not in TERMINAL and state is not OrderState.INTENT]


def unheard_exit(rig: LiveRig) -> Order:
    """Open a position and leave it by an order of which nobody hears; return the order."""
    rig.venue.pieces = 2
    rig.open_long()
    rig.venue.stream_up = False
    rig.venue.faults[Call.ORDER_PLACE].append("silence_executed")
    rig.core.close_position(0, Reason.MANUAL)
    rig.step(marks=False)
    rig.venue.stream_up = True
    (order,) = rig.desk.orders.values()
    return order


@pytest.mark.parametrize("filled_qty", [0.0, 1.0])
@pytest.mark.parametrize("status", sorted(ENDED))
@pytest.mark.parametrize("state", OPEN)
def test_an_order_ends_in_every_state_by_every_word_of_the_exchange(
    tmp_path: Path, state: OrderState, status: str, filled_qty: float
) -> None:
    rig = LiveRig(tmp_path)
    now_ms, name = rig.venue.now_ms, "ta-main-1-1-x"
    order = Order(name, 1, 0, -1, OrderType.MARKET, True, 2.0, 0.0, Reason.MANUAL, now_ms, state, filled_qty)
    rig.desk.orders[name] = order
    rig.gateway.tracks[name] = Track(order, now_ms, now_ms + 1_000, filled_qty, filled_qty)
    rig.gateway.on_update(
        OrderUpdate(
            SYMBOLS[0], name, 7, -1, "EXPIRED", status, "MARKET", "MARKET", True, False, 2.0, 0.0, filled_qty, 0.0, 0,
            0.0, "USDT", False, "0", 0.0, now_ms, now_ms,
        ),
        now_ms,
    )  # fmt: skip
    assert order.terminal and name not in rig.desk.orders and name not in rig.gateway.tracks


def test_trades_that_are_known_without_their_quantity_end_the_order(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    order = unheard_exit(rig)
    order.trade_ids |= {int(trade["id"]) for trade in rig.venue.trades if trade["side"] == "SELL"}
    rig.run(3_000, 50, marks=False)
    assert order.state is OrderState.FILLED and rig.desk.orders == {}


def test_an_acknowledged_order_that_the_exchange_has_forgotten_ends(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.fill_share = Decimal(0)
    rig.venue.faults[Call.ORDER_PLACE].append("silence_executed")
    rig.decide(0)
    rig.hear(rig.venue._events.popleft())  # NEW, and then this engine is gone
    (name,) = rig.desk.orders
    assert rig.desk.orders[name].state is OrderState.ACKNOWLEDGED
    rig.parts.journal.close()
    rig.venue.forget_events()
    del rig.venue.orders[name]
    rig.venue.pass_time(4 * DAY_MS)
    rig.venue.fill_share = Decimal(1)
    again = LiveRig(tmp_path, rig.venue)
    again.run(5_000, 50)
    assert name in again.desk.orders, "a few denials do not end what was acknowledged: REST may lag"
    settle(again)
    assert [int(r["state"]) for r in again.records(Kind.ORDER)][-1] == OrderState.EXPIRED
    again.open_long()
    assert again.held == 1, "the symbol is free again"


def test_trades_that_rest_never_tells_are_settled_by_the_account(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    order = unheard_exit(rig)
    rig.venue.trades.clear()
    rig.run(20_000, 50)
    assert not order.terminal, "REST may lag"
    rig.run(60_000, 50)
    settle(rig)
    assert order.state is OrderState.FILLED and rig.held == 0
    assert rig.desk.account.halted_symbols == {0}, "a person looks at what no trade explains"


def test_refused_exits_do_not_hurry_what_rest_shows_late(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.parts.journal.close()
    rig.venue.manual(SYMBOLS[0], str(-rig.venue.held[SYMBOLS[0]].amount), silent=True)
    rig.venue.rest_lag_ms = 5_000
    again = LiveRig(tmp_path, rig.venue)
    again.core.close_position(0, Reason.MANUAL)
    again.run(12_000, 50)
    assert again.held == 0 and again.desk.account.halted_symbols == set(), "its trade was told in time"
    assert len(again.records(Kind.TRADE)) == 1


def test_an_exit_between_two_orders_goes_on_after_a_restart(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.faults[Call.ORDER_PLACE].append("code -1015")  # the next order a second later
    rig.core.close_position(0, Reason.MANUAL)
    rig.step(marks=False)
    assert rig.held == 1 and rig.desk.orders == {}
    rig.parts.journal.close()
    again = LiveRig(tmp_path, rig.venue)
    assert again.parts.restored.exits
    again.run(200)
    assert again.held == 0
    assert [int(trade["reason"]) for trade in again.records(Kind.TRADE)] == [Reason.MANUAL]
