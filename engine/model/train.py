"""Train the 8 LightGBM models of a bundle on one shared, binned Dataset; deterministic from a seed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.checkpoints import NOTHING_KEPT, Checkpoints
from engine.model.dataset import Dataset
from engine.model.folds import Fold
from kernels.schema import FEATURES, PRICE_UNIT_FEATURES, TARGETS

# Read when OpenMP is loaded, with LightGBM: its threads sleep while they wait. With threads that spin (its default), 20
# rounds on 40,000 rows took 2.5 to 8 s instead of 0.9 s on two cores that had other work (0.7 to 1 s with one thread).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]

QUANTILE = 0.05


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What LightGBM is told. The limits of the packed forest (`kernels.forest`) are ≤ 64 leaves and max_bin 255."""

    rounds: int = 200
    leaves: int = 31
    learning_rate: float = 0.05
    min_sum_hessian_in_leaf: float = 20.0  # independent labels, since weights are uniqueness
    max_bin: int = 255
    feature_fraction: float = 1.0
    lambda_l2: float = 0.0
    patience: int = 30  # rounds without progress on the stop set
    seed: int = 7
    threads: int = 0  # 0: all cores
    extra: dict[str, Any] = field(default_factory=dict)


def parameters(settings: TrainSettings, target: str, rows: int, symbols: int) -> dict[str, Any]:
    """Return LightGBM's parameters of one target. Everything that shapes bins is equal for all targets."""
    objective: dict[str, Any] = {"objective": "regression"}
    if target.startswith("q05"):
        objective = {"objective": "quantile", "alpha": QUANTILE}
    pooled = symbols > 1  # a price-unit feature would only name the symbol
    contributions = [0.0 if pooled and name in PRICE_UNIT_FEATURES else 1.0 for name in FEATURES]
    return {
        **objective,
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_sum_hessian_in_leaf": settings.min_sum_hessian_in_leaf,
        "min_data_in_leaf": 20,
        "feature_fraction": settings.feature_fraction,
        "lambda_l2": settings.lambda_l2,
        "max_bin": settings.max_bin,
        "bin_construct_sample_cnt": max(rows, 200_000),  # every row: no NaN is missed, no bin depends on a sample
        "feature_pre_filter": False,
        "feature_contri": contributions,
        "deterministic": True,
        "force_col_wise": True,
        "seed": settings.seed,
        "num_threads": settings.threads,
        "verbosity": -1,
        **settings.extra,
    }


def shared_dataset(data: Dataset, settings: TrainSettings, reference: Any = None) -> Any:
    """Bin the matrix once. Labels and weights are set per target by `fit`."""
    import lightgbm

    params = parameters(settings, TARGETS[0], len(data), len(data.symbols))
    dataset = lightgbm.Dataset(
        data.x,
        label=data.targets[:, 0].astype(np.float32),
        weight=data.weights[:, 0],
        feature_name=list(FEATURES),
        params=params,
        reference=reference,
        free_raw_data=True,
    )
    return dataset.construct()


def fit(
    shared: Any,
    data: Dataset,
    column: int,
    settings: TrainSettings,
    rounds: int,
    on_round: Callable[[int], None] | None = None,
    stop: tuple[Any, Dataset] | None = None,
) -> Any:
    """Train one target on the shared Dataset for at most `rounds` rounds and return its Booster.

    stop: the stop set binned with `shared` as its reference, and its rows; training ends after `patience` rounds
    without progress on it, and the Booster's best_iteration says where.
    """
    import lightgbm

    shared.set_label(data.targets[:, column])
    shared.set_weight(data.weights[:, column])
    callbacks = [] if on_round is None else [lambda env: on_round(env.iteration + 1)]
    params = parameters(settings, TARGETS[column], len(data), len(data.symbols))
    valid = None
    if stop is not None:
        stop[0].set_label(stop[1].targets[:, column])
        stop[0].set_weight(stop[1].weights[:, column])
        valid = [stop[0]]
        callbacks.append(lightgbm.early_stopping(settings.patience, verbose=False))
    return lightgbm.train(params, shared, num_boost_round=rounds, valid_sets=valid, callbacks=callbacks)


def train(
    data: Dataset,
    rounds: int | dict[str, int] | None = None,
    settings: TrainSettings | None = None,
    progress: Progress | None = None,
    checkpoints: Checkpoints = NOTHING_KEPT,
) -> dict[str, Any]:
    """Train all 8 targets and return target → Booster.

    rounds: for all targets, or by target (a validation's median best iterations); default: the settings'.
    progress(target, done, total) counts boosting rounds over all targets. checkpoints: where each finished target is
    kept; a run that died resumes behind them, to the same result.
    """
    import lightgbm

    settings = settings or TrainSettings()
    chosen = {
        t: rounds.get(t, settings.rounds) if isinstance(rounds, dict) else rounds or settings.rounds for t in TARGETS
    }
    shared: Any = None
    total, done = sum(chosen.values()), 0
    boosters = {}
    for column, target in enumerate(TARGETS):
        path = part_path(checkpoints, data, settings, column, chosen[target])
        kept = checkpoints.load(path)
        if kept is not None:
            boosters[target] = lightgbm.Booster(model_str=str(kept["text"]))
            done += chosen[target]
            continue
        if shared is None:
            shared = shared_dataset(data, settings)

        def report(iteration: int, target: str = target, before: int = done) -> None:
            if progress is not None:
                progress(target, before + iteration, total)

        boosters[target] = fit(shared, data, column, settings, chosen[target], report)
        checkpoints.save(path, text=boosters[target].model_to_string())
        done += chosen[target]
    return boosters


def part_path(
    checkpoints: Checkpoints, data: Dataset, settings: TrainSettings, column: int, rounds: int, fold: Fold | None = None
) -> Path | None:
    """Return where one target of a fold (None: the final model, on all rows) is kept when it is trained."""
    told = parameters(settings, TARGETS[column], len(data), len(data.symbols)) | {"num_threads": 0}
    which = "all"
    if fold is not None:
        digest = hashlib.blake2b(digest_size=8)
        for part in (fold.train, fold.stop, fold.test):
            digest.update(np.ascontiguousarray(part).tobytes() + b"|")
        which = digest.hexdigest()
    return checkpoints.name(TARGETS[column], told, rounds, settings.patience, which)


def describe(settings: TrainSettings, rounds: dict[str, int] | int | None = None) -> dict[str, Any]:
    """Return the settings as the manifest states them."""
    return asdict(settings) | {"rounds": rounds if rounds is not None else settings.rounds}
