"""Keeps the listing current while the engine runs: filters, status, delivery and funding interval of its symbols."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.core import Core
from engine.errors import DataError, ExchangeError
from engine.exchange import filters
from engine.market.assistant import Assistant
from kernels.records import INSTRUMENT

log = logging.getLogger(__name__)
EVERY_S = 60.0


class ListingPoller:
    """Asks the helper process for the instrument table once a minute and tells the core what changed of its symbols."""

    def __init__(self, assistant: Assistant, path: Path, core: Core) -> None:
        self.changes = self.failures = 0
        self._assistant, self._path, self._core = assistant, path, core
        self._index = {name: i for i, name in enumerate(core.symbols)}
        self._task: asyncio.Task[None] | None = None
        self._due_s = 0.0

    def tick(self, now_s: float) -> None:
        """Ask when it is due. now_s: the loop's time."""
        self._due_s = self._due_s or now_s + EVERY_S
        if now_s >= self._due_s and (self._task is None or self._task.done()):
            self._due_s = now_s + EVERY_S
            self._task = asyncio.ensure_future(self._ask())

    async def _ask(self) -> None:
        try:
            answer = await self._assistant.ask("instruments", path=str(self._path))
            names = [name for name in answer["changed"] if name in self._index]
            if names:
                self.take(filters.load(self._path), names)
        except (ExchangeError, DataError, OSError) as error:
            self.failures += 1
            log.warning("listing not read: %s", error)

    def take(self, table: npt.NDArray[Any], names: list[str]) -> None:
        """Hand the rows of `names` to the core where they differ; a symbol that is not listed any more is not trading.

        table: INSTRUMENT[n], sorted by symbol.
        """
        now_ms = self._core.clock.now_ms()
        for name in names:
            symbol, encoded = self._index[name], name.encode()
            at = int(np.searchsorted(table["symbol"], encoded))
            row = np.zeros(1, INSTRUMENT)
            row[0] = table[at] if at < len(table) and table[at]["symbol"] == encoded else self._core.instruments[symbol]
            if at >= len(table) or table[at]["symbol"] != encoded:
                row["trading"] = 0
            if row[0].tobytes() != self._core.instruments[symbol].tobytes():
                self.changes += 1
                log.warning("listing of %s changed: %s", name, difference(self._core.instruments[symbol], row[0]))
                self._core.on_instrument(symbol, row[0], now_ms)


def difference(before: Any, after: Any) -> str:
    """Return the fields of two INSTRUMENT rows that differ, as text."""
    names = [name for name in INSTRUMENT.names or () if before[name] != after[name]]
    return ", ".join(f"{name} {before[name]} -> {after[name]}" for name in names)
