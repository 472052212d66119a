"""Readings of the account over REST: positions every 10 s, stops and wallet every 60 s; all of it after any doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.exchange.replies import Reply
from engine.exchange.requests import Call, Request
from engine.exchange.venue import Sender
from engine.log import get_logger
from engine.trading.protection import Protection
from engine.trading.reconcile import Reconciler

log = get_logger(__name__)

POSITIONS_EVERY_MS = 10_000
STOPS_EVERY_MS = 60_000
AGAIN_MS = 1_000
SETTLED_MS = 6_000  # a stop confirmed more recently than this may be missing from a list that REST shows late


@dataclass
class Sweeps:
    """take(reply, asked symbols) reads positions, take_wallet(USDT, asked ms) the wallet.

    `reconciled` is false from `begin` until everything was read once.
    """

    sender: Sender
    protections: tuple[Protection, ...]
    reconciler: Reconciler
    take: Callable[[Reply, list[int]], None]
    take_wallet: Callable[[float, int], None]
    reconciled: bool = False
    _wanted: set[str] = field(default_factory=set)
    _positions_due_ms: int = 0
    _stops_due_ms: int = 0
    _now_ms: int = 0

    def begin(self) -> None:
        """Refuse entries until positions and stops have been read once more."""
        self.reconciled = False
        self._wanted = {"positions", "stops", "wallet"}
        self._positions_due_ms = self._stops_due_ms = 0

    def advance(self, held: list[int], now_ms: int) -> None:
        """Start what is due."""
        self._now_ms = now_ms
        if now_ms >= self._positions_due_ms:
            self._positions_due_ms = now_ms + POSITIONS_EVERY_MS
            self._positions(held)
        if now_ms >= self._stops_due_ms:
            self._stops_due_ms = now_ms + STOPS_EVERY_MS
            if held or self._wanted:
                self._stops(now_ms)
            self._wallet(now_ms)

    def _positions(self, held: list[int]) -> None:
        asked = sorted({*held, *(s for s, stated in self.reconciler.stated.items() if stated.qty)})

        def done(reply: Reply) -> None:
            self.take(reply, asked)
            self._part("positions", reply)

        self.sender.send(Request(Call.POSITIONS), done)

    def _wallet(self, asked_ms: int) -> None:
        """What moved the wallet while no stream told of it: funding, a transfer."""

        def done(reply: Reply) -> None:
            self._part("wallet", reply)
            if reply.ok and isinstance(reply.result, dict):
                assets = {row["asset"]: row for row in reply.result["assets"]}
                self.take_wallet(float(assets.get("USDT", {}).get("walletBalance", 0)), asked_ms)

        self.sender.send(Request(Call.ACCOUNT), done)

    def _stops(self, asked_ms: int) -> None:
        def done(reply: Reply) -> None:
            self._part("stops", reply)
            if not reply.ok or not isinstance(reply.result, list):
                return
            standing = {row.get("clientAlgoId") for row in reply.result}
            for protection in self.protections:
                for symbol, stop in list(protection.slots.items()):
                    if stop.stage_ms < asked_ms - SETTLED_MS and stop.name not in standing:
                        protection.lost(symbol, self._now_ms)

        self.sender.send(Request(Call.OPEN_ALGOS), done)

    def _part(self, part: str, reply: Reply) -> None:
        if reply.ok:
            self._wanted.discard(part)
            if not self._wanted and not self.reconciled:
                self.reconciled = True
                log.info("reconciled")
        elif self._wanted:
            self._positions_due_ms = self._stops_due_ms = self._now_ms + AGAIN_MS
