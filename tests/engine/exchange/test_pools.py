"""Budgets counted by request: a sped-up market gets its scaled limits, whoever made the shared file first."""

from __future__ import annotations

from pathlib import Path

from engine.exchange.budget import WeightBudget
from engine.exchange.rest import STATISTICS_POOL, MarketRest


def test_a_replay_is_not_held_to_the_collectors_limit(tmp_path: Path) -> None:
    path = tmp_path / "rate_budget"
    collector = MarketRest("http://127.0.0.1:1", WeightBudget(path, 0.5))
    assert collector._pools[STATISTICS_POOL].take(400) == 0.0  # writes the file, with 1,000 in 5 minutes
    replay = MarketRest("http://127.0.0.1:1", WeightBudget(path), pool_scale=1_000)
    assert replay._pools[STATISTICS_POOL].take(5_000) == 0.0
