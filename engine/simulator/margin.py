"""Margin: what positions and open orders bind, what is left, and how the account endpoints print it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.simulator.instruments import MONEY, decimal
from engine.simulator.ledger import Account, Ledger, Position
from engine.simulator.orders import Order


@dataclass(slots=True)
class SymbolMargin:
    """Money bound by one symbol and side."""

    notional: int = 0
    unrealised: int = 0
    maintenance: int = 0
    position_initial: int = 0
    order_initial: int = 0
    bids: int = 0
    asks: int = 0


@dataclass
class Summary:
    """An account's margins at one moment; all money."""

    wallet: int
    cross_wallet: int
    cross_unrealised: int = 0
    unrealised: int = 0
    maintenance: int = 0
    cross_maintenance: int = 0
    position_initial: int = 0
    order_initial: int = 0
    isolated_initial: int = 0
    parts: dict[tuple[int, str], SymbolMargin] = field(default_factory=dict)

    @property
    def available(self) -> int:
        """What may still be bound by new orders."""
        bound = self.position_initial + self.order_initial - self.isolated_initial
        return max(0, self.cross_wallet + self.cross_unrealised - bound)

    @property
    def balance(self) -> int:
        """Margin balance: wallet and unrealised profit."""
        return self.wallet + self.unrealised


def summarise(ledger: Ledger, account: Account, orders: Iterable[Order], mark: Callable[[int], int]) -> Summary:
    """Return the margins of an account with these open orders at these marks."""
    result = Summary(account.wallet, account.cross_wallet)
    parts = result.parts
    for (s, side), position in account.positions.items():
        if position.qty:
            part = parts[s, side] = SymbolMargin()
            part.notional = ledger.value(s, position.qty, mark(s))
            part.unrealised = part.notional - position.cost
            part.maintenance = ledger.maintenance(s, position.qty, mark(s))
    for order in orders:
        if order.closing:
            continue
        part = parts.setdefault((order.s, order.position_side), SymbolMargin())
        item = ledger.instruments[order.s]
        price = order.price or mark(order.s) // 10 ** (8 - item.price_decimals)
        value = order.remaining * price * item.notional_scale
        if order.sign > 0:
            part.bids += value
        else:
            part.asks += value
    for (s, _), part in parts.items():
        setting = account.setting(s)
        worst = max(abs(part.notional + part.bids), abs(part.notional - part.asks), abs(part.notional))
        part.position_initial = abs(part.notional) // setting.leverage
        part.order_initial = worst // setting.leverage - part.position_initial
        result.unrealised += part.unrealised
        result.maintenance += part.maintenance
        result.position_initial += part.position_initial
        result.order_initial += part.order_initial
        if setting.isolated:
            result.isolated_initial += part.position_initial
        else:
            result.cross_unrealised += part.unrealised
            result.cross_maintenance += part.maintenance
    return result


def liquidation_price(ledger: Ledger, account: Account, summary: Summary, s: int, side: str) -> int:
    """Return the mark (10^-8) at which this position would be liquidated with all else unchanged; 0: never."""
    position = account.positions[s, side]
    part = summary.parts.get((s, side))
    if not position.qty or part is None:
        return 0
    lot = 10 ** ledger.instruments[s].qty_decimals
    tier = ledger.bracket(s, abs(part.notional))
    if account.setting(s).isolated:
        free = position.isolated_wallet
    else:
        free = summary.cross_wallet + summary.cross_unrealised - part.unrealised
        free -= summary.cross_maintenance - part.maintenance
    # free + q·m − cost = |q|·m·rate − cum, solved for m
    signed, rate = position.qty / lot, tier.maintenance_ppm / 1e6
    slope = abs(signed) * rate - signed
    if slope == 0:
        return 0
    price = (free - position.cost + tier.cum) / slope
    return max(0, round(price))


def position_row(ledger: Ledger, account: Account, summary: Summary, s: int, side: str, mark: int,
                 version: int) -> dict[str, Any]:  # fmt: skip
    """Return a row of positionRisk v2 or v3."""
    item = ledger.instruments[s]
    position = account.positions.get((s, side)) or Position()
    part = summary.parts.get((s, side)) or SymbolMargin()
    setting = account.setting(s)
    liquidation = liquidation_price(ledger, account, summary, s, side) if position.qty else 0
    isolated = decimal(position.isolated_wallet + part.unrealised if setting.isolated else 0, 8)
    row: dict[str, Any] = {
        "symbol": item.symbol,
        "positionSide": side,
        "positionAmt": decimal(position.qty, item.qty_decimals),
        "entryPrice": _price(ledger.entry_price(s, position)),
        "breakEvenPrice": _price(ledger.break_even(s, position)),
        "markPrice": decimal(mark, 8),
        "unRealizedProfit": decimal(part.unrealised, 8),
        "liquidationPrice": decimal(liquidation, 8) if liquidation else "0",
        "isolatedMargin": isolated,
        "notional": decimal(part.notional, 8),
        "isolatedWallet": decimal(position.isolated_wallet, 8),
        "updateTime": position.updated_ms,
    }
    if version == 3:
        return row | {
            "marginAsset": "USDT",
            "initialMargin": decimal(part.position_initial + part.order_initial, 8),
            "maintMargin": decimal(part.maintenance, 8),
            "positionInitialMargin": decimal(part.position_initial, 8),
            "openOrderInitialMargin": decimal(part.order_initial, 8),
            "adl": 1 if position.qty else 0,
            "bidNotional": decimal(part.bids, 8),
            "askNotional": decimal(part.asks, 8),
        }
    return row | {
        "marginType": "isolated" if setting.isolated else "cross",
        "isAutoAddMargin": "false",
        "leverage": str(setting.leverage),
        "maxNotionalValue": str(max_notional_usdt(ledger, s, setting.leverage)),
    }


def account_json(ledger: Ledger, account: Account, summary: Summary, version: int) -> dict[str, Any]:
    """Return the body of account v2 or v3."""
    asset = asset_row(account, summary)
    body: dict[str, Any] = {}
    if version == 2:
        body |= {
            "feeTier": 0, "feeBurn": False, "canTrade": account.can_trade, "canDeposit": True, "canWithdraw": True,
            "tradeGroupId": -1, "updateTime": 0, "multiAssetsMargin": account.multi_assets,
        }  # fmt: skip
        asset["marginAvailable"] = True
    body |= {
        "totalInitialMargin": asset["initialMargin"],
        "totalMaintMargin": asset["maintMargin"],
        "totalWalletBalance": asset["walletBalance"],
        "totalUnrealizedProfit": asset["unrealizedProfit"],
        "totalMarginBalance": asset["marginBalance"],
        "totalPositionInitialMargin": asset["positionInitialMargin"],
        "totalOpenOrderInitialMargin": asset["openOrderInitialMargin"],
        "totalCrossWalletBalance": asset["crossWalletBalance"],
        "totalCrossUnPnl": asset["crossUnPnl"],
        "availableBalance": asset["availableBalance"],
        "maxWithdrawAmount": asset["maxWithdrawAmount"],
        "assets": [asset],
    }
    keys = list(summary.parts)
    if version == 2:
        sides = ("LONG", "SHORT") if account.hedge else ("BOTH",)
        keys = [(s, side) for s in range(len(ledger.instruments)) for side in sides]
    body["positions"] = [_account_position(ledger, account, summary, s, side, version) for s, side in keys]
    return body


def _account_position(ledger: Ledger, account: Account, summary: Summary, s: int, side: str,
                      version: int) -> dict[str, Any]:  # fmt: skip
    item = ledger.instruments[s]
    position = account.positions.get((s, side)) or Position()
    part = summary.parts.get((s, side)) or SymbolMargin()
    setting = account.setting(s)
    row: dict[str, Any] = {
        "symbol": item.symbol,
        "positionSide": side,
        "positionAmt": decimal(position.qty, item.qty_decimals),
        "unrealizedProfit": decimal(part.unrealised, 8),
        "isolatedMargin": decimal(position.isolated_wallet + part.unrealised if setting.isolated else 0, 8),
        "notional": decimal(part.notional, 8),
        "isolatedWallet": decimal(position.isolated_wallet, 8),
        "initialMargin": decimal(part.position_initial + part.order_initial, 8),
        "maintMargin": decimal(part.maintenance, 8),
        "updateTime": position.updated_ms,
    }
    if version == 2:
        row |= {
            "positionInitialMargin": decimal(part.position_initial, 8),
            "openOrderInitialMargin": decimal(part.order_initial, 8),
            "leverage": str(setting.leverage),
            "isolated": setting.isolated,
            "entryPrice": _price(ledger.entry_price(s, position)),
            "breakEvenPrice": _price(ledger.break_even(s, position)),
            "maxNotional": str(max_notional_usdt(ledger, s, setting.leverage)),
            "bidNotional": decimal(part.bids, 8),
            "askNotional": decimal(part.asks, 8),
        }
    return row


def asset_row(account: Account, summary: Summary) -> dict[str, Any]:
    """Return the USDT row of the account endpoints. `updateTime` is never 0: some clients skip such assets."""
    available = decimal(summary.available, 8)
    return {
        "asset": "USDT",
        "walletBalance": decimal(summary.wallet, 8),
        "unrealizedProfit": decimal(summary.unrealised, 8),
        "marginBalance": decimal(summary.balance, 8),
        "maintMargin": decimal(summary.maintenance, 8),
        "initialMargin": decimal(summary.position_initial + summary.order_initial, 8),
        "positionInitialMargin": decimal(summary.position_initial, 8),
        "openOrderInitialMargin": decimal(summary.order_initial, 8),
        "crossWalletBalance": decimal(summary.cross_wallet, 8),
        "crossUnPnl": decimal(summary.cross_unrealised, 8),
        "availableBalance": available,
        "maxWithdrawAmount": decimal(max(0, min(summary.available, summary.cross_wallet)), 8),
        "updateTime": max(1, account.updated_ms),
    }


def balance_row(account: Account, summary: Summary) -> dict[str, Any]:
    """Return the USDT row of balance v2/v3."""
    asset = asset_row(account, summary)
    names = ("asset", "crossWalletBalance", "crossUnPnl", "availableBalance", "maxWithdrawAmount", "updateTime")
    body = {"accountAlias": account.alias, "balance": asset["walletBalance"], "marginAvailable": True}
    return body | {name: asset[name] for name in names}


def max_notional_usdt(ledger: Ledger, s: int, leverage: int) -> int:
    """Return the largest notional at a leverage, in whole USDT."""
    caps = [tier.cap_usdt for tier in ledger.instruments[s].brackets if tier.max_leverage >= leverage]
    return max(caps, default=ledger.instruments[s].brackets[0].cap_usdt)


def over_limit(ledger: Ledger, account: Account, s: int, notional: int) -> bool:
    """Return whether a notional (money) is above what the symbol's leverage allows."""
    return notional > max_notional_usdt(ledger, s, account.setting(s).leverage) * MONEY


def _price(value: float) -> str:
    return f"{value:.8f}".rstrip("0").rstrip(".") if value else "0.0"
