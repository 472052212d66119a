"""Decode the exchange's market frames: bytes in, calls to a sink out. Holds no socket and reads no clock."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from orjson import loads

from engine.market.bounds import (
    EARLY_MS,
    JUMP_FACTOR,
    JUMP_SQUARED,
    MAX_FRAME_BYTES,
    MAX_PRICE,
    MAX_QTY,
    MAX_TIME_MS,
    MIN_TIME_MS,
    RESET_MS,
    TAKER_SLACK,
    TIME_JUMP_MS,
    Doubt,
    bar_fault,
    far,
    kline_fault,
    strict,
)
from engine.market.events import BOOK_ROW, Fault, Note, Sink, Source
from engine.market.routes import BOOK_KIND, KINDS, MARK_KIND
from kernels import frames
from kernels.compile import entry_point
from kernels.records import BAR, TIMEFRAME_MS, TIMEFRAMES, BarFlag

TIMEFRAME_COUNT = len(TIMEFRAMES)
INTERVALS = {name: number for number, name in enumerate(TIMEFRAMES)}
COIN_M = 2  # the value of `st` in rows of coin-margined contracts

BOOK, COPY, KLINE, MARK = frames.BOOK, frames.COPY, frames.KLINE, frames.MARK
WS = int(BarFlag.WS)
_BAR = struct.Struct("<q8d2q2I")
_BOOK = struct.Struct("<4d4q")
_PARSE_ERRORS = (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error)

if _BAR.size != BAR.itemsize or _BOOK.size != BOOK_ROW.itemsize:
    raise ValueError("the packing of a row no longer matches its dtype")


class Decoder:
    """Turn frames of any number of connections into one de-duplicated sequence of events.

    Parameters
    ----------
    symbols
        Names; an index into them is the `symbol` of every event.
    sink
        Receiver of the events; a sink whose class has no `on_book` (or None) reads the array `book` instead.
    start_ms
        Exchange time now, if known; 0 lets the first frame say it.

    Attributes
    ----------
    book : BOOK_ROW[symbols], written in place
    open_bars : BAR[symbols × 3], row symbol × 3 + timeframe: the newest version of the bar that is still open
    """

    def __init__(self, symbols: Sequence[str], sink: Sink, start_ms: int = 0) -> None:
        count = len(symbols)
        self.symbols = tuple(symbols)
        self.sink = sink
        self.faults = [0] * len(Fault)
        self.notes = [0] * len(Note)
        self.accepted = [0] * len(KINDS)
        self._memory = _scan_memory(self.symbols)
        rows = self._memory[frames.BOOKS :]
        self.book: npt.NDArray[Any] = rows[: count * frames.BOOK_WORDS].view(BOOK_ROW)
        state = rows[count * frames.BOOK_WORDS :][: count * frames.STATE_WORDS].reshape(count, frames.STATE_WORDS)
        self._scan = entry_point(frames.scan)
        self._ints = self._memory[frames.OUT_INTS :][: frames.INTS].data
        floats = self._memory.view(np.float64)[frames.OUT_FLOATS :][: frames.FLOATS].data
        self._floats = cast("memoryview[float]", floats)
        self.open_bars: npt.NDArray[Any] = np.zeros(count * TIMEFRAME_COUNT, BAR)
        self._late_bar: npt.NDArray[Any] = np.zeros(1, BAR)
        self._book_memory = self.book.data.cast("B")
        self._open_memory = self.open_bars.data.cast("B")
        self._late_memory = self._late_bar.data.cast("B")
        self._open_views = [self.open_bars[row] for row in range(len(self.open_bars))]
        self._index = {name: number for number, name in enumerate(self.symbols)}
        self._doubt = Doubt(start_ms, self._memory[frames.NEWEST_MS :].data)
        self._held = self._doubt.held
        self._update_id, self._book_ms = state[:, frames.UPDATE_ID].data, state[:, frames.BOOK_MS].data
        self._book_ns, self._updates = state[:, frames.BOOK_NS].data, state[:, frames.UPDATES].data
        self._bid = self.book["bid"].data
        state[:, frames.UPDATE_ID], state[:, frames.BOOK_MS] = -1, MIN_TIME_MS
        self._book_streams = BOOK_KIND * count
        self._mark_ms = [0] * count
        self._mark_ns = [0] * count
        self._mark = [0.0] * count
        self._close = [0.0] * count
        series = count * TIMEFRAME_COUNT
        self._open_ms = [-1] * series
        self._trade_id = [-(1 << 62)] * series
        self._closed_ms = [-1] * series
        self._closed: list[tuple[Any, ...] | None] = [None] * series
        self._kline_ns = [0] * series
        self._missed: list[set[int]] = [set() for _ in range(series)]
        self._handlers = {"kline": self._kline, "markPriceUpdate": self._mark_price, "bookTicker": self._book}
        self._default = Source(0, count * len(KINDS))

    @property
    def sink(self) -> Sink:
        """Receiver of the events; may be replaced between frames."""
        return self._sink

    @sink.setter
    def sink(self, sink: Sink) -> None:
        self._sink = sink
        self._on_book = sink.on_book if getattr(type(sink), "on_book", None) is not None else None
        self._books_wanted = getattr(sink, "books_wanted", True) if self._on_book is not None else ()

    def source(self, index: int) -> Source:
        """Return the bookkeeping for one more connection."""
        return Source(index, len(self.symbols) * len(KINDS))

    def feed(self, payload: bytes | memoryview, recv_ns: int, source: Source | None = None) -> None:
        """Decode one frame, in raw or combined form. Never raises because of what the frame holds.

        `payload` is borrowed: nothing of it is kept after the return. `recv_ns` is monotonic time of arrival.
        """
        if source is None:
            source = self._default
        source.frames += 1
        if type(payload) is bytes and not self._held:
            found = self._scan(payload, recv_ns, self._memory)
            if found == BOOK:
                self._book_scanned(source)
                return
            if found == KLINE:
                self._kline_scanned(recv_ns, source)
                return
            if found == MARK:
                self._mark_scanned(recv_ns, source)
                return
            if found == COPY:
                self._copy_scanned(recv_ns, source)
                return
        try:
            message = loads(payload)
            data = message.get("data", message)
            handler = self._handlers[data["e"]]
        except _PARSE_ERRORS:
            self._unusual(payload, recv_ns, source)
            return
        handler(data, recv_ns, source)

    def _unusual(self, payload: bytes | memoryview, recv_ns: int, source: Source) -> None:
        """Sort out a frame that is no single known event: a list of events, a reply, or a fault."""
        try:
            if len(payload) > MAX_FRAME_BYTES:
                return self._fault(Fault.OVERSIZE, source)
            message = loads(payload)
        except _PARSE_ERRORS:
            return self._fault(Fault.NOT_JSON, source)
        data = message.get("data", message) if type(message) is dict else message
        if type(data) is list:
            for item in data:
                self._one_of_list(item, recv_ns, source)
        elif type(data) is not dict:
            self._fault(Fault.SHAPE, source)
        elif "e" in data:
            self._fault(Fault.UNKNOWN_EVENT, source)
        elif "result" in data or "error" in data or "code" in data:
            self.notes[Note.REPLY] += 1
            if source.on_reply is not None:
                source.on_reply(data)
        else:
            self._fault(Fault.SHAPE, source)
        return None

    def _one_of_list(self, item: Any, recv_ns: int, source: Source) -> None:
        try:
            handler = self._handlers[item["e"]]
        except _PARSE_ERRORS:
            return self._fault(Fault.UNKNOWN_EVENT if type(item) is dict else Fault.SHAPE, source)
        handler(item, recv_ns, source)
        return None

    def _book(self, data: dict[str, Any], recv_ns: int, source: Source) -> None:
        doubt = self._doubt
        try:
            symbol = self._index.get(data["s"])
            if symbol is None:
                return self._stranger(data, source)
            update_id, event_ms = data["u"], data["E"]
            if update_id <= self._update_id[symbol] and not self._reset(symbol, update_id, event_ms, recv_ns, source):
                return None
            if type(update_id) is not int:
                return self._fault(Fault.BAD_TYPE, source)
            if event_ms < self._book_ms[symbol]:
                return self._fault(Fault.BACKWARD, source)
            text = ",".join((data["b"], data["B"], data["a"], data["A"]))
            bid, bid_qty, ask, ask_qty = loads("[" + text + "]") if "e" not in text else strict(text)
            if not (bid > 0.0 and ask < MAX_PRICE and 0.0 <= bid_qty < MAX_QTY and 0.0 <= ask_qty < MAX_QTY):
                return self._fault(Fault.ABSURD_PRICE if bid <= 0.0 or ask >= MAX_PRICE else Fault.ABSURD_QTY, source)
            if bid >= ask:
                return self._fault(Fault.CROSSED, source)
            last = self._bid[symbol]
            stream = BOOK_KIND * len(self._bid) + symbol
            if last and not last < bid * JUMP_FACTOR < last * JUMP_SQUARED and not doubt.price(stream, bid, event_ms):
                return self._fault(Fault.PRICE_JUMP, source)
            if event_ms > doubt.newest_ms and not doubt.time(event_ms):
                return self._fault(Fault.TIME_JUMP, source)
            updates = self._updates[symbol] + 1
            _BOOK.pack_into(
                self._book_memory, symbol * 64, bid, bid_qty, ask, ask_qty, update_id, event_ms, recv_ns, updates
            )
        except _PARSE_ERRORS as error:
            return self._broken(error, source)
        if doubt.held:
            doubt.held.pop(stream, None)
        self._updates[symbol] = updates
        self._update_id[symbol] = source.newest[stream] = update_id
        self._book_ms[symbol] = event_ms
        self._book_ns[symbol] = recv_ns
        source.firsts += 1
        self.accepted[BOOK_KIND] += 1
        if self._on_book is not None:
            self._on_book(symbol, bid, bid_qty, ask, ask_qty, update_id, event_ms, recv_ns)
        return None

    # --- frames of the exact shape, read by `kernels.frames` ---

    def _book_scanned(self, source: Source) -> None:
        symbol, update_id = self._ints[frames.SYMBOL], self._ints[frames.SEQUENCE]
        source.newest[self._book_streams + symbol] = update_id
        source.firsts += 1
        self.accepted[BOOK_KIND] += 1
        if self._on_book is not None and self._books_wanted:
            self._on_book(symbol, *_BOOK.unpack_from(self._book_memory, symbol * _BOOK.size)[:7])

    def _copy_scanned(self, recv_ns: int, source: Source) -> None:
        symbol, _, update_id, *_ = self._ints
        first_ns = self._book_ns[symbol] if update_id == self._update_id[symbol] else 0
        self._second(self._book_streams + symbol, update_id, recv_ns, first_ns, source)

    def _mark_scanned(self, recv_ns: int, source: Source) -> None:
        ints, floats = self._ints, self._floats
        symbol, event_ms = ints[frames.SYMBOL], ints[frames.EVENT_MS]
        newest = self._mark_ms[symbol]
        if event_ms <= newest:
            first_ns = self._mark_ns[symbol] if event_ms == newest else 0
            return self._second(MARK_KIND * len(self._mark) + symbol, event_ms, recv_ns, first_ns, source)
        return self._take_mark(symbol, floats[0], floats[1], ints[frames.NEXT_MS], event_ms, recv_ns, source)

    def _kline_scanned(self, recv_ns: int, source: Source) -> None:
        symbol, event_ms, trade_id, timeframe, open_ms, closed, trades, _ = self._ints
        row = symbol * TIMEFRAME_COUNT + timeframe
        fresh = self._fresh(row, open_ms, closed == 1, trade_id)
        if not fresh and not closed:
            stream = timeframe * len(self._mark) + symbol
            return self._old_frame(row, stream, open_ms, event_ms, recv_ns, source)
        values: list[float] = self._floats.tolist()[:7]  # type: ignore[assignment]
        return self._take_kline(
            symbol, timeframe, open_ms, closed == 1, trade_id, event_ms, values, trades, fresh, recv_ns, source
        )

    def _fresh(self, row: int, open_ms: int, closed: Any, trade_id: int) -> bool:
        """Tell whether a kline frame is newer than what the series has."""
        newest = self._open_ms[row]
        return open_ms > newest or (
            open_ms == newest and self._closed_ms[row] < open_ms and (closed is True or trade_id > self._trade_id[row])
        )

    def _reset(self, symbol: int, update_id: int, event_ms: int, recv_ns: int, source: Source) -> bool:
        """Judge an update id that is not newer: True if the exchange's sequence began again."""
        if update_id < self._update_id[symbol] and event_ms > self._book_ms[symbol] + RESET_MS:
            if type(update_id) is not int or update_id < 0 or not self._doubt.time(event_ms):
                self._fault(Fault.ABSURD_TIME, source)
                return False
            self.notes[Note.SEQUENCE_RESET] += 1
            return True
        stream = BOOK_KIND * len(self._bid) + symbol
        first_ns = self._book_ns[symbol] if update_id == self._update_id[symbol] else 0
        self._second(stream, update_id, recv_ns, first_ns, source)
        return False

    def _second(self, stream: int, sequence: int, recv_ns: int, first_ns: int, source: Source) -> None:
        """Count a frame that another connection (or this one) delivered before."""
        if sequence < source.newest[stream]:
            return self._fault(Fault.BACKWARD, source)
        source.newest[stream] = sequence
        self.notes[Note.DUPLICATE] += 1
        if first_ns:
            source.lags += 1
            source.lag_ns += recv_ns - first_ns
        return None

    def _mark_price(self, data: dict[str, Any], recv_ns: int, source: Source) -> None:
        try:
            symbol = self._index.get(data["s"])
            if symbol is None or data.get("st") == COIN_M:
                return self._stranger(data, source)
            event_ms = data["E"]
            stream = MARK_KIND * len(self._mark) + symbol
            newest = self._mark_ms[symbol]
            if event_ms <= newest:
                first_ns = self._mark_ns[symbol] if event_ms == newest else 0
                return self._second(stream, event_ms, recv_ns, first_ns, source)
            text = data["p"] + "," + (data["r"] or "0")
            price, rate = loads("[" + text + "]") if "e" not in text else strict(text)
            next_funding_ms = data["T"]
            if not (0.0 < price < MAX_PRICE and -1.0 < rate < 1.0):
                return self._fault(Fault.ABSURD_PRICE, source)
            if type(next_funding_ms) is not int or type(event_ms) is not int or not 0 <= next_funding_ms < MAX_TIME_MS:
                return self._fault(Fault.ABSURD_TIME, source)
            funding_rate = float(rate) if data["r"] else np.nan
            price = float(price)
        except _PARSE_ERRORS as error:
            return self._broken(error, source)
        return self._take_mark(symbol, price, funding_rate, next_funding_ms, event_ms, recv_ns, source)

    def _take_mark(
        self, symbol: int, price: float, rate: float, next_ms: int, event_ms: int, recv_ns: int, source: Source
    ) -> None:
        doubt, stream = self._doubt, MARK_KIND * len(self._mark) + symbol
        if far(self._mark[symbol], price) and not doubt.price(stream, price, event_ms):
            return self._fault(Fault.PRICE_JUMP, source)
        if event_ms != doubt.newest_ms and not doubt.time(event_ms):
            return self._fault(Fault.TIME_JUMP, source)
        if doubt.held:
            doubt.held.pop(stream, None)
        self._mark[symbol] = price
        self._mark_ms[symbol] = source.newest[stream] = event_ms
        self._mark_ns[symbol] = recv_ns
        source.firsts += 1
        self.accepted[MARK_KIND] += 1
        self._sink.on_mark(symbol, price, rate, next_ms, event_ms, recv_ns)
        return None

    def _kline(self, data: dict[str, Any], recv_ns: int, source: Source) -> None:
        try:
            k = data["k"]
            symbol, timeframe = self._index.get(data["s"]), INTERVALS.get(k["i"])
            if symbol is None:
                return self._stranger(data, source)
            if timeframe is None:
                return self._fault(Fault.UNKNOWN_INTERVAL, source)
            row = symbol * TIMEFRAME_COUNT + timeframe
            stream = timeframe * len(self._mark) + symbol
            open_ms, closed, trade_id, event_ms = k["t"], k["x"], k["L"], data["E"]
            fresh = self._fresh(row, open_ms, closed, trade_id)
            if not fresh and not closed:
                return self._old_frame(row, stream, open_ms, event_ms, recv_ns, source)
            fault = kline_fault(data, k, timeframe, event_ms)
            if fault is not None:
                return self._fault(fault, source)
            text = ",".join((k["o"], k["h"], k["l"], k["c"], k["v"], k["q"], k["V"]))
            values = loads("[" + text + "]") if "e" not in text else strict(text)
            fault = bar_fault(values, k["n"])
            if fault is not None:
                return self._fault(fault, source)
            trades = k["n"]
            _BAR.pack(open_ms, *values, trades, trade_id, event_ms, WS, 0)  # raises for what no row can hold
        except _PARSE_ERRORS as error:
            return self._broken(error, source)
        return self._take_kline(
            symbol, timeframe, open_ms, closed, trade_id, event_ms, values, trades, fresh, recv_ns, source
        )

    def _take_kline(
        self, symbol: int, timeframe: int, open_ms: int, closed: bool, trade_id: int, event_ms: int,
        values: list[float], trades: int, fresh: bool, recv_ns: int, source: Source,
    ) -> None:  # fmt: skip
        doubt, row = self._doubt, symbol * TIMEFRAME_COUNT + timeframe
        stream = timeframe * len(self._mark) + symbol
        if far(self._close[symbol], values[3]) and not doubt.price(stream, values[3], event_ms):
            return self._fault(Fault.PRICE_JUMP, source)
        if event_ms != doubt.newest_ms and not doubt.time(event_ms):
            return self._fault(Fault.TIME_JUMP, source)
        memory, offset = (self._open_memory, row * BAR.itemsize) if fresh else (self._late_memory, 0)
        _BAR.pack_into(memory, offset, open_ms, *values, trades, trade_id, event_ms, WS, 0)
        if not closed:
            self._open_ms[row], self._trade_id[row] = open_ms, trade_id
            self._close[symbol] = values[3]
            self._taken(row, stream, timeframe, event_ms, recv_ns, source)
            self._sink.on_kline_open(symbol, timeframe)
            return None
        bar = self._open_views[row] if fresh else self._late_bar[0]
        self._closing(row, stream, open_ms, (*values, trades, trade_id), bar, event_ms, recv_ns, source)
        return None

    def _closing(
        self,
        row: int,
        stream: int,
        open_ms: int,
        values: tuple[Any, ...],
        bar: Any,
        event_ms: int,
        recv_ns: int,
        source: Source,
    ) -> None:
        """Judge a valid closing frame by what is closed already, and hand it on as bar or revision."""
        symbol, timeframe = divmod(row, TIMEFRAME_COUNT)
        last, missed = self._closed_ms[row], self._missed[row]
        if open_ms == last:
            if values == self._closed[row]:
                return self._second(stream, event_ms, recv_ns, self._kline_ns[row], source)
            self.notes[Note.REVISION] += 1
            self._closed[row] = values
            bar["flags"] |= BarFlag.REVISION
            self._sink.on_revision(symbol, timeframe, bar, event_ms, recv_ns)
            return None
        if open_ms < last:
            if open_ms not in missed:
                return self._old_frame(row, stream, open_ms, event_ms, recv_ns, source)
            missed.discard(open_ms)
            self.notes[Note.LATE_CLOSE] += 1
        else:
            step = TIMEFRAME_MS[timeframe]
            if last >= 0:
                missed.update(range(max(last + step, open_ms - 60 * step), open_ms, step))
                while len(missed) > 60:  # older holes are REST's business
                    missed.discard(min(missed))
            if open_ms < self._open_ms[row]:
                self.notes[Note.LATE_CLOSE] += 1
            else:
                self._open_ms[row], self._trade_id[row] = open_ms, values[-1]
                self._close[symbol] = values[3]
            self._closed_ms[row], self._closed[row] = open_ms, values
        self._taken(row, stream, timeframe, event_ms, recv_ns, source)
        self._sink.on_bar(symbol, timeframe, bar, event_ms, recv_ns)
        return None

    def _taken(self, row: int, stream: int, timeframe: int, event_ms: int, recv_ns: int, source: Source) -> None:
        if self._doubt.held:
            self._doubt.held.pop(stream, None)
        self._kline_ns[row] = recv_ns
        source.newest[stream] = max(event_ms, source.newest[stream])
        source.firsts += 1
        self.accepted[timeframe] += 1

    def _old_frame(self, row: int, stream: int, open_ms: int, event_ms: int, recv_ns: int, source: Source) -> None:
        """Count an unneeded frame: of a closed bar, a copy, or older than what this connection sent before."""
        if event_ms >= source.newest[stream] and open_ms <= self._closed_ms[row]:
            source.newest[stream] = event_ms
            self.notes[Note.CLOSED_BAR] += 1
            return None
        first_ns = self._kline_ns[row] if open_ms == self._open_ms[row] else 0
        return self._second(stream, event_ms, recv_ns, first_ns, source)

    def _stranger(self, data: dict[str, Any], source: Source) -> None:
        if data.get("st") == COIN_M:
            self.notes[Note.COIN_M] += 1
            return None
        return self._fault(Fault.UNKNOWN_SYMBOL, source)

    def _broken(self, error: Exception, source: Source) -> None:
        self._fault(Fault.MISSING_FIELD if type(error) is KeyError else Fault.BAD_TYPE, source)

    def _fault(self, fault: Fault, source: Source) -> None:
        self.faults[fault] += 1
        source.faults += 1

    def counts(self) -> dict[str, dict[str, int]]:
        """Return all counters by name: `accepted` by kind of stream, `faults` and `notes` by kind."""
        return {
            "accepted": dict(zip(KINDS, self.accepted, strict=True)),
            "faults": {fault.name.lower(): self.faults[fault] for fault in Fault if self.faults[fault]},
            "notes": {note.name.lower(): self.notes[note] for note in Note if self.notes[note]}
            | ({"jump_confirmed": self._doubt.confirmed} if self._doubt.confirmed else {}),
        }


def _scan_memory(symbols: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the memory of `kernels.frames.scan` with the bounds and the names; a name that is not short ASCII has
    none there: its frames are decoded by orjson alone."""
    memory = np.zeros(frames.memory_words(len(symbols)), np.int64)
    values = memory.view(np.float64)
    values[frames.MAX_PRICE], values[frames.MAX_QTY] = MAX_PRICE, MAX_QTY
    values[frames.JUMP], values[frames.JUMP_SQUARED] = JUMP_FACTOR, JUMP_SQUARED
    values[frames.TAKER_SLACK] = TAKER_SLACK
    memory[frames.MIN_TIME_MS], memory[frames.MAX_TIME_MS] = MIN_TIME_MS, MAX_TIME_MS
    memory[frames.TIME_JUMP_MS], memory[frames.EARLY_MS], memory[frames.RESET_MS] = TIME_JUMP_MS, EARLY_MS, RESET_MS
    names = b"".join(
        name.encode().ljust(frames.NAME_BYTES, b"\0")
        if name.isascii() and 0 < len(name) <= frames.NAME_BYTES
        else b"\xff" * frames.NAME_BYTES
        for name in symbols
    )
    memory[len(memory) - len(names) // 8 :] = np.frombuffer(names, np.int64)
    frames.index_names(memory, len(symbols))
    return memory
