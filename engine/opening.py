"""What begins before the engine's own code is loaded: the folder's lock, the helper process and its first questions.

Loading the engine takes a second or two; the helper fetches in the meantime. Positions do not wait for any of it: with
the instruments as stored the guards begin first, see `engine.process`.
"""

from __future__ import annotations

import asyncio
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import Config
from engine.errors import ConfigError, DataError, ExchangeError
from engine.exchange import filters
from engine.exchange.budget import shared_path
from engine.held import HeldError, hold
from engine.link import LOCK_NAME
from engine.market.assistant import Assistant
from engine.market.origin import claim_origin
from engine.market.routes import addresses
from kernels.records import INSTRUMENT, TIMEFRAMES

log = logging.getLogger(__name__)
REPLAY_POOL_SCALE = 1_000  # a replayed market runs up to so much faster than the wall clock that limits count by
FRESH_WAIT_S = 0.5  # what is stored serves when the exchange's own listing or time takes longer
AGAIN_S = (1.0, 2.0, 5.0, 10.0)  # before the history is asked for again
INSTRUMENTS_NAME = "instruments.bin"


class Opening:
    """Build it and call `begin` first of all. Raises ConfigError when another engine runs on the data folder."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.symbols = list(config.market.symbols)
        self.absent: list[str] = []  # configured symbols that the exchange does not list any more
        self.state = "loading"  # what is under way, for a person; "" once the market data is complete
        config.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(config.data_dir)
        drop_unused(config.data_dir / "journal", config.engine_id)
        rest_url = addresses(config).rest_url
        scale = REPLAY_POOL_SCALE if config.exchange.clock == "replay" else 1
        self.assistant = Assistant(rest_url, shared_path(rest_url, config.data_dir), None, scale)
        self._path = config.data_dir / INSTRUMENTS_NAME
        self._stored = self._load_stored()
        self._listing: asyncio.Task[Any] | None = None
        self._time: asyncio.Task[Any] | None = None
        self._history: asyncio.Task[Any] | None = None

    async def begin(self) -> None:
        """Start the helper and ask for the listing, the time and the history; later calls do nothing."""
        if self._listing is not None:
            return
        await self.assistant.start()
        ask = self.assistant.ask
        self._listing = asyncio.create_task(ask("instruments", path=str(self._path)), name="listing")
        self._time = asyncio.create_task(ask("time"), name="time")
        self._history = asyncio.create_task(self._ask_history(), name="history")
        for _ in range(3):  # turns of the loop, until the questions are in the pipe
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """End the helper and let go of the folder."""
        tasks = [task for task in (self._listing, self._time, self._history) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.assistant.stop()
        self._lock.close()

    async def instruments(self) -> npt.NDArray[Any]:
        """Return INSTRUMENT[n] of our symbols: fresh, or as stored when the exchange's answer takes too long.

        Raises ConfigError when there is neither, or a symbol that was never listed. `absent` names what is gone: its
        rows say that it is not trading.
        """
        assert self._listing is not None
        if self._stored is None:
            await self._first(self._listing)
        elif not await _within(self._listing, FRESH_WAIT_S):
            log.warning("the exchange's listing is not there yet: the stored one serves")
            return self._stored
        return self.listed()

    def listed(self) -> npt.NDArray[Any]:
        """Return INSTRUMENT[n] of our symbols from the listing that the helper has written."""
        known = {bytes(row["symbol"]).decode(): row for row in filters.load(self._path)}
        self.absent = [name for name in self.symbols if name not in known]
        if self.absent and self._stored is None:
            raise ConfigError([f"market.symbols: the exchange does not list {', '.join(self.absent)}"])
        claim_origin(self.config)
        table = np.zeros(len(self.symbols), INSTRUMENT)
        for i, name in enumerate(self.symbols):
            if name in known:
                table[i] = known[name]
            elif self._stored is not None:
                table[i] = self._stored[i]
                table[i]["trading"] = 0
        return table

    async def time(self) -> dict[str, Any] | None:
        """Return one sample of the exchange's clock; None when it takes too long and the wall clock serves."""
        assert self._time is not None
        if self._stored is None or self.config.exchange.clock == "replay":
            await self._first(self._time)
        elif not await _within(self._time, FRESH_WAIT_S):
            return None
        sample: dict[str, Any] = self._time.result()
        return sample

    async def history(self) -> None:
        """Wait until the listing is read and bar and sample files are up to date; ask again as often as it takes.

        Raises ConfigError at a first start that fails: nothing is held then, and it is the configuration's fault.
        """
        assert self._listing is not None and self._history is not None
        failures = 0
        while True:
            self.state = "fetching the history"
            try:
                if self._listing.done() and self._listing.exception() is not None:
                    self._listing = asyncio.create_task(self.assistant.ask("instruments", path=str(self._path)))
                await self._listing
                self.listed()
                await self._history
                return
            except (ExchangeError, DataError) as error:
                if self._stored is None:
                    raise self._refused(error) from error
                self.state = f"the history cannot be fetched: {error}"
                log.warning("no entries yet: %s", self.state)
            await asyncio.sleep(AGAIN_S[min(failures, len(AGAIN_S) - 1)])
            failures += 1
            if self._history.done() and (self._history.cancelled() or self._history.exception() is not None):
                self._history = asyncio.create_task(self._ask_history(), name="history")

    async def _first(self, task: asyncio.Task[Any]) -> None:
        try:
            await task
        except ExchangeError as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ConfigError:
        return ConfigError([f"exchange {self.config.exchange.name}: start-up history failed: {error}"])

    async def _ask_history(self) -> Any:
        market, folder = self.config.market, self.config.data_dir
        return await self.assistant.ask(
            "history",
            bars_dir=str(folder / "bars"),
            samples_dir=str(folder / "samples"),
            symbols=[name for name in self.symbols if name not in self.absent],
            warmup={"": market.warmup_bars, market.btc_symbol: market.btc_warmup_bars},
            capacity={"": market.ring_bars, market.btc_symbol: market.btc_ring_bars},
            timeframes=list(range(len(TIMEFRAMES))),
        )

    def _load_stored(self) -> npt.NDArray[Any] | None:
        try:
            known = {bytes(row["symbol"]).decode(): row for row in filters.load(self._path)}
            return np.array([known[name] for name in self.symbols], INSTRUMENT)
        except (OSError, DataError, KeyError):
            return None


async def _within(task: asyncio.Task[Any], seconds: float) -> bool:
    """Whether the task has succeeded by then; it goes on in any case."""
    await asyncio.wait({task}, timeout=seconds)
    return task.done() and not task.cancelled() and task.exception() is None


def drop_unused(journal_folder: Path, engine_id: str) -> None:
    """Remove what earlier runs allocated for a next segment: on a full disk this run begins in its room."""
    for path in journal_folder.glob(f"{engine_id}-*.new"):
        path.unlink(missing_ok=True)


def lock_folder(data_dir: Path) -> io.FileIO:
    """Return the held lock of a data folder: two engines never share one. Raises ConfigError naming the holder."""
    try:
        return hold(data_dir / LOCK_NAME)
    except HeldError as error:
        raise ConfigError([f"data_dir {data_dir}: another engine runs on it (pid {error})"]) from error
