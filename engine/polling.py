"""Asks the helper process for open interest and funding when a new sample is due, and takes what comes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from engine.errors import ExchangeError
from engine.market.assistant import Assistant
from engine.market.samples import FUNDING, OPEN_INTEREST
from engine.sink import MarketSink

log = logging.getLogger(__name__)
OPEN_INTEREST_EVERY_MS = 300_000
ASK_AGAIN_MS = 20_000  # of exchange time, while a due sample is missing
GIVE_UP_MS = 3_600_000  # a symbol that stays without its sample is asked for again with the next one
KINDS = {"open_interest": OPEN_INTEREST, "funding": FUNDING}


class SamplePoller:
    """Decides from exchange time what to ask for; one question per kind under way at most."""

    def __init__(self, assistant: Assistant, sink: MarketSink, symbols: list[str], with_open_interest: bool) -> None:
        self._assistant, self._sink, self._symbols = assistant, sink, symbols
        self._index = {name: i for i, name in enumerate(symbols)}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._asked_ms = [0, 0]
        self._due_ms = [0, 0]
        self._have: list[list[int]] = [[0] * len(symbols), [0] * len(symbols)]
        self._with_open_interest = with_open_interest

    def known(self, kind: int, symbol: int, stamp_ms: int) -> None:
        """Tell the newest sample that the start-up history brought."""
        self._have[kind][symbol] = max(self._have[kind][symbol], stamp_ms)

    def funding_settled(self, settled_ms: int) -> None:
        """Tell that rates have been settled at `settled_ms` (the stream moved on to the next settlement)."""
        self._due_ms[FUNDING] = max(self._due_ms[FUNDING], settled_ms)

    def tick(self, now_ms: int) -> None:
        """Ask for what is due. Called several times a second."""
        if self._with_open_interest:
            self._due_ms[OPEN_INTEREST] = now_ms - now_ms % OPEN_INTEREST_EVERY_MS
        for name, kind in KINDS.items():
            due_ms = self._due_ms[kind]
            if not due_ms or kind in self._asking or now_ms - due_ms > GIVE_UP_MS:
                continue
            if self._asked_ms[kind] >= due_ms and now_ms - self._asked_ms[kind] < ASK_AGAIN_MS:
                continue
            wanted = [s for s, have in zip(self._symbols, self._have[kind], strict=True) if have < due_ms]
            if wanted:
                self._asked_ms[kind] = now_ms
                self._asking[kind] = asyncio.ensure_future(self._ask(name, kind, wanted, due_ms))

    async def _ask(self, name: str, kind: int, wanted: list[str], due_ms: int) -> None:
        try:
            await self._assistant.ask("samples", kind=name, symbols=wanted, from_ms=due_ms - 60_000)
        except ExchangeError as error:
            log.warning("no %s samples: %s", name, error)
        finally:
            del self._asking[kind]

    def take(self, message: dict[str, Any]) -> None:
        """Take the helper's `sample` event: rows of (stamp_ms, usable_ms, value)."""
        kind, symbol = KINDS[message["kind"]], self._index.get(message["symbol"])
        if symbol is None:
            return
        for stamp_ms, _, value in message["rows"]:
            minute_ms = stamp_ms - stamp_ms % 60_000
            self._have[kind][symbol] = max(self._have[kind][symbol], minute_ms)
            self._sink.on_sample(symbol, kind, stamp_ms, value, message["hours"])
