"""From request parameters to orders: the gateway's checks and filters, in the exchange's order and with its codes."""

from __future__ import annotations

import re
import secrets

from engine.simulator.algos import ALGO_TYPES, STOPS, TAKES, TRAILING, Algo
from engine.simulator.errors import Refusal
from engine.simulator.instruments import MONEY, Instrument, plain
from engine.simulator.ledger import Account
from engine.simulator.orders import Order
from engine.simulator.params import Params
from engine.simulator.venue import Venue

CLIENT_ID = re.compile(r"^[\.A-Z\:/a-z0-9_-]{1,36}$")
RESERVED = ("autoclose-", "adl_autoclose", "settlement_autoclose-")
LIMIT_TIFS = ("GTC", "IOC", "FOK", "GTX", "GTD", "RPI")
STP_MODES = ("NONE", "EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH")
MATCHES = ("NONE", "OPPONENT", "OPPONENT_5", "OPPONENT_10", "OPPONENT_20", "QUEUE", "QUEUE_5", "QUEUE_10", "QUEUE_20")
WORKING = ("CONTRACT_PRICE", "MARK_PRICE")
GTD_LEAST_MS = 600_000
GTD_MOST_MS = 253_402_300_799_000


def symbol_index(venue: Venue, params: Params) -> int:
    """Return the symbol's index, or refuse."""
    s = venue.tape.market.index.get(params.text("symbol"))
    if s is None:
        raise Refusal(-1121, "Invalid symbol.")
    return s


def _sign(params: Params) -> int:
    side = params.text("side")
    if side not in ("BUY", "SELL"):
        raise Refusal(-1117, "Invalid side.")
    return 1 if side == "BUY" else -1


def _side(params: Params, account: Account) -> str:
    side = params.optional("positionSide") or "BOTH"
    if side not in ("BOTH", "LONG", "SHORT"):
        raise Refusal(-1130, "Data sent for parameter 'positionSide' is not valid.")
    if (side == "BOTH") == account.hedge:
        raise Refusal(-4061, "Order's position side does not match user's setting.")
    return side


def client_id(params: Params, name: str) -> str:
    """Return the client's own id, or a generated one."""
    value = params.optional(name)
    if value is None:
        return secrets.token_urlsafe(16)
    if not CLIENT_ID.match(value) or value.startswith(RESERVED):
        raise Refusal(-4015, "Client order id is not valid.")
    return value


def _choice(params: Params, name: str, allowed: tuple[str, ...], default: str) -> str:
    value = params.optional(name) or default
    if value not in allowed:
        raise Refusal(-1130, f"Data sent for parameter '{name}' is not valid.")
    return value


def _quantity(params: Params, item: Instrument, market: bool) -> int:
    params.text("quantity")
    qty = params.units("quantity", item.qty_decimals) or 0
    if qty <= 0:
        raise Refusal(-4003, "Quantity less than or equal to zero.")
    if qty < item.step:
        raise Refusal(-4004, "Quantity less than min quantity.")
    if qty > (item.market_max_qty if market else item.max_qty):
        raise Refusal(-4005, "Quantity greater than max quantity.")
    if qty % item.step:
        raise Refusal(-4023, "Quantity not increased by step size.")
    return qty


def _price_units(params: Params, name: str, item: Instrument) -> int:
    params.text(name)
    price = params.units(name, item.price_decimals) or 0
    if price <= 0:
        raise Refusal(
            -4001 if name == "price" else -4006, f"{'Price' if name == 'price' else 'Stop price'} less than 0."
        )
    if price > item.max_price:
        raise Refusal(-4002, "Price greater than max price.")
    if price < item.min_price:
        raise Refusal(-4013, f"Price less than min price: {plain(item.min_price, item.price_decimals)}.")
    if price % item.tick:
        raise Refusal(-4014, "Price not increased by tick size.")
    return price


def percent_price(venue: Venue, s: int, sign: int, price: int) -> None:
    """Refuse a limit price too far beyond the mark."""
    item = venue.instrument(s)
    mark = venue.mark(s) // 10 ** (8 - item.price_decimals)
    up = mark * (10_000 + item.percent_price_bps) // 10_000
    down = -(-mark * (10_000 - item.percent_price_bps) // 10_000)
    if sign > 0 and price > up:
        raise Refusal(-4016, f"Limit price can't be higher than {plain(up, item.price_decimals)}.")
    if sign < 0 and price < down:
        raise Refusal(-4024, f"Limit price can't be lower than {plain(down, item.price_decimals)}.")


def min_notional(venue: Venue, s: int, qty: int, price: int, code: int = -4164) -> None:
    """Refuse an order that is too small."""
    item = venue.instrument(s)
    if qty * price * item.notional_scale < item.min_notional_usdt * MONEY:
        least = item.min_notional_usdt
        raise Refusal(code, f"Order's notional must be no smaller than {least} (unless you choose reduce only).")


def _matched_price(venue: Venue, s: int, sign: int, match: str) -> int:
    bids, asks, _ = venue.levels(s)
    own, other = (bids, asks) if sign > 0 else (asks, bids)
    side, _, depth = match.partition("_")
    levels = other if side == "OPPONENT" else own
    at = int(depth or 1) - 1
    if at >= len(levels):
        raise Refusal(-5041, "No depth matches this BBO order.")
    return levels[at][0]


def _good_till(params: Params, tif: str, now_ms: int) -> int:
    if tif != "GTD":
        return 0
    params.text("goodTillDate")
    value = params.integer("goodTillDate", None, 0, 10**16)
    if not now_ms + GTD_LEAST_MS < value < GTD_MOST_MS:
        message = "The goodTillDate timestamp must be greater than the current time plus 600 seconds and smaller than "
        raise Refusal(-5040, message + str(GTD_MOST_MS))
    return value // 1_000 * 1_000


def build_order(venue: Venue, account: Account, params: Params, stp_default: str = "EXPIRE_MAKER") -> Order:
    """Return a checked LIMIT or MARKET order that is not yet in matching."""
    s = symbol_index(venue, params)
    item, sign = venue.instrument(s), _sign(params)
    kind = params.text("type")
    if kind in ALGO_TYPES:
        message = "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead."
        raise Refusal(-4120, message)
    if kind not in ("LIMIT", "MARKET"):
        raise Refusal(-1116, "Invalid orderType.")
    side = _side(params, account)
    reduce_only = params.boolean("reduceOnly")
    if reduce_only and account.hedge:
        raise Refusal(-1106, "Parameter 'reduceonly' sent when not required.")
    if params.boolean("closePosition"):
        raise Refusal(-4136, "Target strategy invalid for orderType 'MARKET', closePosition 'true'.")
    market = kind == "MARKET"
    tif, price, match = _terms(venue, params, s, sign, market)
    qty = _quantity(params, item, market)
    gtd_ms = _good_till(params, tif, venue.now_ms())
    order = Order(
        venue.matcher.next_id(), account, s, client_id(params, "newClientOrderId"), sign, kind, tif, qty, price,
        reduce_only=reduce_only, position_side=side, stp=_choice(params, "selfTradePreventionMode", STP_MODES,
        stp_default), price_match=match, gtd_ms=gtd_ms,
    )  # fmt: skip
    if not order.closing:
        mark = venue.mark(s) // 10 ** (8 - item.price_decimals)
        min_notional(venue, s, qty, price or mark)
    if len([o for o in venue.matcher.of(account).open.values() if o.s == s]) >= item.max_orders:
        raise Refusal(-2025, "Reach max open order limit.")
    return order


def _terms(venue: Venue, params: Params, s: int, sign: int, market: bool) -> tuple[str, int, str]:
    """Return (time in force, price, price match), checked."""
    item = venue.instrument(s)
    match = _choice(params, "priceMatch", MATCHES, "NONE")
    if market:
        for name in ("timeInForce", "price"):
            if params.has(name):
                raise Refusal(-1106, f"Parameter '{name}' sent when not required.")
        if match != "NONE":
            raise Refusal(-5038, "Price match only supports order type: LIMIT, STOP AND TAKE_PROFIT.")
        bids, asks, _ = venue.levels(s)
        best = (asks if sign > 0 else bids)[:1]
        mark = venue.mark(s) / 10 ** (8 - item.price_decimals)
        if not best or sign * (best[0][0] / mark - 1) * 10_000 > item.take_bound_bps:
            message = "The counterparty's best price does not meet the PERCENT_PRICE filter limit."
            raise Refusal(-4131, message)
        return "GTC", 0, match
    tif = params.text("timeInForce")
    if tif not in LIMIT_TIFS:
        raise Refusal(-1115, "Invalid timeInForce.")
    if match != "NONE":
        if params.has("price"):
            raise Refusal(-1106, "Parameter 'price' sent when not required.")
        price = _matched_price(venue, s, sign, match)
    else:
        price = _price_units(params, "price", item)
    percent_price(venue, s, sign, price)
    return tif, price, match


def amend_terms(venue: Venue, order: Order, params: Params) -> tuple[int, int]:
    """Return the checked (quantity, price) of a modification."""
    item = venue.instrument(order.s)
    if _sign(params) != order.sign:
        raise Refusal(-1117, "Invalid side.")
    if params.boolean("reduceOnly") and not order.reduce_only:
        raise Refusal(-5047, "The original order is not a reduce-only order")
    match = _choice(params, "priceMatch", MATCHES, "NONE")
    if match != "NONE" and not params.has("price"):
        price = _matched_price(venue, order.s, order.sign, match)
    else:
        price = _price_units(params, "price", item)
    qty = _quantity(params, item, False)
    percent_price(venue, order.s, order.sign, price)
    if not order.closing:
        min_notional(venue, order.s, qty, price, -5029)
    return qty, price


def build_algo(venue: Venue, account: Account, params: Params) -> Algo:
    """Return a checked conditional order that the algo service has not seen yet."""
    if params.text("algoType") != "CONDITIONAL":
        raise Refusal(-1130, "Data sent for parameter 'algoType' is not valid.")
    s = symbol_index(venue, params)
    item, sign = venue.instrument(s), _sign(params)
    kind = params.text("type")
    if kind not in ALGO_TYPES:
        raise Refusal(-1116, "Invalid orderType.")
    side = _side(params, account)
    close, reduce_only = params.boolean("closePosition"), params.boolean("reduceOnly")
    market = kind.endswith("MARKET")
    if close:
        _check_close(params, kind, side, sign)
    if reduce_only and account.hedge:
        raise Refusal(-1106, "Parameter 'reduceonly' sent when not required.")
    tif = params.optional("timeInForce") or "GTC"
    if tif not in (*LIMIT_TIFS, "GTE_GTC"):
        raise Refusal(-1115, "Invalid timeInForce.")
    algo = Algo(
        venue.algos.next_id(), account, s, client_id(params, "clientAlgoId"), sign, kind,
        "GTE_GTC" if close else tif, 0 if close else _quantity(params, item, market), position_side=side,
        working_type=_choice(params, "workingType", WORKING, "CONTRACT_PRICE"), close_position=close,
        reduce_only=reduce_only, price_protect=params.boolean("priceProtect"),
        stp=_choice(params, "selfTradePreventionMode", STP_MODES, "NONE"),
        price_match=_choice(params, "priceMatch", MATCHES, "NONE"), gtd_ms=_good_till(params, tif, venue.now_ms()),
    )  # fmt: skip
    if kind in (*STOPS, *TAKES):
        algo.trigger = _price_units(params, "triggerPrice", item)
        if not market and algo.price_match == "NONE":
            algo.price = _price_units(params, "price", item)
        elif not market:
            algo.price = _matched_price(venue, s, sign, algo.price_match)
    if kind == TRAILING:
        callback = params.units("callbackRate", 2)
        if callback is None:
            params.text("callbackRate")
        if callback is None or not 10 <= callback <= 2_000:
            raise Refusal(-2007, "Invalid callBack rate.")
        algo.callback_ppm = callback * 100
        algo.activate = _price_units(params, "activatePrice", item) if params.has("activatePrice") else 0
    if not close and not reduce_only:
        min_notional(venue, s, algo.qty, algo.price or algo.trigger or venue.last_price(s))
    return algo


def _check_close(params: Params, kind: str, side: str, sign: int) -> None:
    if not kind.endswith("_MARKET") or kind == TRAILING:
        raise Refusal(-4136, f"Target strategy invalid for orderType '{kind}', closePosition 'true'.")
    if params.has("quantity"):
        raise Refusal(-4137, "Quantity must be zero with closePosition equals true.")
    if params.has("reduceOnly"):
        raise Refusal(-4138, "Reduce only must be true with closePosition equals true.")
    if (side, sign) in (("LONG", 1), ("SHORT", -1)):
        raise Refusal(-2022, "ReduceOnly Order is rejected.")
