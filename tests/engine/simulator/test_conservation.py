"""Nothing is ever created or lost: a long random run of orders, cancels, funding, liquidations and settlements."""

import random

import pytest

from engine.simulator.errors import Refusal
from engine.simulator.instruments import MONEY
from engine.simulator.orders import Order
from tests.conftest import long_run
from tests.engine.simulator.harness import Rig


class Silent:
    """A sink that counts."""

    def __init__(self) -> None:
        self.events = 0

    def order_event(self, *_: object) -> None:
        self.events += 1

    def account_event(self, *_: object) -> None:
        self.events += 1


def act(rig: Rig, numbers: random.Random, step: int) -> None:
    """Do one random thing to one of the accounts."""
    matcher, ledger = rig.venue.matcher, rig.venue.ledger
    account = numbers.choice(list(ledger.accounts.values()))
    s = numbers.randrange(2)
    side = numbers.choice(("LONG", "SHORT")) if account.hedge else "BOTH"
    kind = numbers.random()
    if kind < 0.15:
        mine = list(matcher.of(account).open.values())
        if mine:
            matcher.cancel(numbers.choice(mine))
        return
    if kind < 0.22:
        mine = [order for order in matcher.of(account).open.values() if order.type == "LIMIT"]
        if mine:
            order = numbers.choice(mine)
            matcher.amend(order, numbers.randint(1, 400), max(1, order.price + numbers.randint(-30, 30)))
        return
    if kind < 0.225:
        rig.venue.risk.fund(s, numbers.randint(-500_000, 500_000))
        return
    if kind < 0.226 and account.positions:
        rig.venue.risk.liquidate(account)
        return
    sign = numbers.choice((1, -1))
    last = rig.venue.last_price(s)
    market = numbers.random() < 0.3
    order = Order(
        matcher.next_id(), account, s, f"c{step}", sign, "MARKET" if market else "LIMIT",
        "GTC" if market else numbers.choice(("GTC", "GTC", "GTC", "IOC", "FOK", "GTX")), numbers.randint(1, 3_000),
        0 if market else max(1, last + numbers.randint(-300, 300)),
        reduce_only=not account.hedge and numbers.random() < 0.2, position_side=side,
        stp=numbers.choice(("NONE", "EXPIRE_MAKER", "EXPIRE_TAKER", "EXPIRE_BOTH")),
    )  # fmt: skip
    matcher.place(order)


@pytest.mark.parametrize("seed", [1, 2])
def test_wallets_costs_and_positions_balance_to_the_last_unit(seed: int) -> None:
    rig = Rig(usdt=1_000_000, seed=seed, history_days=1.0, ahead_days=6.0)
    numbers = random.Random(seed)
    for n in range(5):
        account = rig.venue.open_account(f"trader{n}", "x", 100_000 * (n + 1))
        account.hedge = n % 2 == 0
        for s in range(2):
            account.setting(s).isolated = n == 3
    total = rig.venue.ledger.total()
    sink = rig.venue.matcher.sink = Silent()
    wanted = long_run(10_000, 1_000_000)
    step = 0
    while sink.events < wanted:
        step += 1
        try:
            act(rig, numbers, step)
        except Refusal:
            sink.events += 1
        if step % 25 == 0:
            assert rig.tape.now_ms < rig.exchange.market.end_ms - 5_000, "the market is long enough"
            rig.pump.advance(rig.tape.now_ms + numbers.randint(50, 1_500))
        if step % 1_000 == 0:
            assert rig.venue.ledger.total() == total
            assert [rig.venue.ledger.open_quantity(s) for s in range(2)] == [0, 0]
    for s in range(2):
        rig.venue.risk.settle(s)
    ledger = rig.venue.ledger
    assert ledger.total() == total
    assert all(p.qty == 0 and p.cost == 0 for a in ledger.accounts.values() for p in a.positions.values())
    market = ledger.own["market"]
    assert all(position.qty == 0 and position.cost == 0 for position in market.positions.values())
    entities = [*ledger.accounts.values(), *ledger.own.values()]
    assert sum(entity.wallet for entity in entities) == total
    assert total > MONEY
