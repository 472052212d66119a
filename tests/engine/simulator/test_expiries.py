"""Why orders end, what the asynchronous parts do to each other, and the limits of market orders."""

import asyncio

import pytest

from engine.simulator import intake
from engine.simulator.errors import Refusal
from engine.simulator.orders import Order
from tests.engine.simulator.client import Client
from tests.engine.simulator.harness import Rig
from tests.engine.simulator.test_trading import LONG_MS, refused


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize(("tif", "reason"), [("IOC", "3"), ("GTC", "1")])
def test_self_trade_prevention_of_the_taker(rig: Rig, tif: str, reason: str) -> None:
    bid = rig.venue.levels(0)[0][0][0]
    maker = Order(1, rig.account, 0, "maker", 1, "LIMIT", "GTC", 5, bid + rig.venue.instrument(0).tick)
    rig.venue.matcher.books.setdefault((0, 1), []).append((-maker.price, 0, maker))
    rig.venue.matcher.of(rig.account).open[1] = maker
    taker = Order(2, rig.account, 0, "taker", -1, "LIMIT", tif, 5, bid - 100, stp="EXPIRE_TAKER")
    rig.venue.matcher.place(taker)
    assert (taker.status, taker.reason, maker.status) == ("EXPIRED_IN_MATCH", reason, "NEW")
    rig.run(LONG_MS)
    mine = [event["o"]["er"] for event in rig.events("ORDER_TRADE_UPDATE") if event["o"]["c"] == "taker"]
    assert mine[-1] == reason


def test_a_stop_limit_that_lives_with_the_position_expires_with_it(rig: Rig) -> None:
    terms = {"type": "STOP", "timeInForce": "GTE_GTC", "quantity": "0.1"}
    levels = {"triggerPrice": rig.price(0.99), "price": rig.price(1.03)}
    with refused(-4509):
        rig.algo(**terms, **levels)
    rig.order()
    rig.run(LONG_MS)
    waiting, triggered = rig.algo(**terms, **levels), rig.algo(**terms, **levels)
    rig.venue.algos._trigger(triggered)
    rig.run(300.0)
    child = triggered.child
    assert child is not None and (child.status, child.tif) == ("NEW", "GTE_GTC")
    rig.order(side="SELL", reduceOnly="true")
    assert (child.status, child.reason) == ("EXPIRED", "6")
    rig.run(LONG_MS)
    assert (waiting.status, triggered.status) == ("EXPIRED", "FINISHED")
    assert "6" in {event["o"]["er"] for event in rig.events("ORDER_TRADE_UPDATE")}


def test_the_take_bound_leaves_a_remainder_that_expires(rig: Rig) -> None:
    item, (_, asks, _) = rig.venue.instrument(0), rig.venue.levels(0)
    mark = rig.venue.mark(0) / 10 ** (8 - item.price_decimals)
    item.take_bound_bps = int((asks[5][0] / mark - 1) * 10_000) + 1
    rig.account.setting(0).leverage = 125
    rig.account.wallet += 10**17
    rig.start += 10**17
    order = Order(1, rig.account, 0, "wide", 1, "MARKET", "GTC", sum(qty for _, qty in asks))
    rig.venue.matcher.place(order)
    bound = int(mark) * (10_000 + item.take_bound_bps) // 10_000
    assert order.filled == sum(qty for price, qty in asks if price <= bound)
    assert (order.status, order.reason) == ("EXPIRED", "9")
    item.take_bound_bps = -10_000 // 100  # even the best ask is out of bounds
    with refused(-4131):
        rig.order()
    rig.check()


def test_larger_notionals_need_more_margin(rig: Rig) -> None:
    ledger = rig.venue.ledger
    mark = rig.venue.mark(0)
    rates = []
    for tier in rig.venue.instrument(0).brackets[:4]:
        qty = round((tier.floor_usdt + 1_000) * 1e8 / mark * 1_000)
        notional = ledger.value(0, qty, mark)
        expected = notional * tier.maintenance_ppm // 1_000_000 - tier.cum
        assert ledger.maintenance(0, qty, mark) == pytest.approx(expected, rel=1e-9)
        rates.append(ledger.maintenance(0, qty, mark) / notional)
    assert rates == sorted(rates)
    rig.account.setting(0).leverage = 125
    with refused(-2027):
        rig.order(quantity="1")


@pytest.mark.parametrize("order", ["child first", "ALGO_UPDATE first"])
def test_events_of_a_triggered_order_come_in_either_order(order: str) -> None:
    for seed in range(40):
        rig = Rig(seed=7)
        rig.venue.delays._random.seed(seed)
        rig.order()
        rig.run(LONG_MS)
        stop = rig.algo(triggerPrice=rig.price(0.9), closePosition="true")
        rig.events()
        rig.venue.algos._trigger(stop)
        rig.run(2_000.0)
        names = [
            event["o"]["X"] if event["e"] == "ALGO_UPDATE" else "child"
            for event in rig.events()
            if event["e"] in ("ALGO_UPDATE", "ORDER_TRADE_UPDATE")
        ]
        child_first = names.index("child") < names.index("TRIGGERED")
        if child_first == (order == "child first"):
            return
    raise AssertionError(f"never: {order}")


def test_queries_may_lag_for_seconds() -> None:
    rig = Rig()
    lags = []
    for number in range(300):
        rig.venue.delays._last.clear()
        begun = rig.service_ms
        order = rig.order(newClientOrderId=f"n{number}", quantity="0.001", side="BUY" if number % 2 else "SELL")
        view = rig.venue.views.of(rig.account)
        while view.find(0, order.id, None) is None:
            rig.service_ms += 10
            rig.venue.tend(rig.service_ms)
        lags.append(rig.service_ms - begun)
        if number % 10 == 0:
            rig.pump.advance(rig.tape.now_ms + 60_000)
    assert min(lags) > 0
    assert 1_000 < max(lags) <= 5_010


async def test_a_second_modification_while_one_is_pending(client: Client) -> None:
    venue = client.server.exchange.venue
    venue.delays.scale = 20.0
    price = f"{venue.last_price(0) // 100 * 0.98:.0f}.00"
    terms = {"symbol": "BTCUSDT", "side": "BUY", "quantity": "0.01"}
    _, order = await client.call(
        "POST", "/fapi/v1/order", **terms, type="LIMIT", timeInForce="GTC", price=price, newOrderRespType="RESULT"
    )
    change = {**terms, "orderId": order["orderId"], "price": price}
    replies = await asyncio.gather(
        *(client.call("PUT", "/fapi/v1/order", **(change | {"quantity": qty})) for qty in ("0.02", "0.03"))
    )
    assert sorted(body.get("code", 0) for _, body in replies) == [-5043, 0]
    done = await client.call("PUT", "/fapi/v1/order", **(change | {"quantity": "0.04"}))
    assert done[1]["origQty"] == "0.040"


def test_two_triggers_on_mark_and_last_price(rig: Rig) -> None:
    rig.order()
    rig.run(LONG_MS)
    item = rig.venue.instrument(0)
    mark = rig.venue.mark(0) // 10 ** (8 - item.price_decimals)
    last = rig.venue.last_price(0)
    assert mark != last
    between = intake.plain((mark + last) // 2 // item.tick * item.tick, item.price_decimals)
    # a stop between the two prices is on the wrong side for exactly one of them
    codes = set()
    for working in ("MARK_PRICE", "CONTRACT_PRICE"):
        try:
            rig.algo(triggerPrice=between, quantity="0.1", workingType=working)
            codes.add(0)
        except Refusal as refusal:
            codes.add(refusal.code)
    assert codes == {0, -2021}
