"""Whose word about a position wins: the exchange's newest statement, but only when nothing of ours is in the air.

The stream's ACCOUNT_UPDATE and REST's positionRisk are compared with our books per symbol. A difference first has to
stand; then own trades are asked for (fills explain positions), then the position is read twice. Only two reads that
agree, a second apart, newer than our last event and with no order in flight, adjust our books. "Flat" needs a second
source besides the reads, because a wrong flat would disarm a guard, and the time that REST may take to show the trade
that made it so. Holds no socket and reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.exchange.user_data import AccountUpdate

STANDS_MS = 500
READ_APART_MS = 1_000
READ_EVERY_MS = 1_100
LAG_MS = 6_000  # REST may show a trade so late; a position that is gone needs no hurry, its trade has to be booked
GIVE_UP_READS = 8  # reads that never agree: an operator task


@dataclass(slots=True)
class Statement:
    """What the exchange last said about one symbol. amount keeps its digits; time_ms is the exchange's."""

    amount: str = "0"
    entry_price: float = 0.0
    time_ms: int = 0

    @property
    def qty(self) -> float:
        """The signed amount."""
        return float(self.amount)


@dataclass(slots=True)
class Doubt:
    """A difference between our books and the exchange's that is being looked into."""

    since_ms: int
    reads: int = 0
    read_ms: int = 0
    read_qty: float = float("nan")
    next_ms: int = 0
    told_ms: int = 0  # when own trades were asked for that were answered
    refused: bool = False  # an exit was refused with "nothing to reduce": a second source for flat


@dataclass
class Reconciler:
    """See the module.

    ours(symbol) → our signed quantity; in_flight(symbol) → an order of ours is open; half_step(symbol) → what counts as
    equal; flat_elsewhere(symbol) → another source says flat (the stop expired). read(symbol), ask_trades(symbol,
    from_ms): requests. settle(symbol, statement): make our books so. give_up(symbol, text): an operator task.
    """

    symbols: list[str]
    ours: Callable[[int], float]
    in_flight: Callable[[int], bool]
    half_step: Callable[[int], float]
    flat_elsewhere: Callable[[int], bool]
    read: Callable[[int], None]
    ask_trades: Callable[[int, int], None]
    settle: Callable[[int, Statement, int], None]
    give_up: Callable[[int, str], None]
    stated: dict[int, Statement] = field(default_factory=dict)
    last_event_ms: dict[int, int] = field(default_factory=dict)
    doubts: dict[int, Doubt] = field(default_factory=dict)
    _index: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index = {name: i for i, name in enumerate(self.symbols)}

    def event(self, symbol: int, time_ms: int) -> None:
        """Note a fill or a statement of the symbol: REST rows older than it say nothing, but what it says itself."""
        self.last_event_ms[symbol] = max(self.last_event_ms.get(symbol, 0), time_ms)

    def on_account(self, update: AccountUpdate, now_ms: int) -> list[str]:
        """Take an ACCOUNT_UPDATE; return symbols that are not ours to trade."""
        foreign = []
        for row in update.positions:
            symbol = self._index.get(row.symbol)
            if symbol is None:
                if float(row.amount):
                    foreign.append(row.symbol)
                continue
            before = self.stated.get(symbol)
            if before is None or update.time_ms >= before.time_ms:
                self.stated[symbol] = Statement(row.amount, row.entry_price, update.time_ms)
            self.event(symbol, update.time_ms)
            self.check(symbol, now_ms)
        return foreign

    def on_read(self, rows: list[dict[str, Any]], asked: list[int], now_ms: int) -> list[str]:
        """Take positionRisk rows; `asked` symbols without a row are flat by this read. Return foreign symbols."""
        found = {}
        foreign = []
        for row in rows:
            if row.get("positionSide", "BOTH") != "BOTH" or not float(row["positionAmt"]):
                continue
            if row["symbol"] in self._index:
                found[self._index[row["symbol"]]] = row
            else:
                foreign.append(row["symbol"])
        for symbol in sorted({*asked, *found}):  # a symbol that nobody asked for may hold what no stream told of
            row = found.get(symbol, {})
            read = Statement(
                str(row.get("positionAmt", "0")), float(row.get("entryPrice") or 0), int(row.get("updateTime") or 0)
            )
            self._read(symbol, read, now_ms)
        return foreign

    def check(self, symbol: int, now_ms: int) -> None:
        """Compare our books with the newest statement; a difference opens a doubt, agreement ends it."""
        stated = self.stated.get(symbol)
        if stated is None:
            return
        if self._same(symbol, stated.qty):
            self.doubts.pop(symbol, None)
        else:
            self.doubts.setdefault(symbol, Doubt(now_ms, next_ms=now_ms + STANDS_MS))

    def refused(self, symbol: int, now_ms: int) -> None:
        """An exit was refused because there was nothing to reduce: look at once."""
        doubt = self.doubts.setdefault(symbol, Doubt(now_ms))
        if not doubt.refused:  # once: each further refusal would use up a reading that REST needs to catch up
            doubt.refused, doubt.next_ms = True, now_ms

    def told(self, symbol: int, asked_ms: int) -> None:
        """Own trades of the symbol, asked for at asked_ms, were answered and taken."""
        if symbol in self.doubts:
            self.doubts[symbol].told_ms = asked_ms

    def advance(self, now_ms: int) -> None:
        """Look into the doubts: own trades first, then the position, as often as it takes."""
        for symbol, doubt in list(self.doubts.items()):
            if now_ms < doubt.next_ms or self.in_flight(symbol):
                continue
            doubt.next_ms = now_ms + READ_EVERY_MS
            self.ask_trades(symbol, self.last_event_ms.get(symbol, now_ms) - 60_000)  # each time: REST may lag
            self.read(symbol)
            doubt.reads += 1
            if doubt.reads == GIVE_UP_READS:
                self.give_up(symbol, "our books and the exchange's do not converge")

    def _read(self, symbol: int, read: Statement, now_ms: int) -> None:
        if self.in_flight(symbol):
            return
        newest_ms, stated = self.last_event_ms.get(symbol, 0), self.stated.get(symbol)
        repeats = stated is not None and stated.time_ms >= newest_ms and stated.qty == read.qty
        if read.time_ms and read.time_ms < newest_ms and not repeats:
            return  # older than what the stream told
        doubt = self.doubts.get(symbol)
        if self._same(symbol, read.qty):
            self.doubts.pop(symbol, None)
            if read.time_ms:
                self.stated[symbol] = stated if repeats and stated is not None else read
            elif symbol in self.stated and not self._same(symbol, self.stated[symbol].qty):  # its end was not told
                self.stated[symbol] = Statement(read.amount, 0.0, self.last_event_ms.get(symbol, 0))
            return
        if doubt is None:
            self.doubts[symbol] = Doubt(now_ms, 0, now_ms, read.qty, now_ms + READ_EVERY_MS)
            return
        if doubt.read_qty != read.qty:
            doubt.read_ms, doubt.read_qty = now_ms, read.qty
            return
        if now_ms - doubt.read_ms < READ_APART_MS:
            return
        if read.qty == 0.0:
            by_stream = stated is not None and stated.qty == 0.0 and stated.time_ms >= newest_ms
            if not (doubt.refused or by_stream or self.flat_elsewhere(symbol)):
                return
            if doubt.told_ms - doubt.read_ms < LAG_MS:  # not by time alone: nobody may have answered meanwhile
                return
        del self.doubts[symbol]
        self.stated[symbol] = read if read.time_ms else Statement(read.amount, read.entry_price, now_ms)
        self.settle(symbol, self.stated[symbol], now_ms)

    def _same(self, symbol: int, qty: float) -> bool:
        return abs(qty - self.ours(symbol)) <= self.half_step(symbol)
