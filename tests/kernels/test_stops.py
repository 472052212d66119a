"""Stops: the worked levels, the order of examination, and a slow twin over random paths."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels import stops
from kernels.records import Reason


def position(
    side: int = 1, entry: float = 100.0, tp: float = 1.5, sl: float = 1.0, deadline_ms: int = 1_000
) -> np.ndarray:
    row = np.zeros(1, stops.POSITION)
    row["side"], row["qty"], row["entry_price"] = side, 2.0, entry
    row["tp_price"], row["sl_price"], row["deadline_ms"] = entry + side * tp, entry - side * sl, deadline_ms
    return row


def test_levels_are_inclusive_and_the_stop_comes_first() -> None:
    for side in (1, -1):
        assert stops.check(position(side), 0, 100.0 - side * 0.999, 0) == 0
        assert stops.check(position(side), 0, 100.0 - side * 1.0, 0) == Reason.SL
        assert stops.check(position(side), 0, 100.0 + side * 1.5, 0) == Reason.TP
        assert stops.check(position(side), 0, 100.0, 999) == 0
        assert stops.check(position(side), 0, 100.0, 1_000) == Reason.TIME
        assert stops.check(position(side), 0, 100.0 - side * 1.0, 1_000) == Reason.SL
    crossed = position()
    crossed["tp_price"] = 99.0  # both barriers hold: the stop is examined first, as in the labels
    assert stops.check(crossed, 0, 99.0, 0) == Reason.SL


@given(st.sampled_from([1, -1]), st.lists(st.floats(95.0, 105.0), min_size=1, max_size=40))
def test_excursions_and_verdicts_against_a_slow_twin(side: int, marks: list[float]) -> None:
    row = position(side)
    worst = best = 0.0
    for mark in marks:
        reason = stops.check(row, 0, mark, 0)
        move = side * (mark - 100.0) / 100.0
        worst, best = max(worst, -move), max(best, move)
        hit_stop = mark <= 99.0 if side > 0 else mark >= 101.0
        hit_take = mark >= 101.5 if side > 0 else mark <= 98.5
        assert reason == (Reason.SL if hit_stop else Reason.TP if hit_take else 0)
    assert row["mae"][0] == worst
    assert row["mfe"][0] == best


def test_check_all_skips_unknown_marks_and_reports_each_hit() -> None:
    rows = np.concatenate([position(1), position(-1), position(1)])
    rows["symbol"] = [0, 1, 2]
    slots, reasons = np.zeros(3, np.int64), np.zeros(3, np.int64)
    hits = stops.check_all(rows, 3, np.array([98.0, np.nan, 102.0]), 0, slots, reasons)
    assert list(zip(slots[:hits], reasons[:hits], strict=True)) == [(0, Reason.SL), (2, Reason.TP)]
    profit, notional = stops.exposure(rows, 3)
    assert (profit, notional) == (2.0 * -2.0 + 2.0 * -1 * (0.0 - 100.0) + 2.0 * 2.0, 2.0 * (98.0 + 0.0 + 102.0))
