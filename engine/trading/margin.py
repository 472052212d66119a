"""Maintenance margin by tier, and the price at which a position of a cross-margin account would be liquidated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

LIQUIDATION_ROOM = 0.005  # the exchange stop stands at least this fraction of the price before liquidation


@dataclass(frozen=True)
class Tier:
    """One bracket: up to `cap_usdt` notional, maintenance = rate × notional − deduction."""

    floor_usdt: float
    cap_usdt: float
    rate: float
    deduction_usdt: float
    leverage: int


def read_brackets(answer: Any) -> dict[str, list[Tier]]:
    """Return the tiers by symbol of a leverageBracket answer (a list, or an object when one symbol was asked for)."""
    rows = answer if isinstance(answer, list) else [answer]
    return {
        row["symbol"]: [
            Tier(
                float(b["notionalFloor"]), float(b["notionalCap"]), float(b["maintMarginRatio"]), float(b["cum"]),
                int(b["initialLeverage"]),
            )
            for b in row["brackets"]
        ]
        for row in rows
    }  # fmt: skip


def keep_brackets(path: Path, tiers: dict[str, list[Tier]], now_ms: int) -> None:
    """Write what the account's brackets are as JSON, for control to store: reading them takes a key it never has."""
    partial = path.with_name(path.name + ".new")
    listed = {symbol: [asdict(tier) for tier in found] for symbol, found in tiers.items()}
    partial.write_bytes(orjson.dumps({"time_ms": now_ms, "brackets": listed}))
    partial.replace(path)


def tier_of(tiers: list[Tier], notional_usdt: float) -> Tier:
    """Return the tier of a notional; beyond the last cap, the last."""
    return next((tier for tier in tiers if notional_usdt <= tier.cap_usdt), tiers[-1])


def maintenance_usdt(tiers: list[Tier], notional_usdt: float) -> float:
    """Return the maintenance margin of a notional."""
    tier = tier_of(tiers, notional_usdt)
    return tier.rate * notional_usdt - tier.deduction_usdt


def liquidation_price(
    side: int, qty: float, entry_price: float, tiers: list[Tier], wallet_usdt: float, others_usdt: float = 0.0
) -> float:
    """Return the mark price at which the account's margin meets the maintenance margin, 0.0 if there is none.

    wallet_usdt: wallet plus the other positions' unrealised profit; others_usdt: their maintenance margin. Solves
    wallet + side·qty·(p − entry) − others = rate·qty·p − deduction for p, with the tier of the position's notional.
    """
    tier = tier_of(tiers, qty * entry_price)
    price = (wallet_usdt - others_usdt + tier.deduction_usdt - side * qty * entry_price) / (qty * (tier.rate - side))
    return max(price, 0.0)


def stop_is_before_liquidation(side: int, trigger_price: float, liquidation: float) -> bool:
    """Whether the stop triggers before liquidation, with room for the fill."""
    if liquidation <= 0.0:
        return side > 0
    return side * (trigger_price - liquidation) > LIQUIDATION_ROOM * trigger_price
