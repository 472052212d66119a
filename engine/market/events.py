"""What the market decoder speaks: the kinds of fault and note, the sink it calls, a connection's bookkeeping."""

from __future__ import annotations

import enum
from typing import Any, Protocol

import numpy as np

from kernels import frames as layout
from kernels.records import BOOK_ROW

__all__ = ["BOOK_ROW", "Fault", "Note", "Sink", "Source"]


class Fault(enum.IntEnum):
    """What was wrong with a dropped frame."""

    NOT_JSON = 0
    SHAPE = 1  # JSON, but not an object (or list of objects) of a known form
    MISSING_FIELD = 2
    BAD_TYPE = 3
    ABSURD_PRICE = 4
    ABSURD_QTY = 5
    ABSURD_TIME = 6
    CROSSED = 7
    OHLC = 8
    UNKNOWN_SYMBOL = 9
    UNKNOWN_EVENT = 10
    UNKNOWN_INTERVAL = 11
    BACKWARD = 12  # older than what the same connection sent before
    PRICE_JUMP = 13  # not confirmed yet
    TIME_JUMP = 14  # not confirmed yet
    OVERSIZE = 15


class Note(enum.IntEnum):
    """What is no fault, but worth counting."""

    DUPLICATE = 0  # the other connection was first
    CLOSED_BAR = 1  # a frame of a bar that is closed already
    SEQUENCE_RESET = 2
    REVISION = 3  # a second closing frame with other values
    LATE_CLOSE = 4  # a close that came after a frame of the next bar
    COIN_M = 5  # a row of the other contract family
    REPLY = 6


class Sink(Protocol):
    """Who takes decoded events. Called synchronously inside `Decoder.feed`; what it raises is not caught there."""

    def on_kline_open(self, symbol: int, timeframe: int) -> None:
        """Take note that the open bar of (symbol, timeframe) changed; `Decoder.open_bars` holds it. May be absent."""

    def on_bar(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        """Take a closed bar. `bar` is a BAR record borrowed from the decoder: copy it before returning.

        Each (symbol, timeframe, open time) comes once. Times may skip (a gap) and, after a fault, run back.
        """

    def on_revision(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        """Take a second, differing version of the newest closed bar (borrowed, flag REVISION set)."""

    def on_mark(
        self, symbol: int, price: float, funding_rate: float, next_funding_ms: int, event_ms: int, recv_ns: int
    ) -> None:
        """Take a mark price; `funding_rate` is NaN for a symbol without funding."""

    def on_book(
        self,
        symbol: int,
        bid: float,
        bid_qty: float,
        ask: float,
        ask_qty: float,
        update_id: int,
        event_ms: int,
        recv_ns: int,
    ) -> None:
        """Take the best bid and ask; the same values are in `Decoder.book` already."""


def _count(word: int, what: str) -> Any:
    """Return a property over one word of a source's memory."""

    def read(source: Source) -> int:
        return source._counts[word]

    def write(source: Source, value: int) -> None:
        source._counts[word] = value

    return property(read, write, doc=what)


class Source:
    """One connection's share of the decoder's memory: what it delivered, and how it does against the others.

    `newest[stream]` is the newest sequence (update id or event time) that this connection delivered of a stream; a
    watchdog sees by its change that the stream lives. words int64[…]: all counts and `newest`, to which
    `kernels.frames` adds by itself.
    """

    __slots__ = ("_counts", "index", "newest", "on_reply", "words")

    def __init__(self, index: int, streams: int) -> None:
        self.index = index
        self.words = np.zeros(layout.NEWEST + streams, np.int64)
        self.newest, self._counts = self.words[layout.NEWEST :].data, self.words.data
        self.on_reply: Any = None

    frames = _count(layout.FRAMES, "Frames of any kind.")
    faults = _count(layout.FAULTS, "Frames dropped for what they said.")
    firsts = _count(layout.FIRSTS, "Events that no other connection delivered before.")
    lags = _count(layout.LAGS, "Events that another connection delivered first, and whose delay is known.")
    lag_ns = _count(layout.LAG_NS, "The sum of those delays.")

    def forget(self) -> None:
        """Start a new connection's sequence: what an earlier socket delivered no longer proves anything."""
        self.words[layout.NEWEST :] = 0
