"""A live engine core as a process of its own that enters when told to, for tests that stop and resume it.

Arguments: data folder, REST, stream and WS API addresses. Each line "enter SYMBOL" on standard input is one decision,
taken before anything else that has become due. Prints its state as JSON lines whenever it changes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

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
        costs={"max_slip_bps": 100.0},  # decisions are priced at the start, and the path goes on
        secrets={"api_key": "test-key", "api_secret": "test-secret"},
        exchange={"rest_url": rest_url, "ws_api_url": ws_api_url, "stream_url": stream_url},
    )  # fmt: skip
    clock, books = WallClock(), np.zeros(len(SYMBOLS), BOOK_ROW)
    async with MarketRest(rest_url, WeightBudget()) as market:
        table = await market.instruments()
        sent_ns = time.monotonic_ns()
        clock.fit.add(sent_ns, time.monotonic_ns(), await market.server_time_ms())
        known = {bytes(row["symbol"]).decode(): row for row in table}
        rows = np.array([known[name] for name in SYMBOLS], table.dtype)
        live = await open_live(config, SYMBOLS, rows, books, clock, folder / "locks")
        prices = [float((await market.get("/fapi/v1/premiumIndex", 1, symbol=s))["markPrice"]) for s in SYMBOLS]
    core, desk, trading = live.parts.core, live.parts.core.desk, live.trading
    core.predictor = FixedModel()
    desk.account.run_state = int(RunState.RUNNING)
    decisions = 0

    def on_line() -> None:
        nonlocal decisions
        for line in sys.stdin.readline().splitlines():
            symbol = int(line.split()[1])
            price, now_ms = prices[symbol], clock.now_ms()
            core.on_mark(symbol, price, 0.0, 0, now_ms, 1)
            books[symbol] = (price * 0.9999, 1e6, price * 1.0001, 1e6, 0, now_ms, 0, 1)
            vector = (symbol, now_ms, np.zeros(132), 7, price, price * 0.01, False, False, True, False, (0, 0, 0))
            core.on_vector(Vector(*vector), 1)
            decisions += 1

    def state() -> dict[str, Any]:
        held = {int(row["symbol"]): float(row["qty"]) for row in desk.positions.rows[: desk.positions.count]}
        return {
            "held": [held.get(symbol, 0.0) for symbol in range(len(SYMBOLS))],
            "standing": [trading.protection.standing(symbol) for symbol in range(len(SYMBOLS))],
            "free": [trading.may_enter(symbol) for symbol in range(len(SYMBOLS))],
            "reconciled": trading.sweeps.reconciled, "stalls": trading.alarm.counts.get("stall", 0),
            "orders": len(desk.orders), "decisions": decisions, "trades": desk.trades_closed,
        }  # fmt: skip

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), on_line)
    said: dict[str, Any] = {}
    while True:
        for symbol, price in enumerate(prices):
            core.on_mark(symbol, price, 0.0, 0, clock.now_ms(), 1)
        live.tick(clock.now_ms())
        now = state()
        if now != said:
            said = now
            print(json.dumps(now), flush=True)
        await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:5]))
