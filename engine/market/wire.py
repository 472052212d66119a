"""Decode the exchange's market frames: bytes in, calls to a sink out. Holds no socket and reads no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orjson import loads

from engine.market.bounds import MAX_FRAME_BYTES
from engine.market.events import Fault, Note, Sink, Source
from engine.market.memory import Memory
from engine.market.parsing import BOOK_STRUCT, PARSE_ERRORS, TIMEFRAME_COUNT, Parser
from engine.market.routes import KINDS
from kernels import frames
from kernels.compile import entry_point

REFUSED, BOOK, OPEN, CLOSED, MARK = frames.REFUSED, frames.BOOK, frames.OPEN, frames.CLOSED, frames.MARK


class Decoder(Parser):
    """Turn frames of any number of connections into one de-duplicated sequence of events.

    Parameters
    ----------
    symbols
        Names; an index into them is the `symbol` of every event.
    sink
        Receiver of the events; a sink whose class has no `on_book` (or None) reads the array `book` instead, one
        without `on_kline_open` the array `open_bars`.
    start_ms
        Exchange time now, if known; 0 lets the first frame say it.

    Attributes
    ----------
    book : BOOK_ROW[symbols], written in place
    open_bars : BAR[symbols × 3], row symbol × 3 + timeframe: the newest version of the bar that is still open
    """

    def __init__(self, symbols: Sequence[str], sink: Sink, start_ms: int = 0) -> None:
        super().__init__(tuple(symbols), sink, start_ms)
        self._scan = entry_point(frames.scan)
        self._words, self._held = self.memory.words, self._doubt.held
        self._out, self._out_doubles = self.memory.out, self.memory.out_doubles
        self.sources: dict[int, Source] = {}  # the newest of each connection
        self._default = self.source(0)

    def source(self, index: int) -> Source:
        """Return the bookkeeping for one more connection."""
        source = self.sources[index] = Source(index, len(self.symbols) * len(KINDS))
        return source

    def feed(self, payload: bytes | memoryview, recv_ns: int, source: Source | None = None) -> None:
        """Decode one frame, in raw or combined form. Never raises because of what the frame holds.

        `payload` is borrowed: nothing of it is kept after the return. `recv_ns` is monotonic time of arrival.
        """
        if source is None:
            source = self._default
        if type(payload) is bytes and not self._held:
            found = self._scan(payload, recv_ns, self._words, source.words)
            if found == CLOSED:
                symbol, timeframe, event_ms, _ = self._out
                bar = self._open_views[symbol * TIMEFRAME_COUNT + timeframe]
                return self._sink.on_bar(symbol, timeframe, bar, event_ms, recv_ns)
            if found == BOOK:
                if self._books_wanted and self._on_book is not None:
                    symbol = self._out[frames.SYMBOL]
                    self._on_book(symbol, *BOOK_STRUCT.unpack_from(self._book_memory, symbol * BOOK_STRUCT.size)[:7])
                return None
            if found == MARK:
                symbol, _, event_ms, next_ms = self._out
                price, rate = self._out_doubles
                return self._sink.on_mark(symbol, price, rate, next_ms, event_ms, recv_ns)
            if found == OPEN:
                if self._on_kline_open is not None:
                    self._on_kline_open(self._out[frames.SYMBOL], self._out[frames.TIMEFRAME])
                return None
            if found != REFUSED:
                return None
        source.frames += 1
        try:
            message = loads(payload)
            data = message.get("data", message)
            handler = self.handlers[data["e"]]
        except PARSE_ERRORS:
            return self._unusual(payload, recv_ns, source)
        return handler(data, recv_ns, source)

    def scans(self, payload: bytes, memory: Memory, source: Source) -> bool:
        """Return whether a closing frame is taken by `kernels.frames` on a memory of one symbol without bars."""
        return bool(self._scan(payload, 0, memory.words, source.words) == CLOSED)

    def rehearse(self, payload: bytes, memory: Memory, source: Source, sink: Sink) -> None:
        """Decode a closing frame that `scans` on the memory of one symbol, for another sink: `engine.rehearsal`."""
        if self._held:
            return  # it would go on to the parser, which knows one memory only
        memory.open_ms[0] = memory.closed_ms[0] = -1
        kept = self._words, self._out, self._sink
        self._words, self._out, self._sink = memory.words, memory.out, sink
        try:
            self.feed(payload, 0, source)
        finally:
            self._words, self._out, self._sink = kept

    def _unusual(self, payload: bytes | memoryview, recv_ns: int, source: Source) -> None:
        """Sort out a frame that is no single known event: a list of events, a reply, or a fault."""
        try:
            if len(payload) > MAX_FRAME_BYTES:
                return self._fault(Fault.OVERSIZE, source)
            message = loads(payload)
        except PARSE_ERRORS:
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
            handler = self.handlers[item["e"]]
        except PARSE_ERRORS:
            return self._fault(Fault.UNKNOWN_EVENT if type(item) is dict else Fault.SHAPE, source)
        handler(item, recv_ns, source)
        return None

    def counts(self) -> dict[str, dict[str, int]]:
        """Return all counters by name: `accepted` by kind of stream, `faults` and `notes` by kind."""
        return {
            "accepted": dict(zip(KINDS, self.accepted, strict=True)),
            "faults": {fault.name.lower(): self.faults[fault] for fault in Fault if self.faults[fault]},
            "notes": {note.name.lower(): self.notes[note] for note in Note if self.notes[note]}
            | ({"jump_confirmed": self._doubt.confirmed} if self._doubt.confirmed else {}),
        }
