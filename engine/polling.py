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
REACH_MS = 86_400_000  # behind the due sample: what an outage of a day has left out comes with it
KINDS = {"open_interest": OPEN_INTEREST, "funding": FUNDING}


class SamplePoller:
    """Decides from exchange time what to ask for; one question per kind under way at most.

    Contracts settle every 8, 4 or 1 hours, so what is due is kept by symbol: one that has not settled is not asked for.
    """

    def __init__(self, assistant: Assistant, sink: MarketSink, symbols: list[str], with_open_interest: bool) -> None:
        self._assistant, self._sink, self._symbols = assistant, sink, symbols
        self._index = {name: i for i, name in enumerate(symbols)}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._asked_ms = [0, 0]
        self._news = [False, False]
        self._have, self._due_ms, self._until_ms = ([[0] * len(symbols) for _ in KINDS] for _ in range(3))
        self._with_open_interest = with_open_interest

    def known(self, kind: int, symbol: int, stamp_ms: int) -> None:
        """Tell the newest sample that the start-up history brought."""
        self._have[kind][symbol] = max(self._have[kind][symbol], stamp_ms)

    def funding_settled(self, symbol: int, settled_ms: int, now_ms: int) -> None:
        """Tell that the symbol's rate was settled at `settled_ms`, as is known since `now_ms`."""
        self._is_due(FUNDING, symbol, settled_ms, now_ms)

    def _is_due(self, kind: int, symbol: int, due_ms: int, now_ms: int) -> None:
        if due_ms > self._due_ms[kind][symbol]:
            self._due_ms[kind][symbol], self._until_ms[kind][symbol] = due_ms, now_ms + GIVE_UP_MS
            self._news[kind] = True

    def tick(self, now_ms: int) -> None:
        """Ask for what is due. Called several times a second."""
        newest_ms = now_ms - now_ms % OPEN_INTEREST_EVERY_MS
        if self._with_open_interest and newest_ms > self._due_ms[OPEN_INTEREST][0]:
            for symbol in range(len(self._symbols)):
                self._is_due(OPEN_INTEREST, symbol, newest_ms, now_ms)
        for name, kind in KINDS.items():
            if kind in self._asking or (not self._news[kind] and now_ms - self._asked_ms[kind] < ASK_AGAIN_MS):
                continue
            self._news[kind] = False
            state = enumerate(zip(self._have[kind], self._due_ms[kind], self._until_ms[kind], strict=True))
            wanted = {
                symbol: max(have_ms + 60_000, due_ms - REACH_MS)
                for symbol, (have_ms, due_ms, until_ms) in state
                if have_ms < due_ms and now_ms < until_ms
            }
            if wanted:
                self._asked_ms[kind] = now_ms
                self._asking[kind] = asyncio.ensure_future(self._ask(name, kind, wanted))

    async def _ask(self, name: str, kind: int, wanted: dict[int, int]) -> None:
        try:
            symbols = [self._symbols[symbol] for symbol in wanted]
            await self._assistant.ask("samples", kind=name, symbols=symbols, from_ms=list(wanted.values()))
        except ExchangeError as error:
            log.warning("no %s samples: %s", name, error)
        finally:
            del self._asking[kind]

    def take(self, message: dict[str, Any]) -> None:
        """Take the helper's `sample` event: rows of (stamp_ms, usable_ms, value), and the hours that each rate ran."""
        kind, symbol = KINDS[message["kind"]], self._index.get(message["symbol"])
        if symbol is None:
            return
        for (stamp_ms, _, value), hours in zip(message["rows"], message["hours"], strict=True):
            minute_ms = stamp_ms - stamp_ms % 60_000
            self._have[kind][symbol] = max(self._have[kind][symbol], minute_ms)
            self._sink.on_sample(symbol, kind, stamp_ms, value, hours)
