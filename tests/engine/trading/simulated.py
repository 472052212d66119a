"""A live engine core against the project's simulated exchange, on one event loop, with its delays and faults."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rig import BOOK_ROW, FixedModel

from engine.clock import WallClock
from engine.config import Config, load
from engine.core import Vector
from engine.exchange.budget import WeightBudget
from engine.exchange.rest import MarketRest
from engine.simulator.exchange import Exchange
from engine.simulator.options import AccountOption, Options
from engine.simulator.server import Server
from engine.trading.start import Live, open_live
from kernels.records import RunState

KEY, SECRET = "test-key", "test-secret"
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
LONGEST_TURN_S = 0.02  # a turn of the loop that took longer stood still


class Simulated:
    """Start with `async with`. `engine()` opens a live core; `stop_engine` drops it as a crash would."""

    def __init__(
        self, folder: Path, latency: float = 1.0, weight_limit: int | None = None, symbol_count: int = 2,
        balance_usdt: int = 10_000, risk: dict[str, Any] | None = None, history_days: float = 3.0, **live: Any,
    ) -> None:  # fmt: skip
        self.folder, self.live_settings, self.risk = folder, live, risk or {}
        options = Options(
            port=0, symbols=None, symbol_count=symbol_count, history_days=history_days,
            ahead_days=1.0, speed=1.0, clock="wall",
            accounts=(AccountOption(KEY, SECRET, balance_usdt),), latency=latency, weight_limit=weight_limit,
            quiet=True,
        )  # fmt: skip
        self.exchange = Exchange(options, say=lambda text: None)
        self.symbols = list(self.exchange.market.symbols[:symbol_count]) if symbol_count > 2 else SYMBOLS
        self.server = Server(self.exchange)
        self.live: Live | None = None
        self.clock = WallClock()
        self._ticker: asyncio.Task[None] | None = None
        self._market: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Simulated:
        await self.server.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self.live is not None:
            await self.stop_engine()
        await self.server.stop()

    @property
    def config(self) -> Config:
        base = f"127.0.0.1:{self.server.port}"
        return load(
            mode="live", data_dir=self.folder, live=self.live_settings, market={"symbols": self.symbols},
            journal={"segment_mib": 1}, risk=self.risk, costs={"max_slip_bps": 100.0},
            secrets={"api_key": KEY, "api_secret": SECRET},
            exchange={
                "rest_url": f"http://{base}", "ws_api_url": f"ws://{base}/ws-fapi/v1",
                "stream_url": f"ws://127.0.0.1:{self.server.stream_port}",
            },
        )  # fmt: skip

    async def start_engine(self) -> Live:
        """Open a live core and its ticker; prices are read from the simulator's market."""
        config = self.config
        async with MarketRest(config.exchange.rest_url, WeightBudget()) as rest:
            table = await rest.instruments()
        known = {bytes(row["symbol"]).decode(): row for row in table}
        instruments = np.array([known[name] for name in self.symbols], table.dtype)
        self._fit()
        books = np.zeros(len(self.symbols), BOOK_ROW)
        self.live = await open_live(config, self.symbols, instruments, books, self.clock, self.folder / "locks")
        core = self.live.parts.core
        core.predictor = FixedModel()
        core.desk.account.run_state = int(RunState.RUNNING)
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        return self.live

    async def _tick(self) -> None:
        assert self.live is not None
        turn = 0
        while True:
            if turn % 100 == 0:
                self._fit()
            if turn % 10 == 0:
                for symbol in range(len(self.symbols)):
                    self.mark(symbol)
            turn += 1
            self.live.trading.advance(self.clock.now_ms())
            await asyncio.sleep(0.01)

    def _fit(self) -> None:
        now_ns = time.monotonic_ns()
        self.clock.fit.add(now_ns, now_ns, self.exchange.venue.now_ms())

    async def stop_engine(self) -> None:
        """Drop the engine without a goodbye."""
        assert self.live is not None
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        await self.live.connection.close()
        self.live.parts.journal.close()
        self.live = None

    def mark(self, symbol: int, price: float = 0.0) -> None:
        """Give the core a mark tick: the simulator's, or another one."""
        assert self.live is not None
        core, now_ms = self.live.parts.core, self.clock.now_ms()
        core.on_mark(symbol, price or self.price(symbol), 0.0, 0, now_ms, 1)

    def number(self, symbol: int) -> int:
        return self.exchange.market.symbols.index(self.symbols[symbol])

    def price(self, symbol: int) -> float:
        venue = self.exchange.venue
        return venue.mark(self.number(symbol)) * 1e-8

    def book(self, symbol: int) -> tuple[float, float, float, float]:
        """Return bid, quantity, ask, quantity as the simulator's stream has them; the quantities allow any size.

        Not something around the mark price: within a long wick the last price is further from it than an entry may
        slip, and an order priced from the mark rightly expires unfilled. `config` lets entries slip further than a
        path moves between this look and the match, too.
        """
        number, market = self.number(symbol), self.exchange.market
        bid, _, ask, _, _ = self.exchange.venue.tape.best(number)
        unit = int(market.units[number]) * 1e-8
        return bid * unit, 1e6, ask * unit, 1e6

    def decide(self, symbol: int = 0, atr_share: float = 0.01) -> None:
        """Let the model ask for a long entry."""
        assert self.live is not None
        core, now_ms = self.live.parts.core, self.clock.now_ms()
        price = self.price(symbol)
        core.books[symbol] = (*self.book(symbol), 0, now_ms, 0, 1)
        self.mark(symbol)
        core.on_vector(
            Vector(symbol, now_ms, np.zeros(132), 7, price, price * atr_share, False, False, True, False, (0, 0, 0)), 1
        )

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
        """Wait for a condition with a deadline: so many seconds in which this process ran.

        What a busy machine holds the loop up does not count, but a turn of it for each time.
        """
        loop, waited_s = asyncio.get_running_loop(), 0.0
        while not condition():
            if waited_s > seconds:
                raise AssertionError(f"not within {seconds} s: {what}")
            asked_s = loop.time()
            await asyncio.sleep(0.01)
            waited_s += min(loop.time() - asked_s, LONGEST_TURN_S)
