"""The order side of a live run in a replay: what came through its door is handed in again, nothing leaves.

`engine/trading/door.py` journalled each event of the private streams, each answer, each tick and what the start found.
Here they come back at their places. A request is compared with the one that left, digit for digit, and taken by the
transport that took it; it is answered when the record says so. So orders, fills, positions, stops, reconciliation and
twins are those of the run, or the first that is not is named.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from engine.assemble import Parts
from engine.clock import Clock
from engine.config import Config
from engine.exchange.order_budget import OrderBudget
from engine.exchange.requests import Request
from engine.exchange.ws_api import Done
from engine.replay.recording import Comparator, Ended
from engine.timers import Hold
from engine.trading.account_watch import AccountWatch
from engine.trading.door import Source, read_reply, write_request
from engine.trading.live import LiveGateway
from engine.trading.session import LiveTrading
from engine.trading.takeover import Found, join, steps_of, take_over
from kernels.records import Kind


class RecordedExchange:
    """Implements Sender: takes what was taken, answers nothing by itself."""

    def __init__(self, journal: Comparator, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._number = 0
        self.waiting: dict[int, Done] = {}

    def send(self, request: Request, done: Done, route: int = 0) -> str:
        """Compare a request with the recorded one. Raises Differs where another one left, or none."""
        self._number += 1
        found = self._journal.recording.next()
        if found is None:
            raise Ended
        kind, record = found
        taken = bytes(record["route"]).decode() if kind is Kind.REQUEST else ""
        write_request(self._journal, self._number, request, taken, route, self._clock.now_ms())
        if taken:
            self.waiting[self._number] = done
        return taken


class LiveSide:
    """Builds live trading over the recorded exchange: `gateway` first, `join` when the core is there, then `feed`.

    held: what stands in the record of the decision under way.
    """

    def __init__(
        self,
        config: Config,
        symbols: list[str],
        instruments: npt.NDArray[np.void],
        journal: Comparator,
        clock: Clock,
        take_book: Callable[[np.void], None],
    ) -> None:
        self.held = Hold(0)
        self._config, self._symbols, self._instruments = config, symbols, instruments
        self._journal, self._take_book = journal, take_book
        self._exchange = RecordedExchange(journal, clock)
        self.gateway = LiveGateway(symbols, steps_of(instruments), self._exchange)
        self.trading: LiveTrading
        self._watch: AccountWatch

    def join(self, parts: Parts) -> None:
        """Put live trading around the core."""
        self._parts = parts
        trading = join(
            self._config, self._symbols, self._instruments, parts, self.gateway, self._exchange, OrderBudget()
        )
        trading.stood_still = lambda: False  # the ticks that were journalled say when it did
        trading.room = lambda now_ms: not self.held & Hold.RATE
        self._watch = AccountWatch(trading, self._config.live, lambda: None)
        self.trading = trading
        twins = parts.core.twins
        assert twins is not None
        journalled = twins.note_book

        def note_book(symbol: int, now_ms: int) -> None:
            found = self._journal.recording.next()
            if found is not None and found[0] is Kind.BOOK and int(found[1]["symbol"]) == symbol:
                self._take_book(found[1])
            journalled(symbol, now_ms)

        twins.note_book = note_book

    def feed(self, kind: Kind, record: np.void) -> None:
        """Hand in an INPUT or a TICK."""
        now_ms = int(record["time_ms"])
        if kind is Kind.TICK:
            self._journal.take()
            self.trading.tick(int(record["hold"]), now_ms)
            return
        payload, source = self._payload(record), Source(int(record["source"]))
        if source is Source.STREAM:
            self.trading.on_payload(payload, now_ms)
        elif source is Source.REPLY:
            self._answer(record, payload)
        elif source is Source.STREAM_CHANGED:
            self.trading.begin_reconcile()
        elif source is Source.TAKEN_OVER:
            found = Found.unpack(payload)
            take_over(self._parts, self.trading, self._config, self._symbols, found, now_ms)
            self.trading.on_config = self._watch
        else:
            self._watch.checked(payload)

    def _payload(self, record: np.void) -> bytes:
        """Return the payload that begins with `record`, and step over its records."""
        pieces = []
        for part in range(int(record["parts"])):
            found = self._journal.recording.next()
            if found is None:
                raise Ended
            kind, piece = found
            if kind is not Kind.INPUT or int(piece["part"]) != part:
                raise self._journal.recording.difference(kind, piece, "part", f"part {part}", "something else")
            self._journal.take()
            pieces.append(piece["payload"].tobytes()[: int(piece["bytes"])])
        return b"".join(pieces)

    def _answer(self, record: np.void, payload: bytes) -> None:
        number = int(record["number"])
        done = self._exchange.waiting.pop(number, None)
        if done is None:
            raise self._journal.recording.difference(
                Kind.INPUT, record, "number", str(number), "no such request waits for an answer"
            )
        done(read_reply(payload))
