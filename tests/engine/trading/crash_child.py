"""A live engine core that trades without pause until it is killed; started anew for each line on standard input.

Arguments: data folder, REST, stream and WS API addresses; "hold" to open one position and keep it. This process
imports everything once and forks per start, so a start costs what the engine's own start costs. A started engine prints
JSON lines: `pid` first, `state` when it has taken over what stood on the exchange and every fate is known, `fault` when
it could not, `fenced` when another process took its lease. It trades from SIGUSR1 on.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rig import BOOK_ROW, FixedModel

from engine.clock import WallClock
from engine.config import load
from engine.core import Vector
from engine.exchange.budget import WeightBudget
from engine.exchange.rest import MarketRest
from engine.trading.start import Live, open_live
from kernels.records import RunState

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
SETTLE_S = 60.0
LEAVE_EVERY = 7  # turns of 10 ms: how often a held position meets its stop or its target


def say(**line: object) -> None:
    print(orjson.dumps(line).decode(), flush=True)


def held(live: Live) -> dict[str, float]:
    rows = live.parts.core.desk.positions.rows[: live.parts.core.desk.positions.count]
    return {SYMBOLS[int(row["symbol"])]: float(row["side"]) * float(row["qty"]) for row in rows}


def open_questions(live: Live) -> list[str]:
    """What is not settled yet."""
    desk, trading = live.parts.core.desk, live.trading
    found = [] if trading.sweeps.reconciled else ["not reconciled"]
    found += [f"order {name}: {trading.gateway.tracks.get(name, order)}" for name, order in desk.orders.items()]
    for symbol, doubt in trading.reconciler.doubts.items():
        found.append(f"{SYMBOLS[symbol]}: {doubt}, {trading.reconciler.stated.get(symbol)}, ours {held(live)}")
    found += [f"exit of {i} under way" for i in desk.exits]
    for slot in range(desk.positions.count):
        symbol = int(desk.positions.rows[slot]["symbol"])
        if not trading.protection.standing(symbol):
            found.append(f"no standing stop for {SYMBOLS[symbol]}")
    return found


class Trader:
    """One engine's market and its ticker: marks at a standing price, entries whenever flat, exits now and then."""

    def __init__(self, live: Live, clock: WallClock, books: np.ndarray, prices: list[float], hold: bool) -> None:
        self.live, self.clock, self.books, self.prices, self.hold = live, clock, books, prices, hold
        self.trades = False
        self.turn = 0

    def step(self) -> None:
        core, desk = self.live.parts.core, self.live.parts.core.desk
        self.turn += 1
        for symbol, price in enumerate(self.prices):
            now_ms, slot = self.clock.now_ms(), desk.positions.slot_of[symbol]
            level = price
            if slot >= 0 and self.trades and not self.hold and self.turn % LEAVE_EVERY == symbol:
                level = float(desk.positions.rows[slot][random.choice(["sl_price", "tp_price"])])
            core.on_mark(symbol, level, 0.0, 0, now_ms, 1)
            if slot < 0 and self.trades and not (self.hold and symbol):
                core.on_mark(symbol, price, 0.0, 0, now_ms, 1)
                self.books[symbol] = (price * 0.9999, 1e6, price * 1.0001, 1e6, 0, now_ms, 0, 1)
                vector = (symbol, now_ms, np.zeros(132), 7, price, price * 0.01, False, False, True, False, (0, 0, 0))
                core.on_vector(Vector(*vector), 1)
        if not self.live.tick(self.clock.now_ms()):
            say(fenced=True)
            os._exit(0)


async def run(folder: Path, rest_url: str, stream_url: str, ws_api_url: str, hold: str = "") -> None:
    loop = asyncio.get_running_loop()
    go = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, go.set)
    say(pid=os.getpid())
    config = load(
        mode="live", data_dir=folder, market={"symbols": SYMBOLS}, journal={"segment_mib": 1},
        costs={"max_slip_bps": 100.0},  # decisions are priced at the start, and the path goes on
        risk={"cooldown_minutes": 0, "max_losing_streak": 10_000, "max_day_loss": 1.0, "max_drawdown": 1.0},
        secrets={"api_key": "test-key", "api_secret": "test-secret"},
        exchange={"rest_url": rest_url, "ws_api_url": ws_api_url, "stream_url": stream_url},
    )  # fmt: skip
    clock = WallClock()
    async with MarketRest(rest_url, WeightBudget(folder / "rate_budget")) as market:
        table = await market.instruments()
        for _ in range(3):
            sent_ns = time.monotonic_ns()
            server_ms = await market.server_time_ms()
            clock.fit.add(sent_ns, time.monotonic_ns(), server_ms)
        known = {bytes(row["symbol"]).decode(): row for row in table}
        rows = np.array([known[name] for name in SYMBOLS], table.dtype)
        books = np.zeros(len(SYMBOLS), BOOK_ROW)
        live = await open_live(config, SYMBOLS, rows, books, clock, folder / "locks")
        prices = [float((await market.get("/fapi/v1/premiumIndex", 1, symbol=s))["markPrice"]) for s in SYMBOLS]
    live.parts.core.predictor = FixedModel()
    trader = Trader(live, clock, books, prices, hold == "hold")
    deadline = loop.time() + SETTLE_S
    while questions := open_questions(live):
        if loop.time() > deadline:
            say(fault=questions)
            return
        trader.step()
        await asyncio.sleep(0.005)
    alarms = dict(live.trading.alarm.counts)
    say(state=held(live), alarms=alarms, texts=[f"{k}: {v}" for k, v in live.trading.alarm.open.items()])
    await go.wait()
    live.parts.core.desk.account.run_state = int(RunState.RUNNING)
    live.parts.core.desk.account.halted_symbols.clear()
    trader.trades = True
    while True:
        trader.step()
        await asyncio.sleep(0.01)


def start(arguments: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        asyncio.run(run(Path(arguments[0]), *arguments[1:]))
    except BaseException:
        say(fault=traceback.format_exc())
    finally:
        os._exit(0)


def main() -> None:
    for _ in sys.stdin:
        os.waitpid(start(sys.argv[1:]), 0)


if __name__ == "__main__":
    main()
