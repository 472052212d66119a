"""Live trading against the simulated exchange: its sockets, its delays, its faults; its ledger is the oracle."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from simulated import KEY, SECRET, Simulated

from engine import journal
from engine.errors import ConfigError
from engine.exchange.requests import Call, Request
from engine.simulator.instruments import MONEY
from engine.trading.protection import Stage
from kernels.decide import BIT
from kernels.records import Kind, Reason, RunState

DAY_MS = 86_400_000


def amount(sim: Simulated, symbol: int) -> int:
    """The exchange's own position, in its smallest units."""
    account = sim.exchange.venue.ledger.accounts[KEY]
    return account.position(sim.number(symbol), "BOTH").qty


def orders(sim: Simulated) -> list:
    """Every order that the exchange has seen of our account."""
    venue = sim.exchange.venue
    return list(venue.matcher.of(venue.ledger.accounts[KEY]).all.values())


def trades(sim: Simulated) -> list:
    """Every closed round trip in the journal, of all runs."""
    found = []
    for segment in journal.segments(sim.folder / "journal", "main"):
        found += [record for kind, record in journal.read_records(segment) if kind is Kind.TRADE]
    return found


def funding_usdt(sim: Simulated) -> float:
    """What the exchange has charged and paid for holding: nothing, but at some full hours."""
    venue = sim.exchange.venue
    rows = venue.views.of(venue.ledger.accounts[KEY]).income
    return sum(float(row["income"]) for row in rows if row["incomeType"] == "FUNDING_FEE")


def standing(sim: Simulated, symbol: int) -> bool:
    assert sim.live is not None
    return sim.live.trading.protection.standing(symbol)


async def opened(sim: Simulated, symbol: int = 0) -> None:
    assert sim.live is not None
    await sim.until(lambda: sim.live.trading.sweeps.reconciled, "reconciled")
    sim.decide(symbol)
    await sim.until(lambda: sim.live.parts.core.desk.positions.slot_of[symbol] >= 0, "position open")
    await sim.until(lambda: standing(sim, symbol), "stop confirmed", 2.5)


async def gone(sim: Simulated, symbol: int = 0, seconds: float = 10.0) -> None:
    desk = sim.live.parts.core.desk
    await sim.until(lambda: desk.positions.slot_of[symbol] < 0 and not desk.orders, "flat by our books", seconds)
    await sim.until(lambda: amount(sim, symbol) == 0, "flat on the exchange")


async def test_entry_stop_exit_and_the_wallet_agrees(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        assert live.report.faults == []
        await opened(sim)
        trading, desk, lines = live.trading, live.parts.core.desk, live.connection.lines
        assert [(line.name, line.kind) for line in lines()] == [
            ("lane 0", "ws_api"), ("lane 1", "ws_api"), ("private 0", "private"), ("private 1", "private"),
        ]  # fmt: skip
        assert sum(line.frames for line in lines() if line.kind == "ws_api") >= 1, "the entry was answered"
        await sim.until(lambda: all(line.frames for line in lines() if line.kind == "private"), "both tell of it")
        assert trading.protection.slots[0].stage is Stage.STANDING
        assert amount(sim, 0) != 0
        assert desk.positions.rows[0]["protected"] == 1
        sim.mark(0, float(desk.positions.rows[0]["sl_price"]))
        await gone(sim)
        await sim.until(lambda: trading.may_enter(0), "the old stop is over")
        wallet = sim.exchange.venue.ledger.accounts[KEY].wallet
        await sim.until(lambda: abs(desk.account.wallet_usdt - wallet / 1e8) < 1e-6, "wallets agree")
        assert desk.trades_closed == 1
        # a payment that is told after the exit is in no trade
        late_usdt = funding_usdt(sim) - sum(float(trade["funding_usdt"]) for trade in trades(sim))
        assert desk.net_usdt == pytest.approx(desk.account.wallet_usdt - 10_000 - late_usdt, abs=1e-6)
        assert {"ws0", "ws1"} >= set(trading.gateway.counts.routes)


async def test_a_wrong_secret_refuses_to_start_and_shows_nothing(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        sim.exchange.venue.ledger.accounts[KEY].secret = "other"
        with pytest.raises(ConfigError) as caught:
            await sim.start_engine()
        assert SECRET not in str(caught.value)


async def test_a_second_engine_on_the_key_is_refused(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        await sim.start_engine()
        first = sim.live
        with pytest.raises(ConfigError, match="another engine"):
            await sim.start_engine()
        sim.live = first


@pytest.mark.parametrize(
    "fault",
    ["lost_acknowledgement", "timeout_after_acceptance", "unknown_503_executed", "unknown_503_not_executed",
     "service_unavailable", "throttled", "timestamp_rejected", "lost_request"],
)  # fmt: skip
async def test_no_fault_of_an_entry_leaves_a_naked_or_double_position(tmp_path: Path, fault: str) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        for lane in live.connection.lanes:
            lane.ready = False  # the injector's answers are REST's
        sim.server.faults.begin(fault, path="/fapi/v1/order")
        sim.decide()
        desk = live.parts.core.desk
        assert desk.orders
        await sim.until(lambda: not desk.orders, "the entry's fate is known", 15)
        await sim.until(lambda: fault in sim.server.faults.done, "answered: a fill is told before a late answer")
        assert sim.server.faults.done[fault] == 1
        placed = amount(sim, 0)
        if placed:
            await sim.until(lambda: standing(sim, 0), "protected", 3)
            assert desk.positions.count == 1
        else:
            assert desk.positions.count == 0
        assert live.trading.gateway.counts.routes == {"rest": 1}
        assert sum("-e" in order.client_id for order in orders(sim)) <= 1


@pytest.mark.parametrize("after_ms", [0, 1, 4, 12])
async def test_the_order_lane_breaks_while_an_entry_is_on_its_way(tmp_path: Path, after_ms: int) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        sim.decide()
        await asyncio.sleep(after_ms / 1_000)
        live.connection.lanes[0]._transport.underlying_transport.abort()
        desk = live.parts.core.desk
        await sim.until(lambda: not desk.orders, "the entry's fate is known", 15)
        assert desk.positions.count == bool(amount(sim, 0))
        if amount(sim, 0):
            await sim.until(lambda: standing(sim, 0), "protected", 3)
        assert sum("-e" in order.client_id for order in orders(sim)) <= 1
        await sim.until(lambda: live.connection.lanes[0].ready, "the lane is back")


async def test_both_private_streams_cut_while_a_stop_fires(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        sim.server.faults.begin("cut_connections", route="private")
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await gone(sim)
        assert live.parts.core.desk.trades_closed == 1
        streams = live.connection.lines
        await sim.until(
            lambda: all(line.state == "live" and line.reconnects for line in streams() if line.kind == "private"),
            "both came back, and it is shown",
        )


@pytest.mark.parametrize(
    ("fault", "arguments"),
    [("drop_event", {"count": 3}), ("duplicate_event", {"count": 20}), ("late_event", {"late_ms": 1_500}),
     ("partial_fill_then_silence", {"count": 0}), ("listen_key_expires", {}), ("listen_key_expires_silently", {}),
     ("connection_storm", {"seconds": 1.0})],
)  # fmt: skip
async def test_an_exit_through_a_broken_private_stream(tmp_path: Path, fault: str, arguments: dict) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        sim.server.faults.begin(fault, **arguments)
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await gone(sim, seconds=20)
        assert live.parts.core.desk.trades_closed == 1
        assert len({int(t["position_id"]) for t in trades(sim)}) == len(trades(sim)) == 1


async def test_an_ip_ban_with_an_open_position_leaves_it_behind_its_stop_and_ends(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        sim.server.faults.begin("ip_ban", seconds=3)
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await asyncio.sleep(0.3)
        assert amount(sim, 0) == 0 or standing(sim, 0)
        await gone(sim, seconds=25)
        assert live.parts.core.desk.trades_closed == 1


async def test_entry_without_margin_is_refused_and_nothing_remains(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        sim.exchange.venue.ledger.accounts[KEY].wallet = 100 * 10**8
        sim.decide(atr_share=0.002)
        desk = live.parts.core.desk
        await sim.until(lambda: not desk.orders, "the entry's end")
        assert amount(sim, 0) == 0
        assert desk.positions.count == 0
        assert live.trading.protection.slots == {}


async def test_settlement_of_a_held_symbol_closes_our_books(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        sim.server.faults.begin("settlement", symbol="BTCUSDT")
        await gone(sim, seconds=20)
        (trade,) = trades(sim)
        assert trade["reason"] == Reason.SETTLEMENT
        assert live.parts.core.desk.trades_closed == 1


async def test_leverage_changed_from_outside_rests_the_symbol_until_it_is_set_right(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        rest, admission = live.connection.rest, live.trading.admission
        sim.server.faults.begin("service_unavailable", path="/fapi/v1/accountConfig", count=1_000)
        assert (await rest.call(Request(Call.LEVERAGE, {"symbol": "BTCUSDT", "leverage": 9}))).ok
        await sim.until(lambda: 0 in admission.untraded, "noticed")
        assert live.trading.entry_gates(0, 1, 1.0, 1.0, 1.0, sim.clock.now_ms()) & BIT["symbol_halted"]
        run_state = live.parts.core.desk.account
        await sim.until(lambda: run_state.run_state == RunState.REDUCE_ONLY, "an account that cannot be read")
        sim.server.faults.end()
        assert (await rest.call(Request(Call.LEVERAGE, {"symbol": "BTCUSDT", "leverage": 7}))).ok
        setting = sim.exchange.venue.ledger.accounts[KEY].setting(sim.number(0))
        await sim.until(lambda: setting.leverage == sim.config.live.leverage, "set right again")
        await sim.until(lambda: 0 not in admission.untraded, "entries are allowed again")


async def test_a_contract_that_is_delisted_is_left_and_not_entered(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        live = await sim.start_engine()
        await opened(sim)
        core = live.parts.core
        row = core.instruments[0].copy()
        now_ms = sim.clock.now_ms()
        row["delivery_ms"] = now_ms + 2 * 86_400_000
        core.on_instrument(0, row, now_ms)
        core.on_account_timer(now_ms)
        assert core.desk.exits == {}, "two days are left"
        row["delivery_ms"] = now_ms + 1_800_000
        core.on_instrument(0, row, now_ms)
        core.on_account_timer(now_ms)
        await gone(sim)
        (trade,) = trades(sim)
        assert trade["reason"] == Reason.SETTLEMENT
        await sim.until(lambda: live.trading.may_enter(0), "the stop is over")
        sim.decide()
        assert not core.desk.orders
        assert int(core.last_signals[0]["gates"]) & BIT["delivery"]
        row["trading"] = 0
        core.on_instrument(0, row, now_ms)
        assert 0 in live.trading.admission.resting


async def test_a_crash_with_an_open_position_comes_back_protected(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        await sim.start_engine()
        await opened(sim)
        before = amount(sim, 0)
        stops = {slot.name for slot in sim.live.trading.protection.slots.values()}
        await sim.stop_engine()
        live = await sim.start_engine()
        assert live.parts.core.desk.positions.count == 1
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled", 3)
        assert standing(sim, 0)
        assert {slot.name for slot in live.trading.protection.slots.values()} == stops
        assert amount(sim, 0) == before
        sim.mark(0, float(live.parts.core.desk.positions.rows[0]["sl_price"]))
        await gone(sim)
        assert live.parts.core.desk.trades_closed == 1


async def test_a_position_closed_by_hand_while_we_were_down_is_found(tmp_path: Path) -> None:
    async with Simulated(tmp_path) as sim:
        await sim.start_engine()
        await opened(sim)
        await sim.stop_engine()
        account = sim.exchange.venue.ledger.accounts[KEY]
        position = account.position(sim.number(0), "BOTH")
        sim.server.faults.begin("liquidate", key=KEY)
        await sim.until(lambda: position.qty == 0, "liquidated")
        live = await sim.start_engine()
        await sim.until(lambda: live.parts.core.desk.positions.count == 0, "found flat", 15)
        (trade,) = trades(sim)
        assert trade["qty"] > 0.0 and trade["unprotected_ms"] == -1, "nobody saw all of its life"
        assert live.parts.core.desk.trades_closed == 1


@pytest.mark.parametrize("moved_usdt", [5_000, -4_000])
async def test_money_moved_while_we_were_down_is_no_result(tmp_path: Path, moved_usdt: int) -> None:
    async with Simulated(tmp_path) as sim:
        if -sim.clock.now_ms() % DAY_MS < 60_000:  # what is compared is of one day
            await sim.until(lambda: sim.clock.now_ms() % DAY_MS < 60_000, "the new day", 70)
        live = await sim.start_engine()
        await opened(sim)
        live.parts.core.on_account_timer(sim.clock.now_ms())
        before = replace(live.parts.core.desk.account)
        await sim.stop_engine()
        venue = sim.exchange.venue
        holder = venue.ledger.accounts[KEY]
        venue.ledger.move(venue.ledger.own["market"], holder, moved_usdt * MONEY)
        venue.views.refresh(holder)
        view = venue.views.of(holder)
        await sim.until(lambda: view.account.wallet == holder.wallet, "REST shows it")
        view.income.append(
            {"symbol": "", "incomeType": "TRANSFER", "income": f"{moved_usdt}.00000000", "asset": "USDT",
             "info": "TRANSFER", "time": sim.clock.now_ms(), "tranId": 0, "tradeId": ""}
        )  # fmt: skip
        live = await sim.start_engine()
        account = live.parts.core.desk.account
        assert account.wallet_usdt == pytest.approx(before.wallet_usdt + moved_usdt, abs=1.0)
        assert account.day_start_equity_usdt == pytest.approx(before.day_start_equity_usdt + moved_usdt, abs=1.0)
        assert account.peak_equity_usdt == pytest.approx(before.peak_equity_usdt + moved_usdt, abs=20.0)
        assert account.day_pnl_usdt == pytest.approx(before.day_pnl_usdt, abs=20.0), "what the market moved meanwhile"
        await sim.stop_engine()  # and no start counts it again
        again = (await sim.start_engine()).parts.core.desk.account
        assert again.day_start_equity_usdt == pytest.approx(account.day_start_equity_usdt)


async def test_a_take_profit_stands_beside_the_stop_and_closes_the_position(tmp_path: Path) -> None:
    async with Simulated(tmp_path, take_profit=True) as sim:
        live = await sim.start_engine()
        await opened(sim)
        trading, venue = live.trading, sim.exchange.venue
        await sim.until(lambda: trading.takes.standing(0), "take profit confirmed")
        algos = venue.algos.open_of(venue.ledger.accounts[KEY])
        assert sorted(algo.type for algo in algos) == ["STOP_MARKET", "TAKE_PROFIT_MARKET"]
        await sim.stop_engine()
        live = await sim.start_engine()
        assert live.trading.takes.standing(0), "adopted at the restart"
        assert live.trading.protection.standing(0)
        (take,) = [algo for algo in algos if algo.type == "TAKE_PROFIT_MARKET"]
        venue.algos._trigger(take)
        await gone(sim)
        (trade,) = trades(sim)
        assert trade["reason"] == Reason.TP
        await sim.until(lambda: live.trading.may_enter(0), "both are over")
