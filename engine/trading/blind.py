"""The blind guard: what happens to a held position when its mark price stops coming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

STALE_MS = 3_000
POLL_EVERY_MS = 1_000
NO_SOURCE_MS = 15_000


@dataclass
class BlindGuard:
    """Polls premiumIndex for held symbols whose mark tick is older than 3 s; after 15 s without any source a position
    stands only on a confirmed exchange stop.

    poll(symbol): ask for the mark price (its answer is fed to the core like a tick). standing(symbol): the exchange
    stop is confirmed. exit_now(symbol, now_ms). Holds no socket and reads no clock.
    """

    poll: Callable[[int], None]
    standing: Callable[[int], bool]
    exit_now: Callable[[int, int], None]
    alarm: Callable[[str, int, str], None] = lambda kind, symbol, text: None
    blind: set[int] = field(default_factory=set)
    _next_ms: dict[int, int] = field(default_factory=dict)
    _since_ms: int = 0  # the first look: after a start the streams have the same time to bring a price

    def advance(self, held: list[int], stream_ms: list[int] | memoryview, source_ms: list[int], now_ms: int) -> None:
        """Look at the held symbols. stream_ms, source_ms: newest mark by symbol, from the stream and by polling."""
        self._since_ms = since_ms = self._since_ms or now_ms
        for symbol in held:
            if now_ms - max(stream_ms[symbol], since_ms) <= STALE_MS:
                self.blind.discard(symbol)
                continue
            if symbol not in self.blind:
                self.blind.add(symbol)
                self.alarm("blind", symbol, "no mark price on the stream; polling")
            if now_ms >= self._next_ms.get(symbol, 0):
                self._next_ms[symbol] = now_ms + POLL_EVERY_MS
                self.poll(symbol)
            if now_ms - max(stream_ms[symbol], source_ms[symbol], since_ms) > NO_SOURCE_MS and not self.standing(
                symbol
            ):
                self.exit_now(symbol, now_ms)
        self.blind &= set(held)
