"""kill -9 at random points of trading: the next start is protected and agrees with the exchange, every time."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from engines import Engines, check_agreement
from simulated import KEY, Simulated

from engine import journal
from kernels.records import Kind, PositionEvent, Reason
from tests.conftest import long_run


def booked(folder: Path) -> tuple[list[int], list[str]]:
    """Return the trade ids that all runs booked, and the position changes that no trade explains."""
    trades, adjusted = [], []
    for segment in journal.segments(folder / "journal", "main"):
        for kind, record in journal.read_records(segment, frozenset({Kind.FILL, Kind.POSITION})):
            if kind is Kind.FILL:
                trades.append(int(record["trade_id"]))
            elif record["reason"] == Reason.ADJUST and record["event"] in (PositionEvent.ADJUST, PositionEvent.FINAL):
                adjusted.append(f"{segment.path.name} seq {record['seq']}: {record['qty']} of {record['symbol']}")
    return trades, adjusted


@pytest.mark.timeout(3_600)
async def test_kill_at_random_points_leaves_nothing_naked_or_doubled(tmp_path: Path) -> None:
    async with Simulated(tmp_path, weight_limit=1_000_000) as sim, Engines(sim, random.Random(11)) as engines:
        lives = [await engines.live_and_die() for _ in range(long_run(6, 100))]
        await engines.start()
        check_agreement(sim, await engines.settled())
        kept = sim.exchange.venue.matcher.of(sim.exchange.venue.ledger.accounts[KEY])
    ours = [order.client_id for order in kept.all.values() if order.client_id.endswith(("-e", "-x"))]
    assert len(ours) == len(set(ours)), "an id was sent twice"
    assert sum(name.endswith("-e") for name in ours) >= len(lives) // 2
    trades, adjusted = booked(tmp_path)
    assert len(trades) == len(set(trades)), "a trade was booked twice"
    assert set(trades) == {fill.trade_id for _, fill, _ in kept.trades}, "a trade was not booked"
    assert adjusted == [], "a position was changed without a trade"
