"""The matching engine without sockets, time or randomness: orders in, fills and order events out, all in integers.

An order meets two kinds of liquidity: the market's book (levels that `Quotes` shows, each consumed at most
once per book update) and the resting orders of the other accounts, by price, then the market's first, then
time. Resting orders are matched against the market's book at every update (`on_book`), as makers at their own price.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections import deque
from typing import Protocol

from engine.simulator.errors import Refusal
from engine.simulator.instruments import Instrument
from engine.simulator.ledger import Account, Fill, Ledger, Position
from engine.simulator.orders import Order

Levels = list[tuple[int, int]]
CLOSED_KEPT = 50_000  # closed orders and trades kept for queries, per account
FIRST_ORDER_ID = 8_389_000_000
FIRST_TRADE_ID = 7_000_000_000
REDUCE_REJECTED = "ReduceOnly Order is rejected."


class Quotes(Protocol):
    """What the matching engine sees of the market; all as of now."""

    def levels(self, s: int) -> tuple[Levels, Levels, int]: ...
    def mark(self, s: int) -> int: ...
    def now_ms(self) -> int: ...


class Sink(Protocol):
    """Who is told. `order_event` comes in the exchange's order; `account_event` after the fills of one step."""

    def order_event(self, order: Order, execution: str, fill: Fill | None) -> None: ...
    def account_event(self, account: Account, reason: str, keys: list[tuple[int, str]]) -> None: ...


class AccountOrders:
    """The orders and trades of one account: open ones by id, closed ones as far back as kept."""

    def __init__(self) -> None:
        self.open: dict[int, Order] = {}
        self.clients: dict[tuple[int, str], Order] = {}  # open orders only: a closed order frees its client id
        self.all: dict[int, Order] = {}
        self.closed: deque[int] = deque()
        self.trades: deque[tuple[Order, Fill, int]] = deque(maxlen=CLOSED_KEPT)


class Matcher:
    """All books. `place`, `amend`, `cancel` raise Refusal and change nothing when the exchange would refuse."""

    def __init__(self, ledger: Ledger, quotes: Quotes, sink: Sink) -> None:
        self.ledger = ledger
        self.quotes = quotes
        self.sink = sink
        self.books: dict[tuple[int, int], list[tuple[int, int, Order]]] = {}  # (symbol, sign): best first
        self.accounts: dict[str, AccountOrders] = {}
        self._order_ids = itertools.count(FIRST_ORDER_ID)
        self._trade_ids = itertools.count(FIRST_TRADE_ID)
        self._sequence = itertools.count()
        self._used: dict[int, tuple[int, dict[int, int]]] = {}  # symbol: (book update, price: quantity taken from it)
        self._touched: dict[tuple[str, int, str], tuple[Account, int, str]] = {}

    def of(self, account: Account) -> AccountOrders:
        """Return the account's orders."""
        found = self.accounts.get(account.key)
        if found is None:
            found = self.accounts[account.key] = AccountOrders()
        return found

    def next_id(self) -> int:
        """Return a fresh order id."""
        return next(self._order_ids)

    def resting(self, s: int) -> bool:
        """Return whether anybody's order rests in the symbol."""
        return bool(self.books.get((s, 1)) or self.books.get((s, -1)))

    # --- placing ---

    def place(self, order: Order) -> None:
        """Match a new order; what may rest, rests. Raises Refusal before anything has changed."""
        mine = self.of(order.account)
        if (order.s, order.client_id) in mine.clients:
            raise Refusal(-4116, "ClientOrderId is duplicated.")
        if order.closing and self._reducible(order) <= 0:
            raise Refusal(-2022, REDUCE_REJECTED)
        bound = self._bound(order)
        if order.tif == "GTX" and self._crosses(order):
            message = "Due to the order could not be executed as maker, the Post Only order will be rejected."
            raise Refusal(-5022, message)
        if order.tif == "FOK" and self._available(order, bound) < order.qty:
            raise Refusal(-5021, "Due to the order could not be filled immediately, the FOK order has been rejected.")
        order.created_ms = order.updated_ms = self.quotes.now_ms()
        order.sequence = next(self._sequence)
        mine.open[order.id] = mine.all[order.id] = order
        mine.clients[order.s, order.client_id] = order
        self.sink.order_event(order, "NEW", None)
        self._take(order, bound)
        self._settle_rest(order)
        self._flush()

    def _settle_rest(self, order: Order) -> None:
        if not order.is_open:
            return
        if self._pointless(order):
            self._finish(order, "expire", "EXPIRED", "6" if order.tif == "GTE_GTC" else "4")
        elif order.type == "MARKET":
            self._finish(order, "expire", "EXPIRED", "9")
        elif order.tif in ("IOC", "FOK"):
            self._finish(order, "expire", "EXPIRED", "2")
        else:
            key = -order.price if order.sign > 0 else order.price
            insort(self.books.setdefault((order.s, order.sign), []), (key, order.sequence, order))

    def _bound(self, order: Order) -> int:
        """Return the worst price at which the order may trade."""
        if order.type == "LIMIT":
            return order.price
        item = self.ledger.instruments[order.s]
        mark = self.quotes.mark(order.s) // 10 ** (8 - item.price_decimals)
        if order.sign > 0:
            return mark * (10_000 + item.take_bound_bps) // 10_000
        return -(-mark * (10_000 - item.take_bound_bps) // 10_000)

    def _reducible(self, order: Order) -> int:
        """Return how much of the order would reduce the position it is for."""
        position = order.account.positions.get((order.s, order.position_side))
        return max(0, -order.sign * position.qty) if position else 0

    def _pointless(self, order: Order) -> bool:
        """Whether the order may only reduce, or lives only with a position, and there is none for it."""
        return (order.closing or order.tif == "GTE_GTC") and self._reducible(order) <= 0

    def _crosses(self, order: Order) -> bool:
        bids, asks, _ = self.quotes.levels(order.s)
        outside = (asks if order.sign > 0 else bids)[:1]
        resting = self.books.get((order.s, -order.sign))
        prices = [price for price, _ in outside] + ([resting[0][2].price] if resting else [])
        return any(order.sign * (order.price - price) >= 0 for price in prices)

    def _available(self, order: Order, bound: int) -> int:
        outside, used = self._outside(order.s, order.sign)
        total = sum(qty - used.get(price, 0) for price, qty in outside if order.sign * (bound - price) >= 0)
        for _, _, maker in self.books.get((order.s, -order.sign), ()):
            if order.sign * (bound - maker.price) >= 0 and maker.account is not order.account:
                total += maker.remaining
        return total

    def _outside(self, s: int, sign: int) -> tuple[Levels, dict[int, int]]:
        """Return the market's levels that an order of `sign` meets, and what this book update has already given."""
        bids, asks, update_id = self.quotes.levels(s)
        state = self._used.get(s)
        if state is None or state[0] != update_id:
            state = self._used[s] = (update_id, {})
        return (asks if sign > 0 else bids), state[1]

    def _take(self, order: Order, bound: int) -> None:
        outside, used = self._outside(order.s, order.sign)
        level = 0
        while order.is_open and order.remaining:
            while level < len(outside) and outside[level][1] <= used.get(outside[level][0], 0):
                level += 1
            price = outside[level][0] if level < len(outside) else None
            resting = self.books.get((order.s, -order.sign))
            maker = resting[0][2] if resting else None
            if maker is not None and (price is None or order.sign * (maker.price - price) < 0):
                price = maker.price
            else:
                maker = None
            if price is None or order.sign * (bound - price) < 0:
                return
            qty = order.remaining if not order.closing else min(order.remaining, self._reducible(order))
            if qty <= 0:
                return
            if maker is None:
                qty = min(qty, outside[level][1] - used.get(price, 0))
                used[price] = used.get(price, 0) + qty
                self._trade_outside(order, qty, price, maker=False)
            elif maker.account is order.account and order.stp != "NONE":
                self._self_trade(order, maker)
            else:
                qty = min(qty, self._fillable(maker))
                if qty <= 0:
                    self._finish(maker, "expire", "EXPIRED", "4")
                else:
                    self._trade_inside(order, maker, qty, price)

    def _fillable(self, maker: Order) -> int:
        return min(maker.remaining, self._reducible(maker)) if maker.closing else maker.remaining

    def _self_trade(self, order: Order, maker: Order) -> None:
        if order.stp in ("EXPIRE_MAKER", "EXPIRE_BOTH"):
            self._finish(maker, "self_trade", "EXPIRED", "1")
        if order.stp in ("EXPIRE_TAKER", "EXPIRE_BOTH"):
            self._finish(order, "self_trade", "EXPIRED", "3" if order.tif == "IOC" else "1")

    # --- executing ---

    def _trade_outside(self, order: Order, qty: int, price: int, maker: bool) -> None:
        now_ms = self.quotes.now_ms()
        self.ledger.trade(self.ledger.own["market"], order.s, "BOTH", -order.sign * qty, price, now_ms)
        self._apply(order, qty, price, maker, next(self._trade_ids))

    def _trade_inside(self, taker: Order, maker: Order, qty: int, price: int) -> None:
        number = next(self._trade_ids)
        self._apply(maker, qty, price, True, number)
        self._apply(taker, qty, price, False, number)

    def _apply(self, order: Order, qty: int, price: int, maker: bool, number: int) -> None:
        now_ms = self.quotes.now_ms()
        liquidation = order.client_id.startswith(("autoclose-", "adl_autoclose", "settlement_autoclose-"))
        fill = self.ledger.fill(
            order.account,
            order.s,
            order.position_side,
            order.sign * qty,
            price,
            maker,
            now_ms,
            fee_ppm=0 if liquidation else None,
        )
        fill.trade_id = number
        order.filled += qty
        order.filled_value += qty * price
        order.updated_ms = now_ms
        order.on("fill" if order.remaining else "fill_rest")
        if not order.is_open:
            self._close(order)
        self.of(order.account).trades.append((order, fill, now_ms))
        self._touched[order.account.key, order.s, order.position_side] = (order.account, order.s, order.position_side)
        self.sink.order_event(order, "CALCULATED" if liquidation else "TRADE", fill)

    def _finish(self, order: Order, event: str, execution: str, reason: str) -> None:
        order.on(event)
        order.reason = reason
        order.updated_ms = self.quotes.now_ms()
        self._close(order)
        self.sink.order_event(order, execution, None)

    def _close(self, order: Order) -> None:
        mine = self.of(order.account)
        if mine.open.pop(order.id, None) is None:
            return
        mine.clients.pop((order.s, order.client_id), None)
        mine.closed.append(order.id)
        if len(mine.closed) > CLOSED_KEPT:
            mine.all.pop(mine.closed.popleft(), None)
        book = self.books.get((order.s, order.sign))
        if book:
            key = -order.price if order.sign > 0 else order.price
            at = bisect_left(book, (key, order.sequence))  # type: ignore[type-var]
            if at < len(book) and book[at][2] is order:
                del book[at]

    def _flush(self) -> None:
        """Knock out reduce-only orders without a position, then tell who was touched."""
        touched, self._touched = list(self._touched.values()), {}
        by_account: dict[str, tuple[Account, list[tuple[int, str]]]] = {}
        for account, s, side in touched:
            by_account.setdefault(account.key, (account, []))[1].append((s, side))
            for order in list(self.of(account).open.values()):
                if order.s == s and order.position_side == side and self._pointless(order):
                    self._finish(order, "expire", "EXPIRED", "6" if order.tif == "GTE_GTC" else "4")
        for account, keys in by_account.values():
            self.sink.account_event(account, "ORDER", keys)

    # --- the rest of an order's life ---

    def find(self, account: Account, s: int, order_id: int | None, client_id: str | None) -> Order | None:
        """Return an order of the account by id, or by client id (open before closed, newest first)."""
        mine = self.of(account)
        if order_id is not None:
            order = mine.all.get(order_id)
            return order if order is not None and order.s == s else None
        if client_id is None:
            return None
        order = mine.clients.get((s, client_id))
        if order is not None:
            return order
        same = (order for order in reversed(mine.all.values()) if order.s == s and order.client_id == client_id)
        return next(same, None)

    def cancel(self, order: Order) -> None:
        """Cancel an open order. Raises −2011 otherwise."""
        if not order.is_open:
            raise Refusal(-2011, "Unknown order sent.")
        self._finish(order, "cancel", "CANCELED", "0")

    def expire(self, order: Order, reason: str) -> None:
        """Take an open order away for the exchange's own reasons (er)."""
        if order.is_open:
            self._finish(order, "expire", "EXPIRED", reason)

    def amend(self, order: Order, qty: int, price: int) -> None:
        """Change quantity and price: keeps the id, loses the place in the queue."""
        if not order.is_open:
            raise Refusal(-2013, "Order does not exist.")
        if order.type != "LIMIT":
            raise Refusal(-5025, "Only limit order is supported.")
        if (qty, price) == (order.qty, order.price):
            raise Refusal(-5027, "No need to modify the order.")
        if order.amendments >= 10_000:
            raise Refusal(-5026, "Exceed maximum modify order limit.")
        book = self.books.get((order.s, order.sign), [])
        self.books[order.s, order.sign] = [entry for entry in book if entry[2] is not order]
        before = (order.qty, order.price)
        order.qty, order.price = qty, price
        if qty <= order.filled or (order.tif == "GTX" and self._crosses(order)):
            order.qty, order.price = before
            self._finish(order, "cancel", "CANCELED", "0")
            return
        order.amendments += 1
        order.history = [*order.history[-99:], (self.quotes.now_ms(), before, (qty, price))]
        order.stp = "NONE"
        order.sequence = next(self._sequence)
        order.updated_ms = self.quotes.now_ms()
        order.on("amend")
        self.sink.order_event(order, "AMENDMENT", None)
        self._take(order, order.price)
        self._settle_rest(order)
        self._flush()

    def on_book(self, s: int) -> None:
        """Match the resting orders of a symbol against the market's book as it is now, and expire what is due."""
        now_ms = self.quotes.now_ms()
        for sign in (1, -1):
            book = self.books.get((s, sign))
            if not book:
                continue
            outside, used = self._outside(s, sign)
            for price, qty in outside:
                left = qty - used.get(price, 0)
                while left > 0 and book and sign * (book[0][2].price - price) >= 0:
                    order = book[0][2]
                    amount = min(left, self._fillable(order))
                    if amount <= 0:
                        self._finish(order, "expire", "EXPIRED", "4")
                        continue
                    left -= amount
                    used[price] = used.get(price, 0) + amount
                    self._trade_outside(order, amount, order.price, maker=True)
                if not book or sign * (book[0][2].price - price) < 0:
                    break
            for _, _, order in list(book):
                if order.gtd_ms and now_ms >= order.gtd_ms:
                    self._finish(order, "expire", "EXPIRED", "0")
        self._flush()

    def position(self, account: Account, s: int, side: str) -> Position | None:
        """Return the account's position, if it ever had one."""
        return account.positions.get((s, side))

    def instrument(self, s: int) -> Instrument:
        """Return the listing of a symbol."""
        return self.ledger.instruments[s]

    def book_forced(self, order: Order, price: int) -> None:
        """Book a forced execution of the whole order at `price`; who takes the other side is the caller's business."""
        order.created_ms = order.updated_ms = self.quotes.now_ms()
        mine = self.of(order.account)
        mine.open[order.id] = mine.all[order.id] = order
        self.sink.order_event(order, "NEW", None)
        self._apply(order, order.qty, price, False, next(self._trade_ids))
        self._touched.clear()
