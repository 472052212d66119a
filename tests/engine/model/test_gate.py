"""The promotion gate: it must be able to say no, and say which no."""

from __future__ import annotations

import numpy as np

from engine.model.gate import EMBARGO_MS, judge, unseen_from
from engine.model.policy import DAY_MS, Earned


def earned(pnl: np.ndarray, trades: int = 300) -> Earned:
    return Earned(0, len(pnl) * DAY_MS, np.arange(len(pnl)), pnl, trades, 0.5)


def days(mean: float, spread: float = 0.01, count: int = 40, seed: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, spread, count)
    return mean + noise - noise.mean()


def test_a_model_that_knows_the_gains_passes_and_luck_does_not() -> None:
    knows, lucky, loses = earned(days(0.01)), earned(days(0.001)), earned(days(-0.002))
    assert judge(knows, None).verdict == "pass"
    assert judge(knows, loses).verdict == "pass"
    found = judge(lucky, None)
    assert found.verdict == "not better" and found.net > 0 and found.difference_q05 < 0
    worse = judge(lucky, knows)
    assert worse.verdict == "not better" and worse.difference_q05 < 0


def test_losing_less_than_the_production_model_is_not_enough() -> None:
    found = judge(earned(days(-0.001)), earned(days(-0.02)))
    assert found.verdict == "not better" and found.difference_q05 > 0 > found.net


def test_the_comparison_is_paired_by_day() -> None:
    """A small steady advantage over a model whose days swing widely: the swings are common to both and cancel."""
    swings = days(0.0, 0.05)
    found = judge(earned(swings + 0.002), earned(swings))
    assert found.verdict == "pass" and found.difference_q05 > 0


def test_equal_models_are_not_better() -> None:
    found = judge(earned(days(0.01)), earned(days(0.01)))
    assert (found.verdict, found.difference_q05) == ("not better", 0.0)


def test_little_data_is_insufficient_evidence() -> None:
    assert judge(earned(days(0.01, count=13)), None).verdict == "insufficient evidence"
    assert judge(earned(days(0.01, count=14)), None).verdict == "pass"
    partly = Earned(DAY_MS // 2, 14 * DAY_MS, np.arange(14), days(0.01, count=14), 300, 0.5)
    assert judge(partly, None).verdict == "insufficient evidence"  # 14 dates, 13.5 days
    few = judge(earned(days(0.01), trades=199), None)
    assert few.verdict == "insufficient evidence" and few.trades == 199
    assert judge(None, None).verdict == "insufficient evidence"


def test_unseen_days_begin_a_day_after_the_later_of_both_models_labels() -> None:
    assert unseen_from([{"labels_to_ms": 5}, {"labels_to_ms": 9}]) == 9 + EMBARGO_MS == 9 + DAY_MS
