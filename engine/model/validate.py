"""Out-of-fold predictions and the number of rounds that the stop sets ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.checkpoints import NOTHING_KEPT, Checkpoints
from engine.model.dataset import Dataset, weigh
from engine.model.folds import Fold
from engine.model.train import Progress, TrainSettings, fit, part_path, shared_dataset
from kernels.schema import TARGETS

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class FoldResult:
    """One fold: best iteration per target, float64[test, 8] predictions, and the constants of its training rows."""

    rounds: list[int]
    predictions: Array
    constants: Array

    @classmethod
    def of(cls, parts: list[dict[str, Any]]) -> FoldResult:
        """Join the results of its targets: best, predictions and constant of each."""
        return cls(
            [int(part["best"]) for part in parts],
            np.column_stack([part["predictions"] for part in parts]),
            np.array([float(part["constant"]) for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Validation:
    """All folds together. `rows` are the test rows, fold by fold; reported figures come from these only."""

    rounds: dict[str, int]  # median best iteration per target
    rows: Array
    predictions: Array  # float64[len(rows), 8]
    constants: Array  # float64[len(rows), 8]
    fold_of: Array
    fold_rounds: list[list[int]]


def fit_fold(
    data: Dataset,
    fold: Fold,
    settings: TrainSettings,
    on_target: Callable[[int], None],
    checkpoints: Checkpoints = NOTHING_KEPT,
) -> FoldResult:
    """Train the 8 targets of one fold. Bins and weights come from its own rows alone: later rows have no say."""
    parts = [checkpoints.load(_kept(checkpoints, data, settings, fold, column)) for column in range(len(TARGETS))]
    if all(part is not None for part in parts):
        on_target(len(TARGETS))
        return FoldResult.of([part for part in parts if part is not None])
    train_rows, stop_rows = weigh(data.rows(fold.train)), weigh(data.rows(fold.stop))
    shared = shared_dataset(train_rows, settings)
    stop = shared_dataset(stop_rows, settings, reference=shared)
    test = np.asarray(data.x[fold.test])
    found = []
    for column, target in enumerate(TARGETS):
        part = parts[column]
        if part is None:
            booster = fit(shared, train_rows, column, settings, settings.rounds, stop=(stop, stop_rows))
            best, predicted = predict_best(booster, test)
            mean = constant(train_rows.targets[:, column], train_rows.weights[:, column], target)
            part = {"best": best, "predictions": predicted, "constant": mean}
            checkpoints.save(_kept(checkpoints, data, settings, fold, column), **part)
        found.append(part)
        on_target(column + 1)
    return FoldResult.of(found)


def _kept(checkpoints: Checkpoints, data: Dataset, settings: TrainSettings, fold: Fold, column: int) -> Path | None:
    return part_path(checkpoints, data, settings, column, settings.rounds, fold)


def predict_best(booster: Any, test: Array) -> tuple[int, Array]:
    """Return (best iteration by the stop set, predictions of that many rounds)."""
    best = max(1, booster.best_iteration)
    return best, booster.predict(test, num_iteration=best)


def constant(values: Array, weights: Array, target: str) -> float:
    """Return the best constant under the target's loss: weighted mean, or weighted 5 % quantile."""
    if not target.startswith("q05"):
        return float(np.average(values, weights=weights))
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(share, 0.05 * share[-1])])


def validate(
    data: Dataset,
    folds: list[Fold],
    settings: TrainSettings,
    progress: Progress | None = None,
    checkpoints: Checkpoints = NOTHING_KEPT,
) -> Validation:
    """Train every fold in turn and collect its test predictions. checkpoints: where finished targets are kept."""
    results = []
    for number, fold in enumerate(folds):

        def report(done: int, number: int = number) -> None:
            if progress is not None:
                progress(f"fold {number + 1} of {len(folds)}", number * len(TARGETS) + done, len(folds) * len(TARGETS))

        results.append(fit_fold(data, fold, settings, report, checkpoints))
    return collect(folds, results)


def collect(folds: list[Fold], results: list[FoldResult]) -> Validation:
    """Join the folds' results."""
    best = np.array([result.rounds for result in results])
    median = {target: max(1, int(np.median(best[:, column]))) for column, target in enumerate(TARGETS)}
    return Validation(
        median,
        np.concatenate([fold.test for fold in folds]),
        np.concatenate([result.predictions for result in results]),
        np.concatenate(
            [np.tile(result.constants, (len(fold.test), 1)) for fold, result in zip(folds, results, strict=True)]
        ),
        np.concatenate([np.full(len(fold.test), number) for number, fold in enumerate(folds)]),
        best.tolist(),
    )
