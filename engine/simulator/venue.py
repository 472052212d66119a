"""The trading side as one object: ledger, matching, algo service, private streams, read model, all with their
own delays."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

from engine.simulator import depth
from engine.simulator.algos import Algo, AlgoService, algo_update
from engine.simulator.delays import Delays, Scheduler
from engine.simulator.errors import Refusal
from engine.simulator.instruments import Instrument, decimal
from engine.simulator.ledger import Account, Fill, Ledger, Position
from engine.simulator.margin import over_limit, summarise
from engine.simulator.matching import Levels, Matcher
from engine.simulator.orders import Order, trade_lite, trade_update
from engine.simulator.risk import Risk
from engine.simulator.tape import Tape
from engine.simulator.userdata import UserData
from engine.simulator.view import Views

MAX_ACCOUNTS = 1_000


class Venue:
    """Where orders go. Its clock for delays is `service_ms` (wall time); what it stamps is exchange time."""

    def __init__(
        self, tape: Tape, exchange_ms: Callable[[], int], service_ms: Callable[[], float], seed: int, latency: float
    ) -> None:
        self.tape = tape
        self._exchange_ms = exchange_ms
        self.scheduler = Scheduler(service_ms)
        self.delays = Delays(seed, latency)
        self.random = random.Random(seed + 1)
        self.ledger = Ledger(tape.market.instruments)
        self.matcher = Matcher(self.ledger, self, self)
        self.algos = AlgoService(self)
        self.users = UserData(self.scheduler, self.delays)
        self.views = Views(self.ledger, self.scheduler, self.delays)
        self.risk = Risk(self)
        self.countdowns: dict[tuple[str, int], float] = {}
        self._tran_ids = itertools.count(9_689_000_000)
        self._levels: dict[int, tuple[Levels, Levels, int]] = {}

    # --- what matching and the algo service see ---

    def levels(self, s: int) -> tuple[Levels, Levels, int]:
        """Return the market's book, computed once per update."""
        update_id = self.tape.best(s)[4]
        found = self._levels.get(s)
        if found is None or found[2] != update_id:
            found = self._levels[s] = depth.levels(self.tape, s)
        return found

    def mark(self, s: int) -> int:
        """Return the 10 Hz mark in 10^-8 USDT."""
        return self.tape.mark(s)

    def last_price(self, s: int) -> int:
        """Return the last traded price."""
        return self.tape.last_price(s)

    def now_ms(self) -> int:
        """Return exchange time."""
        return self._exchange_ms()

    def instrument(self, s: int) -> Instrument:
        """Return a listing."""
        return self.ledger.instruments[s]

    def later(self, name: str, call: Callable[[], None]) -> None:
        """Call after a delay of that name."""
        self.scheduler.after(self.delays.draw(name), call)

    # --- accounts ---

    def open_account(self, key: str, secret: str, usdt: int) -> Account:
        """Add an account."""
        if len(self.ledger.accounts) >= MAX_ACCOUNTS:
            raise ValueError(f"at most {MAX_ACCOUNTS} accounts")
        account = self.ledger.open_account(key, secret, usdt)
        account.updated_ms = self.now_ms()
        self.views.of(account)
        return account

    def summary(self, account: Account, orders: Any = None) -> Any:
        """Return the margins of an account (or of its lagging copy with `orders`) at the marks of now."""
        chosen = self.matcher.of(account).open.values() if orders is None else orders
        return summarise(self.ledger, account, chosen, self.mark)

    def check_margin(self, order: Order) -> None:
        """Refuse an order that the account cannot bind margin for (−2019), or that is too large for its
        leverage (−2027)."""
        if order.closing:
            return
        account = order.account
        if account.in_liquidation:
            raise Refusal(-2023, "User in liquidation mode now.")
        existing = self.matcher.of(account).open.values()
        before = self.summary(account)
        after = self.summary(account, [*existing, order])
        part = after.parts[order.s, order.position_side]
        largest = max(abs(part.notional + part.bids), abs(part.notional - part.asks))
        was = before.parts.get((order.s, order.position_side))
        grows = after.position_initial + after.order_initial - before.position_initial - before.order_initial
        if grows > 0 and over_limit(self.ledger, account, order.s, largest) and (was is None or largest > was.notional):
            raise Refusal(-2027, "Exceeded the maximum allowable position at current leverage.")
        price = order.price or self.last_price(order.s)
        fee = order.qty * price * self.instrument(order.s).notional_scale * 500 // 1_000_000
        if grows > 0 and before.available < grows + fee:
            raise Refusal(-2019, "Margin is insufficient.")

    def place(self, order: Order) -> None:
        """Match an order now. Raises Refusal."""
        if self.instrument(order.s).status != "TRADING":
            raise Refusal(-4141, "Symbol is closed.")
        if not order.account.can_trade:
            raise Refusal(-2015, "Invalid API-key, IP, or permissions for action.", 401)
        self.check_margin(order)
        self.matcher.place(order)

    def send_child(self, algo: Algo) -> Order:
        """Send the order of a triggered algo order to matching. Raises Refusal."""
        position = algo.account.positions.get((algo.s, algo.position_side)) or Position()
        qty = algo.qty
        if algo.close_position:
            qty = max(0, -algo.sign * position.qty)
            if not qty:
                raise Refusal(-2022, "ReduceOnly Order is rejected.")
        item = self.instrument(algo.s)
        if algo.price_protect:
            last = self.last_price(algo.s) * 10 ** (8 - item.price_decimals)
            if abs(self.mark(algo.s) - last) * 20 > last:  # triggerProtect 0.05
                raise Refusal(-2021, "Price protection: mark and last price are too far apart.")
        market = algo.type.endswith("MARKET")
        reduce = (algo.reduce_only or algo.close_position) and algo.position_side == "BOTH"
        order = Order(
            self.matcher.next_id(), algo.account, algo.s, algo.client_id, algo.sign, "MARKET" if market else "LIMIT",
            "GTC" if market else algo.tif, qty, 0 if market else algo.price,
            reduce_only=reduce, close_position=algo.close_position, position_side=algo.position_side,
            orig_type=algo.type, working_type=algo.working_type, stop_price=algo.trigger,
            activate_price=algo.activate, callback_ppm=algo.callback_ppm, price_protect=algo.price_protect,
            stp=algo.stp, algo_id=algo.id,
        )  # fmt: skip
        self.place(order)
        return order

    # --- what happens, and who hears of it ---

    def order_event(self, order: Order, execution: str, fill: Fill | None) -> None:
        """Publish what happened to an order, and let queries see it later."""
        if order.account.key.startswith("#"):
            return
        item, event_ms = self.instrument(order.s), self.now_ms()
        notionals = self._notionals(order)
        self.users.publish(order.account, trade_update(order, item, execution, fill, notionals, event_ms))
        if fill is not None:
            self.users.publish(order.account, trade_lite(order, item, fill, event_ms))
            self._earn_trade(order, fill)
        self.views.order(order, fill)
        if not order.is_open:
            self.algos.child_closed(order)

    def _notionals(self, order: Order) -> tuple[str, str]:
        sums = [0, 0]
        for other in self.matcher.of(order.account).open.values():
            if other.s == order.s:
                sums[other.sign < 0] += other.remaining * other.price
        item = self.instrument(order.s)
        places = item.price_decimals + item.qty_decimals
        return decimal(sums[0], places), decimal(sums[1], places)

    def account_event(self, account: Account, reason: str, keys: list[tuple[int, str]], symbol: str = "") -> None:
        """Publish an ACCOUNT_UPDATE; queries and the algo service see the position later."""
        wallet = decimal(account.wallet, 8)
        balance = [{"a": "USDT", "wb": wallet, "cw": decimal(account.cross_wallet, 8), "bc": "0"}]
        rows = [self._position_event(account, s, side) for s, side in keys]
        body: dict[str, Any] = {"m": reason, "B": balance, "P": rows}
        if symbol:
            body["S"] = symbol
        now_ms = self.now_ms()
        account.updated_ms = now_ms
        self.users.publish(account, {"e": "ACCOUNT_UPDATE", "T": now_ms, "E": now_ms, "a": body})
        self.views.refresh(account)
        for s, side in keys:
            qty = account.position(s, side).qty
            lane = (account.key, "algo_sees")
            due = self.delays.in_order(lane, self.scheduler.now(), "algo_sees")
            self.scheduler.at(due, functools.partial(self.algos.sees, account, s, side, qty))

    def _position_event(self, account: Account, s: int, side: str) -> dict[str, Any]:
        position, item = account.position(s, side), self.instrument(s)
        isolated = account.setting(s).isolated
        return {
            "s": item.symbol,
            "pa": decimal(position.qty, item.qty_decimals),
            "ep": f"{self.ledger.entry_price(s, position):.8f}",
            "cr": decimal(position.realised, 8),
            "up": decimal(self.ledger.unrealised(s, position, self.mark(s)) if position.qty else 0, 8),
            "mt": "isolated" if isolated else "cross",
            "iw": decimal(position.isolated_wallet, 8),
            "ps": side,
            "ma": "USDT",
            "bep": f"{self.ledger.break_even(s, position):.8f}",
        }

    def algo_event(self, algo: Algo) -> None:
        """Publish an ALGO_UPDATE."""
        self.users.publish(algo.account, algo_update(algo, self.instrument(algo.s), self.now_ms()))

    def _earn_trade(self, order: Order, fill: Fill) -> None:
        if fill.fee:
            self.income(order.account, "COMMISSION", -fill.fee, order.s, str(fill.trade_id))
        if fill.realised:
            self.income(order.account, "REALIZED_PNL", fill.realised, order.s, str(fill.trade_id))

    def income(self, account: Account, kind: str, amount: int, s: int, trade_id: str = "") -> None:
        """Write an income row."""
        row = {
            "symbol": self.instrument(s).symbol, "incomeType": kind, "income": decimal(amount, 8), "asset": "USDT",
            "info": kind if kind == "FUNDING_FEE" else trade_id or kind, "time": self.now_ms(),
            "tranId": next(self._tran_ids), "tradeId": trade_id,
        }  # fmt: skip
        self.views.earned(account, row)

    # --- time ---

    def step(self, before_ms: int, now_ms: int) -> None:
        """React to the market having moved: resting orders, conditional orders, liquidations, funding."""
        for s in {row for row, sign in self.matcher.books if self.matcher.books[row, sign]}:
            self.matcher.on_book(s)
        for s in [row for row, waiting in self.algos.waiting.items() if waiting]:
            self.algos.check(s)
        self.risk.step(before_ms, now_ms)

    def busy(self) -> bool:
        """Return whether anything depends on every 100 ms of the market."""
        return any(self.matcher.books.values()) or any(self.algos.waiting.values()) or self.risk.exposed()

    def tend(self, service_ms: float) -> None:
        """Run what is due on the service clock: delays, countdowns, listen keys."""
        self.scheduler.run(service_ms)
        for (key, s), due in list(self.countdowns.items()):
            if service_ms >= due:
                del self.countdowns[key, s]
                for order in list(self.matcher.of(self.ledger.accounts[key]).open.values()):
                    if order.s == s:
                        self.matcher.cancel(order)
        self.users.sweep(self.now_ms())
