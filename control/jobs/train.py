"""Train a bundle on stored candles and labels, register it as a candidate, keep the job's row in `training_jobs`."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from control.jobs.gate import stored_market
from control.jobs.inputs import MINUTE_MS, choose_symbols, label_settings, read_symbol
from control.jobs.models import store_model
from engine.config import Config
from engine.errors import DataError
from engine.model.bundle import write_bundle
from engine.model.cluster import Cluster
from engine.model.dataset import Dataset, SymbolData, build, problems, weigh
from engine.model.evaluate import evaluate
from engine.model.folds import before_holdout, walk_forward
from engine.model.registry import open_registry
from engine.model.train import TrainSettings, describe, train
from engine.model.validate import Validation, validate
from kernels.schema import TARGETS
from store import queries, writer
from store.client import Store

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


def read_dataset(store: Store, config: Config, request: TrainRequest, folder: Path, progress: Progress) -> Dataset:
    """Join stored labels with the vectors of the stored candles.

    A label belongs to the range only if its whole horizon does: nothing at or after `to_ms` is learned from.
    """
    chosen = choose_symbols(store, config, request.symbols)
    horizon = config.barriers.time_limit_minutes
    parts = []
    for index, symbol in enumerate(chosen):
        inputs = read_symbol(store, config, symbol, request.to_ms)
        last_ms = request.to_ms - horizon * MINUTE_MS
        long, short = (queries.labels(store, side, symbol, request.from_ms, last_ms + 1) for side in ("long", "short"))
        if not len(long):
            raise DataError(f"{symbol}: no labels in the range: run `ta label` first")
        parts.append(SymbolData(symbol, inputs.close_ms, inputs.vectors, long, short))
        progress(f"vectors of {symbol}", index + 1, len(chosen))
    return build(parts, horizon, folder)


def run(
    store: Store, config: Config, request: TrainRequest, progress: Progress, say: Callable[[str], None]
) -> TrainResult:
    """Train, bundle, verify and register. `say` receives what is doubtful about the data before training starts."""
    started_ms = time.time_ns() // 1_000_000
    job_id = os.environ.get("TA_JOB") or f"train-{started_ms}"  # control names the jobs it starts
    row = _job_row(job_id, request, started_ms)
    writer.insert_row(store, "training_jobs", row | {"state": "running", "version": started_ms})
    folder = config.data_dir / "work" / job_id
    try:
        result = _run(store, config, request, folder, progress, say, started_ms)
    except BaseException as error:
        now_ms = time.time_ns() // 1_000_000
        failed = {"state": "failed", "error": str(error)[:2_000], "finished_time": now_ms, "version": now_ms}
        writer.insert_row(store, "training_jobs", row | failed)
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
    return result


def _run(
    store: Store,
    config: Config,
    request: TrainRequest,
    folder: Path,
    progress: Progress,
    say: Callable[[str], None],
    started_ms: int,
) -> TrainResult:
    data = read_dataset(store, config, request, folder, progress)
    doubts = problems(data)
    for doubt in doubts:
        say(doubt)
    if request.holdout_days:
        data = weigh(data.rows(before_holdout(data.time_ms, request.holdout_days, data.horizon_minutes)))
    settings = request.settings
    checkpoints = config.data_dir / "work" / "checkpoints"
    found, rounds, boosters = _fit(data, request, folder, checkpoints, progress)
    progress("packing and verifying", 0, 1)
    extra: dict[str, Any] = {
        "problems": doubts,
        "holdout_days": request.holdout_days,
        "cluster": request.cluster or None,
    }
    if found is not None:
        market = stored_market(store, config, list(data.symbols), request.to_ms)
        extra["metrics"] = evaluate(data, found, boosters, market, settings.seed)
    parameters = describe(settings, rounds) | {"folds": request.folds}
    bundle = write_bundle(folder, boosters, data, parameters, started_ms, label_settings(config), extra)
    registry = open_registry(config)
    shutil.rmtree(checkpoints, ignore_errors=True)  # the bundle holds them now
    model_id = registry.publish(bundle, request.actor, time.time_ns() // 1_000_000)
    store_model(store, registry, model_id)
    progress("packing and verifying", 1, 1)
    seconds = (time.time_ns() // 1_000_000 - started_ms) / 1_000
    return TrainResult(model_id, str(registry.path(model_id)), len(data), data.independent_labels, doubts, seconds)


def _fit(
    data: Dataset, request: TrainRequest, folder: Path, checkpoints: Path, progress: Progress
) -> tuple[Validation | None, dict[str, int], dict[str, Any]]:
    """Validate if asked to, then train the final models, here or on the cluster; both give the same models."""
    settings = request.settings
    rounds = dict.fromkeys(TARGETS, settings.rounds)
    folds = walk_forward(data.time_ms, request.folds, data.horizon_minutes) if request.folds else []
    if not request.cluster:
        found = validate(data, folds, settings, progress) if folds else None
        rounds = found.rounds if found is not None else rounds
        return found, rounds, train(data, rounds, settings, progress, checkpoints)
    cluster = Cluster(request.cluster, data, folder / "extract", settings)
    try:
        found = cluster.validate(folds, progress) if folds else None
        rounds = found.rounds if found is not None else rounds
        return found, rounds, cluster.train(rounds, progress)
    finally:
        cluster.close()


def _job_row(job_id: str, request: TrainRequest, started_ms: int) -> dict[str, object]:
    return {
        "job_id": job_id,
        "kind": "train",
        "actor": request.actor,
        "queued_time": started_ms,
        "started_time": started_ms,
        "arguments": json.dumps(asdict(request)),
    }
