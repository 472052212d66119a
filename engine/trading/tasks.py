"""Alarms of live trading: counted, logged, and the open ones kept for the person who must decide."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.log import get_logger

log = get_logger(__name__)


@dataclass
class Tasks:
    """Counted alarms and, for what a person must decide, the newest text per kind and symbol."""

    counts: dict[str, int] = field(default_factory=dict)
    open: dict[tuple[str, int], str] = field(default_factory=dict)

    def __call__(self, kind: str, symbol: int, text: str) -> None:
        """Count, keep and log one alarm."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.open[kind, symbol] = text
        log.warning("trading_alarm", kind=kind, symbol=symbol, text=text)
