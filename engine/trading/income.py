"""Our bookings against the exchange's income history: every trade's fee and realised result, every funding payment.

Each side is kept until the other has told of the same thing; what agrees is forgotten, what differs or never finds its
counterpart is an alarm. Holds no socket and reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.exchange.replies import Reply
from engine.exchange.requests import Call, Request
from engine.exchange.venue import Sender

EVERY_MS = 300_000
AGAIN_MS = 60_000
LAG_MS = 30_000  # the newest rows may still be on their way
ROWS = 1_000  # the most that one answer holds
HOUR_MS = 3_600_000
WAIT_MS = 3 * EVERY_MS  # one side alone for so long: a difference
LEAST_USDT, SHARE, SHARE_OF_CONVERTED = 0.01, 1e-4, 0.05  # what counts as equal; a fee in BNB was priced by us
TRANSFER = "TRANSFER"
SAME_MS = 60_000  # the stream's time of a transfer and its row's are no further apart
KINDS = ("REALIZED_PNL", "COMMISSION", "FUNDING_FEE")
Key = tuple[int, str, int]  # symbol, "trade" or "funding", trade id or hour


@dataclass(slots=True)
class Item:
    """One trade or funding payment as both sides tell it, in USDT; fees and payments negative when we paid."""

    time_ms: int
    ours: tuple[float, float] | None = None  # realised or funding; fee
    realised: float = 0.0
    fee: float = 0.0
    told: bool = False  # the exchange's row that always comes has come
    converted: bool = False


@dataclass
class IncomeCheck:
    """price(asset) is a fee asset's price in USDT; alarm(kind, symbol, text) tells a person. missed(USDT, ms) is told
    of money that was moved while no stream told of it.

    `totals` holds per kind what both sides have told so far: [ours, the exchange's].
    """

    sender: Sender
    symbols: list[str]
    price: Callable[[str], float]
    alarm: Callable[[str, int, str], None] = lambda kind, symbol, text: None
    missed: Callable[[float, int], None] = lambda amount_usdt, time_ms: None
    totals: dict[str, list[float]] = field(default_factory=lambda: {kind: [0.0, 0.0] for kind in KINDS})
    matched: int = 0
    differences: int = 0
    _open: dict[Key, Item] = field(default_factory=dict)
    _moved: list[tuple[int, float]] = field(default_factory=list)  # transfers that the stream told of
    _index: dict[str, int] = field(default_factory=dict)
    _begun_ms: int = 0
    _from_ms: int = 0
    _due_ms: int = 0
    _seen: set[tuple[str, ...]] = field(default_factory=set)  # rows at the window's edge, which come twice

    def __post_init__(self) -> None:
        self._index = {name: i for i, name in enumerate(self.symbols)}

    def traded(self, symbol: int, trade_id: int, realised_usdt: float, fee_usdt: float, time_ms: int) -> None:
        """Note a booked trade."""
        self._ours((symbol, "trade", trade_id), realised_usdt, -fee_usdt, time_ms)

    def funded(self, symbol: int, amount_usdt: float, time_ms: int) -> None:
        """Note a booked funding payment; settlements are on the hour."""
        self._ours((symbol, "funding", round(time_ms / HOUR_MS)), amount_usdt, 0.0, time_ms)

    def moved(self, amount_usdt: float, time_ms: int) -> None:
        """Note a transfer that the stream told of."""
        self._moved = [told for told in self._moved if time_ms - told[0] < WAIT_MS]
        self._moved.append((time_ms, amount_usdt))

    def advance(self, now_ms: int) -> None:
        """Ask for what is new when it is due."""
        if not self._begun_ms:
            self._begun_ms = self._from_ms = now_ms
            self._due_ms = now_ms + EVERY_MS
        if now_ms >= self._due_ms:
            self._due_ms = now_ms + AGAIN_MS
            self.ask(now_ms)

    def ask(self, now_ms: int) -> None:
        """Read the income from where the last reading ended."""
        to_ms = now_ms - LAG_MS
        if to_ms <= self._from_ms:
            return
        request = Request(Call.INCOME, {"startTime": self._from_ms, "endTime": to_ms, "limit": ROWS})

        def done(reply: Reply) -> None:
            if reply.ok and isinstance(reply.result, list):
                self._take(reply.result, to_ms, now_ms)

        self.sender.send(request, done)

    def _take(self, rows: list[dict[str, Any]], to_ms: int, now_ms: int) -> None:
        rows = sorted(rows, key=lambda row: int(row["time"]))
        full = len(rows) >= ROWS
        last_ms = int(rows[-1]["time"]) if full else to_ms
        self._from_ms = last_ms if last_ms > self._from_ms else last_ms + 1
        self._due_ms = now_ms + (AGAIN_MS if full else EVERY_MS)
        seen = {_identity(row) for row in rows}
        for row in rows:
            if _identity(row) not in self._seen:
                self._row(row)
        self._seen = seen
        for key, item in list(self._open.items()):
            if now_ms - item.time_ms > WAIT_MS:
                del self._open[key]
                self._differs(key, item, "only one side tells of it")

    def _row(self, row: dict[str, Any]) -> None:
        kind, symbol, time_ms = row["incomeType"], self._index.get(row["symbol"], -1), int(row["time"])
        if kind == TRANSFER and row["asset"] == "USDT" and time_ms >= self._begun_ms:
            self._transfer(float(row["income"]), time_ms)
        if kind not in KINDS or symbol < 0 or time_ms < self._begun_ms:
            return
        amount, asset = float(row["income"]), row["asset"]
        value = amount if asset == "USDT" else amount * self.price(asset)
        self.totals[kind][1] += value
        if kind == "FUNDING_FEE":
            key: Key = symbol, "funding", round(time_ms / HOUR_MS)
        else:
            key = symbol, "trade", int(row["tradeId"])
        item = self._open.setdefault(key, Item(time_ms))
        item.converted |= asset != "USDT"
        if kind == "COMMISSION":
            item.fee += value
        else:
            item.realised += value
        item.told |= kind != "REALIZED_PNL"
        self._compare(key, item)

    def _transfer(self, amount_usdt: float, time_ms: int) -> None:
        for told in self._moved:
            if abs(told[0] - time_ms) <= SAME_MS and abs(told[1] - amount_usdt) < 1e-6:
                self._moved.remove(told)
                return
        self.missed(amount_usdt, time_ms)

    def _ours(self, key: Key, amount: float, fee: float, time_ms: int) -> None:
        if self._begun_ms and time_ms < self._begun_ms:
            return  # before this run: its income is not read
        first, second = ("FUNDING_FEE", "") if key[1] == "funding" else ("REALIZED_PNL", "COMMISSION")
        self.totals[first][0] += amount
        if second:
            self.totals[second][0] += fee
        item = self._open.setdefault(key, Item(time_ms))
        before = item.ours or (0.0, 0.0)
        item.ours = before[0] + amount, before[1] + fee
        self._compare(key, item)

    def _compare(self, key: Key, item: Item) -> None:
        """Judge when both sides have told everything: the fee's row comes with each trade, the result's may not."""
        if item.ours is None or not item.told:
            return
        if self._equal(item.ours[0], item.realised, False) and self._equal(item.ours[1], item.fee, item.converted):
            del self._open[key]
            self.matched += 1

    def _equal(self, ours: float, theirs: float, converted: bool) -> bool:
        return abs(ours - theirs) <= LEAST_USDT + (SHARE_OF_CONVERTED if converted else SHARE) * abs(theirs)

    def _differs(self, key: Key, item: Item, text: str) -> None:
        if item.ours is not None and item.ours == (0.0, 0.0) and not item.told:
            return  # nothing was earned and nothing paid: such a trade has no row
        if item.ours is not None and item.told:
            text = f"ours {item.ours[0]:+.4f} {item.ours[1]:+.4f}, the exchange's {item.realised:+.4f} {item.fee:+.4f}"
        self.differences += 1
        self.alarm("income_differs", key[0], f"{key[1]} {key[2]}: {text}")


def _identity(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what makes a row the same in two answers: all transfers have one tranId."""
    return tuple(str(row[name]) for name in ("tranId", "incomeType", "time", "income"))
