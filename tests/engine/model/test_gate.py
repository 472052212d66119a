"""The promotion gate: it must be able to say no, and say which no."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from engine.model.dataset import Dataset
from engine.model.gate import EMBARGO_MS, judge, unseen_from
from engine.model.policy import DAY_MS, MINUTE_MS, PolicySettings
from tests.engine.model.test_policy import GOOD, rows


class Says:
    """A model that predicts long on some rows, never trades on the others."""

    def __init__(self, chosen: np.ndarray) -> None:
        self.chosen = chosen

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        quiet = GOOD * [-1, -1, 1, 1, 1, 1, 1, 1]
        return np.where(self.chosen[:, None], GOOD, quiet)


def market(days: int, seed: int = 3) -> Dataset:
    """A trade opportunity an hour; half of them gain what the other half loses, at random."""
    data = rows(days * 24)
    rng = np.random.default_rng(seed)
    targets = data.targets.copy()
    targets[:, 0] = np.where(rng.random(len(targets)) < 0.5, 0.004, -0.0045)
    return replace(data, targets=targets, time_ms=np.arange(len(targets)) * 60 * MINUTE_MS)


SETTINGS = PolicySettings()


def test_a_model_that_knows_the_gains_passes_and_luck_does_not() -> None:
    data = market(40)
    knows = Says(data.targets[:, 0] > 0)
    always = Says(np.ones(len(data), bool))
    assert judge(data, knows, None, SETTINGS).verdict == "pass"
    assert judge(data, knows, always, SETTINGS).verdict == "pass"
    lost = judge(data, always, None, SETTINGS)
    assert lost.verdict == "not better" and lost.net < 0
    worse = judge(data, always, knows, SETTINGS)
    assert worse.verdict == "not better" and worse.difference_q05 < 0


def test_equal_models_are_not_better() -> None:
    data = market(40)
    knows = Says(data.targets[:, 0] > 0)
    found = judge(data, knows, knows, SETTINGS)
    assert (found.verdict, found.difference_q05) == ("not better", 0.0)


def test_little_data_is_insufficient_evidence() -> None:
    few_days = market(13)
    assert judge(few_days, Says(few_days.targets[:, 0] > 0), None, SETTINGS).verdict == "insufficient evidence"
    data = market(30)
    few_trades = judge(data, Says((np.arange(len(data)) % 24 < 6) & (data.targets[:, 0] > 0)), None, SETTINGS)
    assert few_trades.verdict == "insufficient evidence" and few_trades.trades < 200
    assert judge(None, Says(np.zeros(0, bool)), None, SETTINGS).verdict == "insufficient evidence"


def test_unseen_rows_begin_a_day_after_the_later_of_both_models_labels() -> None:
    assert unseen_from([{"labels_to_ms": 5}, {"labels_to_ms": 9}]) == 9 + EMBARGO_MS == 9 + DAY_MS
