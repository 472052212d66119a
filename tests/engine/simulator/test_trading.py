"""Orders, positions and conditional orders against worked values and the exchange's documented sequences."""

import pytest

from engine.simulator.errors import Refusal
from engine.simulator.instruments import MONEY
from engine.simulator.orders import Order
from tests.engine.simulator.harness import Rig

LONG_MS = 8_000.0  # longer than any delay of the exchange


@pytest.fixture
def rig() -> Rig:
    return Rig()


def refused(code: int) -> "pytest.RaisesExc[Refusal]":
    return pytest.raises(Refusal, check=lambda error: error.code == code)


def test_a_market_order_pays_the_book_and_the_taker_fee(rig: Rig) -> None:
    _, asks, _ = rig.venue.levels(0)
    order = rig.order(quantity="0.010")
    assert asks[0][1] >= 10, "the best level holds the order"
    assert (order.status, order.filled_value) == ("FILLED", 10 * asks[0][0])
    fee = -(-10 * asks[0][0] * 1_000 * 5 // 10_000)  # 1,000 money units per price × quantity unit; 0.05 %
    assert rig.account.wallet == 100_000 * MONEY - fee
    rig.check()


def test_a_sweep_takes_each_level_once_and_the_remainder_of_a_market_order_expires(rig: Rig) -> None:
    _, asks, _ = rig.venue.levels(0)
    total = sum(qty for _, qty in asks)
    rig.account.setting(0).leverage = 125
    rig.account.wallet += 10**18
    rig.start += 10**18
    rig.venue.instrument(0).market_max_qty = rig.venue.instrument(0).max_qty = 10 * total
    order = Order(1, rig.account, 0, "sweep", 1, "MARKET", "GTC", total + 5)
    rig.venue.matcher.place(order)
    assert (order.status, order.filled, order.reason) == ("EXPIRED", total, "9")
    assert order.filled_value == sum(price * qty for price, qty in asks)
    again = Order(2, rig.account, 0, "again", 1, "MARKET", "GTC", 5)
    rig.venue.matcher.place(again)
    assert again.filled == 0, "the same update of the book cannot give twice"
    rig.check()


def test_limit_orders_rest_fill_as_maker_and_keep_price_time_order(rig: Rig) -> None:
    bid = rig.venue.levels(0)[0][0][0]
    tick = rig.venue.instrument(0).tick
    orders = [
        Order(n, rig.account, 0, f"o{n}", 1, "LIMIT", "GTC", 5, bid - tick * step, stp="EXPIRE_MAKER")
        for n, step in ((1, 4), (2, 2), (3, 2))
    ]
    for order in orders:
        rig.venue.matcher.place(order)
    assert [entry[2].id for entry in rig.venue.matcher.books[0, 1]] == [2, 3, 1]
    other = rig.venue.open_account("bob", "x", 50_000)
    rig.start += 50_000 * MONEY
    rig.venue.matcher.place(Order(9, other, 0, "s", -1, "LIMIT", "IOC", 10**6, bid - 4 * tick))
    assert [order.status for order in orders] == ["FILLED"] * 3
    fee = sum(-(-5 * order.price * 1_000 * 2 // 10_000) for order in orders)
    assert rig.account.wallet == 100_000 * MONEY - fee
    rig.check()


@pytest.mark.parametrize(
    ("tif", "factor", "status", "reason"), [("IOC", 0.99, "EXPIRED", "2"), ("GTC", 0.99, "NEW", "0")]
)
def test_what_does_not_cross(rig: Rig, tif: str, factor: float, status: str, reason: str) -> None:
    order = rig.order(type="LIMIT", timeInForce=tif, price=rig.price(factor))
    assert (order.status, order.reason) == (status, reason)


def test_refusals_of_the_matching_engine(rig: Rig) -> None:
    with refused(-5021):
        rig.order(type="LIMIT", timeInForce="FOK", price=rig.price(0.99))
    with refused(-5022):
        rig.order(type="LIMIT", timeInForce="GTX", price=rig.price(1.01))
    with refused(-2022):
        rig.order(reduceOnly="true")
    with refused(-2019):
        rig.order(quantity="100")
    rig.order(type="LIMIT", timeInForce="GTC", price=rig.price(0.99), newClientOrderId="same")
    with refused(-4116):
        rig.order(type="LIMIT", timeInForce="GTC", price=rig.price(0.99), newClientOrderId="same")
    rig.check()


def test_a_resent_market_order_fills_twice(rig: Rig) -> None:
    first, second = rig.order(newClientOrderId="same"), rig.order(newClientOrderId="same")
    assert (first.status, second.status) == ("FILLED", "FILLED")
    assert rig.qty() == 200


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"symbol": "NOPE"}, -1121),
        ({"side": "UP"}, -1117),
        ({"type": "STOP_MARKET"}, -4120),
        ({"type": "ODD"}, -1116),
        ({"type": "LIMIT"}, -1102),
        ({"type": "LIMIT", "timeInForce": "XXX"}, -1115),
        ({"timeInForce": "GTC"}, -1106),
        ({"quantity": "0"}, -4003),
        ({"quantity": "-1"}, -4003),
        ({"quantity": "0.0001"}, -1111),
        ({"quantity": "1e9"}, -1102),
        ({"quantity": "100000"}, -4005),
        ({"type": "LIMIT", "timeInForce": "GTC", "price": "0"}, -4001),
        ({"type": "LIMIT", "timeInForce": "GTC", "price": "1"}, -4013),
        ({"type": "LIMIT", "timeInForce": "GTC", "price": "90000.05"}, -4014),
        ({"type": "LIMIT", "timeInForce": "GTC", "price": "9000000000"}, -4002),
        ({"quantity": "0.001", "symbol": "ETHUSDT"}, -4164),
        ({"positionSide": "LONG"}, -4061),
        ({"newClientOrderId": "x" * 37}, -4015),
        ({"newClientOrderId": "autoclose-1"}, -4015),
        ({"type": "LIMIT", "timeInForce": "GTD", "price": "@", "goodTillDate": "5"}, -5040),
    ],
)
def test_filters_answer_with_the_exchange_s_codes(rig: Rig, params: dict[str, str], code: int) -> None:
    if params.get("price") == "@":
        params = params | {"price": rig.price()}
    with refused(code):
        rig.order(**params)


def test_percent_price_bounds_limit_orders(rig: Rig) -> None:
    with refused(-4016):
        rig.order(type="LIMIT", timeInForce="GTC", price=rig.price(1.06))
    with refused(-4024):
        rig.order(type="LIMIT", timeInForce="GTC", side="SELL", price=rig.price(0.94))


def test_a_reduce_only_order_never_reverses_and_is_knocked_out_when_flat(rig: Rig) -> None:
    rig.order(quantity="0.1")
    resting = rig.order(type="LIMIT", timeInForce="GTC", side="SELL", price=rig.price(1.02), reduceOnly="true")
    larger = rig.order(side="SELL", quantity="0.3", reduceOnly="true")
    assert rig.qty() == 0
    assert (larger.filled, larger.status, larger.reason) == (100, "EXPIRED", "4")
    assert (resting.status, resting.reason) == ("EXPIRED", "4")
    rig.check()


def test_realised_profit_through_zero(rig: Rig) -> None:
    bought = rig.order(quantity="0.1")
    sold = rig.order(side="SELL", quantity="0.25")
    position = rig.account.position(0, "BOTH")
    assert position.qty == -150
    entry = bought.filled_value / 100
    exit_part = sold.filled_value * 1_000 // 250
    assert position.realised == pytest.approx(exit_part * 100 - entry * 100 * 1_000, abs=2_000)
    rig.check()


def test_hedge_mode_keeps_two_positions(rig: Rig) -> None:
    rig.account.hedge = True
    rig.order(positionSide="LONG")
    rig.order(positionSide="SHORT", side="SELL", quantity="0.2")
    assert (rig.qty(side="LONG"), rig.qty(side="SHORT")) == (100, -200)
    with refused(-1106):
        rig.order(positionSide="LONG", side="SELL", reduceOnly="true")
    rig.order(positionSide="LONG", side="SELL", quantity="0.1")
    with refused(-2022):
        rig.order(positionSide="LONG", side="SELL", quantity="0.1")
    rig.check()


def test_modify_keeps_the_id_and_says_so(rig: Rig) -> None:
    order = rig.order(type="LIMIT", timeInForce="GTC", price=rig.price(0.98))
    number = order.id
    rig.venue.matcher.amend(order, 200, order.price - 10)
    assert (order.id, order.qty, order.status) == (number, 200, "NEW")
    with refused(-5027):
        rig.venue.matcher.amend(order, 200, order.price)
    rig.venue.matcher.cancel(order)
    with refused(-2011):
        rig.venue.matcher.cancel(order)
    rig.run(LONG_MS)
    updates = [(event["o"]["x"], event["o"]["X"]) for event in rig.events("ORDER_TRADE_UPDATE")]
    assert updates == [("NEW", "NEW"), ("AMENDMENT", "NEW"), ("CANCELED", "CANCELED")]


def test_a_fill_makes_three_events_whose_order_is_not_given() -> None:
    orders = set()
    for seed in range(12):
        rig = Rig(seed=seed)
        rig.venue.delays._random.seed(seed)
        rig.order()
        rig.run(LONG_MS)
        names = [event["e"] for event in rig.events()]
        assert sorted(set(names)) == ["ACCOUNT_UPDATE", "ORDER_TRADE_UPDATE", "TRADE_LITE"]
        orders.add(tuple(dict.fromkeys(names)))
    assert len(orders) > 1


def test_queries_lag_behind(rig: Rig) -> None:
    order = rig.order(type="LIMIT", timeInForce="GTC", price=rig.price(0.98))
    view = rig.venue.views.of(rig.account)
    assert view.find(0, order.id, None) is None
    rig.run(LONG_MS)
    seen = view.find(0, order.id, None)
    assert seen is not None and seen.status == "NEW"
    rig.venue.matcher.cancel(order)
    seen = view.find(0, order.id, None)
    assert seen is not None and seen.status == "NEW"


# --- conditional orders ---


def test_close_position_waits_for_the_algo_service_to_see_the_position(rig: Rig) -> None:
    rig.order()
    with refused(-4509):
        rig.algo(triggerPrice=rig.price(0.9), closePosition="true")
    rig.run(LONG_MS)
    stop = rig.algo(triggerPrice=rig.price(0.9), closePosition="true", workingType="MARK_PRICE")
    with refused(-4130):
        rig.algo(triggerPrice=rig.price(0.91), closePosition="true")
    take = rig.algo(type="TAKE_PROFIT_MARKET", triggerPrice=rig.price(1.1), closePosition="true")
    assert (stop.tif, take.status) == ("GTE_GTC", "NEW")
    rig.order(side="SELL", reduceOnly="true")
    assert stop.status == "NEW", "expired with delay only"
    rig.run(LONG_MS)
    assert (stop.status, take.status) == ("EXPIRED", "EXPIRED")


def test_a_stop_triggers_on_the_mark_and_closes_the_position(rig: Rig) -> None:
    rig.order(quantity="0.3")
    rig.run(LONG_MS)
    rig.events()
    mark = rig.venue.mark(0) / 1e8
    stop = rig.algo(triggerPrice=f"{int(mark * 10) / 10 - 0.1:.2f}", closePosition="true", workingType="MARK_PRICE")
    deadline = 600
    while stop.status == "NEW" and deadline:
        rig.run(1_000.0)
        deadline -= 1
    rig.run(LONG_MS)
    assert stop.status == "FINISHED"
    assert rig.qty() == 0
    states = [event["o"]["X"] for event in rig.events("ALGO_UPDATE")]
    assert states == ["NEW", "TRIGGERING", "TRIGGERED", "FINISHED"]
    rig.check()


def test_while_triggering_cancel_and_replace_are_refused(rig: Rig) -> None:
    rig.order()
    rig.run(LONG_MS)
    stop = rig.algo(triggerPrice=rig.price(0.9), closePosition="true")
    rig.venue.algos._trigger(stop)
    with refused(-2011):
        rig.venue.algos.cancel(stop)
    with refused(-4117):
        rig.algo(triggerPrice=rig.price(0.9), closePosition="true")


def test_a_triggered_order_without_a_position_is_knocked_out(rig: Rig) -> None:
    rig.order()
    stop = rig.algo(triggerPrice=rig.price(0.9), quantity="0.1", reduceOnly="true")
    rig.order(side="SELL")
    rig.venue.algos._trigger(stop)
    rig.run(LONG_MS)
    assert (stop.status, stop.reason) == ("EXPIRED", "Reduce Only reject")


def test_no_margin_check_before_triggering(rig: Rig) -> None:
    stop = rig.algo(side="BUY", triggerPrice=rig.price(1.04), quantity="50")
    rig.venue.algos._trigger(stop)
    rig.run(LONG_MS)
    assert (stop.status, stop.reason) == ("REJECTED", "Margin is insufficient.")


def test_a_trailing_stop_follows_the_best_price(rig: Rig) -> None:
    rig.order()
    trailing = rig.algo(type="TRAILING_STOP_MARKET", quantity="0.1", callbackRate="0.1", reduceOnly="true")
    assert trailing.activated
    best = trailing.extreme
    while trailing.status == "NEW":
        price = rig.venue.last_price(0) * 10**6
        best = max(best, price)
        assert trailing.extreme <= best
        rig.run(100.0)
    assert trailing.extreme * 999 >= rig.venue.last_price(0) * 10**6 * 1_000 * 0.995
    rig.run(LONG_MS)
    assert rig.qty() == 0


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"triggerPrice": "@1.02", "quantity": "0.1"}, -2021),
        ({"triggerPrice": "@0.9", "quantity": "0.1", "closePosition": "true"}, -4137),
        ({"triggerPrice": "@0.9", "closePosition": "true", "reduceOnly": "true"}, -4138),
        ({"quantity": "0.1"}, -1102),
        ({"type": "TRAILING_STOP_MARKET", "quantity": "0.1", "callbackRate": "25"}, -2007),
        ({"type": "MARKET", "quantity": "0.1"}, -1116),
        ({"algoType": "VP", "quantity": "0.1"}, -1130),
    ],
)
def test_algo_refusals(rig: Rig, params: dict[str, str], code: int) -> None:
    terms = {name: rig.price(float(value[1:])) if value.startswith("@") else value for name, value in params.items()}
    with refused(code):
        rig.algo(**terms)


def test_at_most_200_algo_orders(rig: Rig) -> None:
    for _ in range(200):
        rig.algo(triggerPrice=rig.price(0.9), quantity="0.1")
    with refused(-4045):
        rig.algo(triggerPrice=rig.price(0.9), quantity="0.1")
