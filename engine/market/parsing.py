"""The meaning of a market frame: decoded with orjson, judged, and taken into the decoder's memory.

`kernels.frames` takes most frames before they come here; for what both read they must leave the same, bit for bit.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from orjson import loads

from engine.market.bounds import (
    JUMP_FACTOR,
    JUMP_SQUARED,
    MAX_PRICE,
    MAX_QTY,
    MAX_TIME_MS,
    RESET_MS,
    Doubt,
    bar_fault,
    far,
    kline_fault,
    strict,
)
from engine.market.events import BOOK_ROW, Fault, Note, Sink, Source
from engine.market.memory import Memory
from engine.market.routes import BOOK_KIND, MARK_KIND
from kernels.records import BAR, TIMEFRAME_MS, TIMEFRAMES, BarFlag

TIMEFRAME_COUNT = len(TIMEFRAMES)
INTERVALS = {name: number for number, name in enumerate(TIMEFRAMES)}
COIN_M = 2  # the value of `st` in rows of coin-margined contracts
WS = int(BarFlag.WS)
BAR_STRUCT = struct.Struct("<q8d2q2I")
BOOK_STRUCT = struct.Struct("<4d4q")
PARSE_ERRORS = (KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error)

if BAR_STRUCT.size != BAR.itemsize or BOOK_STRUCT.size != BOOK_ROW.itemsize:
    raise ValueError("the packing of a row no longer matches its dtype")


class Parser:
    """The part of `engine.market.wire.Decoder` that takes one event, as orjson gave it."""

    def __init__(self, symbols: tuple[str, ...], sink: Sink, start_ms: int) -> None:
        self.symbols = symbols
        self.memory = memory = Memory(symbols)
        self._count = len(symbols)
        self._doubt = Doubt(start_ms, memory.newest_ms)
        self.accepted, self.notes, self.faults = memory.accepted, memory.notes, memory.faults
        self.book, self.open_bars = memory.book, memory.open_bars
        self._late_bar: npt.NDArray[Any] = np.zeros(1, BAR)
        self._book_memory = self.book.data.cast("B")
        self._open_memory = self.open_bars.data.cast("B")
        self._late_memory = self._late_bar.data.cast("B")
        self._open_views = [self.open_bars[row] for row in range(len(self.open_bars))]
        self._index = {name: number for number, name in enumerate(symbols)}
        self._bid = self.book["bid"].data
        self._missed: list[set[int]] = [set() for _ in self._open_views]
        self.handlers = {"kline": self._kline, "markPriceUpdate": self._mark_price, "bookTicker": self._book}
        self.sink = sink

    @property
    def sink(self) -> Sink:
        """Receiver of the events; may be replaced between frames."""
        return self._sink

    @sink.setter
    def sink(self, sink: Sink) -> None:
        self._sink = sink
        self._on_book = sink.on_book if getattr(type(sink), "on_book", None) is not None else None
        self._on_kline_open = sink.on_kline_open if getattr(type(sink), "on_kline_open", None) is not None else None
        self._books_wanted = getattr(sink, "books_wanted", True) if self._on_book is not None else ()
        lend = getattr(sink, "borrow_bars", None)
        if lend is not None:
            lend(self._open_views, self.open_bars.ctypes.data)

    def _book(self, data: dict[str, Any], recv_ns: int, source: Source) -> None:
        doubt = self._doubt
        try:
            symbol = self._index.get(data["s"])
            if symbol is None:
                return self._stranger(data, source)
            update_id, event_ms = data["u"], data["E"]
            if update_id <= self.memory.update_id[symbol] and not self._reset(
                symbol, update_id, event_ms, recv_ns, source
            ):
                return None
            if type(update_id) is not int:
                return self._fault(Fault.BAD_TYPE, source)
            if event_ms < self.memory.book_ms[symbol]:
                return self._fault(Fault.BACKWARD, source)
            text = ",".join((data["b"], data["B"], data["a"], data["A"]))
            bid, bid_qty, ask, ask_qty = loads("[" + text + "]") if "e" not in text else strict(text)
            if not (bid > 0.0 and ask < MAX_PRICE and 0.0 <= bid_qty < MAX_QTY and 0.0 <= ask_qty < MAX_QTY):
                return self._fault(Fault.ABSURD_PRICE if bid <= 0.0 or ask >= MAX_PRICE else Fault.ABSURD_QTY, source)
            if bid >= ask:
                return self._fault(Fault.CROSSED, source)
            last = self._bid[symbol]
            stream = BOOK_KIND * self._count + symbol
            if last and not last < bid * JUMP_FACTOR < last * JUMP_SQUARED and not doubt.price(stream, bid, event_ms):
                return self._fault(Fault.PRICE_JUMP, source)
            if event_ms > doubt.newest_ms and not doubt.time(event_ms):
                return self._fault(Fault.TIME_JUMP, source)
            updates = self.memory.updates[symbol] + 1
            BOOK_STRUCT.pack_into(
                self._book_memory, symbol * 64, bid, bid_qty, ask, ask_qty, update_id, event_ms, recv_ns, updates
            )
        except PARSE_ERRORS as error:
            return self._broken(error, source)
        if doubt.held:
            doubt.held.pop(stream, None)
        self.memory.updates[symbol] = updates
        self.memory.update_id[symbol] = source.newest[stream] = update_id
        self.memory.book_ms[symbol] = event_ms
        self.memory.book_ns[symbol] = recv_ns
        source.firsts += 1
        self.accepted[BOOK_KIND] += 1
        if self._on_book is not None:
            self._on_book(symbol, bid, bid_qty, ask, ask_qty, update_id, event_ms, recv_ns)
        return None

    def _fresh(self, row: int, open_ms: int, closed: Any, trade_id: int) -> bool:
        """Tell whether a kline frame is newer than what the series has."""
        newest = self.memory.open_ms[row]
        return open_ms > newest or (
            open_ms == newest
            and self.memory.closed_ms[row] < open_ms
            and (closed is True or trade_id > self.memory.trade_id[row])
        )

    def _reset(self, symbol: int, update_id: int, event_ms: int, recv_ns: int, source: Source) -> bool:
        """Judge an update id that is not newer: True if the exchange's sequence began again."""
        if update_id < self.memory.update_id[symbol] and event_ms > self.memory.book_ms[symbol] + RESET_MS:
            if type(update_id) is not int or update_id < 0 or not self._doubt.time(event_ms):
                self._fault(Fault.ABSURD_TIME, source)
                return False
            self.notes[Note.SEQUENCE_RESET] += 1
            return True
        stream = BOOK_KIND * self._count + symbol
        first_ns = self.memory.book_ns[symbol] if update_id == self.memory.update_id[symbol] else 0
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
            stream = MARK_KIND * self._count + symbol
            newest = self.memory.mark_ms[symbol]
            if event_ms <= newest:
                first_ns = self.memory.mark_ns[symbol] if event_ms == newest else 0
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
        except PARSE_ERRORS as error:
            return self._broken(error, source)
        return self._take_mark(symbol, price, funding_rate, next_funding_ms, event_ms, recv_ns, source)

    def _take_mark(
        self, symbol: int, price: float, rate: float, next_ms: int, event_ms: int, recv_ns: int, source: Source
    ) -> None:
        doubt, stream = self._doubt, MARK_KIND * self._count + symbol
        if far(self.memory.mark[symbol], price) and not doubt.price(stream, price, event_ms):
            return self._fault(Fault.PRICE_JUMP, source)
        if event_ms != doubt.newest_ms and not doubt.time(event_ms):
            return self._fault(Fault.TIME_JUMP, source)
        if doubt.held:
            doubt.held.pop(stream, None)
        self.memory.mark[symbol] = price
        self.memory.mark_ms[symbol] = source.newest[stream] = event_ms
        self.memory.mark_ns[symbol] = recv_ns
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
            stream = timeframe * self._count + symbol
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
            BAR_STRUCT.pack(open_ms, *values, trades, trade_id, event_ms, WS, 0)  # raises for what no row can hold
        except PARSE_ERRORS as error:
            return self._broken(error, source)
        return self._take_kline(
            symbol, timeframe, open_ms, closed, trade_id, event_ms, values, trades, fresh, recv_ns, source
        )

    def _take_kline(
        self, symbol: int, timeframe: int, open_ms: int, closed: bool, trade_id: int, event_ms: int,
        values: list[float], trades: int, fresh: bool, recv_ns: int, source: Source,
    ) -> None:  # fmt: skip
        doubt, row = self._doubt, symbol * TIMEFRAME_COUNT + timeframe
        stream = timeframe * self._count + symbol
        if far(self.memory.close[symbol], values[3]) and not doubt.price(stream, values[3], event_ms):
            return self._fault(Fault.PRICE_JUMP, source)
        if event_ms != doubt.newest_ms and not doubt.time(event_ms):
            return self._fault(Fault.TIME_JUMP, source)
        memory, offset = (self._open_memory, row * BAR.itemsize) if fresh else (self._late_memory, 0)
        BAR_STRUCT.pack_into(memory, offset, open_ms, *values, trades, trade_id, event_ms, WS, 0)
        if not closed:
            self.memory.open_ms[row], self.memory.trade_id[row] = open_ms, trade_id
            self.memory.close[symbol] = values[3]
            self._taken(row, stream, timeframe, event_ms, recv_ns, source)
            if self._on_kline_open is not None:
                self._on_kline_open(symbol, timeframe)
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
        last, missed = self.memory.closed_ms[row], self._missed[row]
        if open_ms == last:
            if values == self.memory.closed_bar(row):
                return self._second(stream, event_ms, recv_ns, self.memory.kline_ns[row], source)
            self.notes[Note.REVISION] += 1
            self.memory.set_closed_bar(row, values)
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
            if open_ms < self.memory.open_ms[row]:
                self.notes[Note.LATE_CLOSE] += 1
            else:
                self.memory.open_ms[row], self.memory.trade_id[row] = open_ms, values[-1]
                self.memory.close[symbol] = values[3]
            self.memory.closed_ms[row] = open_ms
            self.memory.set_closed_bar(row, values)
        self._taken(row, stream, timeframe, event_ms, recv_ns, source)
        self._sink.on_bar(symbol, timeframe, bar, event_ms, recv_ns)
        return None

    def _taken(self, row: int, stream: int, timeframe: int, event_ms: int, recv_ns: int, source: Source) -> None:
        if self._doubt.held:
            self._doubt.held.pop(stream, None)
        self.memory.kline_ns[row] = recv_ns
        source.newest[stream] = max(event_ms, source.newest[stream])
        source.firsts += 1
        self.accepted[timeframe] += 1

    def _old_frame(self, row: int, stream: int, open_ms: int, event_ms: int, recv_ns: int, source: Source) -> None:
        """Count an unneeded frame: of a closed bar, a copy, or older than what this connection sent before."""
        if event_ms >= source.newest[stream] and open_ms <= self.memory.closed_ms[row]:
            source.newest[stream] = event_ms
            self.notes[Note.CLOSED_BAR] += 1
            return None
        first_ns = self.memory.kline_ns[row] if open_ms == self.memory.open_ms[row] else 0
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
