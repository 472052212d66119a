"""Folds do not leak: purged, embargoed, and blind to everything after T."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from engine.backtest.history import History
from engine.errors import DataError
from engine.model import prepare
from engine.model.dataset import Dataset, SymbolData, build, weigh
from engine.model.folds import DAY_MS, EMBARGO_MS, MINUTE_MS, before_holdout, combinatorial, walk_forward
from engine.model.labels import LabelSettings
from engine.model.validate import validate
from tests.model_rig import SMALL, random_bars, random_part

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


def test_candles_after_t_change_no_feature_label_fold_or_prediction_before_it() -> None:
    """From the candles on: every bar after T becomes another market; vectors, labels, folds, predictions stay."""
    minutes, names = 20_500, ("BTCUSDT", "ETHUSDT")
    settings = replace(SMALL, rounds=3)

    def past(cut: int | None) -> list[History]:
        found = []
        for seed, name in enumerate(names, 1):
            bars = random_bars(seed, minutes)
            if cut is not None:
                other = random_bars(seed + 50, minutes)
                for field in ("open", "high", "low", "close"):
                    bars[field][cut:] = 3.0 * other[field][cut:]
            found.append(History(name, bars))
        return found

    def learn_from(histories: list[History]) -> tuple[list[prepare.Vectors], Dataset]:
        vectors = [prepare.fold(own, histories[0]) for own in histories]
        parts = []
        for own, seen in zip(histories, vectors, strict=True):
            labels = prepare.label_history(own, seen, LabelSettings())
            parts.append(SymbolData(own.symbol, seen.close_ms, seen.values, labels.long, labels.short))
        return vectors, build(parts)

    vectors, data = learn_from(past(None))
    folds = walk_forward(data.time_ms, 2)
    until = folds[0].test_blocks[0][1]
    cut = int((until - vectors[0].close_ms[0]) // MINUTE_MS) + 1  # the first bar that closes after `until`
    vectors_after, altered = learn_from(past(cut))
    for before, after in zip(vectors, vectors_after, strict=True):
        assert before.values[:cut].tobytes() == after.values[:cut].tobytes()
        assert before.values[cut:].tobytes() != after.values[cut:].tobytes()
    known = data.time_ms + HORIZON_MS <= until
    assert data.targets[known].tobytes() == altered.targets[known].tobytes()
    folds_after = walk_forward(altered.time_ms, 2)
    for name in ("train", "stop", "test"):
        np.testing.assert_array_equal(getattr(folds[0], name), getattr(folds_after[0], name))
    first, second = validate(data, folds[:1], settings), validate(altered, folds_after[:1], settings)
    assert first.predictions.tobytes() == second.predictions.tobytes() and first.fold_rounds == second.fold_rounds


def test_the_held_out_period_is_not_learned_from(data: Dataset) -> None:
    kept = before_holdout(data.time_ms, 1.0)
    assert data.time_ms[kept].max() + HORIZON_MS < data.time_ms.max() + HORIZON_MS + 1 - DAY_MS


def test_folds_without_rows_are_refused_with_counts() -> None:
    with pytest.raises(DataError, match=r"too little data for these folds: rows \{'train': 0"):
        walk_forward(np.arange(0, 400 * MINUTE_MS, MINUTE_MS), 3)
