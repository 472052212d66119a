"""Whoever looks at the limits sees what those who count have counted, and disturbs nobody."""

from __future__ import annotations

from pathlib import Path

from engine.exchange import usage
from engine.exchange.budget import WeightBudget
from engine.exchange.order_budget import OrderBudget

NOW_S = 1_800_000_030.0  # half a minute into its minute


def test_the_weight_is_that_of_the_budget_and_a_new_minute_begins_at_none(tmp_path: Path) -> None:
    path = tmp_path / "weight"
    assert usage.weight(path, NOW_S) == usage.Weight(0, 2_400, 0.0)
    assert not path.exists(), "looking makes no file"
    budget = WeightBudget(path, wall_s=lambda: NOW_S)
    budget.set_limit(6_000)
    budget.take(120)
    budget.correct(150)
    before = path.read_bytes()
    assert usage.weight(path, NOW_S) == usage.Weight(150, 6_000, 0.0)
    assert usage.weight(path, NOW_S + 30.0) == usage.Weight(0, 6_000, 0.0)
    assert path.read_bytes() == before
    budget.ban(90.0)
    assert usage.weight(path, NOW_S + 30.0).banned_s == 60.0


def test_orders_are_those_of_the_windows_of_this_moment(tmp_path: Path) -> None:
    path = tmp_path / "orders"
    assert usage.orders(path, 1_000) == []
    OrderBudget(limit_10s=30, limit_1m=100, path=path).count(61_000, 4)
    assert usage.orders(path, 69_999) == [usage.OrderCount(10_000, 4, 30), usage.OrderCount(60_000, 4, 100)]
    assert usage.orders(path, 70_000) == [usage.OrderCount(10_000, 0, 30), usage.OrderCount(60_000, 4, 100)]
    assert [count.used for count in usage.orders(path, 120_000)] == [0, 0]
