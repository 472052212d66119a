"""Train on a Dask cluster, with the result of the local run: each (target, fold) is one ordinary LightGBM training.

The job writes an extract (Parquet) to a folder that workers see; one task per fold bins it once and saves the binary
Dataset; one task per (fold, target) trains on it. Workers never open the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.dataset import Dataset, weigh
from engine.model.folds import Fold
from engine.model.train import Progress, TrainSettings, fit, parameters, shared_dataset
from engine.model.validate import FoldResult, Validation, collect, constant, predict_best
from kernels.schema import FEATURES, TARGETS

Array = npt.NDArray[Any]

EXTRACT = "rows.parquet"
TARGET_NAMES = [f"target_{name}" for name in TARGETS]


def save_extract(data: Dataset, folder: Path) -> Path:
    """Write the rows as Parquet; weights are left out, every reader computes those of its own rows."""
    import polars as pl

    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {name: data.x[:, index] for index, name in enumerate(FEATURES)}
    columns |= {name: data.targets[:, index] for index, name in enumerate(TARGET_NAMES)}
    columns |= {"reach": data.reach, "time_ms": data.time_ms, "symbol": data.symbol}
    pl.DataFrame(columns).write_parquet(folder / EXTRACT, compression="zstd", compression_level=1)
    return folder / EXTRACT


def load_extract(folder: Path, symbols: tuple[str, ...], horizon_minutes: int) -> Dataset:
    """Read an extract back; the same rows, bit for bit."""
    import polars as pl

    frame = pl.read_parquet(folder / EXTRACT)
    empty = np.empty((len(frame), 0))
    return Dataset(
        np.ascontiguousarray(frame.select(FEATURES).to_numpy(), np.float32),
        np.ascontiguousarray(frame.select(TARGET_NAMES).to_numpy(), np.float64),
        empty,
        empty,
        frame["reach"].to_numpy(),
        frame["time_ms"].to_numpy(),
        frame["symbol"].to_numpy(),
        symbols,
        horizon_minutes,
    )


@dataclass(frozen=True, slots=True)
class Part:
    """What a task needs to find its rows: the extract, and a name for the binned files of its fold ('' = all rows)."""

    folder: str
    symbols: tuple[str, ...]
    horizon_minutes: int
    name: str
    fold: Fold | None

    def rows(self) -> tuple[Dataset, Dataset | None, Array | None]:
        """Return (training rows, stop rows, test matrix)."""
        data = load_extract(Path(self.folder), self.symbols, self.horizon_minutes)
        if self.fold is None:
            return weigh(data), None, None
        train, stop = weigh(data.rows(self.fold.train)), weigh(data.rows(self.fold.stop))
        return train, stop, np.asarray(data.x[self.fold.test])

    def file(self, kind: str) -> str:
        """Return the path of a saved binary Dataset."""
        return str(Path(self.folder) / f"{self.name}.{kind}.bin")


def bin_part(part: Part, settings: TrainSettings) -> str:
    """Bin a part's rows once and save them: every target trains on the same bins. Returns the part's name."""
    train, stop, _ = part.rows()
    shared = shared_dataset(train, settings)
    shared.save_binary(part.file("train"))
    if stop is not None:
        shared_dataset(stop, settings, reference=shared).save_binary(part.file("stop"))
    return part.name


def fit_part(
    part: Part, settings: TrainSettings, column: int, rounds: int, _binned: str
) -> tuple[str, int, Any, float]:
    """Train one target of one part; returns (model text, best iteration, test predictions, constant)."""
    import lightgbm

    train, stop, test = part.rows()
    params = parameters(settings, TARGETS[0], len(train), len(train.symbols))
    shared = lightgbm.Dataset(part.file("train"), params=params).construct()
    pair = None
    if stop is not None:
        pair = (lightgbm.Dataset(part.file("stop"), params=params, reference=shared).construct(), stop)
    booster = fit(shared, train, column, settings, rounds, stop=pair)
    if test is None:
        return booster.model_to_string(), rounds, None, 0.0
    best, predictions = predict_best(booster, test)
    return "", best, predictions, constant(train.targets[:, column], train.weights[:, column], TARGETS[column])


class Cluster:
    """A Dask scheduler's client with the extract of one training."""

    def __init__(self, address: str, data: Dataset, folder: Path, settings: TrainSettings) -> None:
        from dask.distributed import Client

        self._client = Client(address)
        self._data = data
        self._folder = folder.resolve()
        self._settings = settings
        save_extract(data, self._folder)

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()

    def validate(self, folds: list[Fold], progress: Progress | None = None) -> Validation:
        """Train every (fold, target) and collect the test predictions."""
        parts = [self._part(f"fold{number}", fold) for number, fold in enumerate(folds)]
        grid = self._run(parts, dict.fromkeys(TARGETS, self._settings.rounds), progress)
        results = []
        for row in grid:
            rounds, predictions, constants = zip(*(item[1:] for item in row), strict=True)
            results.append(FoldResult(list(rounds), np.column_stack(predictions), np.array(constants)))
        return collect(folds, results)

    def train(self, rounds: dict[str, int], progress: Progress | None = None) -> dict[str, Any]:
        """Train the final models on all rows of the extract; returns target → Booster."""
        import lightgbm

        row = self._run([self._part("all", None)], rounds, progress)[0]
        return {target: lightgbm.Booster(model_str=item[0]) for target, item in zip(TARGETS, row, strict=True)}

    def _part(self, name: str, fold: Fold | None) -> Part:
        return Part(str(self._folder), self._data.symbols, self._data.horizon_minutes, name, fold)

    def _run(
        self, parts: list[Part], rounds: dict[str, int], progress: Progress | None
    ) -> list[list[tuple[str, int, Any, float]]]:
        from dask.distributed import as_completed

        submit: Callable[..., Any] = self._client.submit
        futures = []
        for part in parts:
            binned = submit(bin_part, part, self._settings, pure=False)
            futures += [
                submit(fit_part, part, self._settings, column, rounds[target], binned, pure=False)
                for column, target in enumerate(TARGETS)
            ]
        for done, _ in enumerate(as_completed(futures), 1):
            if progress is not None:
                progress("cluster", done, len(futures))
        found = [future.result() for future in futures]
        return [found[start : start + len(TARGETS)] for start in range(0, len(found), len(TARGETS))]
