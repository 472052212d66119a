"""Storms of random faults over several symbols; what must hold is watched from the exchange's side alone."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from simulated import KEY, Simulated

from engine import journal
from engine.simulator.faults import ANSWERS
from engine.trading.kill import Step
from kernels.records import Kind, PositionEvent, Reason, RunState
from tests.conftest import long_run

SYMBOL_COUNT = 4
NAKED_S = 3.5  # the two seconds, what an exit takes, and a machine that does other things too
LONGEST_TURN_S = 0.05  # between two looks; what a machine holds the process up for longer is nobody's delay
BLOCKED_S = 25.0  # where no request could reach the exchange for a while, or no answer us
OPEN_RISK = {
    "cooldown_minutes": 0, "max_losing_streak": 10**6, "max_day_loss": 1.0, "max_drawdown": 1.0,
    "max_total_notional_usdt": 1e9, "max_correlated_usdt": 1e9, "max_positions": SYMBOL_COUNT,
}  # fmt: skip
PATHS = ("order.place", "algoOrder.place", "/fapi/v1/order", "/fapi/v1/algoOrder", "userTrades", "positionRisk")
# (name, arguments, whether nothing can reach the exchange, or come back from it, while it lasts)
STORM: list[tuple[str, dict[str, Any], bool]] = [
    ("drop_frame", {"count": 4, "route": "private"}, False),
    ("duplicate_frame", {"count": 9, "route": "private"}, False),
    ("truncate_frame", {"count": 3, "route": "private"}, False),
    ("garbage_frame", {"count": 3, "route": "private"}, False),
    ("hold_frames", {"count": 3, "route": "private"}, False),
    ("drop_event", {"count": 4}, False),
    ("duplicate_event", {"count": 9}, False),
    ("late_event", {"late_ms": 900}, False),
    ("listen_key_expires", {}, False),
    ("listen_key_expires_silently", {}, False),
    ("partial_fill_then_silence", {"count": 1}, False),
    ("silent_stream", {"route": "private"}, False),
    ("half_open", {"route": "private"}, False),
    ("half_open", {"route": "ws-api"}, True),
    ("cut_connections", {}, True),
    ("cut_connections", {"route": "ws-api"}, True),
    ("connection_storm", {"seconds": 1.0}, True),
    ("clock_skew", {"skew_ms": 30_000}, True),
    ("ip_ban", {"seconds": 1.5}, True),
    ("stop_trading_permission", {"key": KEY}, True),
] + [(name, {"count": 2, "path": path}, False) for name in ANSWERS for path in PATHS]


@dataclass
class Oracle:
    """Looks at the exchange's own books. naked: (symbol, seconds, whether the ways were blocked meanwhile).

    `ran_s` is its clock: the time in which this process ran.
    """

    sim: Simulated
    naked: list[tuple[int, float, bool]] = field(default_factory=list)
    ran_s: float = 0.0
    blocked_until_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    _since_s: dict[int, float] = field(default_factory=dict)
    _blocked: set[int] = field(default_factory=set)
    _looked_s: float = 0.0

    def look(self) -> None:
        venue, looked_s = self.sim.exchange.venue, time.monotonic()
        self.ran_s += min(looked_s - self._looked_s, LONGEST_TURN_S)
        self._looked_s, now_s = looked_s, self.ran_s
        account = venue.ledger.accounts[KEY]
        guarded = Counter(algo.s for algo in venue.algos.open_of(account) if algo.close_position)
        for symbol in range(SYMBOL_COUNT):
            s = self.sim.number(symbol)
            qty = account.position(s, "BOTH").qty
            if qty < 0:
                self.wrong.append(f"{self.sim.symbols[symbol]} is short: {qty}")
            if guarded[s] > 1:
                self.wrong.append(f"{self.sim.symbols[symbol]} has {guarded[s]} stops")
            if qty and not guarded[s]:
                self._since_s.setdefault(symbol, now_s)
                if now_s < self.blocked_until_s:
                    self._blocked.add(symbol)
            elif symbol in self._since_s:
                self.naked.append((symbol, now_s - self._since_s.pop(symbol), symbol in self._blocked))
                self._blocked.discard(symbol)


def trade(sim: Simulated, chance: random.Random) -> None:
    """Enter what is flat; now and then leave what is held, by its own barriers or by hand."""
    assert sim.live is not None
    desk = sim.live.parts.core.desk
    desk.account.run_state = int(RunState.RUNNING)
    desk.account.halted_symbols.clear()
    sim.live.connection.orders._words[6] = 0  # a refusal for rate would keep entries off for ten seconds
    for symbol in range(SYMBOL_COUNT):
        slot = desk.positions.slot_of[symbol]
        if slot < 0 and chance.random() < 0.3:
            sim.decide(symbol)
        elif slot >= 0 and chance.random() < 0.15:
            how = chance.choice(["sl_price", "tp_price", ""])
            if how:
                sim.mark(symbol, float(desk.positions.rows[slot][how]))
            else:
                sim.live.parts.core.close_position(symbol, Reason.MANUAL)


async def storm(sim: Simulated, oracle: Oracle, chance: random.Random, seconds: float) -> Counter[str]:
    loop = asyncio.get_running_loop()
    end_s, next_s, lift_s = loop.time() + seconds, 0.0, 0.0
    begun: Counter[str] = Counter()
    while loop.time() < end_s:
        if loop.time() > next_s:
            next_s = loop.time() + chance.uniform(0.1, 1.2)
            name, arguments, blocks = chance.choice(STORM)
            sim.server.faults.begin(name, **dict(arguments))
            begun[name] += 1
            if blocks:
                lift_s = loop.time() + chance.uniform(0.3, 1.5)
                oracle.blocked_until_s = oracle.ran_s + 4.0
        if lift_s and loop.time() > lift_s:
            lift_s = 0.0
            sim.server.faults.end()
            sim.exchange.venue.ledger.accounts[KEY].can_trade = True
        trade(sim, chance)
        for _ in range(5):
            oracle.look()
            await asyncio.sleep(0.01)
    sim.server.faults.end()
    sim.exchange.venue.ledger.accounts[KEY].can_trade = True
    return begun


def journalled(sim: Simulated) -> dict[Kind, list[Any]]:
    found: dict[Kind, list[Any]] = {Kind.FILL: [], Kind.TRADE: [], Kind.POSITION: []}
    for segment in journal.segments(sim.folder / "journal", "main"):
        for kind, record in journal.read_records(segment, frozenset(found)):
            found[kind].append(record)
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(long_run(1, 4)))
async def test_no_storm_doubles_reverses_bares_or_loses_a_position(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with Simulated(tmp_path, weight_limit=10**6, symbol_count=SYMBOL_COUNT, balance_usdt=100_000,
                         risk=OPEN_RISK) as sim:  # fmt: skip
        live = await sim.start_engine()
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        oracle, desk = Oracle(sim), live.parts.core.desk
        begun = await storm(sim, oracle, chance, long_run(8, 90))
        live.trading.kill.begin(Step.FLATTEN, sim.clock.now_ms())
        account = sim.exchange.venue.ledger.accounts[KEY]

        def over() -> bool:
            oracle.look()
            held = [account.position(sim.number(s), "BOTH").qty for s in range(SYMBOL_COUNT)]
            ours = desk.positions.count or desk.orders or live.trading.reconciler.doubts
            return not any(held) and not ours and not sim.exchange.venue.algos.open_of(account)

        await sim.until(over, "flat, settled and agreed", 60)
        kept = sim.exchange.venue.matcher.of(account)
        free, blocked = ([s for _, s, b in oracle.naked if b is x] or [0.0] for x in (False, True))
        print(
            f"faults {begun.total()}, trades {desk.trades_closed}, longest without a stop {max(free):.2f} s, ", end=""
        )
        print(f"{max(blocked):.2f} s with the ways blocked; alarms {live.trading.alarm.counts}")
        assert oracle.wrong == []
        assert max(free) <= NAKED_S and max(blocked) <= BLOCKED_S, oracle.naked
        names = [order.client_id for order in kept.all.values()]
        assert len(names) == len(set(names)), "an order was sent twice"
        found = journalled(sim)
        fills = [int(fill["trade_id"]) for fill in found[Kind.FILL]]
        assert sorted(fills) == sorted(fill.trade_id for _, fill, _ in kept.trades), "each trade booked once"
        final = [r for r in found[Kind.POSITION] if r["event"] == PositionEvent.FINAL]
        assert len(final) == len(found[Kind.TRADE]) == desk.trades_closed > 0
        assert not [r for r in found[Kind.POSITION] if r["reason"] == Reason.ADJUST], "every change has its trade"
        wallet = account.wallet / 1e8
        await sim.until(lambda: abs(desk.account.wallet_usdt - wallet) < 1e-6, "the wallets agree", 70)
