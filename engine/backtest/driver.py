"""Backtest: the engine's core, desk and shadow gateway over stored bars, as fast as nothing happens.

    result = engine.backtest.run(config, histories, predictor, instruments)

Minutes go through `Core.on_mark` and `Core.on_vector` as live frames do. Stretches in which no position meets a barrier
and every decision is refused are passed by `kernels.quiet.stride`, which applies the same kernels; `every_minute=True`
takes the core through all of them, and gives the same result (tests/engine/test_backtest.py).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.assemble import Preamble, wire
from engine.backtest.history import Batch, History, Progress, lay_out
from engine.backtest.results import Result
from engine.backtest.tape import Given, Tape, instrument_rows
from engine.clock import EventClock
from engine.config import Config
from engine.core import Core, Vector, constants
from engine.market.events import BOOK_ROW
from engine.restore import Restored
from engine.trading.account import Account
from engine.trading.limits import limits_row
from engine.trading.shadow import ShadowGateway
from kernels.decide import FACTS, PLAN
from kernels.quiet import (
    CLOSE,
    FILLED,
    HAS_BAR,
    HAS_VECTOR,
    HIGH,
    LAST_TICK_MS,
    LOW,
    MINUTE_MS,
    NAN_UNSEEN,
    OPEN,
    READY,
    stride,
)
from kernels.records import FEATURE_COUNT, Kind, RunState
from kernels.stops import POSITION

__all__ = ["History", "Result", "run"]

KNOTS_MS = (0, 20_000, 40_000, LAST_TICK_MS)  # when a minute's path is at its open, its two extremes, its close
DEPTH = 1e15  # quantity at the best level: stored bars know no book, so its size never limits an order
FOREVER_MS = 1 << 42
MINUTES_PER_REPORT = 5_000


def run(
    config: Config,
    histories: list[History],
    predictor: Batch,
    instruments: npt.NDArray[Any] | None = None,
    *,
    btc: History | None = None,
    from_ms: int = 0,
    to_ms: int = FOREVER_MS,
    every_minute: bool = False,
    wallet_usdt: float = 0.0,
    progress: Progress = lambda what, done, total: None,
) -> Result:
    """Trade `histories` with `predictor` under `config` and return what came of it.

    histories: one per symbol, with the warm-up before `from_ms`; btc: BTCUSDT's history if it is not among them;
    instruments: INSTRUMENT[] that name the symbols (default: an unlimited instrument with fine steps);
    [from_ms, to_ms): the minutes to trade, UTC; every_minute: no stride over quiet minutes; wallet_usdt: to begin with
    (default: the configured one); progress(what, done, total) is told of symbols laid out and of minutes. Raises
    DataError when there is nothing to trade or BTCUSDT is missing, ValueError for an instrument that is missing.
    """
    driver = Driver(
        config, histories, predictor, instruments, btc=btc, from_ms=from_ms, to_ms=to_ms, wallet_usdt=wallet_usdt,
        progress=progress,
    )  # fmt: skip
    driver.drive(every_minute)
    return driver.result()


class Driver:
    """Takes the core through the grid, minute by minute or in strides."""

    def __init__(
        self,
        config: Config,
        histories: list[History],
        predictor: Batch,
        instruments: npt.NDArray[Any] | None,
        *,
        btc: History | None,
        from_ms: int,
        to_ms: int,
        wallet_usdt: float = 0.0,
        progress: Progress = lambda what, done, total: None,
    ) -> None:
        base = btc or next((h for h in histories if h.symbol == config.market.btc_symbol), None)
        if base is None:
            raise ValueError(f"btc: the features need the history of {config.market.btc_symbol}")
        self.config = config
        self._progress = progress
        self.grid = lay_out(histories, base, predictor, from_ms, to_ms, progress)
        self.clock = EventClock()
        self.clock.observe(self.grid.first_ms)
        symbols = self.grid.symbols
        self.instruments = instrument_rows(instruments, symbols)
        self.books: npt.NDArray[Any] = np.zeros(len(symbols), BOOK_ROW)
        self.tape = Tape(self.grid)

        def open_journal(preamble: Preamble) -> Tape:
            return self.tape

        self.start_equity_usdt = wallet_usdt or config.risk.start_equity_usdt
        begin = Restored(account=Account(self.start_equity_usdt))
        parts = wire(config, symbols, self.instruments, self.books, self.clock, begin, open_journal)
        self.core: Core = parts.core
        assert isinstance(parts.gateway, ShadowGateway)
        self.gateway: ShadowGateway = parts.gateway
        self.given = Given(predictor.model_id)
        self.core.predictor = self.given
        self.core.desk.account.run_state = int(RunState.RUNNING)
        self.equity = np.full(self.grid.minutes, np.nan)
        self.core.closes = self._closes
        self._values = np.zeros(FEATURE_COUNT)
        self._lean = [1] * len(symbols)
        self._at = 0
        self.strided = 0
        self._stride = _Stride(self)

    # --- the walk ---

    def drive(self, every_minute: bool = False) -> None:
        """Go through all minutes."""
        desk, at, end = self.core.desk, 0, self.grid.minutes
        told = 0
        while at < end:
            if at >= told:
                self._progress("minutes", at, end)
                told = at + MINUTES_PER_REPORT
            if not every_minute and not desk.orders and not desk.exits:
                passed = self._stride.go(at, end)
                self.strided += passed - at
                at = passed
                if at == end:
                    break
            self.play(at)
            at += 1
        self._progress("minutes", end, end)
        self._end()

    def play(self, at: int) -> None:
        """Take the core through one minute: its ticks, what happens between them, the decisions at its close."""
        grid, open_ms = self.grid, self.grid.first_ms + at * MINUTE_MS
        self._at = at
        live = np.flatnonzero(grid.flags[:, at] & HAS_BAR).tolist()
        positions = self.core.desk.positions
        sides = {int(row["symbol"]): int(row["side"]) for row in positions.rows[: positions.count]}
        sides |= {order.symbol: order.side for order in self.core.desk.orders.values() if not order.reduce_only}
        for symbol in live:
            self._lean[symbol] = sides.get(symbol, 1) or 1
        for knot, offset_ms in enumerate(KNOTS_MS):
            if knot:
                self._between(live, open_ms + KNOTS_MS[knot - 1], open_ms + offset_ms)
            for symbol in live:
                self._tick(symbol, open_ms + offset_ms, self._price(symbol, offset_ms))
        now_ms = open_ms + MINUTE_MS
        for symbol in range(len(grid.symbols)):
            if grid.flags[symbol, at] & HAS_VECTOR:
                self._quote(symbol, now_ms, float(grid.closes[symbol, at, 1]))
                self._decide(symbol, now_ms)
        self.equity[at] = self.core.desk.account.equity_usdt

    def _tick(self, symbol: int, now_ms: int, price: float) -> None:
        grid, at = self.grid, self._at
        offset_ms = now_ms % MINUTE_MS
        rates = grid.last_rates if offset_ms == LAST_TICK_MS else grid.rates
        self._quote(symbol, now_ms, price * self._basis(symbol, offset_ms))
        self.core.on_mark(symbol, price, float(rates[symbol, at]), int(grid.next_ms[symbol, at]), now_ms, 0)

    def _between(self, live: list[int], begin_ms: int, end_ms: int) -> None:
        """Do what happens between two knots in the order of time: orders meet the book, paths meet barriers."""
        first_ticks: dict[int, int] = {}  # symbol → the first mark tick after its entry
        at_ms = begin_ms
        while True:
            happens = [(tick_ms, symbol, math.nan) for symbol, tick_ms in first_ticks.items()]
            happens += self._crossings(live, first_ticks, at_ms, end_ms)
            happens = [event for event in happens if event[0] < end_ms]
            due_ms = self.gateway.next_due_ms
            if due_ms is not None and math.ceil(due_ms) <= end_ms:
                happens.append((max(math.ceil(due_ms), at_ms), -1, math.nan))
            if not happens:
                return
            at_ms, symbol, level = min(happens)
            if symbol < 0:
                self._fill(live, at_ms, first_ticks)
                continue
            first_ticks.pop(symbol, None)
            self._tick(symbol, at_ms, self._price(symbol, at_ms % MINUTE_MS) if math.isnan(level) else level)

    def _fill(self, live: list[int], now_ms: int, first_ticks: dict[int, int]) -> None:
        """Let waiting orders meet the book of this moment; what they open is looked at from the next second on."""
        desk = self.core.desk
        flat = [slot < 0 for slot in desk.positions.slot_of]
        for symbol in {order.symbol for order in desk.orders.values()} & set(live):
            offset_ms = now_ms % MINUTE_MS
            self._quote(symbol, now_ms, self._price(symbol, offset_ms) * self._basis(symbol, offset_ms))
        self.clock.observe(now_ms)
        desk.advance(now_ms)
        for symbol, slot in enumerate(desk.positions.slot_of):
            if slot >= 0 and flat[symbol] and symbol in live:
                first_ticks[symbol] = now_ms - now_ms % 1_000 + 1_000

    def _crossings(
        self, live: list[int], first_ticks: dict[int, int], begin_ms: int, end_ms: int
    ) -> list[tuple[int, int, float]]:
        """Return (time, symbol, level) of each position whose path meets a barrier before the next knot."""
        desk, found = self.core.desk, []
        for row in desk.positions.rows[: desk.positions.count]:
            symbol, side = int(row["symbol"]), int(row["side"])
            if symbol not in live or symbol in first_ticks or int(row["position_id"]) in desk.exits:
                continue
            start = self._price(symbol, begin_ms % MINUTE_MS)
            stop = self._price(symbol, end_ms % MINUTE_MS)
            stop_loss, take_profit = float(row["sl_price"]), float(row["tp_price"])
            level = stop_loss if side * (stop - stop_loss) <= 0.0 else take_profit
            if level == take_profit and side * (stop - take_profit) < 0.0:
                continue
            share = (start - level) / (start - stop) if start != stop else 0.0
            found.append((begin_ms + math.ceil(max(share, 0.0) * (end_ms - begin_ms)), symbol, level))
        return found

    # --- the market ---

    def _price(self, symbol: int, offset_ms: int) -> float:
        """Return the mark's path: open, then the extreme that is worse for the position, the other one, close."""
        path = self.grid.path[symbol, self._at]
        order = (OPEN, LOW, HIGH, CLOSE) if self._lean[symbol] > 0 else (OPEN, HIGH, LOW, CLOSE)
        knot = min(offset_ms // 20_000, 2)
        begin_ms, end_ms = KNOTS_MS[knot], KNOTS_MS[knot + 1]
        start, stop = float(path[order[knot]]), float(path[order[knot + 1]])
        if offset_ms == end_ms:
            return stop
        return start + (stop - start) * ((offset_ms - begin_ms) / (end_ms - begin_ms))

    def _basis(self, symbol: int, offset_ms: int) -> float:
        """Return last price over mark price: as stored at the minute's ends, linear between them."""
        path, closes = self.grid.path[symbol, self._at], self.grid.closes[symbol, self._at]
        first, last = float(closes[0] / path[OPEN]), float(closes[1] / path[CLOSE])
        return first + (last - first) * (offset_ms / LAST_TICK_MS)

    def _closes(self, symbol: int, open_ms: int, count: int) -> npt.NDArray[np.float64]:
        """Return the closes of the minutes that end with the one opened at `open_ms`; NaN where there is none."""
        end = (open_ms - self.grid.first_ms) // MINUTE_MS + 1
        closes = np.full(count, np.nan)
        known = self.grid.closes[symbol, max(end - count, 0) : max(end, 0), 1]
        closes[count - len(known) :] = known
        return closes

    def _quote(self, symbol: int, now_ms: int, last: float) -> None:
        """Set the book around the last price, half a spread to either side."""
        half = self.config.costs.half_spread
        self.books[symbol] = (last * (1.0 - half), DEPTH, last * (1.0 + half), DEPTH, 0, now_ms, 0, 0)

    def _decide(self, symbol: int, now_ms: int) -> None:
        grid, at = self.grid, self._at
        flags = int(grid.flags[symbol, at])
        self.given.answer = grid.predictions[symbol, at]
        self._values[0] = math.nan if flags & NAN_UNSEEN else 0.0
        self.clock.observe(now_ms)
        vector = Vector(
            symbol, now_ms, self._values, 0, float(grid.closes[symbol, at, 1]), float(grid.atr[symbol, at]), False,
            False, bool(flags & READY), bool(flags & FILLED), (0, 0, 0),
        )  # fmt: skip
        self.core.on_vector(vector, 0)

    def _end(self) -> None:
        """Let orders that still wait meet the last close."""
        last_ms = self.grid.first_ms + self.grid.minutes * MINUTE_MS
        while (due_ms := self.gateway.next_due_ms) is not None:
            self.clock.observe(max(math.ceil(due_ms), last_ms))
            self.core.desk.advance(self.clock.now_ms())
        self.core.desk.mark_account(self.clock.now_ms())
        self.equity[-1] = self.core.desk.account.equity_usdt

    def result(self) -> Result:
        """Return what the walk left."""
        tape, grid, desk = self.tape, self.grid, self.core.desk
        return Result(
            symbols=grid.symbols,
            model_id=self.given.model_id,
            config_hash=self.config.hash(),
            first_ms=grid.first_ms,
            start_equity_usdt=self.start_equity_usdt,
            trades=tape.table(Kind.TRADE),
            fills=tape.table(Kind.FILL),
            orders=tape.table(Kind.ORDER),
            equity_usdt=self.equity,
            sides=tape.sides,
            gates=tape.gates,
            decided=(grid.flags & HAS_VECTOR) > 0,
            open_positions=desk.positions.count,
            minutes_on_last_price=grid.on_last_price,
            minutes_unfunded=grid.unfunded,
            minutes_strided=self.strided,
        )


class _Stride:
    """The compiled stride with its arrays: what the core knows goes in, what it would know comes out."""

    def __init__(self, driver: Driver) -> None:
        core, config = driver.core, driver.config
        self._driver, self._limits = driver, limits_row(config)
        self._time_limit_ms = config.barriers.time_limit_minutes * 60_000
        self._constants = constants(driver.instruments).view(np.float64).reshape(len(driver.grid.symbols), -1)
        self._scratch = np.zeros(1, FACTS), np.zeros(1, PLAN), np.zeros(len(core.desk.positions.rows), POSITION)

    def go(self, at: int, end: int) -> int:
        """Pass over quiet minutes from `at` on; return the first one that is for the core."""
        driver, core = self._driver, self._driver.core
        grid, desk, account = driver.grid, core.desk, core.desk.account
        mark_ms, due_ms = np.array(core.mark_ms, np.int64), np.array(core.next_funding_ms, np.int64)
        cooldown_ms = np.zeros(len(grid.symbols))
        for symbol, until_ms in account.cooldown_until_ms.items():
            cooldown_ms[symbol] = until_ms
        money = np.array(
            [account.wallet_usdt, account.equity_usdt, account.peak_equity_usdt, account.day_start_equity_usdt,
             account.day_ms, account.losing_streak], np.float64,
        )  # fmt: skip
        passed = int(
            stride(
                at, end, grid.first_ms, grid.flags, grid.path, grid.closes, grid.predictions, grid.atr,
                grid.last_rates, grid.next_ms, core.marks, mark_ms, due_ms, cooldown_ms, desk.positions.rows,
                desk.positions.count, np.array(desk.positions.slot_of, np.int64), money, self._constants,
                self._limits, driver.config.costs.half_spread, DEPTH, self._time_limit_ms, *self._scratch,
                driver.tape.sides, driver.tape.gates, driver.equity,
            )
        )  # fmt: skip
        if passed == at:
            return at
        core.mark_ms[:], core.next_funding_ms[:] = mark_ms.data, due_ms.data
        for symbol in range(len(grid.symbols)):
            seen = np.flatnonzero(grid.flags[symbol, at:passed] & HAS_BAR)
            if len(seen):
                core.funding_rate[symbol] = float(grid.last_rates[symbol, at + seen[-1]])
        account.equity_usdt, account.peak_equity_usdt, account.day_start_equity_usdt = money[1:4].tolist()
        account.day_ms = int(money[4])
        driver.clock.observe(grid.first_ms + passed * MINUTE_MS)
        return passed
