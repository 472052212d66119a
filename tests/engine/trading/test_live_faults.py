"""Named faults of live trading against the simulated exchange: its delays, its algo service, its cuts, its listings."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

sys.path.insert(0, str(Path(__file__).resolve().parent))
from simulated import KEY, Simulated
from test_live_simulator import amount, gone, opened, orders, standing, trades

from engine.config import Config
from engine.exchange.steps import Step
from engine.simulator import delays, intake
from engine.simulator.algos import Algo
from engine.simulator.errors import Refusal
from engine.simulator.params import Params
from engine.trading.protection import Stage
from kernels.decide import BIT
from kernels.records import Reason
from tests.conftest import long_run


def delay(monkeypatch: pytest.MonkeyPatch, **ms: float) -> None:
    """Make some of the exchange's delays (nearly) constant."""
    for name, value in ms.items():
        monkeypatch.setitem(delays.DELAYS_MS, name, (value, value + 0.001, value + 0.002))


def stop_of(sim: Simulated, symbol: int = 0) -> Algo:
    """The one open stop on the exchange."""
    venue = sim.exchange.venue
    (algo,) = [a for a in venue.algos.open_of(venue.ledger.accounts[KEY]) if a.s == sim.number(symbol)]
    return algo


def placements(sim: Simulated) -> list[int]:
    """What the algo service answers from now on: 0 accepted, else the code."""
    codes: list[int] = []
    place = sim.exchange.venue.algos.place

    def watched(algo: Algo) -> None:
        try:
            place(algo)
            codes.append(0)
        except Refusal as refusal:
            codes.append(refusal.code)
            raise

    sim.exchange.venue.algos.place = watched  # type: ignore[method-assign]
    return codes


def move(sim: Simulated, factor: float) -> None:
    """Let the whole market stand at `factor` times its path: a gap."""
    venue = sim.exchange.venue
    mark, last, levels = venue.mark, venue.last_price, venue.levels

    def moved(s: int) -> Any:
        tick = venue.instrument(s).tick
        bids, asks, number = levels(s)
        bids, asks = ([(int(price * factor) // tick * tick, qty) for price, qty in side] for side in (bids, asks))
        return bids, asks, number

    venue.mark = lambda s: int(mark(s) * factor)  # type: ignore[method-assign]
    venue.last_price = lambda s: int(last(s) * factor)  # type: ignore[method-assign]
    venue.levels = moved  # type: ignore[method-assign]


def entries(sim: Simulated) -> list[Any]:
    return [order for order in orders(sim) if order.client_id.endswith("-e")]


def never_reversed(sim: Simulated, symbol: int = 0) -> bool:
    """Whether the position that the fills make was never short (all tests enter long)."""
    qty = 0
    venue = sim.exchange.venue
    for order, fill, _ in venue.matcher.of(venue.ledger.accounts[KEY]).trades:
        if order.s == sim.number(symbol):
            qty += order.sign * fill.qty
            if qty < 0:
                return False
    return True


def one_trade(sim: Simulated) -> Any:
    """The one closed round trip; the money of our books is the exchange's."""
    (trade,) = trades(sim)
    assert sim.live is not None and sim.live.parts.core.desk.trades_closed == 1
    assert never_reversed(sim)
    return trade


# --- entries ---


ENTRY_FAULTS = [
    "lost_acknowledgement", "unknown_503_executed", "rate_limited", "cut_mid_order", "timeout_after_acceptance",
    "unknown_503_not_executed", "service_unavailable", "throttled", "timestamp_rejected", "lost_request",
]  # fmt: skip


@pytest.mark.parametrize("fault", ENTRY_FAULTS[: long_run(4, 10)])
async def test_no_fault_of_an_order_lane_doubles_an_entry_or_leaves_it_naked(tmp_path: Path, fault: str) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        sim.server.faults.begin(fault, path="order.place")
        sim.decide()
        desk = live.parts.core.desk
        assert [order.route for order in desk.orders.values()] == ["ws0"]
        await sim.until(lambda: not desk.orders, "the entry's fate is known", 15)
        await sim.until(lambda: fault in sim.server.faults.done, "answered: a fill is told before a late answer")
        assert sim.server.faults.done[fault] == 1
        assert desk.positions.count == bool(amount(sim, 0))
        if amount(sim, 0):
            await sim.until(lambda: standing(sim, 0), "protected", 3)
        assert len(entries(sim)) <= 1
        await sim.until(lambda: all(lane.ready for lane in live.connection.lanes), "the lanes are back")


async def test_rest_lagging_five_seconds_behind_an_entry_that_nobody_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay(monkeypatch, view=4_950.0)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        sim.server.faults.begin("lost_acknowledgement", path="order.place")
        sim.server.faults.begin("drop_event", count=4, events="ORDER_TRADE_UPDATE/TRADE_LITE/ACCOUNT_UPDATE")
        sim.decide()
        desk = live.parts.core.desk
        await sim.until(lambda: desk.positions.count == 1, "REST shows the fill", 12)
        await sim.until(lambda: standing(sim, 0), "protected", 3)
        assert live.trading.gateway.counts.absent == 0
        assert len(entries(sim)) == 1
        assert amount(sim, 0) == entries(sim)[0].filled


# --- the stop on the exchange ---


async def test_the_algo_service_sees_the_fill_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delay(monkeypatch, algo_sees=1.0)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        algos, unseen = sim.exchange.venue.algos, deque[tuple[Any, ...]]()
        sees, place = algos.sees, algos.place

        def late(*seen: Any) -> None:
            unseen.append(seen)

        def asked(algo: Algo) -> None:
            while unseen and codes.count(-4509) >= 3:  # not after a time: a busy machine asks less often within it
                sees(*unseen.popleft())
            place(algo)

        algos.sees, algos.place = late, asked  # type: ignore[method-assign]
        codes = placements(sim)
        await opened(sim)
        assert codes == [-4509, -4509, -4509, 0], "asked again until it was taken"
        assert amount(sim, 0) != 0 and not live.parts.core.desk.exits
        position_id = int(live.parts.core.desk.positions.rows[0]["position_id"])
        assert live.trading.unprotected_ms(position_id, sim.clock.now_ms()) < 2_000


async def test_a_fill_that_the_algo_service_never_sees_in_time_is_exited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay(monkeypatch, algo_sees=6_000.0)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        sim.decide()
        await sim.until(lambda: amount(sim, 0) != 0, "filled")
        await sim.until(lambda: amount(sim, 0) == 0, "out again", 4)
        await gone(sim)
        assert one_trade(sim)["reason"] == Reason.UNPROTECTED


@pytest.mark.parametrize("fault", ["lost_acknowledgement", "timeout_after_acceptance", "unknown_503_executed"])
async def test_a_stop_whose_answer_is_lost_is_found_again(tmp_path: Path, fault: str) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        codes = placements(sim)
        sim.server.faults.begin(fault, path="algoOrder.place")
        sim.server.faults.begin("drop_event", events="ALGO_UPDATE")
        await opened(sim)
        assert codes[codes.index(0) + 1] in (-4130, -4116)
        assert codes.count(0) == 1
        assert live.trading.protection.slots[0].name == stop_of(sim).client_id
        assert not live.parts.core.desk.exits


async def test_a_stranger_s_stop_stands_where_ours_must(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        venue, account = sim.exchange.venue, sim.exchange.venue.ledger.accounts[KEY]
        place, codes = venue.algos.place, placements(sim)
        stranger: list[Algo] = []

        def first_the_other(algo: Algo) -> None:
            position = account.position(algo.s, "BOTH").qty
            if not stranger and venue.algos.seen.get((KEY, algo.s, "BOTH")) and position:
                terms = {"algoType": "CONDITIONAL", "symbol": "BTCUSDT", "side": "SELL", "type": "STOP_MARKET",
                         "closePosition": "true", "triggerPrice": f"{sim.price(0) * 0.7:.0f}.00",
                         "clientAlgoId": "web_stop"}  # fmt: skip
                stranger.append(intake.build_algo(venue, account, Params.of(terms)))
                place(stranger[0])
            watched(algo)

        watched = venue.algos.place
        venue.algos.place = first_the_other  # type: ignore[method-assign]
        await opened(sim)
        assert -4130 in codes
        assert stranger[0].status == "CANCELED"
        assert stop_of(sim).client_id == live.trading.protection.slots[0].name


@pytest.mark.parametrize("local_first", [True, False])
async def test_stop_and_local_exit_in_one_millisecond(tmp_path: Path, local_first: bool) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        level, stop = float(live.parts.core.desk.positions.rows[0]["sl_price"]), stop_of(sim)
        if local_first:
            sim.mark(0, level)
        sim.exchange.venue.algos._trigger(stop)
        if not local_first:
            sim.mark(0, level)
        await gone(sim)
        one_trade(sim)
        await sim.until(lambda: live.trading.may_enter(0), "the stop is over and we agree with the exchange")


@pytest.mark.parametrize("late", ["ALGO_UPDATE", "ORDER_TRADE_UPDATE", "ORDER_TRADE_UPDATE/TRADE_LITE/ACCOUNT_UPDATE"])
async def test_the_stop_s_child_and_its_announcement_in_either_order(tmp_path: Path, late: str) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        sim.server.faults.begin("late_event", events=late, late_ms=800)
        sim.exchange.venue.algos._trigger(stop_of(sim))
        await gone(sim)
        assert one_trade(sim)["reason"] == Reason.EXCHANGE_STOP
        await sim.until(lambda: live.trading.may_enter(0), "free for the next entry", 15)


async def test_re_entry_waits_until_the_old_stop_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delay(monkeypatch, gone=1_200.0)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        desk, old = live.parts.core.desk, stop_of(sim)
        sim.mark(0, float(desk.positions.rows[0]["sl_price"]))
        await gone(sim)
        assert old.status == "NEW", "the exchange expires it later"

        def over() -> bool:
            desk.account.cooldown_until_ms.clear()
            if not live.trading.may_enter(0):
                sim.decide()
            return old.status != "NEW"

        await sim.until(over, "the old stop expires")
        assert len(entries(sim)) == 1, "no entry may inherit the old stop"
        await sim.until(lambda: live.trading.may_enter(0), "the old stop is over")
        desk.account.cooldown_until_ms.clear()
        await opened(sim)
        assert len(entries(sim)) == 2
        assert stop_of(sim).id != old.id


# --- exits ---


async def test_a_market_exit_that_leaves_a_remainder_goes_on_at_the_bound(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        venue, item = sim.exchange.venue, sim.exchange.venue.instrument(sim.number(0))
        levels, held = venue.levels, amount(sim, 0)
        item.take_bound_bps = 100

        def thin(s: int) -> Any:
            bids, asks, number = levels(s)
            far = int(bids[0][0] * 0.97) // item.tick * item.tick
            near = [(bids[0][0], held // 3)] if amount(sim, 0) == held else []  # once: else market exits might suffice
            return [*near, (far, 10 * held)], asks, number

        venue.levels = thin  # type: ignore[method-assign]
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await gone(sim)
        exits = [order for order in orders(sim) if order.client_id.endswith("-x")]
        assert (exits[0].type, exits[0].status, exits[0].reason) == ("MARKET", "EXPIRED", "9")
        assert any(order.type == "LIMIT" and order.tif == "IOC" and order.reduce_only for order in exits[1:])
        one_trade(sim)


@pytest.mark.parametrize("factor", [0.97, 0.80])
async def test_the_price_gaps_through_both_stops(tmp_path: Path, factor: float) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        entry = float(live.parts.core.desk.positions.rows[0]["entry_price"])
        assert float(stop_of(sim).trigger) / 100 > entry * factor
        move(sim, factor)
        await gone(sim, seconds=15)
        trade = one_trade(sim)
        assert trade["exit_price"] == pytest.approx(entry * factor, rel=0.01)
        wallet = sim.exchange.venue.ledger.accounts[KEY].wallet / 1e8
        await sim.until(lambda: abs(live.parts.core.desk.account.wallet_usdt - wallet) < 1e-6, "wallets agree")


async def test_the_price_gaps_before_the_stop_is_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delay(monkeypatch, algo_sees=300.0)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        codes = placements(sim)
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        sim.decide()
        await sim.until(lambda: amount(sim, 0) != 0, "filled")
        move(sim, 0.9)
        await gone(sim)
        assert set(codes) <= {-4509, -2021}
        one_trade(sim)


EXIT_FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("half_open", {"route": "ws-api"}), ("cut_mid_order", {"path": "order.place"}),
    ("throttled", {"path": "order.place", "count": 3}), ("cut_connections", {"route": "ws-api"}), ("half_open", {}),
    ("lost_acknowledgement", {"path": "order.place", "count": 2}), ("unknown_503_not_executed", {"count": 3}),
    ("lost_request", {"path": "order.place", "count": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "arguments"), EXIT_FAULTS[: long_run(3, 8)])
async def test_an_exit_through_broken_order_connections(tmp_path: Path, fault: str, arguments: dict[str, Any]) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        sim.server.faults.begin(fault, **arguments)
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await sim.until(lambda: amount(sim, 0) == 0, "flat on the exchange", 5)
        await gone(sim, seconds=25)
        one_trade(sim)


# --- the account and its listings ---


async def test_a_changed_step_leaves_an_odd_lot_that_a_person_must_see(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        venue, s = sim.exchange.venue, sim.number(0)
        account, desk = venue.ledger.accounts[KEY], live.parts.core.desk
        held = account.position(s, "BOTH").qty
        factor = next(n for n in (7, 11, 13) if held % n)  # how much is held depends on the price of the day
        sim.server.faults.begin("filter_change", symbol="BTCUSDT", tick_factor=1, step_factor=factor)
        odd = held % factor
        live.trading.gateway.steps[0] = (live.trading.gateway.steps[0][0], Step(factor / 1_000))
        sim.mark(0, float(desk.positions.rows[0]["sl_price"]))
        await sim.until(lambda: amount(sim, 0) == odd, "all but the odd lot is out")
        await sim.until(lambda: 0 in desk.account.halted_symbols, "the symbol takes no entries")
        assert live.trading.alarm.counts["dust"]
        sim.decide()
        assert len(entries(sim)) == 1


async def test_margin_that_is_gone_between_decision_and_order(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        sim.exchange.venue.ledger.accounts[KEY].wallet = 20 * 10**8
        sim.decide(atr_share=0.002)
        desk = live.parts.core.desk
        (order,) = desk.orders.values()
        await sim.until(lambda: not desk.orders, "the entry's end")
        assert (order.state.name, order.code) == ("REJECTED", -2019)
        assert live.trading.protection.slots == {} and desk.positions.count == 0
        assert 0 in desk.account.halted_symbols


async def test_settlement_while_an_exit_is_on_its_way(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        sim.server.faults.begin("settlement", symbol="BTCUSDT")
        await gone(sim, seconds=20)
        one_trade(sim)


async def test_leverage_changed_from_outside_with_a_position(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        desk = sim.server.private.account_desk
        sim.server.faults.begin("service_unavailable", path="/fapi/v1/accountConfig", count=1_000)  # not set right yet
        await desk.set_leverage(
            sim.exchange.venue.ledger.accounts[KEY], Params.of({"symbol": "BTCUSDT", "leverage": 11})
        )
        await sim.until(lambda: 0 in live.trading.admission.untraded, "noticed")
        assert live.trading.entry_gates(0, 1, 1.0, 1.0, 1.0, sim.clock.now_ms()) & BIT["symbol_halted"]
        assert standing(sim, 0), "the position keeps its guard"
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await gone(sim)
        one_trade(sim)


# --- keys ---


class Edwards(Simulated):
    """The account's key is an Ed25519 one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        private = ed25519.Ed25519PrivateKey.generate()
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.pem = private.private_bytes(serialization.Encoding.PEM, *form).decode()
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.exchange.venue.ledger.accounts[KEY].secret = public.decode()

    @property
    def config(self) -> Config:
        config = super().config
        secrets = config.secrets.model_copy(update={"api_secret": type(config.secrets.api_secret)(self.pem)})
        return config.model_copy(update={"secrets": secrets})


async def test_an_ed25519_session_trades_without_signing_its_orders(tmp_path: Path) -> None:
    async with Edwards(tmp_path) as sim:
        live = await sim.start_engine()
        assert all(lane.ready and lane._logged_on for lane in live.connection.lanes)
        signer, signed = live.connection.rest._credentials.signer, []
        sign = signer.sign
        signer.sign = lambda payload: (signed.append(payload), sign(payload))[1]  # type: ignore[method-assign]
        await opened(sim)
        assert live.trading.protection.slots[0].stage is Stage.STANDING
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await gone(sim)
        one_trade(sim)
        assert not [payload for payload in signed if b"newClientOrderId" in payload or b"clientAlgoId" in payload]
        sim.server.faults.begin("cut_connections", route="ws-api")
        await sim.until(lambda: not all(lane.ready for lane in live.connection.lanes), "cut")
        await sim.until(lambda: all(lane.ready and lane._logged_on for lane in live.connection.lanes), "on again")
