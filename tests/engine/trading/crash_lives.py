"""Lives of a live engine that may end before any one of their journal records, and what must hold after the next."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig
from rig import SYMBOLS
from venue_model import VenueModel

from engine.exchange.requests import Call
from engine.journal import Writer
from kernels.records import Kind, PositionEvent, Reason

SETTLE_MS, STEP_MS = 75_000, 50


class Dead(BaseException):
    """No handler of faults may outlive the process."""


class Death:
    """Ends a process before its `at`-th journal record (1: the first); None: never.

    room: its first segment ends so many slots behind its own preamble, and `at` counts from the next one's: 0 is the
    record that found no room, 1 the one after it, −1 the first of the preamble.
    """

    def __init__(self, at: int | None = None, room: int | None = None) -> None:
        self.at, self.room = at, room
        self.records = self.segments = 0

    def __repr__(self) -> str:
        return f"Death({self.at}, {self.room})"

    def note(self) -> None:
        """A record is about to be written."""
        if self.room is None or self.segments > 1:
            self.records += 1
            if self.at is not None and self.records >= abs(self.at):
                raise Dead

    @contextmanager
    def awaits(self) -> Iterator[None]:
        """Let the process that begins now end so."""
        self.records = self.segments = 0
        kept = Writer.write, Writer.place, Writer._open
        write, place, begin = kept

        def watched_write(journal: Writer, *args: Any) -> int:
            self.note()
            return write(journal, *args)

        def watched_place(journal: Writer, *args: Any) -> int:
            self.note()
            return place(journal, *args)

        def watched_begin(journal: Writer, *args: Any) -> None:
            self.segments += 1
            at, number = self.at, self.segments
            if number == 2 and at is not None and at >= 0:
                self.at = None  # not within the preamble
            begin(journal, *args)
            if number == 1 and self.room is not None:
                journal._end_slot = journal._slot + self.room
            if number == 2 and self.room is not None and at is not None and at >= 0:
                self.at, self.records = at, 0
                if not at:
                    raise Dead

        Writer.write, Writer.place, Writer._open = watched_write, watched_place, watched_begin  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Writer.write, Writer.place, Writer._open = kept  # type: ignore[method-assign]


# --- lives: what happens to the first engine, from its first record to a position closed again ---


def parts(rig: LiveRig) -> None:
    """Two entries, one of them filled in part; one is left in two parts, the other stands."""
    rig.decide(0)
    rig.step(marks=False)
    rig.venue.fill_share = Decimal("0.5")
    rig.decide(1)
    rig.step(marks=False)
    rig.core.close_position(0, Reason.MANUAL)
    rig.step(marks=False)
    rig.venue.fill_share = Decimal(1)
    rig.run(400, marks=False)
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(100, marks=False)


def pieces(rig: LiveRig) -> None:
    """An entry and an exit of three executions each."""
    rig.venue.pieces = 3
    rig.decide(0)
    rig.step(marks=False)
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(100, marks=False)


def slices(rig: LiveRig) -> None:
    """An exit of several orders at once, since none may be as large as the position; two executions each."""
    rig.venue.pieces = 2
    rig.decide(0)
    rig.step(marks=False)
    held = float(rig.desk.positions.rows[0]["qty"])
    rig.core.instruments["market_max_qty"] = round(0.4 * held, 3)
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(100, marks=False)


def half_an_exit_unheard(rig: LiveRig) -> None:
    """A position whose exit got half while nobody heard of it."""
    rig.venue.pieces = 2
    rig.decide(0)
    rig.step(marks=False)
    rig.venue.stream_up, rig.venue.fill_share = False, Decimal("0.5")
    rig.venue.faults[Call.ORDER_PLACE].append("silence_executed")
    rig.core.close_position(0, Reason.MANUAL)
    rig.step(marks=False)


def two_routes(rig: LiveRig) -> None:
    """Nobody hears of an exit that got half; a second one takes the rest by another route."""
    half_an_exit_unheard(rig)
    rig.venue.stream_up, rig.venue.fill_share = True, Decimal(1)
    rig.run(600, marks=False)


def stop_and_exit(rig: LiveRig) -> None:
    """Nobody hears of an exit that got half; then the stop on the exchange takes the rest."""
    half_an_exit_unheard(rig)
    rig.venue.stream_up = True
    rig.venue.move(SYMBOLS[0], "90")
    rig.venue.fill_share = Decimal(1)
    rig.run(600, marks=False)


def stop_unheard(rig: LiveRig) -> None:
    """The stop on the exchange closes the position while no stream tells: own trades over REST do."""
    rig.venue.pieces = 2
    rig.decide(0)
    rig.step(marks=False)
    rig.venue.stream_up = False
    rig.venue.move(SYMBOLS[0], "90")
    rig.venue.stream_up = True
    rig.trading.begin_reconcile()
    rig.run(3_000, STEP_MS, marks=False)


def by_hand(rig: LiveRig) -> None:
    """Somebody closes half while no stream tells, and a quarter while one does; we leave with the rest."""
    rig.decide(0)
    rig.step(marks=False)
    half = (rig.venue.held[SYMBOLS[0]].amount / 2).quantize(Decimal("0.001"))
    rig.venue.manual(SYMBOLS[0], str(-half), silent=True)
    rig.trading.begin_reconcile()
    rig.run(3_000, STEP_MS, marks=False)
    rig.venue.manual(SYMBOLS[0], str(-(half / 2).quantize(Decimal("0.001"))), name="web_2")
    rig.step(marks=False)
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(100, marks=False)


def lost(rig: LiveRig) -> None:
    """No answer and no event tells of an entry in two executions, nor of its exit: they are asked for."""
    rig.venue.pieces = 2
    rig.venue.faults[Call.ORDER_PLACE].append("lost_executed")
    rig.venue.stream_up = False
    rig.decide(0)
    rig.run(1_000, STEP_MS, marks=False)
    rig.venue.faults[Call.ORDER_PLACE].append("lost_executed")
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(1_500, STEP_MS, marks=False)
    rig.venue.stream_up = True


def taken(rig: LiveRig) -> None:
    """The take profit on the exchange closes a position while our exit is on its way: nothing is left for it."""
    rig.decide(0)
    rig.step(marks=False)
    rig.venue.move(SYMBOLS[0], "105")
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(600, marks=False)


def refused(rig: LiveRig) -> None:
    """An entry that got nothing, one that was refused for once, one that fills; an exit with two refusals."""
    rig.venue.fill_share = Decimal(0)
    rig.decide(0)
    rig.step(marks=False)
    rig.venue.fill_share = Decimal(1)
    rig.venue.faults[Call.ORDER_PLACE].append("code -1008")
    rig.decide(1)
    rig.step(marks=False)
    rig.decide(1)
    rig.step(marks=False)
    rig.venue.faults[Call.ORDER_PLACE] += ["code -4131", "code -1008"]
    rig.core.close_position(1, Reason.MANUAL)
    rig.run(600, marks=False)


LIVES: list[Callable[[LiveRig], None]] = [
    parts, pieces, slices, two_routes, stop_and_exit, stop_unheard, by_hand, lost, taken, refused,
]  # fmt: skip


# --- what must hold ---


def open_questions(rig: LiveRig) -> list[str]:
    """What is not settled yet."""
    desk, found = rig.desk, [f"order {order}" for order in rig.desk.orders.values()]
    found += [f"exit {run}" for run in desk.exits.values()]
    found += [f"track {track}" for track in rig.gateway.tracks.values()]
    found += [f"{SYMBOLS[s]}: {doubt}" for s, doubt in rig.trading.reconciler.doubts.items()]
    found += [] if rig.trading.sweeps.reconciled else ["not reconciled"]
    for symbol, name in enumerate(SYMBOLS):
        slot, held = desk.positions.slot_of[symbol], float(rig.venue.held[name].amount)
        ours = float(desk.positions.rows[slot]["qty"] * desk.positions.rows[slot]["side"]) if slot >= 0 else 0.0
        if ours != pytest.approx(held, abs=1e-9):
            found.append(f"{name}: ours {ours}, the exchange's {held}")
        if slot >= 0 and not rig.trading.protection.standing(symbol):
            found.append(f"{name}: no standing stop")
        for guard in (rig.trading.protection, rig.trading.takes):
            if slot < 0 and not guard.may_enter(symbol):
                found.append(f"{name}: {guard.slots[symbol]}")
    if desk.account.wallet_usdt != pytest.approx(float(rig.venue.wallet), abs=1e-9):
        found.append("the wallet")  # what no stream told of is read each minute
    return found


def settle(rig: LiveRig) -> None:
    """Let time pass until nothing is open, and a little more: what outlives two readings of the account stays open."""
    end_ms = rig.venue.now_ms + SETTLE_MS
    rig.run(STEP_MS, STEP_MS)
    while questions := open_questions(rig):
        assert rig.venue.now_ms < end_ms, questions
        rig.run(STEP_MS, STEP_MS)
    rig.run(1_200, 200)
    assert open_questions(rig) == []


def check(rig: LiveRig) -> None:
    """Our books are the exchange's, and the journal tells each fill and each trade once."""
    fills, trades = rig.records(Kind.FILL), rig.records(Kind.TRADE)
    booked = sorted(int(fill["trade_id"]) for fill in fills)
    assert booked == [trade["id"] for trade in rig.venue.trades], "each fill once"
    assert rig.desk.account.halted_symbols == set()
    positions, twins = rig.records(Kind.POSITION), rig.records(Kind.TWIN)
    changed = (PositionEvent.ADJUST, PositionEvent.FINAL)
    assert not [r for r in positions if r["reason"] == Reason.ADJUST and r["event"] in changed]
    closed = [int(r["position_id"]) for r in positions if r["event"] == PositionEvent.FINAL]
    assert len(closed) == len(set(closed)), "each end once"
    assert sorted(int(trade["position_id"]) for trade in trades) == sorted(closed), "each trade once"
    for trade in trades:
        own = [fill for fill in fills if fill["position_id"] == trade["position_id"]]
        out = [fill for fill in own if fill["side"] == -trade["side"]]
        money = -sum(float(f["side"] * f["qty"] * f["price"] + f["fee_usdt"]) for f in own)
        assert trade["net_usdt"] == pytest.approx(money, abs=1e-9)
        assert trade["qty"] == pytest.approx(sum(float(fill["qty"]) for fill in out))
        price = sum(float(fill["qty"] * fill["price"]) for fill in out) / trade["qty"]
        assert trade["exit_price"] == pytest.approx(price)
        told = [t for t in twins if t["event"] == PositionEvent.FINAL and t["position_id"] == trade["position_id"]]
        assert [float(t["live_net_usdt"]) for t in told] == [pytest.approx(float(trade["net_usdt"]))], "its twin"
    assert rig.core.twins is not None and rig.core.twins.faults == 0
    assert rig.desk.account.losing_streak == sum(trade["net_usdt"] < 0 for trade in trades)
    placed = [r.params["newClientOrderId"] for _, r, _ in rig.venue.requests if r.call is Call.ORDER_PLACE]
    assert len(placed) == len(set(placed)), "an order was sent twice"


def lived(
    folder: Path,
    life: Callable[[LiveRig], None],
    deaths: tuple[Death, ...] = (),
    heard: bool = False,
    lag_ms: int = 0,
    answers_first: bool = False,
) -> int:
    """Let runs follow each other, one for each death and one that settles; return how many records the life took.

    heard: what the exchange had to say at a death is heard by the next run while it starts; else by nobody. lag_ms: of
    REST behind the streams, from the first death on. answers_first: they overtake the streams.
    """
    venue, records = VenueModel(answers_first=answers_first), 0
    for number, death in enumerate([*deaths, Death()]):
        rig = None
        try:
            with death.awaits():
                rig = LiveRig(folder, venue, take_profit=life is taken)
                if number == 0:
                    life(rig)
                    records = death.records
                settle(rig)
            break
        except Dead:
            if rig is not None:
                rig.parts.journal.close()
        if not heard:
            venue.forget_events()
        venue.faults.clear()
        venue.fill_share, venue.stream_up, venue.rest_lag_ms = Decimal(1), True, lag_ms
    assert rig is not None
    check(rig)
    rig.parts.journal.close()
    shutil.rmtree(folder)  # thousands of lives follow each other
    return records
