"""The exit ladder: an exit goes on until the position is gone, by another route when one stays silent.

First a reduce-only market order (sliced by the exchange's largest market order). No fill event for `second_ms`: a
second one with a new id by the other route; the exchange lets only one of them reduce. A remainder that the market
order left, a price-band refusal: the next round at once, as limit IOC orders at the band's edge. Any other refusal: the
next round as the other kind of order, since the filters of the two differ (a largest market order that was lowered).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from engine.exchange.replies import NOT_DONE_CODES, TOO_MANY
from engine.trading.orders import Order, OrderType
from kernels.records import OrderState, Reason

PRICE_BAND_CODE = -4131
NOTHING_TO_REDUCE = -2022
SYMBOL_CLOSED = -4141
CLOSED_WAIT_MS = 5_000  # the contract is not traded at present: nothing can be exited before it is, or is settled
ROUTES = (0, 1, -1)  # both lanes, then REST
QUICK_ROUNDS = 6  # rounds that follow each other at once; later ones wait SLOW_MS
SLOW_MS = 250
RATE_MS = 1_000  # refused for rate: another round at once would only make it worse
SILENT_AGAIN_MS = 1_000  # after the second order: a further one this often while nobody says anything
DUST_MS = 60_000  # a rest below the step: looked at again this often, in case the step changes back
TRIGGER_WAIT_MS = 300  # a stop seen triggering gets this long to close the position by itself
READ_WAIT_MS = 1_500  # "nothing to reduce": the position is read before more is sent


class Terms(Protocol):
    """What an exit must know of the venue."""

    def exit_qty(self, slot: int) -> tuple[float, str]:
        """Return how much to exit, and its decimal text when the exchange stated it ("" otherwise)."""
        ...

    def slice_qty(self, symbol: int) -> float:
        """Return the largest quantity of one market order."""
        ...

    def band_price(self, symbol: int, side: int) -> float:
        """Return the worst price that a limit order of `side` may carry."""
        ...

    def stop_triggering(self, symbol: int) -> bool:
        """Whether the protective stop has been seen triggering."""
        ...

    def read_position(self, symbol: int) -> None:
        """Ask the exchange for the symbol's position."""
        ...


@dataclass(slots=True)
class ExitRun:
    """One position's way out."""

    position_id: int
    symbol: int
    reason: Reason
    open: set[str] = field(default_factory=set)
    sent_ms: int = 0
    heard_ms: int = 0  # the newest fill event
    next_ms: int = 0  # no new round before
    rounds: int = 0
    silent: int = 0
    banded: bool = False


def note_end(run: ExitRun, order: Order, now_ms: int) -> bool:
    """Learn from an exit order that ended; return whether the position should be read (nothing was left to reduce)."""
    run.open.discard(order.client_order_id)
    nothing = order.code == NOTHING_TO_REDUCE or (order.state is OrderState.EXPIRED and order.detail == "er=4")
    if nothing:
        run.next_ms = now_ms + READ_WAIT_MS
        return True
    if order.code == SYMBOL_CLOSED:
        run.next_ms = now_ms + CLOSED_WAIT_MS
        return False
    if order.code == PRICE_BAND_CODE or (order.order_type is OrderType.MARKET and order.state is OrderState.EXPIRED):
        run.banded = True
    elif order.state is OrderState.REJECTED and order.code and order.code not in NOT_DONE_CODES:
        run.banded = order.order_type is OrderType.MARKET  # it would be refused again; the other kind has other filters
    no_way = order.state is OrderState.REJECTED and not order.route
    run.next_ms = now_ms + (SLOW_MS if no_way or run.rounds >= QUICK_ROUNDS else 0)
    if order.code in TOO_MANY:
        run.next_ms = now_ms + RATE_MS
    return False


def due(run: ExitRun, now_ms: int, second_ms: int) -> bool:
    """Whether another order should leave now. second_ms 0: the route cannot lose an order (shadow)."""
    if now_ms < run.next_ms:
        return False
    if not run.open:
        return True
    if not second_ms:
        return False
    wait_ms = second_ms if run.silent == 0 else SILENT_AGAIN_MS
    return now_ms - max(run.sent_ms, run.heard_ms) >= wait_ms


def slices(qty: float, text: str, largest: float) -> list[tuple[float, str]]:
    """Return the quantities of one round's orders: the exchange's own digits when one order suffices."""
    if qty <= largest or largest <= 0.0:
        return [(qty, text)]
    parts = []
    left = qty
    while left > 1e-12 * qty:
        part = min(left, largest)
        parts.append((part, ""))
        left -= part
    return parts
