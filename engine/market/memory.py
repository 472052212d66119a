"""What the decoder remembers: one block of words that `kernels.frames` works on, and Python's views of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from engine.market.bounds import (
    EARLY_MS,
    JUMP_FACTOR,
    JUMP_SQUARED,
    MAX_PRICE,
    MAX_QTY,
    MAX_TIME_MS,
    MIN_TIME_MS,
    RESET_MS,
    TAKER_SLACK,
    TIME_JUMP_MS,
)
from engine.market.events import BOOK_ROW, Fault, Note
from engine.market.routes import BOOK_KIND, KINDS, MARK_KIND
from kernels import frames
from kernels.names import NAME_BYTES, TABLE_SLOTS, fill_table
from kernels.records import BAR, TIMEFRAMES

if (len(KINDS), MARK_KIND, BOOK_KIND) != (frames.KINDS, frames.MARK_KIND, frames.BOOK_KIND):
    raise ValueError("streams are numbered in another way than kernels.frames counts them")
COUNTED = (len(Note), len(Fault), Note.DUPLICATE, Note.CLOSED_BAR, Fault.BACKWARD)
if (frames.NOTES, frames.FAULT_KINDS, frames.DUPLICATE, frames.CLOSED_BAR, frames.BACKWARD) != COUNTED:
    raise ValueError("notes or faults are numbered in another way than kernels.frames counts them")


class Memory:
    """Views by name; times in exchange ms or monotonic ns, −1 where a series has none yet.

    words int64[…]: the block. By symbol: book, update_id, book_ms, book_ns, updates, mark_ms, mark_ns, mark, close. By
    series (symbol × 3 + timeframe): open_bars BAR[], open_ms and trade_id of the newest frame, closed_ms of the newest
    closed bar and `closed_bar` what it was, kline_ns.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        count, series_count = len(symbols), len(symbols) * len(TIMEFRAMES)
        self.words = words = np.zeros(frames.memory_words(count), np.int64)
        books, states, series, bars, names = frames.sections(count)
        self.book: npt.NDArray[Any] = words[books:states].view(BOOK_ROW)
        self.open_bars: npt.NDArray[Any] = words[bars:names].view(BAR)
        state = words[states:series].reshape(count, frames.STATE_WORDS)
        doubles = cast("npt.NDArray[np.float64]", state.view(np.float64))
        state[:, frames.UPDATE_ID], state[:, frames.BOOK_MS] = -1, MIN_TIME_MS
        self.update_id, self.book_ms = state[:, frames.UPDATE_ID].data, state[:, frames.BOOK_MS].data
        self.book_ns, self.updates = state[:, frames.BOOK_NS].data, state[:, frames.UPDATES].data
        self.mark_ms, self.mark_ns = state[:, frames.MARK_MS].data, state[:, frames.MARK_NS].data
        self.mark = cast("memoryview[float]", doubles[:, frames.MARK_PRICE].data)
        self.close = cast("memoryview[float]", doubles[:, frames.CLOSE].data)
        of_series = words[series:bars].reshape(series_count, frames.SERIES_WORDS)
        of_series[:, frames.OPEN_MS] = of_series[:, frames.CLOSED_MS] = -1
        of_series[:, frames.TRADE_ID] = -(1 << 62)
        self.open_ms, self.trade_id = of_series[:, frames.OPEN_MS].data, of_series[:, frames.TRADE_ID].data
        self.closed_ms, self.kline_ns = of_series[:, frames.CLOSED_MS].data, of_series[:, frames.KLINE_NS].data
        self._last = of_series[:, frames.LAST :]
        self._last_doubles = self._last.view(np.float64)
        self.accepted = words[frames.ACCEPTED :][: frames.KINDS].data
        self.notes, self.faults = words[frames.NOTED :][: frames.NOTES].data, words[frames.FAULTY :][: len(Fault)].data
        self.newest_ms = words[frames.NEWEST_MS :].data
        self.out = words[frames.OUT_INTS :][: frames.WHOLE_NUMBERS].data
        self.out_doubles = words.view(np.float64)[frames.OUT_FLOATS :][: frames.FLOATS].data
        self._set_bounds(words.view(np.float64))
        words[names:] = np.frombuffer(_packed(symbols), np.int64)
        words[frames.SYMBOLS] = count
        fill_table(words[frames.TABLE :][:TABLE_SLOTS], words[names:].view(np.uint64))

    def closed_bar(self, row: int) -> tuple[Any, ...]:
        """Return (7 prices and volumes, trades, newest trade's id) of a series' newest closed bar."""
        return (*self._last_doubles[row, :8].tolist(), int(self._last[row, 8]))

    def set_closed_bar(self, row: int, values: tuple[Any, ...]) -> None:
        """Remember what the newest closed bar was."""
        self._last_doubles[row, :8], self._last[row, 8] = values[:8], values[8]

    def _set_bounds(self, values: npt.NDArray[np.float64]) -> None:
        words = self.words
        values[frames.MAX_PRICE], values[frames.MAX_QTY] = MAX_PRICE, MAX_QTY
        values[frames.JUMP], values[frames.JUMP_SQUARED] = JUMP_FACTOR, JUMP_SQUARED
        values[frames.TAKER_SLACK] = TAKER_SLACK
        words[frames.MIN_TIME_MS], words[frames.MAX_TIME_MS] = MIN_TIME_MS, MAX_TIME_MS
        words[frames.TIME_JUMP_MS], words[frames.EARLY_MS], words[frames.RESET_MS] = TIME_JUMP_MS, EARLY_MS, RESET_MS


def _packed(symbols: Sequence[str]) -> bytes:
    """Return the names, `NAME_BYTES` each; one that is not short ASCII is unknown there: orjson alone decodes it."""
    return b"".join(
        name.encode().ljust(NAME_BYTES, b"\0")
        if name.isascii() and 0 < len(name) <= NAME_BYTES
        else b"\xff" * NAME_BYTES
        for name in symbols
    )
