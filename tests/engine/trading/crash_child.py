"""A live engine core as a process of its own that trades without pause until it is killed.

Arguments: data folder, REST, stream and WS API addresses. Prints one line when it is ready.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rig import BOOK_ROW, FixedModel

from engine.clock import WallClock
from engine.config import load
from engine.core import Vector
from engine.exchange.budget import WeightBudget
from engine.exchange.rest import MarketRest
from engine.trading.start import open_live
from kernels.records import RunState

SYMBOLS = ["BTCUSDT", "ETHUSDT"]


async def main(folder: Path, rest_url: str, stream_url: str, ws_api_url: str) -> None:
    config = load(
        mode="live", data_dir=folder, market={"symbols": SYMBOLS}, journal={"segment_mib": 1},
        risk={"cooldown_minutes": 0, "max_losing_streak": 10_000, "max_day_loss": 1.0, "max_drawdown": 1.0},
        secrets={"api_key": "test-key", "api_secret": "test-secret"},
        exchange={"rest_url": rest_url, "ws_api_url": ws_api_url, "stream_url": stream_url},
    )  # fmt: skip
    clock = WallClock()
    async with MarketRest(rest_url, WeightBudget()) as market:
        table = await market.instruments()
        for _ in range(3):
            sent_ns = time.monotonic_ns()
            server_ms = await market.server_time_ms()
            clock.fit.add(sent_ns, time.monotonic_ns(), server_ms)
        known = {bytes(row["symbol"]).decode(): row for row in table}
        rows = np.array([known[name] for name in SYMBOLS], table.dtype)
        books = np.zeros(len(SYMBOLS), BOOK_ROW)
        live = await open_live(config, SYMBOLS, rows, books, clock, folder / "locks")
        core, desk = live.parts.core, live.parts.core.desk
        core.predictor = FixedModel()
        desk.account.run_state = int(RunState.RUNNING)
        prices = [float((await market.get("/fapi/v1/premiumIndex", 1, symbol=s))["markPrice"]) for s in SYMBOLS]
    print("ready", flush=True)
    turn = 0
    while True:
        turn += 1
        for symbol, price in enumerate(prices):
            now_ms, slot = clock.now_ms(), desk.positions.slot_of[symbol]
            level = float(desk.positions.rows[slot]["sl_price"]) if slot >= 0 and random.random() < 0.1 else price
            core.on_mark(symbol, level, 0.0, 0, now_ms, 1)
            if slot < 0 and turn % 5 == 0:
                core.on_mark(symbol, price, 0.0, 0, now_ms, 1)
                books[symbol] = (price * 0.9999, 1e6, price * 1.0001, 1e6, 0, now_ms, 0, 1)
                core.on_vector(
                    Vector(symbol, now_ms, np.zeros(132), 7, price, price * 0.01, False, False, True, False, (0, 0, 0)),
                    1,
                )
        live.tick(clock.now_ms())
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:5]))
