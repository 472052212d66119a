"""Random lives of live trading: whatever happens, in the end our books are the exchange's, and nothing stood naked."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig
from rig import SYMBOLS
from venue_model import VenueModel

from engine.exchange.replies import Reply
from engine.exchange.requests import Call, Request
from engine.trading.protection import Stage
from kernels.records import Kind
from tests.conftest import long_run

NAKED_MS = 2_060  # two seconds and the steps of this test; exits are tried again at least as often
FAULTS = {
    Call.ORDER_PLACE: ["lost", "lost_executed", "503", "503_executed", "silence", "not_sent", "no_route", "code -2019",
                       "code -4131", "code -1021", "code -1008", "code -2022"],
    Call.ALGO_PLACE: ["lost", "lost_executed", "code -4509", "code -2021", "code -1111", "silence", "no_route"],
    Call.ORDER_QUERY: ["lost", "code -2013"],
    Call.TRADES: ["lost"],
    Call.POSITIONS: ["lost"],
    Call.ALGO_CANCEL: ["lost", "lost_executed"],
}  # fmt: skip

ACTIONS = st.one_of(
    st.tuples(st.just("enter"), st.integers(0, 2), st.sampled_from([1, -1])),
    st.tuples(st.just("move"), st.integers(0, 2), st.sampled_from(["-1.3", "-0.4", "0.3", "0.9", "1.6"])),
    st.tuples(st.just("wait"), st.integers(1, 60), st.just(0)),
    st.tuples(st.just("stream"), st.booleans(), st.just(0)),
    st.tuples(st.just("share"), st.sampled_from(["1", "0.5", "0.1"]), st.just(0)),
    st.tuples(st.just("close"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("fund"), st.integers(0, 2), st.sampled_from(["-0.25", "0.4"])),
    st.tuples(st.just("crash"), st.just(0), st.just(0)),
    st.sampled_from([(call, name) for call, names in FAULTS.items() for name in names]).map(
        lambda fault: ("fault", fault[0], fault[1])
    ),
)


class WatchedVenue(VenueModel):
    """The exchange in memory, which says at once when an order of ours does what none may do.

    evident_ms: since when we have been told of a fill whose position stands without a stop, by symbol.
    """

    def __init__(self) -> None:
        super().__init__()
        self.evident_ms: dict[str, int] = {}

    def send(self, request: Request, done: Callable[[Reply], None], route: int = 0) -> str:
        def heard(reply: Reply) -> None:
            if reply.ok and isinstance(reply.result, dict) and float(reply.result.get("executedQty") or 0) > 0.0:
                self._told(reply.result["clientOrderId"], reply.result["symbol"])
            done(reply)

        return super().send(request, heard, route)

    def pump(self, on_payload: Callable[[bytes], None]) -> None:
        def heard(payload: bytes) -> None:
            message = orjson.loads(payload)
            order = message.get("o", message)
            if float(order.get("l") or 0) > 0.0:
                self._told(order["c"], order["s"])
            on_payload(payload)

        super().pump(heard)

    def _told(self, name: str, symbol: str) -> None:
        if name.endswith("-e"):
            self.evident_ms.setdefault(symbol, self.now_ms)

    def naked(self) -> dict[str, int]:
        """Return for how long (ms) positions that we were told of have stood here without a stop, or an exit's try."""
        found = {}
        for symbol, since_ms in list(self.evident_ms.items()):
            stopped = any(a["symbol"] == symbol and a["algoStatus"] == "NEW" for a in self.algos.values())
            if stopped or not self.held[symbol].amount:
                del self.evident_ms[symbol]
                continue
            tries = [
                ms for ms, request, _ in self.requests[-60:]
                if request.params.get("reduceOnly") == "true" and request.params["symbol"] == symbol and ms >= since_ms
            ]  # fmt: skip
            found[symbol] = self.now_ms - max([since_ms, *tries])
        return found

    def _place(self, p: dict[str, Any]) -> Reply:
        name, held = p["newClientOrderId"], self.held[p["symbol"]].amount
        reply = super()._place(p)
        now = self.held[p["symbol"]].amount
        if name.endswith("-e") and held != now:
            assert held == 0, f"{name} was added to a position of {held}"
        if name.endswith("-x"):
            assert now * held >= 0, f"{name} turned {held} into {now}"
            assert abs(now) <= abs(held), f"{name} made {held} larger: {now}"
        return reply


class Life:
    """Carries out actions and watches what must always hold."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venue = WatchedVenue()
        self.rig = LiveRig(folder, self.venue)
        self.funding = Decimal(0)

    def act(self, action: tuple) -> None:
        kind, one, two = action
        rig, venue = self.rig, self.venue
        if kind == "enter":
            rig.core.predictor.answer[:2] = (0.002, -0.001)
            rig.desk.account.halted_symbols.clear()
            rig.desk.account.run_state = 2
            rig.decide(one, side=two)
        elif kind == "move":
            venue.move(SYMBOLS[one], str(max(venue.price[SYMBOLS[one]] + Decimal(two), Decimal(50))))
        elif kind == "wait":
            self.wait(one * 20)
        elif kind == "stream":
            venue.stream_up = one
            rig.trading.begin_reconcile()  # as the connection does when a private stream goes or comes
        elif kind == "fund":
            self.funding += Decimal(two)
            venue.pay_funding(SYMBOLS[one], two)
        elif kind == "share":
            venue.fill_share = Decimal(one)
        elif kind == "close":
            rig.core.close_position(one, 5)
        elif kind == "crash":
            self.rig.parts.journal.close()
            venue.evident_ms.clear()  # what the dead process was told
            self.rig = LiveRig(self.folder, venue)
            self.take_stops()
            for row in rig.desk.positions.rows[: rig.desk.positions.count]:
                venue.evident_ms[SYMBOLS[int(row["symbol"])]] = venue.now_ms
        elif kind == "fault":
            venue.faults[one].append(two)
        self.wait(20)

    def take_stops(self) -> None:
        """What a start does with stops that stand: the session's own take-over needs sockets."""
        rig = self.rig
        for algo in rig.venue.algos.values():
            symbol = SYMBOLS.index(algo["symbol"])
            slot = rig.desk.positions.slot_of[symbol]
            if algo["algoStatus"] == "NEW" and slot >= 0 and rig.trading.protection.may_enter(symbol):
                row = rig.desk.positions.rows[slot]
                rig.trading.protection.adopt(
                    int(row["position_id"]), symbol, int(row["side"]), algo["triggerPrice"], algo["clientAlgoId"],
                    algo["algoId"], rig.venue.now_ms,
                )  # fmt: skip

    def wait(self, ms: int) -> None:
        for _ in range(ms // 20):
            self.rig.step(20)
            self.always()

    def always(self) -> None:
        rig, now_ms = self.rig, self.rig.venue.now_ms
        for slot in rig.trading.protection.slots.values():
            if slot.presumed:  # no sign of a fill: its two seconds have not begun, and the venue's own watch goes on
                continue
            if slot.stage in (Stage.PLACING, Stage.LOST) and now_ms > slot.deadline_ms + 40:
                assert slot.exit_asked, f"naked beyond its two seconds: {slot}"
        for symbol, ms in self.venue.naked().items():
            assert ms <= NAKED_MS, f"{symbol} stands here without a stop for {ms} ms, and no exit is tried"
        for position in rig.desk.positions.rows[: rig.desk.positions.count]:
            assert int(position["symbol"]) in rig.trading.protection.slots, "a position without a stop's slot"

    def settle(self) -> None:
        """Faults over, streams up: the truth must win."""
        venue = self.rig.venue
        venue.faults.clear()
        venue.stream_up, venue.fill_share = True, Decimal(1)
        for _ in range(25):
            self.rig.run(3_000, 60)
            if self.agreed():
                return

    def agreed(self) -> bool:
        desk, venue = self.rig.desk, self.rig.venue
        for symbol, name in enumerate(SYMBOLS):
            slot = desk.positions.slot_of[symbol]
            row = desk.positions.rows[slot]
            ours = float(row["side"]) * float(row["qty"]) if slot >= 0 else 0.0
            if abs(ours - float(venue.held[name].amount)) > 1e-9:
                return False
            if slot >= 0 and not self.rig.trading.protection.standing(symbol):
                return False
        return not desk.orders and desk.account.wallet_usdt == pytest.approx(float(venue.wallet), abs=1e-6)

    def equity_by_fills(self) -> float:
        """What the wallet and the open positions must be worth, from our own booked fills alone."""
        venue, fills = self.rig.venue, self.rig.records(Kind.FILL)
        moved = sum(
            int(f["side"]) * float(f["qty"]) * (float(venue.price[SYMBOLS[int(f["symbol"])]]) - float(f["price"]))
            for f in fills
        )
        return 10_000.0 + moved - sum(float(f["fee_usdt"]) for f in fills) + float(self.funding)


@settings(
    max_examples=long_run(40, 1_000), deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(st.lists(ACTIONS, min_size=3, max_size=30))
@example([("stream", False, 0), ("enter", 0, -1), ("stream", True, 0), ("move", 0, "1.6")])  # stopped before booked
@example([("fault", Call.ORDER_PLACE, "lost"), ("enter", 0, 1), ("wait", 44, 0), ("wait", 60, 0)])  # never there
def test_any_life_ends_with_our_books_equal_to_the_exchange(actions: list[tuple]) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        life = Life(Path(folder))
        for action in actions:
            life.act(action)
        life.settle()
        venue, desk = life.rig.venue, life.rig.desk
        for symbol, name in enumerate(SYMBOLS):
            slot = desk.positions.slot_of[symbol]
            row = desk.positions.rows[slot]
            ours = float(row["side"]) * float(row["qty"]) if slot >= 0 else 0.0
            assert ours == pytest.approx(float(venue.held[name].amount), abs=1e-9), f"{name} differs"
            if slot >= 0:
                assert life.rig.trading.protection.standing(symbol), f"{name} has no confirmed stop"
        assert desk.orders == {}, "an order's fate is still open"
        unrealised = sum(
            float(held.amount * (venue.price[name] - held.entry)) for name, held in venue.held.items() if held.amount
        )
        equity = float(venue.wallet) + unrealised
        assert life.equity_by_fills() == pytest.approx(equity, abs=1e-6), "fills, fees and funding are not the equity"
        assert desk.account.wallet_usdt == pytest.approx(float(venue.wallet), abs=1e-6), "the wallet differs"
        placed = [r.params["newClientOrderId"] for _, r, _ in venue.requests if r.call is Call.ORDER_PLACE]
        assert len(placed) == len(set(placed)), "an order was sent twice"
        fills = life.rig.records(Kind.FILL)
        ids = [int(f["trade_id"]) for f in fills]
        life.rig.parts.journal.close()
        assert len(ids) == len(set(ids)), "a fill was booked twice"
