"""Decision and size: each gate alone, values worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.config import Config
from engine.trading.limits import limits_row
from kernels.decide import BIT, FACTS, PLAN, decide
from kernels.records import GATES
from kernels.risk import floor_to, round_to, size

GOOD = {
    "now_ms": 1_000_000.0, "close": 100.0, "mark_price": 100.0, "mark_age_ms": 10.0, "bid": 99.99, "bid_qty": 500.0,
    "ask": 100.01, "ask_qty": 400.0, "book_age_ms": 10.0, "atr_15m": 1.0, "complete": 1.0, "ready": 1.0,
    "has_model": 1.0, "session": 1.0, "flat": 1.0, "equity_usdt": 10_000.0, "day_start_equity_usdt": 10_000.0,
    "peak_equity_usdt": 10_000.0, "tick_size": 0.01, "step_size": 0.1, "min_qty": 0.1, "max_qty": 1_000.0,
    "min_notional_usdt": 5.0, "maintenance_rate": 0.004,
}  # fmt: skip
# er, q05, mae, hold: long then short
LONG = np.array([0.002, -0.001, -0.01, -0.01, 0.005, 0.005, 60.0, 60.0])


def facts(**changes: float) -> np.ndarray:
    row = np.zeros(1, FACTS)
    for name, value in {**GOOD, **changes}.items():
        row[name] = value
    return row


def limits() -> np.ndarray:
    return limits_row(Config())


def names(gates: int) -> set[str]:
    return {name for name in GATES if gates & BIT[name]}


def both(predictions: np.ndarray = LONG, **changes: float) -> set[str]:
    row, plan = facts(**changes), np.zeros(1, PLAN)
    side, gates = decide(predictions, row, limits())
    return names(gates | size(side, row, limits(), plan))


def test_a_good_row_enters_long_with_the_size_worked_by_hand() -> None:
    row, plan = facts(), np.zeros(1, PLAN)
    side, gates = decide(LONG, row, limits())
    assert (side, gates) == (1, 0)
    assert size(side, row, limits(), plan) == 0
    # 0.005 × 10,000 / 1.0 = 50 units; notional 5,000 < 50,000; half of 400 at the ask = 200
    assert plan["qty"][0] == 50.0
    assert plan["tp_price"][0] == 101.5
    assert plan["sl_price"][0] == 99.0
    assert plan["limit_price"][0] == 100.06  # 100.01 × 1.0005 = 100.060005


def test_the_short_side_is_mirrored() -> None:
    row, plan = facts(), np.zeros(1, PLAN)
    side, gates = decide(LONG.reshape(4, 2)[:, ::-1].ravel().copy(), row, limits())
    assert (side, gates) == (-1, 0)
    assert size(side, row, limits(), plan) == 0
    assert (plan["tp_price"][0], plan["sl_price"][0]) == (98.5, 101.0)
    assert plan["limit_price"][0] == 99.94  # 99.99 × 0.9995 = 99.940005


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"session": 0.0}, "no_session"), ({"has_model": 0.0}, "no_model"), ({"flat": 0.0}, "not_flat"),
        ({"complete": 0.0}, "incomplete"), ({"late": 1.0}, "late"), ({"input_late": 1.0}, "input_late"),
        ({"ready": 0.0}, "not_ready"), ({"filled": 1.0}, "filled_bar"), ({"nan_unseen": 1.0}, "nan_unseen"),
        ({"symbol_halted": 1.0}, "symbol_halted"), ({"journal_full": 1.0}, "journal_full"),
        ({"unknown_order": 1.0}, "unknown_order"), ({"gap": 1.0}, "gap"), ({"audit_failed": 1.0}, "audit_failed"),
        ({"clock_bad": 1.0}, "clock"), ({"rate_exhausted": 1.0}, "rate_budget"), ({"reduce_only": 1.0}, "reduce_only"),
        ({"cooldown_until_ms": 1_000_001.0}, "cooldown"), ({"mark_age_ms": 5_001.0}, "stale_data"),
        ({"book_age_ms": 5_001.0}, "stale_data"), ({"bid": 0.0}, "stale_data"),
        ({"bid": 99.9, "ask": 100.1}, "spread"),  # 20 bps > 10
        ({"mark_price": 101.5}, "mark_beyond_barrier"), ({"mark_price": 99.0}, "mark_beyond_barrier"),
        ({"delivery_ms": 1_000_000.0 + 360 * 60_000 + 86_399_999}, "delivery"),
        ({"open_positions": 20.0}, "max_positions"), ({"total_notional_usdt": 200_000.0}, "max_notional"),
        ({"total_notional_usdt": 50_000.0}, "leverage"), ({"day_start_equity_usdt": 10_527.0}, "day_loss"),
        ({"peak_equity_usdt": 12_501.0}, "drawdown"), ({"losing_streak": 12.0}, "losing_streak"),
        ({"ask_qty": 0.15}, "book_size"), ({"min_notional_usdt": 5_001.0}, "min_size"),
        ({"funding_due": 0.011}, "funding"), ({"maintenance_rate": 1.0}, "liquidation"),
    ],
)  # fmt: skip
def test_each_fact_alone_sets_its_gate(change: dict[str, float], gate: str) -> None:
    assert gate in both(**change)
    assert gate not in both()


@pytest.mark.parametrize(
    ("at", "value", "gate"),
    [(0, -0.0001, "er_low"), (2, -0.031, "tail"), (4, 0.0101, "mae"), (6, 0.5, "hold"), (6, 361.0, "hold")],
)
def test_each_prediction_alone_sets_its_gate(at: int, value: float, gate: str) -> None:
    predictions = LONG.copy()
    predictions[at] = value
    predictions[1] = -1.0  # the short side stays the worse one
    assert both(predictions) == {gate}


@pytest.mark.parametrize("predictions", [np.zeros(8), np.full(8, np.nan), np.full(8, np.inf)])
def test_a_tie_or_a_prediction_that_is_not_finite_has_no_side(predictions: np.ndarray) -> None:
    assert "no_side" in both(predictions)


def test_nan_never_passes_a_gate() -> None:
    predictions = LONG.copy()
    predictions[2:] = np.nan
    assert {"tail", "mae", "hold"} <= both(predictions)
    assert {"mae", "mark_beyond_barrier", "min_size"} <= both(atr_15m=np.nan)


def test_all_gates_are_evaluated_after_the_first_refusal() -> None:
    assert {"no_session", "late", "spread", "max_positions"} <= both(
        session=0.0, late=1.0, bid=99.0, open_positions=99.0
    )


@pytest.mark.parametrize(
    ("value", "step", "down", "near"),
    [(0.3, 0.1, 0.3, 0.3), (0.29999, 0.1, 0.2, 0.3), (1.2344, 0.001, 1.234, 1.234),
     (83_860.04, 0.1, 83_860.0, 83_860.0),
     (0.00001234, 0.0000001, 0.0000123, 0.0000123), (7.0, 5.0, 5.0, 5.0), (1e-9, 0.001, 0.0, 0.0)],
)  # fmt: skip
def test_rounding_gives_the_double_of_the_decimal(value: float, step: float, down: float, near: float) -> None:
    assert floor_to(value, step) == pytest.approx(down, rel=1e-15)
    assert round_to(value, step) == pytest.approx(near, rel=1e-15)
    assert repr(floor_to(0.3, 0.1)) == "0.3"
