"""Who owns what: wallets and positions of every account and of the exchange's own books, in integers.

Money is an integer of 10^-8 USDT, a price × quantity is turned into money by the instrument's
`notional_scale`. A position keeps its signed cost, not an average price, so nothing is ever rounded away:
every trade moves exactly price × quantity between two entities, every fee and funding payment is the same
integer on both sides. `total()` is therefore constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.simulator.instruments import MONEY, Bracket, Instrument

MAKER_PPM = 200
TAKER_PPM = 500
LIQUIDATION_PPM = 12_500
PositionKey = tuple[int, str]


@dataclass(slots=True)
class Position:
    """One position of one symbol and side ("BOTH", "LONG", "SHORT"); `qty` is signed, `cost` signed money."""

    qty: int = 0
    cost: int = 0
    fees: int = 0  # of the open part: what break-even adds to the entry
    isolated_wallet: int = 0
    realised: int = 0  # accumulated, before fees
    updated_ms: int = 0


@dataclass(slots=True)
class SymbolSetting:
    """An account's choices for one symbol."""

    leverage: int = 20
    isolated: bool = False


@dataclass
class Account:
    """One account, or one of the exchange's own books. `wallet` is the whole wallet, isolated parts included."""

    key: str
    secret: str = field(default="", repr=False)
    wallet: int = 0
    alias: str = ""
    hedge: bool = False
    multi_assets: bool = False
    positions: dict[PositionKey, Position] = field(default_factory=dict)
    settings: dict[int, SymbolSetting] = field(default_factory=dict)
    updated_ms: int = 1
    can_trade: bool = True
    in_liquidation: bool = False

    def position(self, s: int, side: str) -> Position:
        """Return the position, created flat when there is none."""
        found = self.positions.get((s, side))
        if found is None:
            found = self.positions[s, side] = Position()
        return found

    def setting(self, s: int) -> SymbolSetting:
        """Return leverage and margin type of a symbol."""
        found = self.settings.get(s)
        if found is None:
            found = self.settings[s] = SymbolSetting()
        return found

    @property
    def cross_wallet(self) -> int:
        """The wallet without what is locked in isolated positions."""
        return self.wallet - sum(position.isolated_wallet for position in self.positions.values())


@dataclass(slots=True)
class Fill:
    """What a trade did to one side: realised profit and fee in money, and whether it opened or closed."""

    realised: int
    fee: int
    qty: int
    price: int
    trade_id: int
    maker: bool


class Ledger:
    """All entities. The exchange's own: `market` (the other side of every outside trade), fees, insurance,
    funding, rounding."""

    OWN = ("market", "fees", "insurance", "funding", "rounding")

    def __init__(self, instruments: list[Instrument], insurance: int = 1_000_000 * MONEY) -> None:
        self.instruments = instruments
        self.accounts: dict[str, Account] = {}
        self.keys: dict[str, str] = {}  # further API keys → the key that names their account
        self.own = {name: Account(key=f"#{name}") for name in self.OWN}
        self.own["insurance"].wallet = insurance
        self.transfers: list[tuple[str, int]] = []

    def open_account(self, key: str, secret: str, usdt: int) -> Account:
        """Add an account with a wallet of `usdt` whole USDT."""
        account = Account(key=key, secret=secret, wallet=usdt * MONEY, alias=f"SgsR{len(self.accounts):02d}")
        self.accounts[key] = account
        return account

    def total(self) -> int:
        """Return wallets minus position costs over all entities: constant but for deposits, whatever is traded."""
        entities = [*self.accounts.values(), *self.own.values()]
        return sum(entity.wallet - sum(position.cost for position in entity.positions.values()) for entity in entities)

    def open_quantity(self, s: int) -> int:
        """Return the sum of all positions of a symbol over all entities: always 0."""
        entities = [*self.accounts.values(), *self.own.values()]
        return sum(p.qty for entity in entities for (row, _), p in entity.positions.items() if row == s)

    # --- movements ---

    def move(self, payer: Account, receiver: Account, amount: int) -> None:
        """Move money between two wallets; a negative amount moves it back."""
        payer.wallet -= amount
        receiver.wallet += amount

    def trade(self, account: Account, s: int, side: str, signed_qty: int, price: int, now_ms: int) -> int:
        """Book one side of a trade; returns the realised profit. The other side must be booked as well."""
        position = account.position(s, side)
        scale = self.instruments[s].notional_scale
        value = signed_qty * price * scale
        realised = 0
        before = position.qty
        if before == 0 or (before > 0) == (signed_qty > 0):
            position.qty += signed_qty
            position.cost += value
            self._fund_isolated(account, s, position, abs(value))
        else:
            closed = min(abs(signed_qty), abs(before))
            part = closed if signed_qty > 0 else -closed
            released = position.cost * closed // abs(before)
            realised = -(part * price * scale) - released
            account.wallet += realised
            freed = position.isolated_wallet * closed // abs(before)
            position.fees -= position.fees * closed // abs(before)
            position.isolated_wallet -= freed
            position.qty += part
            position.cost -= released
            position.realised += realised
            rest = signed_qty - part
            if rest:  # through zero: the rest opens the other way
                position.fees = 0
                position.qty, position.cost = rest, rest * price * scale
                self._fund_isolated(account, s, position, abs(position.cost))
        position.updated_ms = account.updated_ms = now_ms
        return realised

    def _fund_isolated(self, account: Account, s: int, position: Position, value: int) -> None:
        setting = account.setting(s)
        if setting.isolated:
            position.isolated_wallet += value // setting.leverage

    def fill(self, account: Account, s: int, side: str, signed_qty: int, price: int, maker: bool, now_ms: int,
             fee_ppm: int | None = None) -> Fill:  # fmt: skip
        """Book an account's side of a trade with its fee (rounded up; `fee_ppm` overrides the account's rate)."""
        realised = self.trade(account, s, side, signed_qty, price, now_ms)
        value = abs(signed_qty) * price * self.instruments[s].notional_scale
        rate = fee_ppm if fee_ppm is not None else MAKER_PPM if maker else TAKER_PPM
        fee = -(-value * rate // 1_000_000)
        self.move(account, self.own["fees"], fee)
        account.position(s, side).fees += fee
        return Fill(realised, fee, abs(signed_qty), price, 0, maker)

    # --- what follows from marks; `mark` is 10^-8 USDT per unit of base ---

    def value(self, s: int, qty: int, mark: int) -> int:
        """Return quantity × mark as money (rounded towards zero), signed like the quantity."""
        lot = 10 ** self.instruments[s].qty_decimals
        worth = abs(qty) * mark // lot
        return worth if qty >= 0 else -worth

    def unrealised(self, s: int, position: Position, mark: int) -> int:
        """Return the unrealised profit at `mark`."""
        return self.value(s, position.qty, mark) - position.cost

    def bracket(self, s: int, notional: int) -> Bracket:
        """Return the margin tier of a notional (money)."""
        brackets = self.instruments[s].brackets
        for tier in brackets:
            if notional <= tier.cap_usdt * MONEY:
                return tier
        return brackets[-1]

    def maintenance(self, s: int, qty: int, mark: int) -> int:
        """Return the maintenance margin of a quantity at `mark`."""
        notional = abs(self.value(s, qty, mark))
        tier = self.bracket(s, notional)
        return max(0, notional * tier.maintenance_ppm // 1_000_000 - tier.cum)

    def entry_price(self, s: int, position: Position) -> float:
        """Return the average entry price in USDT, for display."""
        lot = 10 ** self.instruments[s].qty_decimals
        return position.cost / MONEY / (position.qty / lot) if position.qty else 0.0

    def break_even(self, s: int, position: Position) -> float:
        """Return the price at which the position's closing pays its opening fees, for display."""
        lot = 10 ** self.instruments[s].qty_decimals
        return (position.cost + position.fees) / MONEY / (position.qty / lot) if position.qty else 0.0

    def pay_funding(self, account: Account, s: int, position: Position, mark: int, rate: int) -> int:
        """Charge funding at `rate` (10^-8); returns what the account received (negative: paid)."""
        amount = -(self.value(s, position.qty, mark) * rate // 10**8)
        self.move(self.own["funding"], account, amount)
        if account.setting(s).isolated:
            position.isolated_wallet += amount
        return amount
