"""Folds do not leak: purged, embargoed, and blind to everything after T."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import DataError
from engine.model.dataset import Dataset, build, weigh
from engine.model.folds import DAY_MS, EMBARGO_MS, MINUTE_MS, before_holdout, combinatorial, walk_forward
from engine.model.validate import validate
from tests.model_rig import SMALL, random_part

HORIZON_MS = 360 * MINUTE_MS


@pytest.fixture(scope="module")
def data() -> Dataset:
    return build([random_part(1, "BTCUSDT", 7_000), random_part(2, "ETHUSDT", 7_000)])


def test_walking_folds_are_train_then_stop_then_test_without_overlap(data: Dataset) -> None:
    folds = walk_forward(data.time_ms, 3)
    time_ms = data.time_ms
    for fold in folds:
        assert time_ms[fold.train].max() + HORIZON_MS < time_ms[fold.stop].min()
        assert time_ms[fold.stop].max() + HORIZON_MS < time_ms[fold.test].min()
        assert time_ms[fold.test].max() + HORIZON_MS < fold.test_blocks[0][1]
    for before, after in itertools.pairwise(folds):
        assert before.test_blocks[0][1] == after.test_blocks[0][0]
        assert len(after.train) > len(before.train)


def test_rows_of_all_symbols_at_one_time_are_in_one_block(data: Dataset) -> None:
    for fold in walk_forward(data.time_ms, 3):
        blocks = [set(data.time_ms[rows].tolist()) for rows in (fold.train, fold.stop, fold.test)]
        assert not (blocks[0] & blocks[1] or blocks[1] & blocks[2] or blocks[0] & blocks[2])


def test_combinatorial_folds_are_purged_and_embargoed(data: Dataset) -> None:
    times = np.arange(0, 30 * DAY_MS, 10 * MINUTE_MS)
    folds = combinatorial(times, 6, 2)
    assert len(folds) == 15
    for fold in folds:
        learned = np.concatenate([fold.train, fold.stop])
        for begin, end in fold.test_blocks:
            clash = (times[learned] + HORIZON_MS >= begin) & (times[learned] < end + EMBARGO_MS)
            tested = [b for b, _ in fold.test_blocks]
            assert not clash[~np.isin(times[learned], tested)].any()
        assert not set(fold.train) & set(fold.stop)


def test_what_comes_after_t_changes_no_prediction_before_it(data: Dataset) -> None:
    """Vectors, targets and volatility after the second fold's test block become noise: folds 1 and 2 do not notice."""
    settings = replace(SMALL, rounds=4)
    folds = walk_forward(data.time_ms, 3)
    until = folds[1].test_blocks[0][1]
    later = data.time_ms + HORIZON_MS >= until
    rng = np.random.default_rng(0)
    x, targets, reach = data.x.copy(), data.targets.copy(), data.reach.copy()
    x[later] = rng.normal(size=x[later].shape)
    targets[later] = rng.integers(1, 300, size=targets[later].shape)
    reach[later] *= 50.0
    altered = weigh(replace(data, x=x, targets=targets, reach=reach))
    folds_after = walk_forward(altered.time_ms, 3)
    first, second = validate(data, folds[:2], settings), validate(altered, folds_after[:2], settings)
    np.testing.assert_array_equal(first.rows, second.rows)
    np.testing.assert_array_equal(first.predictions, second.predictions)
    assert first.fold_rounds == second.fold_rounds
    assert not np.array_equal(altered.weights[~later], data.weights[~later])  # the folds' own weights did not use these


def test_the_held_out_period_is_not_learned_from(data: Dataset) -> None:
    kept = before_holdout(data.time_ms, 1.0)
    assert data.time_ms[kept].max() + HORIZON_MS < data.time_ms.max() + HORIZON_MS + 1 - DAY_MS


def test_folds_without_rows_are_refused_with_counts() -> None:
    with pytest.raises(DataError, match=r"too little data for these folds: rows \{'train': 0"):
        walk_forward(np.arange(0, 400 * MINUTE_MS, MINUTE_MS), 3)
