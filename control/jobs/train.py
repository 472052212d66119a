"""Train a bundle on stored candles and labels, register it as a candidate, keep the job's row in `training_jobs`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from control.jobs import label
from control.jobs.gate import stored_market
from control.jobs.inputs import MINUTE_MS, choose_symbols, label_settings, read_symbol, unfunded_minutes
from control.jobs.models import store_model
from engine.backtest.history import History
from engine.config import Config
from engine.errors import DataError
from engine.model.bundle import write_bundle
from engine.model.checkpoints import Checkpoints
from engine.model.cluster import Cluster
from engine.model.dataset import Dataset, SymbolData, build, problems, weigh
from engine.model.evaluate import evaluate
from engine.model.folds import Fold, before_holdout, combinatorial, walk_forward
from engine.model.opening import read_manifest
from engine.model.registry import open_registry
from engine.model.train import TrainSettings, describe, train
from engine.model.validate import Validation, validate
from kernels.schema import TARGETS
from store import queries, writer
from store.client import Store

TESTED_GROUPS = 2  # of a combinatorial fold
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train on: symbols (empty: those configured) and decision times [from_ms, to_ms)."""

    symbols: list[str]
    from_ms: int
    to_ms: int
    settings: TrainSettings
    actor: str
    folds: int = 0  # walking-forward folds; 0: no validation, the rounds are taken as given
    holdout_days: float = 0.0  # kept out of the final models for the promotion gate
    purged_groups: int = 0  # instead of walking forward: combinatorial purged folds over so many groups, 2 tested
    cluster: str = ""  # a Dask scheduler's address; empty: train here


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The registered bundle and what was said about the data before training."""

    model_id: str
    bundle_path: str
    rows: int
    independent_labels: float
    problems: list[str]
    seconds: float


def read_dataset(
    store: Store,
    config: Config,
    request: TrainRequest,
    folder: Path,
    progress: Progress,
    cluster: Cluster | None = None,
) -> Dataset:
    """Join labels with the vectors of the stored candles: those stored, or those that the cluster makes and we store.

    A label belongs to the range only if its whole horizon does: nothing at or after `to_ms` is learned from.
    """
    chosen = choose_symbols(store, config, request.symbols)
    horizon = config.barriers.time_limit_minutes
    last_ms = request.to_ms - horizon * MINUTE_MS
    parts = []
    if cluster is not None:
        found = label.on_cluster(store, config, cluster, chosen, request.from_ms, request.to_ms, progress)
        for _, vectors, labels in found:
            long, short = (_within(rows, request.from_ms, last_ms) for rows in (labels.long, labels.short))
            parts.append(SymbolData(vectors.symbol, vectors.close_ms, vectors.values, long, short))
        return build(parts, horizon, folder)
    for index, symbol in enumerate(chosen):
        own, vectors = read_symbol(store, config, symbol, request.to_ms)
        long, short = (queries.labels(store, side, symbol, request.from_ms, last_ms + 1) for side in ("long", "short"))
        if not len(long):
            raise DataError(f"{symbol}: no labels in the range: run `ta label` first")
        _refuse_stale(store, config, own, {"long": long, "short": short}, request.from_ms, last_ms + 1)
        parts.append(SymbolData(symbol, vectors.close_ms, vectors.values, long, short))
        progress(f"vectors of {symbol}", index + 1, len(chosen))
    return build(parts, horizon, folder)


def _refuse_stale(
    store: Store, config: Config, own: History, labels: dict[str, npt.NDArray[Any]], from_ms: int, to_ms: int
) -> None:
    """Raise DataError unless the stored labels are those of the configured barriers and costs, and of these candles."""
    wanted = label_settings(config).hash()
    closes_ms = own.bars["open_ms"] + MINUTE_MS
    for side, rows in labels.items():
        if queries.label_settings(store, side, own.symbol, from_ms, to_ms) - {wanted}:
            raise DataError(
                f"{own.symbol}: stored {side} labels were made with other barriers or costs than are configured "
                "(or by an earlier release): run `ta label` again"
            )
        at = np.minimum(np.searchsorted(closes_ms, rows["time_ms"]), len(closes_ms) - 1)
        stale = (closes_ms[at] != rows["time_ms"]) | (own.bars["close"][at] != rows["entry_price"])
        if stale.any():
            when = np.datetime64(int(rows["time_ms"][int(np.argmax(stale))]), "ms")
            raise DataError(
                f"{own.symbol}: {int(stale.sum())} stored {side} labels, the first at {when}, were made of other "
                "candles than are stored now: run `ta label` again"
            )


def _within(labels: npt.NDArray[Any], from_ms: int, last_ms: int) -> npt.NDArray[Any]:
    return labels[(labels["time_ms"] >= from_ms) & (labels["time_ms"] <= last_ms)]


def run(
    store: Store,
    config: Config,
    request: TrainRequest,
    progress: Progress,
    say: Callable[[str], None],
    job_id: str = "",
) -> TrainResult:
    """Train, bundle, verify and register. `say` receives what is doubtful about the data before training starts.

    job_id: of a job that died, whose request this is (`interrupted`): it goes on under its name.
    """
    started_ms = time.time_ns() // 1_000_000
    request = _pinned(store, config, request)
    job_id = job_id or os.environ.get("TA_JOB") or f"train-{started_ms}"  # control names the jobs it starts
    kept = _request_file(config, job_id)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(asdict(request)))
    row = _job_row(job_id, request, started_ms)
    writer.insert_row(store, "training_jobs", row | {"state": "running", "version": started_ms})
    folder = config.data_dir / "work" / job_id
    try:
        result = _run(store, config, request, folder, progress, say, started_ms)
    except BaseException as error:
        now_ms = time.time_ns() // 1_000_000
        failed = {"state": "failed", "error": str(error)[:2_000], "finished_time": now_ms, "version": now_ms}
        writer.insert_row(store, "training_jobs", row | failed)
        if isinstance(error, DataError):
            kept.unlink(missing_ok=True)  # it did not die, it was refused: there is nothing to go on with
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    now_ms = time.time_ns() // 1_000_000
    done = {
        "state": "done",
        "result": json.dumps(asdict(result)),
        "model_id": result.model_id,
        "finished_time": now_ms,
        "version": now_ms,
    }
    writer.insert_row(store, "training_jobs", row | done)
    kept.unlink(missing_ok=True)
    return result


def interrupted(config: Config, job_id: str) -> TrainRequest:
    """Return the request of a job that did not end well. Raises DataError when there is none of this id."""
    path = _request_file(config, job_id)
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.json"))) or "none"
        raise DataError(f"job {job_id!r}: expected one that did not finish (there are: {known})")
    found = json.loads(path.read_text())
    return TrainRequest(**found | {"settings": TrainSettings(**found["settings"])})


def _request_file(config: Config, job_id: str) -> Path:
    return config.data_dir / "work" / "checkpoints" / f"{job_id}.json"


def _pinned(store: Store, config: Config, request: TrainRequest) -> TrainRequest:
    """Return the request with its end fixed to what is stored now: who resumes it learns from the same rows."""
    chosen = choose_symbols(store, config, request.symbols)
    ends = [queries.last_bars(store, symbol, 0, 1) for symbol in chosen]
    newest_ms = max((int(bars["open_ms"][-1]) for bars in ends if len(bars)), default=0)
    return replace(request, symbols=chosen, to_ms=min(request.to_ms, newest_ms + MINUTE_MS))


def _run(
    store: Store,
    config: Config,
    request: TrainRequest,
    folder: Path,
    progress: Progress,
    say: Callable[[str], None],
    started_ms: int,
) -> TrainResult:
    with contextlib.ExitStack() as opened:
        cluster = None
        if request.cluster:
            cluster = opened.enter_context(label.open_cluster(request.cluster, folder / "extract"))
        data = read_dataset(store, config, request, folder, progress, cluster)
        if request.holdout_days:
            data = weigh(data.rows(before_holdout(data.time_ms, request.holdout_days, data.horizon_minutes)))
        doubts = problems(data)
        for index, symbol in enumerate(data.symbols):
            without = unfunded_minutes(store, symbol, data.time_ms[data.symbol == index])
            if without:
                doubts.append(f"{symbol}: {without:,} rows have no funding rate stored: their net returns leave it out")
        for doubt in doubts:
            say(doubt)
        data_hash = data.hash()
        kept = config.data_dir / "work" / "checkpoints" / data_hash
        trainer = _trainer(data, request, cluster, Checkpoints(kept, data_hash))
        if not trainer.deterministic:
            say("the matrix is too big for a worker: LightGBM's Dask estimators train it, and a repeat may differ")
        folds = _folds(data, request)
        found = trainer.validate(folds, progress) if folds else None
        rounds = found.rounds if found is not None else dict.fromkeys(TARGETS, request.settings.rounds)
        boosters = trainer.train(rounds, progress)
    progress("packing and verifying", 0, 1)
    extra: dict[str, Any] = {
        "problems": doubts,
        "holdout_days": request.holdout_days,
        "cluster": request.cluster or None,
        "deterministic": trainer.deterministic,
    }
    settings = request.settings
    if found is not None:
        market = stored_market(store, config, list(data.symbols), request.to_ms)
        extra["metrics"] = evaluate(data, found, boosters, market, settings.seed)
    parameters = describe(settings, rounds) | {"folds": request.folds, "purged_groups": request.purged_groups}
    bundle = write_bundle(folder, boosters, data, parameters, started_ms, label_settings(config), extra)
    for warning in read_manifest(bundle)["warnings"]:
        say(warning)
    registry = open_registry(config)
    shutil.rmtree(kept, ignore_errors=True)  # the bundle holds them now
    model_id = registry.publish(bundle, request.actor, time.time_ns() // 1_000_000)
    store_model(store, registry, model_id)
    progress("packing and verifying", 1, 1)
    seconds = (time.time_ns() // 1_000_000 - started_ms) / 1_000
    return TrainResult(model_id, str(registry.path(model_id)), len(data), data.independent_labels, doubts, seconds)


def _folds(data: Dataset, request: TrainRequest) -> list[Fold]:
    if request.purged_groups:
        return combinatorial(data.time_ms, request.purged_groups, TESTED_GROUPS, data.horizon_minutes)
    return walk_forward(data.time_ms, request.folds, data.horizon_minutes) if request.folds else []


class Trainer(Protocol):
    """Trains here or on a cluster; all but the one for a matrix too big for a worker give the same models."""

    deterministic: bool

    def validate(self, folds: list[Fold], progress: Progress | None = None) -> Validation: ...

    def train(self, rounds: dict[str, int], progress: Progress | None = None) -> dict[str, Any]: ...


class LocalTrainer:
    """Trains in this process."""

    deterministic = True

    def __init__(self, data: Dataset, settings: TrainSettings, checkpoints: Checkpoints) -> None:
        self._data, self._settings, self._checkpoints = data, settings, checkpoints

    def validate(self, folds: list[Fold], progress: Progress | None = None) -> Validation:
        """Train every fold in turn."""
        return validate(self._data, folds, self._settings, progress, self._checkpoints)

    def train(self, rounds: dict[str, int], progress: Progress | None = None) -> dict[str, Any]:
        """Train the final models."""
        return train(self._data, rounds, self._settings, progress, self._checkpoints)


def _trainer(data: Dataset, request: TrainRequest, cluster: Cluster | None, checkpoints: Checkpoints) -> Trainer:
    if cluster is None:
        return LocalTrainer(data, request.settings, checkpoints)
    if cluster.too_big(data):
        return cluster.distributed(data, request.settings)
    return cluster.trainer(data, request.settings, checkpoints)


def _job_row(job_id: str, request: TrainRequest, started_ms: int) -> dict[str, object]:
    return {
        "job_id": job_id,
        "kind": "train",
        "actor": request.actor,
        "queued_time": started_ms,
        "started_time": started_ms,
        "arguments": json.dumps(asdict(request)),
    }
