"""The port through which orders leave: shadow and live are the same engine with another gateway behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from engine.trading.orders import Event, Order


@dataclass(slots=True)
class OrderEvent:
    """What a gateway learnt about an order. Fill events carry the quantity and price of this execution alone."""

    client_order_id: str
    event: Event
    event_ms: int
    qty: float = 0.0
    price: float = 0.0
    fee_usdt: float = 0.0
    slip_usdt: float = 0.0
    maker: bool = False
    order_id: int = 0
    trade_id: int = 0
    code: int = 0
    detail: str = ""
    journalled: bool = False  # the fill is in the journal of the run that died while booking it


class Gateway(Protocol):
    """Sends orders; reports what becomes of them through `on_event`, never from inside `submit`."""

    on_event: Callable[[OrderEvent], None]

    def submit(self, order: Order, now_ms: int) -> None:
        """Send an order. Returns at once."""
        ...

    def advance(self, now_ms: int) -> None:
        """Let time pass: called with each event and each timer."""
        ...
