"""What the exchange does to positions on its own: funding, liquidation, auto-deleveraging, settlement."""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from engine.simulator.algos import AlgoService
from engine.simulator.instruments import MONEY, Instrument, decimal
from engine.simulator.ledger import LIQUIDATION_PPM, Account, Ledger, Position
from engine.simulator.matching import Matcher
from engine.simulator.orders import Order
from engine.simulator.tape import HOUR_MS, Tape
from engine.simulator.userdata import UserData
from engine.simulator.view import Views


class House(Protocol):
    """What it needs of the exchange around it (`engine.simulator.venue.Venue`)."""

    ledger: Ledger
    matcher: Matcher
    algos: AlgoService
    users: UserData
    views: Views
    tape: Tape

    def now_ms(self) -> int:
        """Return exchange time."""
        ...

    def mark(self, s: int) -> int:
        """Return the mark in 10^-8 USDT."""
        ...

    def instrument(self, s: int) -> Instrument:
        """Return a listing."""
        ...

    def income(self, account: Account, kind: str, amount: int, s: int, trade_id: str = "") -> None:
        """Write an income row."""
        ...

    def account_event(self, account: Account, reason: str, keys: list[tuple[int, str]], symbol: str = "") -> None:
        """Publish an ACCOUNT_UPDATE."""
        ...


class Risk:
    """Works on the venue's ledger and matching; called with every step of the market."""

    def __init__(self, venue: House) -> None:
        self.venue = venue
        self.announcements: list[tuple[str, bytes]] = []  # for the public forceOrder streams; taken by the server
        self._numbers = 0

    def exposed(self) -> bool:
        """Return whether some account has a position."""
        accounts = self.venue.ledger.accounts.values()
        return any(position.qty for account in accounts for position in account.positions.values())

    def step(self, before_ms: int, now_ms: int) -> None:
        """Settle funding that fell due in (before, now], then liquidate whoever is under water."""
        hour = now_ms // HOUR_MS
        if before_ms // HOUR_MS < hour:
            for s in range(len(self.venue.ledger.instruments)):
                if hour % self.venue.tape.funding_hours(s) == 0:
                    self.fund(s, self.venue.tape.funding_rate(s, hour * HOUR_MS))
        for account in list(self.venue.ledger.accounts.values()):
            if any(position.qty for position in account.positions.values()):
                self.liquidate_if_due(account)

    def fund(self, s: int, rate: int) -> None:
        """Charge every position of a symbol; `rate` in 10^-8. Longs pay a positive rate."""
        venue, mark = self.venue, self.venue.mark(s)
        for account in venue.ledger.accounts.values():
            for (row, side), position in list(account.positions.items()):
                if row != s or not position.qty:
                    continue
                amount = venue.ledger.pay_funding(account, s, position, mark, rate)
                venue.income(account, "FUNDING_FEE", amount, s)
                keys = [(s, side)] if account.setting(s).isolated else []
                venue.account_event(account, "FUNDING_FEE", keys, venue.instrument(s).symbol)

    # --- liquidation ---

    def liquidate_if_due(self, account: Account) -> None:
        """Liquidate isolated positions one by one, the cross ones together."""
        ledger, mark = self.venue.ledger, self.venue.mark
        unrealised = maintenance = 0
        cross: list[tuple[int, str]] = []
        for (s, side), position in list(account.positions.items()):
            if not position.qty:
                continue
            gain, need = ledger.unrealised(s, position, mark(s)), ledger.maintenance(s, position.qty, mark(s))
            if account.setting(s).isolated:
                if position.isolated_wallet + gain <= need:
                    self._liquidate(account, [(s, side)])
            else:
                unrealised += gain
                maintenance += need
                cross.append((s, side))
        if cross and account.cross_wallet + unrealised <= maintenance:
            self._liquidate(account, cross)

    def _liquidate(self, account: Account, keys: list[tuple[int, str]]) -> None:
        venue = self.venue
        account.in_liquidation = True
        self._margin_call(account, keys)
        symbols = {s for s, _ in keys}
        for order in list(venue.matcher.of(account).open.values()):
            if order.s in symbols:
                venue.matcher.expire(order, "5")
        for algo in venue.algos.open_of(account):
            if algo.s in symbols:
                venue.algos.expire(algo, "")
        for s, side in keys:
            self._close(account, s, side, "autoclose-", LIQUIDATION_PPM)
        self._cover(account, keys)
        account.in_liquidation = False

    def _close(self, account: Account, s: int, side: str, prefix: str, fee_ppm: int) -> None:
        """Close a position against the market, as far as the book and the take bound reach; ADL takes the rest."""
        venue, position = self.venue, account.position(s, side)
        if not position.qty:
            return
        self._numbers += 1
        client_id = f"{prefix}{venue.now_ms()}{self._numbers:06d}"
        sign = -1 if position.qty > 0 else 1
        order = Order(
            venue.matcher.next_id(), account, s, client_id, sign, "LIMIT", "IOC", abs(position.qty),
            self._bound(s, sign), reduce_only=side == "BOTH", position_side=side, orig_type="LIMIT",
        )  # fmt: skip
        value_before = order.filled_value
        venue.matcher.place(order)
        item = venue.instrument(s)
        value = (order.filled_value - value_before) * item.notional_scale
        fee = min(value * fee_ppm // 1_000_000, max(0, account.wallet))
        if fee > 0:
            venue.ledger.move(account, venue.ledger.own["insurance"], fee)
            venue.income(account, "INSURANCE_CLEAR", -fee, s)
        self._announce(order)
        if account.position(s, side).qty:
            self.deleverage(account, s, side)

    def _bound(self, s: int, sign: int) -> int:
        item = self.venue.instrument(s)
        mark = self.venue.mark(s) // 10 ** (8 - item.price_decimals)
        price = mark * (10_000 + sign * item.take_bound_bps) // 10_000
        return max(item.tick, price // item.tick * item.tick)

    def _announce(self, order: Order) -> None:
        item, now_ms = self.venue.instrument(order.s), self.venue.now_ms()
        average = order.filled_value // order.filled if order.filled else order.price
        body = {
            "s": item.symbol, "S": "BUY" if order.sign > 0 else "SELL", "o": "LIMIT", "f": "IOC",
            "q": decimal(order.qty, item.qty_decimals), "p": decimal(order.price, item.price_decimals),
            "ap": decimal(average, item.price_decimals), "X": order.status,
            "l": decimal(order.filled, item.qty_decimals), "z": decimal(order.filled, item.qty_decimals), "T": now_ms,
        }  # fmt: skip
        event = {"e": "forceOrder", "E": now_ms, "o": body}
        self.announcements.append((f"{item.symbol.lower()}@forceOrder", orjson.dumps(event)))
        both = event | {"ps": item.symbol, "st": 1}
        self.announcements.append(("!forceOrder@arr", orjson.dumps(both)))
        del self.announcements[:-1_000]

    def _cover(self, account: Account, keys: list[tuple[int, str]]) -> None:
        """Let the insurance fund pay what the wallet lacks."""
        ledger = self.venue.ledger
        for s, side in keys:
            position = account.position(s, side)
            if not position.qty:
                position.isolated_wallet = 0
        if account.wallet < 0:
            shortfall = -account.wallet
            ledger.move(ledger.own["insurance"], account, shortfall)
            self.venue.income(account, "INSURANCE_CLEAR", shortfall, keys[0][0])
            self.venue.account_event(account, "INSURANCE_CLEAR", [])
        else:
            self.venue.views.refresh(account)

    def _margin_call(self, account: Account, keys: list[tuple[int, str]]) -> None:
        venue = self.venue
        rows = []
        for s, side in keys:
            position, item, mark = account.position(s, side), venue.instrument(s), venue.mark(s)
            rows.append({
                "s": item.symbol, "ps": side, "pa": decimal(position.qty, item.qty_decimals),
                "mt": "ISOLATED" if account.setting(s).isolated else "CROSSED",
                "iw": decimal(position.isolated_wallet, 8), "mp": decimal(mark, 8),
                "up": decimal(venue.ledger.unrealised(s, position, mark), 8),
                "mm": decimal(venue.ledger.maintenance(s, position.qty, mark), 8),
            })  # fmt: skip
        body = {"e": "MARGIN_CALL", "E": venue.now_ms(), "cw": decimal(account.cross_wallet, 8), "p": rows}
        venue.users.publish(account, body)

    def liquidate(self, account: Account) -> None:
        """Liquidate everything the account holds, whatever its margin."""
        keys = [key for key, position in account.positions.items() if position.qty]
        if keys:
            self._liquidate(account, keys)

    def contract_info(self, item: Instrument, brackets: bool) -> None:
        """Announce a changed listing on the contractInfo stream."""
        body: dict[str, Any] = {
            "e": "contractInfo", "E": self.venue.now_ms(), "s": item.symbol, "ct": "PERPETUAL", "dt": item.delivery_ms,
            "ot": item.onboard_ms, "cs": item.status, "st": 1,
        }  # fmt: skip
        if brackets:
            body["bks"] = [
                {"bs": number, "bnf": tier.floor_usdt, "bnc": tier.cap_usdt, "mmr": tier.maintenance_ppm / 1e6,
                 "cf": tier.cum / MONEY, "mi": 1, "ma": min(tier.max_leverage, item.max_leverage)}
                for number, tier in enumerate(item.brackets, 1)
            ]  # fmt: skip
        self.announcements.append(("!contractInfo", orjson.dumps(body)))

    # --- auto-deleveraging and settlement ---

    def deleverage(self, account: Account, s: int, side: str) -> None:
        """Close the rest of a position at the mark against the most profitable opposite positions, then the market."""
        venue, ledger = self.venue, self.venue.ledger
        position = account.position(s, side)
        item = venue.instrument(s)
        price = max(item.tick, venue.mark(s) // 10 ** (8 - item.price_decimals) // item.tick * item.tick)
        others: list[tuple[int, Account, str, Position]] = []
        for other in ledger.accounts.values():
            for (row, other_side), held in other.positions.items():
                if row == s and held.qty * position.qty < 0 and other is not account:
                    others.append((ledger.unrealised(s, held, venue.mark(s)), other, other_side, held))
        for _, other, other_side, held in sorted(others, key=lambda entry: -entry[0]):
            qty = min(abs(held.qty), abs(position.qty))
            if qty:
                self._forced(other, s, other_side, qty, price, "adl_autoclose")
                self._forced(account, s, side, qty, price, "adl_autoclose")
        rest = abs(position.qty)
        if rest:
            sign = 1 if position.qty > 0 else -1
            ledger.trade(ledger.own["market"], s, "BOTH", sign * rest, price, venue.now_ms())
            self._forced(account, s, side, rest, price, "adl_autoclose")

    def settle(self, s: int) -> None:
        """Close every position of a delisted symbol at its mark, cancel what is open, and stop its trading."""
        venue, ledger, item = self.venue, self.venue.ledger, self.venue.instrument(s)
        price = max(item.tick, venue.mark(s) // 10 ** (8 - item.price_decimals) // item.tick * item.tick)
        item.status = "SETTLING"
        for account in list(ledger.accounts.values()):
            for order in list(venue.matcher.of(account).open.values()):
                if order.s == s:
                    venue.matcher.expire(order, "7")
            for algo in venue.algos.open_of(account):
                if algo.s == s:
                    venue.algos.expire(algo, "")
            for (row, side), position in list(account.positions.items()):
                if row == s and position.qty:
                    qty, sign = abs(position.qty), 1 if position.qty > 0 else -1
                    ledger.trade(ledger.own["market"], s, "BOTH", sign * qty, price, venue.now_ms())
                    self._forced(account, s, side, qty, price, f"settlement_autoclose-{venue.now_ms()}")

    def _forced(self, account: Account, s: int, side: str, qty: int, price: int, client_id: str) -> None:
        """Book one forced side of a trade as an order of its own; the other side is booked by the caller."""
        venue = self.venue
        sign = -1 if account.position(s, side).qty > 0 else 1
        order = Order(
            venue.matcher.next_id(), account, s, client_id, sign, "LIMIT", "IOC", qty, price,
            reduce_only=side == "BOTH", position_side=side,
        )  # fmt: skip
        venue.matcher.book_forced(order, price)
        venue.account_event(account, "ORDER", [(s, side)])
