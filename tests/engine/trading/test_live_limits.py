"""What must not be asked of the exchange, or not at once: banned addresses, refusals for rate, dust, foreign stops."""

from __future__ import annotations

import itertools
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig
from simulated import KEY, Simulated
from test_live_simulator import gone, opened

from engine.exchange import private_rest, user_data, ws_api
from engine.exchange.budget import WeightBudget
from engine.exchange.private_rest import PrivateRest
from engine.exchange.replies import Reply
from engine.exchange.requests import Call, Request
from engine.exchange.signing import make_signer
from engine.exchange.steps import Step
from engine.exchange.ws_api import Credentials
from engine.trading import connect, stall
from kernels.records import Kind, Reason


def exits_ms(rig: LiveRig) -> list[int]:
    """When exits left."""
    return [ms for ms, r, _ in rig.venue.requests if r.call is Call.ORDER_PLACE and "reduceOnly" in r.params]


async def test_nothing_is_sent_while_the_address_is_banned(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        charge, refused = sim.server.rest.weights.charge, []

        def watched(address: str, weight: int, now_s: float) -> int:
            try:
                return charge(address, weight, now_s)
            except Exception:
                refused.append(now_s)
                raise

        sim.server.rest.weights.charge = watched  # type: ignore[method-assign]
        sim.server.faults.begin("ip_ban", seconds=3)
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await gone(sim, seconds=25)
        assert live.parts.core.desk.trades_closed == 1
        assert len(refused) <= 6, "the exit that learnt of it, and what was under way on the other routes"


@pytest.mark.parametrize("code", [-1003, -1015])
def test_an_exit_refused_for_rate_is_tried_again_at_a_pace(tmp_path: Path, code: int) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.faults[Call.ORDER_PLACE].extend([f"code {code}"] * 3)
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(3_400)
    times = exits_ms(rig)
    assert len(times) == 4 and rig.held == 0
    assert all(later - earlier >= 1_000 for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("code", [-4005, -1111, -4023])
def test_an_exit_that_no_market_order_may_do_leaves_as_a_limit_order(tmp_path: Path, code: int) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    place = rig.venue._place

    def market_orders_are_refused(p: dict[str, Any]) -> Reply:  # their filters changed; the listing is read in a minute
        return Reply(400, code, "Quantity greater than max quantity.") if p["type"] == "MARKET" else place(p)

    rig.venue._place = market_orders_are_refused  # type: ignore[method-assign]
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(100)
    assert rig.held == 0 and float(rig.venue.held["BTCUSDT"].amount) == 0.0
    assert len(exits_ms(rig)) == 2


def test_a_ban_names_its_end() -> None:
    named = Reply(418, -1003, "Way too many requests; IP(1.2.3.4) banned until 1800000005000. Please use ...")
    assert named.banned_until_ms(1_800_000_000_000) == 1_800_000_005_000
    assert Reply(418, -1003, "", None, False, 7.0).banned_until_ms(1_000) == 8_000
    assert Reply(429, -1003, "banned until 1800000005000").banned_until_ms(0) == 0


def test_dust_below_a_changed_step_is_not_offered_for_sale_again_and_again(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.gateway.steps[0] = rig.gateway.steps[0][0], Step(7.0)
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(5_000)
    assert rig.venue.held["BTCUSDT"].amount == Decimal(1), "50 less seven sevens"
    assert len(exits_ms(rig)) == 1
    assert 0 in rig.desk.account.halted_symbols and rig.trading.alarm.counts["dust"] == 1
    assert rig.trading.protection.standing(0), "closePosition on the exchange sells what a step cannot name"


def test_a_position_behind_another_one_s_stop_is_left(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    slot = rig.trading.protection.slots[0]
    slot.position_id += 1_000  # as when a fill was told before the position of the stop that stands
    rig.run(100)
    assert rig.held == 0
    assert rig.records(Kind.TRADE)[-1]["reason"] == Reason.UNPROTECTED


async def test_questions_leave_ways_free_for_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_rest, "MAX_IN_FLIGHT", 4)
    monkeypatch.setattr(private_rest, "KEPT_FOR_ORDERS", 2)
    rest = PrivateRest(
        "http://127.0.0.1:1", Credentials("k", make_signer("s")), WeightBudget(), lambda: 1_800_000_000_000
    )
    answers: list[Reply] = []
    taken = [rest.send(Request(Call.TRADES, {"symbol": "BTCUSDT"}), answers.append) for _ in range(3)]
    orders = [rest.send(Request(Call.ORDER_PLACE, {"symbol": "BTCUSDT"}), answers.append) for _ in range(3)]
    assert (taken, orders) == ([True, True, False], [True, True, False])
    await rest.close()


async def test_the_listen_key_is_kept_alive_renewed_when_it_is_not_and_never_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "KEEP_ALIVE_S", 0.1)
    asked: list[Call] = []
    call = PrivateRest.call

    async def watched(self: PrivateRest, request: Request, share: float | None = None) -> Reply:
        asked.append(request.call)
        return await call(self, request, share)

    monkeypatch.setattr(PrivateRest, "call", watched)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        key = live.connection._listen_key
        await sim.until(lambda: asked.count(Call.LISTEN_KEY_KEEP) >= 2, "kept alive")
        assert asked.count(Call.LISTEN_KEY) == 1 and live.connection._listen_key == key
        sim.server.faults.begin("listen_key_expires_silently")
        sim.exchange.venue.users.close(sim.exchange.venue.ledger.accounts[KEY], sim.exchange.venue.now_ms())
        await sim.until(lambda: live.connection._listen_key != key, "another key")
        await sim.until(lambda: all(socket.up for socket in live.connection.sockets), "both streams are back")
        await opened(sim)
    methods = {call.value.verb for call in Call if "listenKey" in call.value.path}
    assert methods == {"POST", "PUT"}


async def test_a_listen_key_that_cannot_be_had_is_asked_for_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "RENEW_AGAIN_S", 0.05)
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        link, call, refused = live.connection, PrivateRest.call, []

        async def held(self: PrivateRest, request: Request, share: float | None = None) -> Reply:
            if request.call is Call.LISTEN_KEY and len(refused) < 3:
                refused.append(request.call)
                return Reply(429, -1003, "held back")
            return await call(self, request, share)

        monkeypatch.setattr(PrivateRest, "call", held)
        key = link._listen_key
        sim.exchange.venue.users.close(sim.exchange.venue.ledger.accounts[KEY], sim.exchange.venue.now_ms())
        await sim.until(lambda: link._listen_key != key, "another key, after three refusals")
        await sim.until(lambda: all(socket.up for socket in link.sockets), "both streams are back")
        await opened(sim)
        assert len(refused) == 3 and live.trading.gateway.counts.queries == 0, "and they tell"


def test_the_sleep_of_a_suspended_machine_is_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {time.CLOCK_BOOTTIME: 0, time.CLOCK_MONOTONIC: 0}
    monkeypatch.setattr(stall.time, "clock_gettime_ns", lambda clock: clocks[clock])
    monkeypatch.setattr(stall.time, "monotonic_ns", lambda: clocks[time.CLOCK_MONOTONIC])
    stood_still = stall.Stall()
    seen = []
    for asleep_s in (0.0, 0.0, 1.9, 3_600.0, 0.0):
        clocks[time.CLOCK_MONOTONIC] += 10_000_000
        clocks[time.CLOCK_BOOTTIME] += 10_000_000 + int(asleep_s * 1e9)
        seen.append(stood_still())
    assert seen == [False, False, False, True, False]


async def test_a_connection_comes_back_after_a_fault_that_nobody_foresaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        failed: list[str] = []
        for module in (ws_api, user_data):
            real = module.ws_connect

            async def odd(*arguments: Any, real: Any = real, name: str = module.__name__, **named: Any) -> Any:
                if failed.count(name) < 2:
                    failed.append(name)
                    raise RuntimeError("not foreseen")
                return await real(*arguments, **named)

            monkeypatch.setattr(module, "ws_connect", odd)
        sim.server.faults.begin("cut_connections")
        await sim.until(lambda: len(failed) == 4, "each kind of connection failed")
        link = live.connection
        up = lambda: all(lane.ready for lane in link.lanes) and all(socket.up for socket in link.sockets)  # noqa: E731
        await sim.until(up, "all are back")
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await gone(sim)
