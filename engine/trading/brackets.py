"""Leverage brackets while trading: read now and then, since the exchange changes them; they cap an entry's notional."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from engine.exchange.replies import Reply
from engine.exchange.requests import Call, Request
from engine.exchange.venue import Sender
from engine.trading.margin import Tier, read_brackets

EVERY_MS = 600_000
AGAIN_MS = 30_000


def cap_usdt(tiers: list[Tier], leverage: int) -> float:
    """Return the largest notional that the tiers allow at a leverage; infinite where no tier is known."""
    allowed = [tier.cap_usdt for tier in tiers if tier.leverage >= leverage]
    return max(allowed) if allowed else (0.0 if tiers else math.inf)


@dataclass
class Brackets:
    """`tiers` by symbol index, and in `caps_usdt` the most that one position may be worth.

    most_usdt: what symbolConfig states (maxNotionalValue), by symbol. caps_usdt is replaced by the core's own list.
    """

    sender: Sender
    symbols: list[str]
    leverage: int
    tiers: dict[int, list[Tier]] = field(default_factory=dict)
    most_usdt: dict[int, float] = field(default_factory=dict)
    caps_usdt: list[float] = field(default_factory=list)
    _due_ms: int = 0

    def __post_init__(self) -> None:
        self.caps_usdt = self.caps_usdt or [math.inf] * len(self.symbols)

    def take(self, found: dict[str, list[Tier]], now_ms: int) -> None:
        """Use the tiers of a leverageBracket answer."""
        self._due_ms = now_ms + EVERY_MS
        for symbol, name in enumerate(self.symbols):
            tiers = found.get(name)
            if tiers:
                self.tiers[symbol] = tiers
                leverage = min(self.leverage, tiers[0].leverage)
                self.caps_usdt[symbol] = min(cap_usdt(tiers, leverage), self.most_usdt.get(symbol, math.inf))

    def advance(self, now_ms: int) -> None:
        """Ask when it is due."""
        if now_ms < self._due_ms:
            return
        self._due_ms = now_ms + AGAIN_MS

        def done(reply: Reply) -> None:
            if reply.ok:
                self.take(read_brackets(reply.result), now_ms)

        self.sender.send(Request(Call.BRACKETS), done)
