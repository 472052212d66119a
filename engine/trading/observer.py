"""What the desk tells live trading about positions and trades, and asks it before an entry; shadow mode has none."""

from __future__ import annotations

from typing import Protocol

from engine.trading.gateway import OrderEvent


class Observer(Protocol):
    """Whoever must know about positions: protection and reconciliation in live mode."""

    def position_opened(self, slot: int, now_ms: int) -> None:
        """An entry's first fill was booked."""
        ...

    def position_closed(self, position_id: int, symbol: int, now_ms: int) -> None:
        """The position is flat by our books."""
        ...

    def may_enter(self, symbol: int) -> bool:
        """Whether nothing of an earlier position still stands on the exchange."""
        ...

    def unprotected_ms(self, position_id: int, until_ms: int) -> int:
        """How long the position, which ended at `until_ms` of the exchange, had no confirmed stop there."""
        ...

    def traded(self, symbol: int, event: OrderEvent, realised_usdt: float) -> None:
        """A trade was booked, with what it realised before its fee."""
        ...

    def look(self, now_ms: int) -> None:
        """Look, before an input that may be decided on is taken, whether the loop stood still."""
        ...

    def hold(self, now_ms: int) -> int:
        """Look at what this process alone knows, just before a decision: `engine.timers.Hold` bits."""
        ...

    def entry_gates(self, symbol: int, side: int, qty: float, sl_price: float, atr_15m: float, now_ms: int) -> int:
        """Gate bits of what only live trading knows: order budget, liquidation distance, an open reconciliation."""
        ...
