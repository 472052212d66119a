"""Bounds on what a market frame may claim, and how a claim outside them can still be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.market.events import Fault
from kernels.records import TIMEFRAME_MS

MAX_FRAME_BYTES = 1 << 20  # the largest real frame (all mark prices) is about 150 kB
MAX_PRICE = 1e9
MAX_QTY = 1e15
MIN_TIME_MS, MAX_TIME_MS = 10**12, 10**13  # 2001 … 2286
RESET_MS = 5_000  # a lower update id this much newer is the exchange's sequence starting again
TIME_JUMP_MS = 3_600_000  # an event this far ahead of all others must be confirmed by further frames
EARLY_MS = 1_000  # a candle may open at most this much after the time of its own event
JUMP_FACTOR = 5.0  # a price this many times the last one must be confirmed by further frames
JUMP_SQUARED = JUMP_FACTOR * JUMP_FACTOR
CONFIRMATIONS = 3
TAKER_SLACK = 1.0 + 1e-9  # the two volumes are rounded separately


class Doubt:
    """Hold back prices and times far from the last accepted ones until further frames agree with them.

    One garbled number must not fire a stop or block a stream by its far-future time; a market that did move, or a
    stream resumed after an hour, must not blind us for ever. Whoever accepts a frame removes its stream from `held`.
    """

    __slots__ = ("_newest", "_time", "confirmed", "held")

    def __init__(self, newest_ms: int, memory: memoryview | list[int] | None = None) -> None:
        """Begin at exchange time `newest_ms` (0: unknown), kept in `memory`[0] where a kernel may move it on too."""
        self._newest = [0] if memory is None else memory
        self._newest[0] = newest_ms
        self.confirmed = 0
        self.held: dict[int, tuple[float, int, int]] = {}
        self._time = (0, 0)

    @property
    def newest_ms(self) -> int:
        """The newest event's time; 0: none yet."""
        return self._newest[0]

    @newest_ms.setter
    def newest_ms(self, newest_ms: int) -> None:
        self._newest[0] = newest_ms

    def price(self, stream: int, price: float, event_ms: int) -> bool:
        """Return True once `CONFIRMATIONS` distinct frames of the stream agree on a price far from the last one."""
        seen, seen_ms, count = self.held.get(stream, (0.0, 0, 0))
        if seen and seen < price * 1.5 < seen * 2.25:
            count += event_ms > seen_ms
        else:
            count = 1
        if count >= CONFIRMATIONS:
            self.held.pop(stream, None)
            self.confirmed += 1
            return True
        self.held[stream] = (price, event_ms, count)
        return False

    def time(self, event_ms: int) -> bool:
        """Return True if an event's time is acceptable; one far ahead of all others only when others agree."""
        if type(event_ms) is not int or not MIN_TIME_MS < event_ms < MAX_TIME_MS:
            return False
        newest = self.newest_ms
        if event_ms <= newest:
            return True
        if newest and event_ms > newest + TIME_JUMP_MS:
            seen, count = self._time
            count = count + 1 if abs(event_ms - seen) < TIME_JUMP_MS else 1
            self._time = (event_ms, count)
            if count < CONFIRMATIONS:
                return False
            self.confirmed += 1
        self.newest_ms = event_ms
        return True


def far(last: float, price: float) -> bool:
    """Tell whether `price` is more than `JUMP_FACTOR` away from `last`; never while there is no last price (0)."""
    return last != 0.0 and not last < price * JUMP_FACTOR < last * JUMP_SQUARED


def kline_fault(data: dict[str, Any], k: dict[str, Any], timeframe: int, event_ms: int) -> Fault | None:
    """Return what is wrong with the frame of a kline event apart from its values."""
    open_ms, closed, step = k["t"], k["x"], TIMEFRAME_MS[timeframe]
    if k["s"] != data["s"]:
        return Fault.SHAPE
    if type(closed) is not bool or type(open_ms) is not int or type(k["L"]) is not int:
        return Fault.BAD_TYPE
    if not 0 <= open_ms < MAX_TIME_MS or open_ms % step or k["T"] != open_ms + step - 1:
        return Fault.ABSURD_TIME
    if open_ms > event_ms + EARLY_MS or (closed and event_ms < open_ms + step - 1):
        return Fault.ABSURD_TIME
    return None


def bar_fault(values: Sequence[Any], trades: Any) -> Fault | None:
    """Return what is wrong with (open, high, low, close, volume, quote volume, taker volume) and the trade count."""
    open_, high, low, close, volume, quote, taker = values
    if not (low > 0.0 and high < MAX_PRICE):
        return Fault.ABSURD_PRICE
    if not (low <= open_ <= high and low <= close <= high):
        return Fault.OHLC
    if not (0.0 <= volume < MAX_QTY and 0.0 <= quote < MAX_QTY and 0.0 <= taker <= volume * TAKER_SLACK):
        return Fault.ABSURD_QTY
    if type(trades) is not int or not 0 <= trades < MAX_QTY:
        return Fault.BAD_TYPE
    return None


def strict(text: str) -> list[float]:
    """Convert number strings that hold an `e`: an exponent passes, `true` and `false` raise ValueError."""
    return [float(part) for part in text.split(",")]
