"""Simulated execution against the best bid and ask: what a market or IOC limit order would have got."""

from __future__ import annotations

from kernels.compile import kernel


@kernel("UniTuple(float64, 2)(int64, float64, float64, float64, float64, float64, float64)")
def fill(order_side, qty, limit_price, bid, bid_qty, ask, ask_qty):
    """Return (filled quantity, average price) of a taker order of `order_side` (+1 buys, −1 sells).

    limit_price 0: a market order. The best level gives its quantity at its price; what is beyond it pays one more
    spread per further level's worth, linearly (the average of a book whose levels repeat at that distance). A limit
    order stops where the worst price reaches the limit; the rest is not filled. Nothing is filled without a book.
    """
    touch = ask if order_side > 0 else bid
    level = ask_qty if order_side > 0 else bid_qty
    if not (touch > 0.0 and level > 0.0 and qty > 0.0 and ask >= bid > 0.0):
        return 0.0, 0.0
    direction = 1.0 if order_side > 0 else -1.0
    if limit_price > 0.0 and direction * (touch - limit_price) > 0.0:
        return 0.0, 0.0
    spread = ask - bid
    beyond = max(qty / level - 1.0, 0.0)
    if limit_price > 0.0 and spread > 0.0:
        room = direction * (limit_price - touch) / spread  # levels whose price is within the limit
        beyond = min(beyond, room)
    got = min(qty, level * (1.0 + beyond))
    worse = 0.5 * beyond * spread * (beyond / (1.0 + beyond))
    return got, touch + direction * worse
