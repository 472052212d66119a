"""Fees paid in another asset than USDT: the asset's price at fill time, kept fresh while such fees can occur."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.exchange.replies import Reply
from engine.exchange.requests import Call, Request
from engine.exchange.venue import Sender

EVERY_MS = 10_000


@dataclass
class FeePrices:
    """`rate(asset)` is what one unit costs in USDT. A price that is not known yet counts 0 and raises an alarm."""

    sender: Sender
    alarm: Callable[[str, int, str], None] = lambda kind, symbol, text: None
    prices: dict[str, float] = field(default_factory=dict)
    _due_ms: dict[str, int] = field(default_factory=dict)

    def watch(self, asset: str) -> None:
        """Keep the price of an asset that fees may be paid in."""
        if asset and asset != "USDT":
            self._due_ms.setdefault(asset, 0)

    def rate(self, asset: str) -> float:
        """Return the price of a fee asset in USDT."""
        if asset in ("", "USDT"):
            return 1.0
        self.watch(asset)
        if asset not in self.prices:
            self.alarm("fee_asset_without_price", -1, f"a fee in {asset} was booked as 0")
        return self.prices.get(asset, 0.0)

    def advance(self, now_ms: int) -> None:
        """Ask for the prices that are due."""
        for asset, due_ms in self._due_ms.items():
            if now_ms >= due_ms:
                self._due_ms[asset] = now_ms + EVERY_MS
                self._ask(asset)

    def _ask(self, asset: str) -> None:
        def done(reply: Reply) -> None:
            if reply.ok and isinstance(reply.result, dict):
                self.prices[asset] = float(reply.result["markPrice"])

        self.sender.send(Request(Call.MARK, {"symbol": f"{asset}USDT"}), done)
