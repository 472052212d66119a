"""Rate limits of the gateway: request weight per address, order counts per account; 429, then 418. Time is an
argument."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from engine.simulator.errors import Refusal

IGNORED_BEFORE_BAN = 10  # requests sent in spite of 429 within one minute
FIRST_BAN_S = 120
LONGEST_BAN_S = 3 * 86_400


@dataclass
class _Address:
    window: int = -1
    used: int = 0
    ignored: int = 0
    banned_until_s: float = 0.0
    bans: int = 0


@dataclass
class WeightLimit:
    """Request weight per window and address."""

    limit: int
    window_s: int = 60
    addresses: dict[str, _Address] = field(default_factory=dict)

    def charge(self, address: str, weight: int, now_s: float) -> int:
        """Count `weight`; return what the window has used. Raises Refusal 429 or 418 with `retry_s` set."""
        entry = self.addresses.setdefault(address, _Address())
        if now_s < entry.banned_until_s:
            until = int(entry.banned_until_s * 1_000)
            message = (
                f"Way too many requests; IP({address}) banned until {until}. Please use the websocket for live updates."
            )
            raise Limited(-1003, message, 418, entry.banned_until_s - now_s)
        window = int(now_s // self.window_s)
        if window != entry.window:
            entry.window, entry.used, entry.ignored = window, 0, 0
        entry.used += weight
        if entry.used <= self.limit:
            return entry.used
        entry.ignored += 1
        if entry.ignored > IGNORED_BEFORE_BAN:
            entry.bans += 1
            entry.banned_until_s = now_s + min(LONGEST_BAN_S, FIRST_BAN_S * 2 ** (entry.bans - 1))
        span = "minute" if self.window_s == 60 else f"{self.window_s // 60} minutes"
        message = f"Too many requests; current limit of IP({address}) is {self.limit} requests per {span}."
        raise Limited(-1003, message, 429, self.window_s - now_s % self.window_s)

    def ban_all(self, seconds: float) -> None:
        """Ban everybody who has ever asked (a fault)."""
        for entry in self.addresses.values():
            entry.banned_until_s = time.time() + seconds


class Limited(Refusal):
    """A 429 or 418 with its Retry-After."""

    def __init__(self, code: int, message: str, status: int, retry_s: float) -> None:
        super().__init__(code, message, status)
        self.retry_s = retry_s


@dataclass
class OrderLimit:
    """Orders of one account in 10 seconds and in a minute."""

    per_10s: int = 300
    per_minute: int = 1_200
    windows: list[int] = field(default_factory=lambda: [-1, -1])
    counts: list[int] = field(default_factory=lambda: [0, 0])

    def charge(self, orders: int, now_s: float, per_minute: int = 1) -> tuple[int, int]:
        """Count `orders` against the 10 seconds and `per_minute` against the minute; return both counts.

        A batch costs 5 and 1. Raises Limited −1015.
        """
        costs = (orders, per_minute)
        for which, (length, limit) in enumerate(((10, self.per_10s), (60, self.per_minute))):
            window = int(now_s // length)
            if window != self.windows[which]:
                self.windows[which], self.counts[which] = window, 0
            if self.counts[which] + costs[which] > limit:
                span = "10 SECOND" if which == 0 else "1 MINUTE"
                message = f"Too many new orders; current limit is {limit} orders per {span}."
                raise Limited(-1015, message, 429, length - now_s % length)
        self.counts = [count + cost for count, cost in zip(self.counts, costs, strict=True)]
        return self.counts[0], self.counts[1]
