"""What an accepted decision asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Entry:
    """What an accepted decision asks for; it becomes a position when its order fills."""

    position_id: int
    symbol: int
    side: int
    qty: float
    limit_price: float
    tp_price: float
    sl_price: float
    atr_15m: float
    decision_ms: int
    model_id: bytes
