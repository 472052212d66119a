"""What the watchdog does for an engine that is gone: place the stops that are missing, flatten only where that fails.

It touches nothing but positions that the engine's own journal claims, and never more than the claimed quantity.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from engine.exchange.replies import REDUCE_ONLY_REFUSED, Reply
from engine.exchange.requests import Call, Request, exit_order, protective_stop
from engine.exchange.steps import Step
from engine.log import get_logger
from engine.restore import Restored
from engine.trading.orders import base36, client_order_id
from engine.trading.preflight import Caller
from engine.trading.protection import BEYOND, EXISTS, protect_level

log = get_logger(__name__)

PLACE_WAIT_S = 2.0  # a stop that could not be placed for so long: flatten
AGAIN_S = 0.2


@dataclass(frozen=True)
class Claim:
    """What the journal says that this system holds, or may hold when an entry's fate is open."""

    position_id: int
    symbol: str
    side: int
    qty: float
    sl_price: float
    atr_15m: float


def claims(restored: Restored) -> dict[str, Claim]:
    """Return the claims by symbol: open positions, and entries whose fills may not be booked yet."""
    rows = [(values["position_id"], values, values["qty"]) for values in restored.positions]
    held = {values["position_id"]: values["qty"] for values in restored.positions}
    rows += [(i, values, max(values["qty"], held.get(i, 0.0))) for i, values in restored.entries.items()]
    return {
        values["symbol"]: Claim(
            int(i), values["symbol"], int(values["side"]), float(qty), float(values["sl_price"]),
            float(values["atr_15m"]),
        )
        for i, values, qty in rows
    }  # fmt: skip


@dataclass
class Rescue:
    """may_send() is asked before every order: False once another process holds the lease. `acts`: what was done."""

    rest: Caller
    names: tuple[str, int]  # engine id and run id of the orders to come
    claims: dict[str, Claim]
    instruments: dict[str, Any]
    may_send: Callable[[], bool]
    acts: list[str] = field(default_factory=list)
    _failed_s: dict[str, float] = field(default_factory=dict)
    _strangers: set[str] = field(default_factory=set)
    _exits: int = 0

    async def sweep(self) -> bool:
        """Look once and mend what is missing; True when every claimed position stands behind a stop."""
        positions = await self.rest.ask(Request(Call.POSITIONS))
        algos = await self.rest.ask(Request(Call.OPEN_ALGOS))
        if not (positions.ok and algos.ok):
            log.warning("watchdog_blind", positions=positions.code, algos=algos.code)
            return False
        whole = True
        for row in positions.result:
            amount = float(row["positionAmt"])
            claim = self.claims.get(row["symbol"])
            if not amount:
                continue
            if claim is None or amount * claim.side < 0.0:
                self._stranger(row)
            elif not _has_stop(algos.result, claim):
                whole = await self._protect(claim, str(row["positionAmt"]).lstrip("-")) and whole
        return whole

    def _stranger(self, row: dict[str, Any]) -> None:
        if row["symbol"] not in self._strangers:
            self._strangers.add(row["symbol"])
            log.warning("watchdog_leaves_alone", symbol=row["symbol"], amount=row["positionAmt"])

    async def _protect(self, claim: Claim, held: str) -> bool:
        """Place the missing stop, again and again for two seconds; flatten where that fails."""
        tick = Step.of(self.instruments[claim.symbol])[0]
        trigger = protect_level(claim.side, claim.sl_price, claim.atr_15m, tick)
        name = client_order_id(*self.names, claim.position_id, "p")
        since_s = self._failed_s.setdefault(claim.symbol, time.monotonic())
        while self.may_send():
            reply = await self.rest.call(protective_stop(claim.symbol, claim.side, trigger, name))
            if reply.ok or reply.code in EXISTS:
                del self._failed_s[claim.symbol]
                self._did("stop_placed", claim.symbol, f"{trigger}, code {reply.code}")
                return True
            if reply.code in BEYOND or time.monotonic() - since_s > PLACE_WAIT_S:
                return await self._flatten(claim, held, reply)
            await asyncio.sleep(AGAIN_S)
        return False

    async def _flatten(self, claim: Claim, held: str, why: Reply) -> bool:
        row = self.instruments[claim.symbol]
        most = min(claim.qty, float(row["market_max_qty"]) or claim.qty)
        qty = held if float(held) <= most else Step.of(row)[1].floor(most)
        self._exits += 1
        name = f"ta-{self.names[0]}-{base36(self.names[1])}-w{base36(time.time_ns() // 1_000_000)}{self._exits}-x"
        reply = await self.rest.call(exit_order(claim.symbol, -claim.side, qty, name, True))
        self._did("flattened", claim.symbol, f"{qty} of {held}, stop refused with {why.code}: code {reply.code}")
        return reply.code == REDUCE_ONLY_REFUSED

    def _did(self, what: str, symbol: str, text: str) -> None:
        self.acts.append(f"{what} {symbol} {text}")
        log.warning(f"watchdog_{what}", symbol=symbol, text=text)


def _has_stop(algos: list[dict[str, Any]], claim: Claim) -> bool:
    side = "SELL" if claim.side > 0 else "BUY"
    return any(
        row["symbol"] == claim.symbol and row.get("side") == side and row.get("orderType") == "STOP_MARKET"
        and str(row.get("closePosition", "")).lower() == "true"
        for row in algos
    )  # fmt: skip


def by_name(table: npt.NDArray[Any]) -> dict[str, Any]:
    """Return instrument rows by symbol."""
    return {bytes(row["symbol"]).decode(): row for row in table}
