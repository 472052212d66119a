"""Train on a matrix that fits no worker: LightGBM's Dask estimators on features binned beforehand with shared edges.

The estimators bin what they are given anew, each fit for itself, and sum in the order of the network: neither bins nor
sums repeat. The first is prevented here: they are given bin numbers, every worker sees every number of every feature
(in rows of weight 0), and thresholds are turned back into edges; so all 8 models cut a feature at the same ≤ 253
values. The second is not: a bundle made this way says `deterministic: false`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.dataset import Dataset, weigh
from engine.model.folds import Fold
from engine.model.train import QUANTILE, Progress, TrainSettings, parameters
from engine.model.validate import FoldResult, Validation, collect, constant
from kernels.schema import FEATURES, TARGETS

Array = npt.NDArray[Any]

MAX_EDGES = 253  # 254 bins and one for NaN: LightGBM's max_bin
PART_BYTES = 64 << 20  # of the matrix in one partition
SAMPLE_ROWS = 1_000_000  # that the edges are chosen from, spread over all rows
BEYOND = 1e300  # LightGBM's own word for "every known value"


def choose_edges(x: Array, max_bin: int) -> list[Array]:
    """Return per feature the ascending float64 edges e of its bins: bin k holds e[k−1] < x ≤ e[k]."""
    limit = min(max_bin - 2, MAX_EDGES)
    sample = np.asarray(x[:: max(1, -(-len(x) // SAMPLE_ROWS))])
    found = []
    for column in range(x.shape[1]):
        values = sample[:, column].astype(np.float64)
        distinct = np.unique(values[np.isfinite(values)])
        if len(distinct) > limit:
            shares = np.linspace(0, 1, limit + 2)[1:-1]
            found.append(np.unique(np.quantile(values[np.isfinite(values)], shares, method="lower")))
        else:
            found.append((distinct[:-1] + distinct[1:]) / 2)
    return found


def to_bins(x: Array, edges: list[Array]) -> Array:
    """Return float32[n, features] bin numbers from 1 on; NaN stays NaN."""
    bins = np.empty(x.shape, np.float32)
    for column, cuts in enumerate(edges):
        bins[:, column] = np.searchsorted(cuts, x[:, column].astype(np.float64), side="left") + 1
    bins[np.isnan(x)] = np.nan
    return bins


def every_bin(edges: list[Array], has_nan: Array) -> Array:
    """Return rows in which every feature takes each of its bin numbers, and NaN where it ever does."""
    rows = np.minimum(np.arange(1, MAX_EDGES + 2)[:, None], [len(cuts) + 1 for cuts in edges]).astype(np.float32)
    return np.concatenate([rows, np.where(has_nan, np.nan, 1.0).astype(np.float32)[None]])


def from_bins(model_text: str, edges: list[Array]) -> str:
    """Return a model trained on bin numbers with its thresholds on the features themselves."""

    def threshold(feature: int, value: float) -> str:
        at = int(np.floor(value)) - 1  # x's bin <= value  ⟺  x <= edges[at]
        cuts = edges[feature]
        return repr(float(cuts[at])) if at < len(cuts) else repr(BEYOND)

    def convert(tree: str) -> str:
        split = re.search(r"^split_feature=(.+)$", tree, re.M)
        cut = re.search(r"^threshold=(.+)$", tree, re.M)
        if split is None or cut is None:
            return tree
        pairs = zip(split[1].split(), cut[1].split(), strict=True)
        values = " ".join(threshold(int(feature), float(value)) for feature, value in pairs)
        return tree[: cut.start()] + f"threshold={values}" + tree[cut.end() :]

    head, rest = model_text.split("\nTree=0\n", 1)
    body, tail = rest.split("end of trees", 1)
    trees = [convert(tree) for tree in re.split(r"(?=^Tree=\d+$)", "Tree=0\n" + body, flags=re.M) if tree]
    sizes = " ".join(str(len(tree)) for tree in trees)
    head = re.sub(r"^tree_sizes=.*$", f"tree_sizes={sizes}", head, flags=re.M)
    return head + "\n" + "".join(trees) + "end of trees" + tail


def read_bins(folder: str, index: Array, edges: list[Array], planted: Array) -> Array:
    """Return the bin numbers of some rows of the extract (ascending indices), the planted rows after them."""
    import polars as pl

    from engine.model.extract import ROWS

    first, count = int(index[0]), int(index[-1] - index[0]) + 1
    frame = pl.scan_parquet(Path(folder) / ROWS).select(FEATURES).slice(first, count).collect()
    x = frame[index - first].to_numpy()
    return np.concatenate([to_bins(x, edges), planted])


class Distributed:
    """The trainer of a matrix that is spread over the workers."""

    deterministic = False

    def __init__(self, client: Any, data: Dataset, folder: Path, settings: TrainSettings) -> None:
        self._client, self._data, self._folder, self._settings = client, data, folder, settings
        self._edges = choose_edges(data.x, settings.max_bin)
        self._light = replace(data, x=np.empty((len(data), 0), np.float32))  # what weights and targets need

    def validate(self, folds: list[Fold], progress: Progress | None = None) -> Validation:
        """Train every (fold, target); the stop set chooses the number of rounds after the training."""
        results = []
        for number, fold in enumerate(folds):
            rows, parts = weigh(self._light.rows(fold.train)), []
            matrix = self._matrix(fold.train)
            stop = weigh(self._light.rows(fold.stop))
            for column, target in enumerate(TARGETS):
                booster = self._fit(matrix, rows, column, self._settings.rounds)
                best = best_rounds(booster, self._data.x[fold.stop], stop, column)
                parts.append(
                    {
                        "best": best,
                        "predictions": booster.predict(self._data.x[fold.test], num_iteration=best),
                        "constant": constant(rows.targets[:, column], rows.weights[:, column], target),
                    }
                )
                if progress is not None:
                    progress("cluster", number * len(TARGETS) + column + 1, len(folds) * len(TARGETS))
            results.append(FoldResult.of(parts))
        return collect(folds, results)

    def train(self, rounds: dict[str, int], progress: Progress | None = None) -> dict[str, Any]:
        """Train the final models on all rows; returns target → Booster on the features themselves."""
        matrix = self._matrix(np.arange(len(self._data)))
        rows, boosters = weigh(self._light), {}
        for column, target in enumerate(TARGETS):
            boosters[target] = self._fit(matrix, rows, column, rounds[target])
            if progress is not None:
                progress("cluster", column + 1, len(TARGETS))
        return boosters

    def _matrix(self, index: Array) -> tuple[Any, Array, Array]:
        """Return (dask array of bin numbers, kept in the workers, first row of each partition, the planted rows)."""
        from dask import array, delayed

        has_nan = np.array([np.isnan(self._data.x[index, column]).any() for column in range(len(FEATURES))])
        planted = every_bin(self._edges, has_nan)
        rows = max(1, PART_BYTES // (len(FEATURES) * 4))
        workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
        count = max(workers, -(-len(index) // rows))
        cuts = np.linspace(0, len(index), count + 1).astype(np.int64)
        read: Callable[..., Any] = delayed(read_bins, pure=False)
        parts = [
            array.from_delayed(
                read(str(self._folder), index[begin:end], self._edges, planted),
                (int(end - begin) + len(planted), len(FEATURES)),
                np.float32,
            )
            for begin, end in itertools.pairwise(cuts)
        ]
        return self._client.persist(array.concatenate(parts)), cuts, planted

    def _fit(self, matrix: tuple[Any, Array, Array], rows: Dataset, column: int, rounds: int) -> Any:
        import lightgbm
        from dask import array

        x, cuts, planted = matrix
        none = np.zeros(len(planted))
        labels, weights = [], []
        for begin, end in itertools.pairwise(cuts):
            values = rows.targets[begin:end, column]
            labels.append(array.from_array(np.concatenate([values, none + values[0]]), chunks=-1))
            weights.append(array.from_array(np.concatenate([rows.weights[begin:end, column], none]), chunks=-1))
        told = parameters(self._settings, TARGETS[column], len(rows) + len(cuts) * len(planted), len(rows.symbols))
        told |= {"min_data_in_bin": 1, "n_estimators": rounds, "tree_learner": "data", "deterministic": False}
        told["random_state"] = told.pop("seed")
        del told["num_threads"]  # the estimators give each worker all of its own
        model = lightgbm.DaskLGBMRegressor(client=self._client, **told)
        model.fit(x, array.concatenate(labels), sample_weight=array.concatenate(weights))
        text = model.booster_.model_to_string()
        names = " ".join(FEATURES)
        text = re.sub(r"^feature_names=.*$", f"feature_names={names}", text, count=1, flags=re.M)
        return lightgbm.Booster(model_str=from_bins(text, self._edges))


def best_rounds(booster: Any, x: Array, stop: Dataset, column: int) -> int:
    """Return the number of rounds with the least loss on the stop set."""
    actual, weights = stop.targets[:, column], stop.weights[:, column]
    quantile = TARGETS[column].startswith("q05")
    predicted, losses = np.zeros(len(actual)), []
    for number in range(booster.num_trees()):
        predicted += booster.predict(x, start_iteration=number, num_iteration=1)
        error = actual - predicted
        loss = np.maximum(QUANTILE * error, (QUANTILE - 1) * error) if quantile else error * error
        losses.append(float(np.average(loss, weights=weights)))
    return 1 + int(np.argmin(losses))
