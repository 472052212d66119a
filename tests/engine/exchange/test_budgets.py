"""The counts that processes share: request weight by address, orders by account."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.exchange.budget import BACKGROUND, SWEEPS, WeightBudget, shared_path
from engine.exchange.order_budget import OrderBudget
from engine.exchange.requests import Call


def test_data_folders_share_the_weight_of_a_real_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TA_LOCK_DIR", str(tmp_path / "machine"))
    url = "https://fapi.binance.com"
    assert (
        shared_path(url, tmp_path / "a")
        == shared_path(url, tmp_path / "b")
        == tmp_path / "machine" / ("weight-fapi.binance.com")
    )
    assert shared_path("https://demo-fapi.binance.com", tmp_path) != shared_path(url, tmp_path)
    assert shared_path("http://127.0.0.1:7201", tmp_path / "a") == tmp_path / "a" / "rate_budget"


def test_sweeps_and_background_work_stop_before_orders_and_evidence(tmp_path: Path) -> None:
    budget = WeightBudget(tmp_path / "weight", wall_s=lambda: 1_000.0, limit=1_000)
    assert budget.take(500) == 0.0
    assert budget.take(Call.INCOME.value.weight, Call.INCOME.value.share) > 0.0
    assert budget.take(Call.OPEN_ALGOS.value.weight, Call.OPEN_ALGOS.value.share) == 0.0
    assert budget.take(170, SWEEPS) > 0.0
    assert budget.take(Call.ORDER_QUERY.value.weight, Call.ORDER_QUERY.value.share) == 0.0
    assert BACKGROUND < SWEEPS < Call.TRADES.value.share
    assert WeightBudget(tmp_path / "weight", wall_s=lambda: 1_000.0).used == 541


def test_order_counts_are_one_for_every_process_of_the_account(tmp_path: Path) -> None:
    engine, watchdog = (OrderBudget(limit_10s=30, path=tmp_path / "order_budget") for _ in range(2))
    engine.count(1_000, 15)
    watchdog.count(1_000, 4)
    assert not engine.room_for_entry(1_000)
    assert engine.room_for_entry(10_000)
    watchdog.ban(30_000)
    assert not engine.room_for_entry(20_000)
    again = OrderBudget(limit_10s=30, path=tmp_path / "order_budget")
    assert not again.room_for_entry(29_999)
    assert again.room_for_entry(30_000)
