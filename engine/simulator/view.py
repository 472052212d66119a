"""What REST queries show: copies of state that arrive some time after the state itself has changed."""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, deque
from typing import Any

from engine.simulator.delays import Delays, Scheduler
from engine.simulator.ledger import Account, Fill, Ledger
from engine.simulator.matching import CLOSED_KEPT
from engine.simulator.orders import Order

INCOME_KEPT = 20_000


class AccountView:
    """One account as queries know it."""

    def __init__(self, account: Account) -> None:
        self.account = snapshot(account)
        self.orders: OrderedDict[int, Order] = OrderedDict()
        self.trades: deque[tuple[Order, Fill, int]] = deque(maxlen=CLOSED_KEPT)
        self.income: deque[dict[str, Any]] = deque(maxlen=INCOME_KEPT)

    def open_orders(self, s: int | None = None) -> list[Order]:
        """Return the open orders, oldest first."""
        return [order for order in self.orders.values() if order.is_open and s in (None, order.s)]

    def find(self, s: int, order_id: int | None, client_id: str | None) -> Order | None:
        """Return an order by id or by client id (open before closed, newest first)."""
        if order_id is not None:
            order = self.orders.get(order_id)
            return order if order is not None and order.s == s else None
        same = [order for order in self.orders.values() if order.s == s and order.client_id == client_id]
        return next((order for order in same if order.is_open), same[-1] if same else None)

    def keep(self, order: Order) -> None:
        """Store the newest copy of an order."""
        self.orders[order.id] = order
        while len(self.orders) > CLOSED_KEPT:
            oldest = next(iter(self.orders.values()))
            if oldest.is_open:
                break
            self.orders.popitem(last=False)


class Views:
    """The lagging read model of all accounts."""

    def __init__(self, ledger: Ledger, scheduler: Scheduler, delays: Delays) -> None:
        self.ledger = ledger
        self.scheduler = scheduler
        self.delays = delays
        self.by_key: dict[str, AccountView] = {}

    def of(self, account: Account) -> AccountView:
        """Return the account's view."""
        found = self.by_key.get(account.key)
        if found is None:
            found = self.by_key[account.key] = AccountView(account)
        return found

    def _later(self, account: Account, call: Any) -> None:
        self.scheduler.at(self.delays.in_order((account.key, "view"), self.scheduler.now(), "view"), call)

    def order(self, order: Order, fill: Fill | None) -> None:
        """Let an order's present state (and its fill) become visible."""
        view, seen, now_ms = self.of(order.account), dataclasses.replace(order), order.updated_ms

        def apply() -> None:
            view.keep(seen)
            if fill is not None:
                view.trades.append((seen, fill, now_ms))

        self._later(order.account, apply)

    def refresh(self, account: Account) -> None:
        """Let the account's present wallet, positions and settings become visible."""
        view, seen = self.of(account), snapshot(account)

        def apply() -> None:
            view.account = seen

        self._later(account, apply)

    def at_once(self, account: Account) -> None:
        """Show the account's settings now (a switch is visible to the query that follows it)."""
        view = self.of(account)
        view.account.settings = copy.deepcopy(account.settings)
        view.account.hedge, view.account.multi_assets = account.hedge, account.multi_assets

    def earned(self, account: Account, row: dict[str, Any]) -> None:
        """Let an income row become visible."""
        view = self.of(account)
        self._later(account, lambda: view.income.append(row))


def snapshot(account: Account) -> Account:
    """Return a copy of the account's numbers."""
    return dataclasses.replace(
        account,
        positions={key: dataclasses.replace(position) for key, position in account.positions.items()},
        settings={s: dataclasses.replace(setting) for s, setting in account.settings.items()},
    )
