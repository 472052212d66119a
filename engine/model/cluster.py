"""Label, fold and train on a Dask cluster, with the result of the local run.

The job writes Parquet (`engine.model.extract`) to a folder that workers see. One task per symbol folds and labels it;
one per fold bins its rows once and saves the binary Dataset; one per (fold, target) is an ordinary LightGBM training on
it. Workers never open the store. A matrix that is too big for a worker is `engine.model.distributed`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backtest.history import History
from engine.model.checkpoints import Checkpoints
from engine.model.dataset import Dataset, weigh
from engine.model.distributed import Distributed
from engine.model.extract import load_history, load_prepared, load_rows, save_history, save_prepared, save_rows
from engine.model.folds import Fold
from engine.model.labels import Labels, LabelSettings
from engine.model.prepare import Vectors, fold, label_history
from engine.model.train import Progress, TrainSettings, fit, parameters, part_path, shared_dataset
from engine.model.validate import FoldResult, Validation, collect, constant, predict_best
from kernels.schema import FEATURES, TARGETS

Array = npt.NDArray[Any]

CONNECT_S = 5  # a scheduler answers at once or is not there
COPIES = 3  # of its rows that a worker holds while it trains: as read, in one block, and what LightGBM makes of them


def prepare_symbol(folder: str, symbol: str, btc_symbol: str, settings: LabelSettings) -> str:
    """Fold and label one symbol of the extract and write the result beside it. Returns the symbol."""
    own = load_history(Path(folder), symbol)
    btc = own if symbol == btc_symbol else load_history(Path(folder), btc_symbol)
    vectors = fold(own, btc)
    save_prepared(Path(folder), vectors, label_history(own, vectors, settings))
    return symbol


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
        data = load_rows(Path(self.folder), self.symbols, self.horizon_minutes)
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


def fit_part(part: Part, settings: TrainSettings, column: int, rounds: int, _binned: str) -> dict[str, Any]:
    """Train one target of one part; returns what a checkpoint keeps of it."""
    import lightgbm

    train, stop, test = part.rows()
    params = parameters(settings, TARGETS[0], len(train), len(train.symbols))
    shared = lightgbm.Dataset(part.file("train"), params=params).construct()
    pair = None
    if stop is not None:
        pair = (lightgbm.Dataset(part.file("stop"), params=params, reference=shared).construct(), stop)
    booster = fit(shared, train, column, settings, rounds, stop=pair)
    if test is None:
        return {"text": booster.model_to_string()}
    best, predictions = predict_best(booster, test)
    mean = constant(train.targets[:, column], train.weights[:, column], TARGETS[column])
    return {"best": best, "predictions": predictions, "constant": mean}


class Cluster:
    """A Dask scheduler's client with the extract of one job in `folder`.

    worker_bytes: memory of the smallest worker; None: what the scheduler says of it.
    """

    def __init__(self, address: str, folder: Path, worker_bytes: int | None = None) -> None:
        from dask.distributed import Client

        self._client = Client(address, timeout=CONNECT_S)
        self._folder = folder.resolve()
        limits = [worker["memory_limit"] for worker in self._client.scheduler_info(n_workers=-1)["workers"].values()]
        self._worker_bytes = worker_bytes or min((limit for limit in limits if limit), default=0)
        self._folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Leave the cluster."""
        self._client.close()

    def prepare(
        self,
        symbols: list[str],
        read: Callable[[str], History],
        btc_symbol: str,
        settings: LabelSettings,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Vectors, Labels]]:
        """Fold and label every symbol, in their order; `read` gives the stored past that is written for the workers."""
        for symbol in dict.fromkeys([btc_symbol, *symbols]):
            save_history(read(symbol), self._folder)
        submit: Callable[..., Any] = self._client.submit
        futures = [
            submit(prepare_symbol, str(self._folder), symbol, btc_symbol, settings, pure=False) for symbol in symbols
        ]
        for done, (symbol, future) in enumerate(zip(symbols, futures, strict=True), 1):
            future.result()
            if progress is not None:
                progress(f"{symbol} on the cluster", done, len(symbols))
            yield load_prepared(self._folder, symbol)

    def too_big(self, data: Dataset) -> bool:
        """Whether no worker could train on these rows."""
        return 0 < self._worker_bytes < COPIES * len(data) * len(FEATURES) * 4

    def distributed(self, data: Dataset, settings: TrainSettings) -> Distributed:
        """Return the trainer of a matrix that is too big for a worker. Its extract is written here."""
        save_rows(data, self._folder)
        return Distributed(self._client, data, self._folder, settings)

    def trainer(self, data: Dataset, settings: TrainSettings, checkpoints: Checkpoints) -> ClusterTrainer:
        """Return the trainer of these rows. Its extract is written here."""
        save_rows(data, self._folder)
        return ClusterTrainer(self._client, data, self._folder, settings, checkpoints)


class ClusterTrainer:
    """Each (fold, target) as one ordinary LightGBM training in a worker."""

    deterministic = True

    def __init__(
        self, client: Any, data: Dataset, folder: Path, settings: TrainSettings, checkpoints: Checkpoints
    ) -> None:
        self._client, self._data, self._folder = client, data, folder
        self._settings, self._checkpoints = settings, checkpoints

    def validate(self, folds: list[Fold], progress: Progress | None = None) -> Validation:
        """Train every (fold, target) and collect the test predictions."""
        parts = [self._part(f"fold{number}", fold) for number, fold in enumerate(folds)]
        grid = self._run(parts, dict.fromkeys(TARGETS, self._settings.rounds), progress)
        return collect(folds, [FoldResult.of(row) for row in grid])

    def train(self, rounds: dict[str, int], progress: Progress | None = None) -> dict[str, Any]:
        """Train the final models on all rows of the extract; returns target → Booster."""
        import lightgbm

        row = self._run([self._part("all", None)], rounds, progress)[0]
        return {t: lightgbm.Booster(model_str=str(item["text"])) for t, item in zip(TARGETS, row, strict=True)}

    def _part(self, name: str, fold: Fold | None) -> Part:
        return Part(str(self._folder), self._data.symbols, self._data.horizon_minutes, name, fold)

    def _run(self, parts: list[Part], rounds: dict[str, int], progress: Progress | None) -> list[list[dict[str, Any]]]:
        from dask.distributed import as_completed

        submit: Callable[..., Any] = self._client.submit
        found: dict[tuple[int, int], dict[str, Any]] = {}
        waiting = {}
        for index, part in enumerate(parts):
            binned = None
            for column, target in enumerate(TARGETS):
                kept = part_path(self._checkpoints, self._data, self._settings, column, rounds[target], part.fold)
                done = self._checkpoints.load(kept)
                if done is not None:
                    found[index, column] = done
                    continue
                binned = binned or submit(bin_part, part, self._settings, pure=False)
                future = submit(fit_part, part, self._settings, column, rounds[target], binned, pure=False)
                waiting[future] = (index, column, kept)
        for future in as_completed(list(waiting)):
            index, column, kept = waiting[future]
            found[index, column] = future.result()
            self._checkpoints.save(kept, **found[index, column])
            if progress is not None:
                progress("cluster", len(found), len(parts) * len(TARGETS))
        return [[found[index, column] for column in range(len(TARGETS))] for index in range(len(parts))]
