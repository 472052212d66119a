"""A live run recorded against the exchange in memory, on the made-up market: decisions, faults, cuts, interference."""

from __future__ import annotations

import shutil
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from venue_model import VenueModel

from engine.assemble import Parts, assemble
from engine.exchange.order_budget import OrderBudget
from engine.exchange.replies import Reply
from engine.exchange.requests import Call, Request
from engine.trading.account_watch import AccountWatch
from engine.trading.door import Door, Source, without_key
from engine.trading.live import LiveGateway
from engine.trading.margin import Tier
from engine.trading.preflight import Report
from engine.trading.takeover import Found, join, steps_of, take_over
from kernels.records import Mode
from tests.engine.recorded import SYMBOLS, Day, Market, instruments

FAULTS = {
    Call.ORDER_PLACE: ["lost", "lost_executed", "503", "503_executed", "silence", "not_sent", "no_route", "code -4131",
                       "code -1021", "code -1008", "code -2022"],
    Call.ALGO_PLACE: ["lost", "lost_executed", "code -4509", "code -1111", "silence", "no_route"],
    Call.ORDER_QUERY: ["lost", "code -2013"],
    Call.TRADES: ["lost"],
    Call.POSITIONS: ["lost"],
    Call.ALGO_CANCEL: ["lost", "lost_executed"],
}  # fmt: skip
SLICES = 6  # looks at the exchange between two marks


class LiveDay(Day):
    """`Day` in live mode. A second one on the same folder and venue is the engine that starts after a crash."""

    mode = Mode.LIVE

    def __init__(self, folder: Path, market: Market, venue: VenueModel | None = None) -> None:
        shutil.rmtree(folder / "bars", ignore_errors=True)
        self.venue = venue or VenueModel(market.live_from_ms)
        self.luck = np.random.default_rng(11)
        self.faulty = True
        super().__init__(folder, market)
        self.take_over()
        self.operator.ladder = self.trading.kill

    def assemble(self) -> Parts:
        """As `engine.trading.start` does it, with the exchange in memory in place of the sockets."""
        table = instruments()
        table["percent_price_up"], table["percent_price_down"] = 1.05, 0.95
        self.door = Door(self.venue, self.clock.now_ms)
        gateway = LiveGateway(SYMBOLS, steps_of(table), self.door)
        parts = assemble(self.config, SYMBOLS, table, self.books, self.clock, self.folder / "journal", gateway)
        self.door.open(parts.journal)
        self.budget = OrderBudget(40, 120)  # so small that entries meet it
        self.trading = join(self.config, SYMBOLS, table, parts, gateway, self.door, self.budget)
        self.trading.note_tick = self.door.tick
        self.trading.note_payload = lambda payload, now_ms: self.door.take(Source.STREAM, without_key(payload), now_ms)
        return parts

    def take_over(self) -> None:
        """What the preflight of a real start reads."""
        restored = self.parts.restored
        tiers = {name: [Tier(0.0, 1e6, 0.004, 0.0, 20)] for name in SYMBOLS}
        report = Report(
            tiers=tiers, most_usdt={SYMBOLS[0]: float("inf"), SYMBOLS[1]: 1e5}, wallet_usdt=float(self.venue.wallet),
            positions=self.read(Call.POSITIONS), algos=self.read(Call.OPEN_ALGOS),
        )  # fmt: skip
        self.pump()  # the streams stand already
        now_ms, found = self.clock.now_ms(), Found(report, restored.account is None)
        self.door.take(Source.TAKEN_OVER, found.pack(), now_ms)
        take_over(self.parts, self.trading, self.config, SYMBOLS, found, now_ms)
        self.watch = AccountWatch(self.trading, self.config.live, lambda: None)
        self.trading.on_config = self.watch

    def read(self, call: Call) -> Any:
        replies: list[Reply] = []
        self.venue.send(Request(call), replies.append)
        while not replies:
            done, reply = self.venue._answers.popleft()
            done(reply)
        return replies[0].result

    def pump(self) -> None:
        self.venue.pump(lambda payload: self.trading.on_payload(payload, self.clock.now_ms()))

    def tick(self, symbol: int, price: float, now_ms: int) -> None:
        """Let the exchange and the order side come up to `now_ms`, then the mark and the book of one symbol."""
        for left in range(SLICES - 1, -1, -1):
            self.venue.pass_time(max(0, now_ms - self.venue.now_ms) // (left + 1))
            self.clock.observe(self.venue.now_ms)
            self.pump()
            self.trading.advance(self.clock.now_ms())
            self.pump()
        self.venue.move(SYMBOLS[symbol], f"{price:.8f}")
        super().tick(symbol, price, now_ms)
        self.pump()

    def pass_minute(self, minute: int, ticks: int = 30) -> None:
        """One minute with its faults."""
        if self.faulty:
            self.interfere(minute)
        super().pass_minute(minute, ticks)

    def pass_time(self) -> None:
        self.trading.advance(self.clock.now_ms())

    def interfere(self, minute: int) -> None:
        """Whatever may happen to a live engine, before one minute."""
        luck, venue, now_ms = self.luck, self.venue, self.clock.now_ms()
        venue.fill_share = Decimal(str(luck.choice(["1", "0.5", "0.1"], p=[0.7, 0.2, 0.1])))
        for call, names in FAULTS.items():
            if luck.random() < 0.2:
                venue.faults[call].append(str(luck.choice(names)))
        for name in SYMBOLS if minute % 4 == 0 else ():
            self.command("allow_symbol", symbol=name)
        if minute % 9 == 4:
            venue.stream_up = False
        elif not venue.stream_up:
            venue.stream_up = True
            self.door.take(Source.STREAM_CHANGED, b"", now_ms)
            self.trading.begin_reconcile()
        if minute % 7 == 3:
            venue.pay_funding(SYMBOLS[minute % 3], "-0.25")
        if minute % 11 == 6 and venue.held[SYMBOLS[1]].amount:
            venue.manual(SYMBOLS[1], str(-venue.held[SYMBOLS[1]].amount / 2))
        if minute % 13 == 8:
            self.trading.stood_still = self._once_still()
        if minute % 17 == 9:
            payload = b'{"e":"ACCOUNT_CONFIG_UPDATE","E":%d,"ac":{"s":"SOLUSDT","l":7}}' % now_ms
            self.trading.on_payload(payload, now_ms)
            checked = b'[[],{"SOLUSDT":"leverage refused"}]' if minute % 2 else b"[[],{}]"
            self.door.take(Source.CHECKED, checked, now_ms)
            self.watch.checked(checked)

    def _once_still(self) -> Any:
        """A loop that stood still once."""
        answers = [True]
        return lambda: bool(answers) and answers.pop()
