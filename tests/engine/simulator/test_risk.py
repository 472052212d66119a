"""What the exchange does to positions on its own: liquidation, deleveraging, funding, settlement, countdown."""

import pytest

from engine.simulator.errors import Refusal
from engine.simulator.instruments import MONEY
from tests.engine.simulator.harness import Rig

LONG_MS = 8_000.0  # longer than any delay of the exchange


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_liquidation_expires_orders_and_leaves_no_debt() -> None:
    rig = Rig(usdt=1_000)
    rig.account.setting(0).leverage = 100
    rig.order(quantity="0.5")
    resting = rig.order(type="LIMIT", timeInForce="GTC", side="SELL", price=rig.price(1.02), reduceOnly="true")
    rig.run(LONG_MS)
    stop = rig.algo(triggerPrice=rig.price(0.9), closePosition="true")
    rig.account.wallet -= 900 * MONEY  # as a loss elsewhere would
    rig.start -= 900 * MONEY
    rig.events()
    rig.run(LONG_MS)
    assert rig.qty() == 0
    assert rig.account.wallet >= 0
    assert (resting.status, resting.reason, stop.status) == ("EXPIRED", "5", "EXPIRED")
    events = rig.events("ORDER_TRADE_UPDATE")
    calculated = [event["o"] for event in events if event["o"]["x"] == "CALCULATED"]
    assert calculated and calculated[0]["o"] == "LIQUIDATION"
    assert calculated[0]["c"].startswith("autoclose-")
    rig.check()


def test_deleveraging_meets_the_opposite_side_at_the_mark(rig: Rig) -> None:
    bob = rig.venue.open_account("bob", "x", 100_000)
    rig.start += 100_000 * MONEY
    rig.order(quantity="0.5")
    rig.order(account=bob, side="SELL", quantity="0.2")
    rig.venue.risk.deleverage(rig.account, 0, "BOTH")
    assert rig.qty() == 0
    assert bob.position(0, "BOTH").qty == 0
    rig.check()


def test_funding_moves_money_between_positions_and_the_counterparty(rig: Rig) -> None:
    rig.order(quantity="0.5")
    wallet, mark = rig.account.wallet, rig.venue.mark(0)
    rig.venue.risk.fund(0, 10_000)  # 0.01 %
    assert wallet - rig.account.wallet == (500 * mark // 1_000) * 10_000 // 10**8
    rig.run(LONG_MS)
    event = next(e for e in rig.events("ACCOUNT_UPDATE") if e["a"]["m"] == "FUNDING_FEE")
    assert (event["a"]["P"], event["a"]["S"]) == ([], "BTCUSDT")
    rig.check()


def test_funding_is_charged_at_the_settlement_hour(rig: Rig) -> None:
    order = rig.order(quantity="0.5")
    hour = 8 * 3_600_000
    settle = rig.tape.now_ms // hour * hour + hour
    rate = rig.tape.funding_rate(0, settle)
    rig.pump.fine = lambda: False
    rig.pump.advance(settle - 100)
    wallet = rig.account.wallet
    rig.pump.advance(settle + 100)
    assert order.filled == 500
    assert wallet - rig.account.wallet == pytest.approx(500 * rig.venue.mark(0) // 1_000 * rate // 10**8, rel=1e-3)
    rig.check()


def test_settlement_closes_at_the_mark_and_stops_trading(rig: Rig) -> None:
    rig.order()
    rig.venue.risk.settle(0)
    assert rig.qty() == 0
    with pytest.raises(Refusal, match="-4141"):
        rig.order()
    rig.check()


def test_isolated_margin_is_funded_and_freed(rig: Rig) -> None:
    setting = rig.account.setting(0)
    setting.isolated, setting.leverage = True, 10
    order = rig.order(quantity="0.1")
    position = rig.account.position(0, "BOTH")
    assert position.isolated_wallet == order.filled_value * 1_000 // 10
    assert rig.account.cross_wallet == rig.account.wallet - position.isolated_wallet
    rig.order(side="SELL", quantity="0.1")
    assert position.isolated_wallet == 0
    rig.check()


def test_the_countdown_cancels_one_symbol_s_orders(rig: Rig) -> None:
    order = rig.order(type="LIMIT", timeInForce="GTC", price=rig.price(0.98))
    other = rig.order(symbol="ETHUSDT", quantity="1", type="LIMIT", timeInForce="GTC", price=rig.price(0.98, "ETHUSDT"))
    rig.venue.countdowns["alice", 0] = rig.service_ms + 1_000
    rig.run(500.0)
    assert order.status == "NEW"
    rig.run(600.0)
    assert (order.status, other.status) == ("CANCELED", "NEW")
