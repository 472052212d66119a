"""The running minute of the whole market: its path, its candles so far, its funding; what streams, REST and
matching see."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.simulator import events, path, render
from engine.simulator.events import INTERVALS, interval_next_ms, interval_open_ms
from engine.simulator.market import Market
from engine.simulator.path import COLUMNS, MINUTE_MS, SLOT_MS, SLOTS, TRADES

HOUR_MS = 3_600_000


class Tape:
    """Minute `index` of `market`, and the market time `now_ms` inside it. `load` moves to the next one."""

    def __init__(self, market: Market, rates: tuple[int, int], start_ms: int) -> None:
        symbols = len(market.symbols)
        self.market = market
        self.rates = np.array(rates, np.int64)
        self.names, self.lengths = render.table(market.symbols, render.NAME_BYTES)
        self.static = np.array(
            [
                [item.price_decimals for item in market.instruments],
                [item.qty_decimals for item in market.instruments],
                market.ticks,
                market.typical,
            ],
            np.int64,
        )
        self.run = np.zeros((5, symbols, SLOTS), np.int64)
        self.base = np.full((len(INTERVALS), COLUMNS, symbols), -1, np.int64)
        self.done = np.zeros_like(self.base)
        self.spans = np.zeros((3, len(INTERVALS)), np.int64)
        self.closed = np.zeros(len(INTERVALS), np.uint8)
        self.funding = np.zeros((symbols, 2), np.int64)
        self._row = np.zeros(COLUMNS, np.int64)
        self._best = np.zeros(4, np.int64)
        self.now_ms = start_ms
        self.index = market.minute_index(start_ms)
        self._begin_at(self.index)

    @property
    def open_ms(self) -> int:
        """Open time of the running minute."""
        return self.market.first_ms + self.index * MINUTE_MS

    def _begin_at(self, index: int) -> None:
        market = self.market
        for i in range(len(INTERVALS)):
            open_ms = interval_open_ms(i, self.open_ms)
            self.spans[:, i] = open_ms, open_ms, interval_next_ms(i, open_ms)
            first = max(0, market.minute_index(open_ms))
            for s in range(len(market.symbols)):
                begin = max(first, int(market.begin[s]))
                if begin < index:
                    folded = np.empty((COLUMNS, 1), np.int64)
                    path.aggregate(np.ascontiguousarray(market.bars[:, s, begin:index]), np.zeros(1, np.int64), folded)
                    self.base[i, :, s] = folded[:, 0]
        self._fill()

    def load(self) -> None:
        """Move to the next minute; the caller has checked that there is one."""
        market, upcoming = self.market, self.open_ms + MINUTE_MS
        for i in range(len(INTERVALS)):
            self.closed[i] = upcoming == self.spans[2, i]
        path.fold_minute(self.base, market.bars, self.index, market.begin, self.closed, self.done)
        for i in np.flatnonzero(self.closed).tolist():
            self.spans[:, i] = upcoming, self.spans[0, i], interval_next_ms(i, upcoming)
        self.index += 1
        self._fill()

    def _fill(self) -> None:
        market = self.market
        path.run_minute(
            market.bars, self.index, market.begin, self.open_ms, market.keys, market.ticks, market.units, self.run
        )
        for s in range(len(market.symbols)):
            self.funding[s] = self.funding_estimate(s, self.open_ms)

    # --- as-of views; all at `now_ms` ---

    @property
    def slot(self) -> int:
        """The last slot that has begun."""
        return min(SLOTS - 1, max(0, (self.now_ms - self.open_ms) // SLOT_MS))

    def minute_row(self, s: int) -> npt.NDArray[np.int64]:
        """Return the running minute's columns so far, int64[COLUMNS] (borrowed until the next call)."""
        row = self._row
        candle = np.ascontiguousarray(self.market.bars[:, s, self.index])  # one layout, one compilation
        path.running(candle, self.run, s, self.slot, self.market.keys[s], self.open_ms, row)
        return row

    def last_price(self, s: int) -> int:
        """Return the last traded price."""
        return int(self.run[0, s, self.slot])

    def mark(self, s: int) -> int:
        """Return the mark price in 10^-8 USDT, as of the 10 Hz path."""
        return int(self.run[3, s, self.slot])

    def index_price(self, s: int) -> int:
        """Return the index price in 10^-8 USDT."""
        return int(np.rint(self.mark(s) / (1.0 + path.basis(self.market.keys[s], self.now_ms))))

    def best(self, s: int) -> tuple[int, int, int, int, int]:
        """Return bid, bid quantity, ask, ask quantity, update id of the newest book update that streams have shown."""
        books = int(self.rates[1])
        number = min(books - 1, max(0, (self.now_ms - self.open_ms) * books // MINUTE_MS))
        slot = (number * SLOTS) // books
        minute = self.open_ms // MINUTE_MS
        market = self.market
        path.book(
            self.run[0, s, slot],
            market.ticks[s],
            market.typical[s],
            market.keys[s],
            minute * 1_200 + number,
            self._best,
        )
        bid, bid_qty, ask, ask_qty = self._best.tolist()
        return bid, bid_qty, ask, ask_qty, minute * 100_000 + number * 50 + 7

    # --- funding and open interest: functions of (symbol, time, seed), or the source's own samples ---

    def funding_hours(self, s: int) -> int:
        """Return the settlement interval."""
        return self.market.instruments[s].funding_hours

    def funding_rate(self, s: int, settle_ms: int) -> int:
        """Return the rate settled at `settle_ms`, in 10^-8."""
        samples = self.market.funding.get(s)
        if samples is not None and len(samples):
            at = int(np.searchsorted(samples["stamp_ms"], settle_ms + 60_000)) - 1
            if at >= 0 and settle_ms - int(samples["stamp_ms"][at]) < 60_000:
                return round(float(samples["value"][at]) * self.funding_hours(s) / 8 * 1e8)
        key = self.market.keys[s]
        rate = 1e-4 + 2.2e-4 * path.smooth(key, settle_ms, 168 * HOUR_MS, 50)
        rate += 0.8e-4 * path.smooth(key, settle_ms, 24 * HOUR_MS, 51)
        return round(rate * self.funding_hours(s) / 8 * 1e8)

    def funding_estimate(self, s: int, time_ms: int) -> tuple[int, int]:
        """Return (running estimate in 10^-8, next settlement time): it moves from the last settled rate to the
        next one."""
        length = self.funding_hours(s) * HOUR_MS
        settle_ms = time_ms // length * length + length
        before, after = self.funding_rate(s, settle_ms - length), self.funding_rate(s, settle_ms)
        share = (time_ms - settle_ms + length) / length
        return round(before + (after - before) * share), settle_ms

    def open_interest(self, s: int, time_ms: int) -> int:
        """Return the open interest in quantity integers."""
        key = self.market.keys[s]
        level = 1.0 + 0.25 * path.smooth(key, time_ms, 6 * HOUR_MS, 60) + 0.05 * path.smooth(key, time_ms, HOUR_MS, 61)
        return max(1, int(400 * int(self.market.typical[s]) * level))

    # --- candles for REST ---

    def minutes(self, s: int, first: int, last: int) -> npt.NDArray[np.int64]:
        """Return minutes [first, last] as int64[COLUMNS, n], the running one as it stands, the last closed one
        as REST knows it."""
        last = min(last, self.index)
        rows = self.market.bars[:, s, first : last + 1].copy()
        if first <= self.index == last:
            rows[:, -1] = self.minute_row(s)
        at = self.index - 1 - first
        if 0 <= at < rows.shape[1]:
            self._lag(s, rows[:, at], self.index - 1)
        return rows

    def _lag(self, s: int, row: npt.NDArray[np.int64], index: int) -> None:
        """Take the last trade out of a minute that has just closed, where REST is late (one close in four, up
        to 1.5 s)."""
        key, open_ms = self.market.keys[s], self.market.first_ms + index * MINUTE_MS
        late_ms = 200 + int(1_300 * path.uniform(key, open_ms, 14))
        if self.now_ms - open_ms - MINUTE_MS < late_ms and path.held_back(np.ascontiguousarray(row), key, open_ms):
            row[path.VOLUME] -= max(1, int(row[path.VOLUME]) // int(row[TRADES]))
            row[TRADES] -= 1
            row[path.TAKER] = min(row[path.TAKER], row[path.VOLUME])


def event_buffer(market: Market, rates: npt.NDArray[np.int64]) -> Any:
    """Return the array that one minute's events fit into."""
    return np.zeros((4, events.capacity(len(market.symbols), rates)), np.int64)
