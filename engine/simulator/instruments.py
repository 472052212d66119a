"""What the simulated exchange lists: ticks, steps, limits, margin tiers; all money in integers of stated units.

A price is an integer of 10^-price_decimals, a quantity of 10^-qty_decimals, a notional of 10^-(both). Money in
accounts is an integer of 10^-8 (`MONEY_DECIMALS`), so price_decimals + qty_decimals must not exceed 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MONEY_DECIMALS = 8
MONEY = 10**MONEY_DECIMALS
MARK_DECIMALS = 8

ORDER_TYPES = ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"]
FAR_DELIVERY_MS = 4_133_404_800_000


@dataclass(frozen=True)
class Bracket:
    """One margin tier: notionals in USDT, rates in millionths."""

    floor_usdt: int
    cap_usdt: int
    max_leverage: int
    maintenance_ppm: int
    cum: int  # money units: what keeps the maintenance margin continuous at the floor


@dataclass
class Instrument:
    """One listed contract. Integers in the units of the module's docstring."""

    symbol: str
    base: str
    price_decimals: int
    tick: int
    qty_decimals: int
    step: int
    max_qty: int
    market_max_qty: int
    min_notional_usdt: int
    min_price: int
    max_price: int
    max_leverage: int
    take_bound_bps: int = 500
    percent_price_bps: int = 500
    max_orders: int = 200
    onboard_ms: int = 1_569_398_400_000
    delivery_ms: int = FAR_DELIVERY_MS
    status: str = "TRADING"
    funding_hours: int = 8
    brackets: list[Bracket] = field(default_factory=list)

    @property
    def notional_scale(self) -> int:
        """Money units per unit of price integer × quantity integer."""
        return int(10 ** (MONEY_DECIMALS - self.price_decimals - self.qty_decimals))


# symbol: price decimals, tick, qty decimals, market maximum, minimum notional, maximum leverage, start price
_KNOWN: dict[str, tuple[int, int, int, float, int, int, float]] = {
    "BTCUSDT": (2, 10, 3, 120, 50, 125, 84_000.0),
    "ETHUSDT": (2, 1, 3, 2_000, 20, 100, 3_100.0),
    "SOLUSDT": (4, 100, 2, 10_000, 5, 75, 150.0),
    "XRPUSDT": (4, 1, 1, 800_000, 5, 75, 2.2),
    "BNBUSDT": (3, 10, 2, 2_000, 5, 75, 620.0),
    "DOGEUSDT": (6, 10, 0, 10_000_000, 5, 75, 0.19),
    "ADAUSDT": (5, 10, 0, 2_000_000, 5, 75, 0.61),
    "LINKUSDT": (3, 1, 2, 60_000, 5, 75, 14.8),
}


def start_price(symbol: str, ordinal: int) -> float:
    """Return the first price of a generated symbol, in USDT."""
    known = _KNOWN.get(symbol)
    return known[6] if known else round(0.05 * 1.9 ** (ordinal % 14), 4)


def instrument(symbol: str, price: float, decimals: int | None = None) -> Instrument:
    """Return the listing of `symbol`, from the table or derived from a typical price.

    `decimals`: decimals the source's prices need; the tick is never coarser than the data.
    """
    known = _KNOWN.get(symbol)
    if known is not None:
        price_decimals, tick, qty_decimals, market_max, min_notional, max_leverage, _ = known
        if decimals is not None and decimals > price_decimals:
            price_decimals, tick = decimals, 1
        elif decimals is not None and tick > 1 and 10 ** (price_decimals - decimals) < tick:
            tick = 10 ** (price_decimals - decimals)
    else:
        price_decimals = decimals if decimals is not None else _decimals_for(price)
        tick, min_notional, max_leverage = 1, 5, 50
        qty_decimals = 3 if price > 1_000 else 2 if price > 100 else 1 if price > 1 else 0
        market_max = float(f"{2_000_000 / max(price, 1e-9):.0e}")
    qty_decimals = min(qty_decimals, MONEY_DECIMALS - price_decimals)
    unit, lot = 10**price_decimals, 10**qty_decimals
    return Instrument(
        symbol=symbol,
        base=symbol.removesuffix("USDT"),
        price_decimals=price_decimals,
        tick=tick,
        qty_decimals=qty_decimals,
        step=1,
        max_qty=int(market_max * 8) * lot,
        market_max_qty=max(int(market_max), 1) * lot,
        min_notional_usdt=min_notional,
        min_price=max(tick, int(price * unit / 150) // tick * tick),
        max_price=int(price * unit * 50) // tick * tick,
        max_leverage=max_leverage,
        brackets=tiers(max_leverage),
    )


def _decimals_for(price: float) -> int:
    return 2 if price > 500 else 3 if price > 20 else 4 if price > 1 else 5 if price > 0.1 else 6


def tiers(max_leverage: int) -> list[Bracket]:
    """Return tiers whose shape is the exchange's: each cap a multiple of the last, leverage falling, cum continuous."""
    found: list[Bracket] = []
    floor, cum, last_ppm = 0, 0, 0
    caps = (50_000, 600_000, 3_000_000, 12_000_000, 70_000_000, 100_000_000, 230_000_000, 480_000_000)
    for cap, divisor in zip(caps, (1, 1.25, 1.667, 2.5, 5, 8, 16, 40), strict=True):
        leverage = max(1, int(max_leverage / divisor))
        ppm = max(4_000, 500_000 // leverage)
        cum += floor * MONEY * (ppm - last_ppm) // 1_000_000
        found.append(Bracket(floor, cap, leverage, ppm, cum))
        floor, last_ppm = cap, ppm
    return found


def decimal(value: int, decimals: int) -> str:
    """Return the integer `value` of 10^-decimals as the exchange prints it."""
    if not decimals:
        return str(value)
    sign = "-" if value < 0 else ""
    whole, part = divmod(abs(value), 10**decimals)
    return f"{sign}{whole}.{part:0{decimals}d}"


def plain(value: int, decimals: int) -> str:
    """Return the number without trailing zeros: the form of the filters that carry quantities."""
    text = decimal(value, decimals)
    return text.rstrip("0").rstrip(".") if "." in text else text


def filters(item: Instrument) -> list[dict[str, Any]]:
    """Return the filters of exchangeInfo."""
    step = decimal(item.step, item.qty_decimals)
    up, down = 1 + item.percent_price_bps / 1e4, 1 - item.percent_price_bps / 1e4
    return [
        {
            "filterType": "PRICE_FILTER",
            "tickSize": decimal(item.tick, item.price_decimals),
            "minPrice": decimal(item.min_price, item.price_decimals),
            "maxPrice": plain(item.max_price, item.price_decimals),
        },
        {
            "filterType": "LOT_SIZE",
            "stepSize": step,
            "maxQty": plain(item.max_qty, item.qty_decimals),
            "minQty": step,
        },
        {
            "filterType": "MARKET_LOT_SIZE",
            "minQty": step,
            "stepSize": step,
            "maxQty": plain(item.market_max_qty, item.qty_decimals),
        },
        {"filterType": "MAX_NUM_ORDERS", "limit": item.max_orders},
        {"filterType": "MIN_NOTIONAL", "notional": str(item.min_notional_usdt)},
        {
            "filterType": "PERCENT_PRICE",
            "multiplierUp": f"{up:.4f}",
            "multiplierDown": f"{down:.4f}",
            "multiplierDecimal": "4",
        },
        {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"},
    ]


def listing(item: Instrument) -> dict[str, Any]:
    """Return the symbol's entry of exchangeInfo."""
    return {
        "symbol": item.symbol,
        "pair": item.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": item.delivery_ms,
        "onboardDate": item.onboard_ms,
        "status": item.status,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": item.base,
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "pricePrecision": item.price_decimals,
        "quantityPrecision": item.qty_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": ["PoW"] if item.base == "BTC" else ["Layer-1"],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": f"{item.take_bound_bps / 1e4:.2f}",
        "maxMoveOrderLimit": 10_000,
        "filters": filters(item),
        "orderTypes": ORDER_TYPES,
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        "permissionSets": ["GRID", "COPY"],
    }


def exchange_info(items: list[Instrument], now_ms: int, weight_limit: int, order_limits: tuple[int, int]) -> Any:
    """Return the reply of exchangeInfo."""
    limits = [
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_limit},
        {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": order_limits[1]},
        {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": order_limits[0]},
    ]
    return {
        "timezone": "UTC",
        "serverTime": now_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": limits,
        "exchangeFilters": [],
        "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}],
        "symbols": [listing(item) for item in items],
    }
