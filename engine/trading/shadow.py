"""The shadow gateway: fills orders at the book the market shows, a latency later. No credentials, no socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from engine.trading.gateway import OrderEvent
from engine.trading.orders import Event, Order, OrderType
from kernels import fills
from kernels.compile import entry_point


class ShadowGateway:
    """Orders wait `latency_ms` of exchange time, then meet the best bid and ask of that moment.

    books: one row per symbol whose first four fields are bid, bid quantity, ask, ask quantity, kept current by the
    caller; marks: float64[n_symbols]. An exit without a book is filled at the mark price, half a spread worse.
    before_fill: told the symbol and order just before each fill (the engine journals the book it will meet).
    """

    def __init__(
        self,
        books: npt.NDArray[Any],
        marks: npt.NDArray[Any],
        latency_ms: float,
        taker_fee: float,
        half_spread: float,
        before_fill: Callable[[Order, int], None],
    ) -> None:
        self.on_event: Callable[[OrderEvent], None] = lambda event: None
        self.driver: Callable[[], None] | None = None  # in replay the journal says when each order meets the book
        self._books, self._marks = books, marks
        self._latency_ms, self._taker_fee, self._half_spread = latency_ms, taker_fee, half_spread
        self._before_fill = before_fill
        self.queue: deque[tuple[float, Order]] = deque()
        self._trade_id = 0
        self._fill = entry_point(fills.fill)

    def submit(self, order: Order, now_ms: int) -> None:
        """Queue an order; orders are filled in the order of submission."""
        self.queue.append((now_ms + self._latency_ms, order))

    def advance(self, now_ms: int) -> None:
        """Fill every order whose latency has passed."""
        if self.driver is not None:
            self.driver()
            return
        while self.queue and self.queue[0][0] <= now_ms:
            self.fill_next(now_ms)

    @property
    def next_due_ms(self) -> float | None:
        """When the oldest waiting order meets the book; None when nothing waits."""
        return self.queue[0][0] if self.queue else None

    @property
    def waiting(self) -> int:
        """Orders that have not met the book yet."""
        return len(self.queue)

    def fill_next(self, now_ms: int) -> None:
        """Fill the oldest waiting order at the book as it is now."""
        _, order = self.queue.popleft()
        self._before_fill(order, now_ms)
        bid, bid_qty, ask, ask_qty = self._quote(order)
        limit = order.price if order.order_type is OrderType.LIMIT_IOC else 0.0
        qty, price = self._fill(order.side, order.qty, limit, bid, bid_qty, ask, ask_qty)
        name = order.client_order_id
        self.on_event(OrderEvent(name, Event.ACKNOWLEDGE, now_ms))
        if qty > 0.0:
            self._trade_id += 1
            full = qty >= order.qty * (1.0 - 1e-12)
            touch = ask if order.side > 0 else bid
            self.on_event(
                OrderEvent(
                    name,
                    Event.FILL if full else Event.PARTIAL_FILL,
                    now_ms,
                    qty=order.qty if full else qty,
                    price=price,
                    fee_usdt=qty * price * self._taker_fee,
                    slip_usdt=order.side * (price - touch) * qty,
                    trade_id=self._trade_id,
                )
            )
            if full:
                return
        self.on_event(
            OrderEvent(name, Event.EXPIRE, now_ms, detail="IOC remainder" if qty > 0.0 else "beyond the limit")
        )

    def _quote(self, order: Order) -> tuple[float, float, float, float]:
        bid, bid_qty, ask, ask_qty = self._books[order.symbol].item()[:4]
        if order.reduce_only and not (bid > 0.0 and ask > 0.0 and bid_qty > 0.0 and ask_qty > 0.0):
            mark = float(self._marks[order.symbol])
            return mark * (1 - self._half_spread), order.qty, mark * (1 + self._half_spread), order.qty
        return bid, bid_qty, ask, ask_qty
