"""Steps, answers, budgets and user events: pure parts of the order side, against worked values and Decimal."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.exchange.order_budget import OrderBudget
from engine.exchange.replies import LOST, NOT_SENT, Outcome, Reply
from engine.exchange.steps import Step
from engine.exchange.user_data import AccountUpdate, AlgoUpdate, Once, OrderUpdate, TradeLite, decode

STEPS = ["0.1", "0.01", "0.001", "0.00001", "1", "10", "0.5", "0.0005", "0.0000001"]


@settings(max_examples=200)
@given(st.sampled_from(STEPS), st.integers(0, 10**9))
def test_a_multiple_is_written_exactly(step: str, units: int) -> None:
    exact = Decimal(step) * units
    made = Step(float(step))
    text = made.write(float(exact))
    assert Decimal(text) == exact
    assert "e" not in text.lower()
    assert made.fits(text)
    assert Decimal(made.floor(float(exact))) == exact == Decimal(made.ceil(float(exact)))


def test_rounding_of_odd_values() -> None:
    step = Step(0.1)
    assert (step.write(0.3), step.floor(0.30000000000000004), step.floor(0.39), step.ceil(0.31)) == (
        "0.3", "0.3", "0.3", "0.4",
    )  # fmt: skip
    assert Step(0.001).floor("0.0019999999999999999") == "0.001"
    assert not Step(0.001).fits("0.0015")


@pytest.mark.parametrize("size", [0.001, 0.1, 0.007, 1.0, 10.0, 1e-8])
def test_a_float_is_rounded_as_its_shortest_decimal(size: float) -> None:
    step, exact = Step(size), Decimal(repr(size))
    for units in (0, 1, 3, 999, 123_457, 99_999_999, 100_000_001, 3_000_000_007):
        for off in (0.0, 1e-11, -1e-11, 4e-10, -4e-10, 2e-9, -2e-9, 0.3, -0.3):
            value = (units + off) * size
            ratio = Decimal(repr(value)) / exact
            near = ratio.to_integral_value()
            if abs(ratio - near) > Decimal("1e-9") * max(Decimal(1), abs(ratio)):
                low, high = ratio.to_integral_value(ROUND_FLOOR), ratio.to_integral_value(ROUND_CEILING)
            else:
                low = high = near
            assert (Decimal(step.floor(value)), Decimal(step.ceil(value))) == (low * exact, high * exact)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(200, result={}), Outcome.OK),
        (LOST, Outcome.UNKNOWN),
        (NOT_SENT, Outcome.NOT_DONE),
        (Reply(503, 0, "Unknown error, please check your request or try again later."), Outcome.UNKNOWN),
        (Reply(503, 0, "Service Unavailable."), Outcome.NOT_DONE),
        (Reply(503, 0, "Internal error; unable to process your request. Please try again."), Outcome.NOT_DONE),
        (Reply(503, -1001, "Service Unavailable."), Outcome.NOT_DONE),
        (Reply(503, -1008, "throttled"), Outcome.NOT_DONE),
        (Reply(408, 0, ""), Outcome.UNKNOWN),
        (Reply(502, 0, "bad gateway"), Outcome.UNKNOWN),
        (Reply(400, -1006, ""), Outcome.UNKNOWN),
        (Reply(400, -1007, ""), Outcome.UNKNOWN),
        (Reply(400, -4116, ""), Outcome.UNKNOWN),
        (Reply(400, -1021, ""), Outcome.NOT_DONE),
        (Reply(429, -1015, ""), Outcome.NOT_DONE),
        (Reply(418, -1003, ""), Outcome.NOT_DONE),
        (Reply(400, -2019, "Margin is insufficient."), Outcome.REFUSED),
        (Reply(400, -9999, "a code nobody listed"), Outcome.REFUSED),
    ],
)
def test_what_an_answer_means(reply: Reply, outcome: Outcome) -> None:
    assert reply.outcome is outcome


def test_entries_leave_thirty_percent_of_the_orders_to_exits() -> None:
    budget = OrderBudget(limit_10s=30, limit_1m=1_200)
    budget.count(1_000, 18)
    assert budget.room_for_entry(1_000)  # 18 + 3 = 21 = 70 % of 30
    budget.count(1_000)
    assert not budget.room_for_entry(1_000)
    assert budget.room_for_entry(10_000)  # the next window
    budget.take_limits(
        [{"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 300, "count": 250}], 10_001
    )
    assert not budget.room_for_entry(10_002)
    assert budget.room_for_entry(20_000)
    budget.ban(30_000)
    assert not budget.room_for_entry(29_999)
    assert budget.room_for_entry(30_000)


ORDER = (
    b'{"e":"ORDER_TRADE_UPDATE","E":1568879465651,"T":1568879465650,"o":{"s":"BTCUSDT","c":"TEST","S":"SELL",'
    b'"o":"LIMIT","f":"GTC","q":"0.001","p":"9910","ap":"0","sp":"0","x":"NEW","X":"NEW","i":8886774,"l":"0","z":"0",'
    b'"L":"0","N":"USDT","n":"0","T":1568879465650,"t":0,"b":"0","a":"9.91","m":false,"R":false,'
    b'"wt":"CONTRACT_PRICE","ot":"LIMIT","ps":"BOTH","cp":false,"pP":false,"si":0,"ss":0,"rp":"0","V":"EXPIRE_MAKER",'
    b'"pm":"NONE","gtd":0,"er":"0"}}'
)
ACCOUNT = (
    b'{"e":"ACCOUNT_UPDATE","E":1564745798939,"T":1564745798938,"a":{"m":"ORDER","B":[{"a":"USDT",'
    b'"wb":"122624.12345678","cw":"100.12345678","bc":"0"}],"P":[{"s":"BTCUSDT","pa":"20","ep":"6563.66500",'
    b'"bep":"6563.6","cr":"0","up":"2850.21200","mt":"cross","iw":"0","ps":"BOTH"}]}}'
)
LITE = (
    b'{"e":"TRADE_LITE","E":1721895408092,"T":1721895408214,"s":"BTCUSDT","q":"0.001","p":"0","m":false,'
    b'"c":"z8hcUoOs","S":"BUY","L":"64089.20","l":"0.040","t":109100866,"i":8886774}'
)
ALGO = (
    b'{"e":"ALGO_UPDATE","T":1750515742297,"E":1750515742303,"o":{"caid":"Q5xaq5EGKgXXa0fD7fs0Ip","aid":2148719,'
    b'"at":"CONDITIONAL","o":"TAKE_PROFIT","s":"BNBUSDT","S":"SELL","ps":"BOTH","f":"GTC","q":"0.01","X":"CANCELED",'
    b'"ai":"","ap":"0.00000","aq":"0.00000","act":"0","tp":"750","p":"750","V":"EXPIRE_MAKER",'
    b'"wt":"CONTRACT_PRICE","pm":"NONE","cp":false,"pP":false,"R":false,"tt":0,"gtd":0,"rm":"Reduce Only reject",'
    b'"ia":false}}'
)


def test_the_documented_events_decode_bare_and_wrapped() -> None:
    wrapped = b'{"stream":"key","data":' + ORDER + b"}"
    order = decode(ORDER)
    assert order == decode(wrapped)
    assert isinstance(order, OrderUpdate)
    assert (order.client_order_id, order.side, order.status, order.order_id) == ("TEST", -1, "NEW", 8886774)
    account = decode(ACCOUNT)
    assert isinstance(account, AccountUpdate)
    assert account.positions[0].amount == "20"
    assert account.balances == {"USDT": (122624.12345678, 0.0)}
    lite = decode(LITE)
    assert isinstance(lite, TradeLite)
    assert (lite.qty, lite.price, lite.trade_id, lite.side) == (0.04, 64089.2, 109100866, 1)
    algo = decode(ALGO)
    assert isinstance(algo, AlgoUpdate)
    assert (algo.status, algo.order_id, algo.fault) == ("CANCELED", 0, "Reduce Only reject")
    assert decode(b'{"e":"GRID_UPDATE","E":1}') is None
    for broken in (b"{", b'{"e":"ORDER_TRADE_UPDATE","E":1,"T":1,"o":{}}', b"[]"):
        with pytest.raises(ValueError, match="user event"):
            decode(broken)


def test_both_connections_give_each_event_once() -> None:
    once = Once()
    events = [decode(frame) for frame in (ORDER, ACCOUNT, LITE, ALGO)]
    assert [once.first(e) for e in events if e] == [True] * 4
    assert [once.first(e) for e in events if e] == [False] * 4
    later = orjson.loads(ORDER)
    later["o"]["X"], later["o"]["x"], later["o"]["t"], later["o"]["l"] = "FILLED", "TRADE", 7, "0.001"
    changed = decode(orjson.dumps(later))
    assert changed is not None
    assert once.first(changed)
    later["o"]["s"] = "ETHUSDT"  # order and trade ids are a symbol's own
    other = decode(orjson.dumps(later))
    assert other is not None and once.first(other)
