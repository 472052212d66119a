"""A real two-worker Dask cluster gives the vectors, labels, folds, predictions and models of the local run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.backtest.history import History
from engine.model.checkpoints import NOTHING_KEPT, Checkpoints
from engine.model.cluster import Cluster
from engine.model.dataset import Dataset, build, weigh
from engine.model.extract import load_history, load_rows, save_history, save_rows
from engine.model.folds import walk_forward
from engine.model.labels import LabelSettings
from engine.model.prepare import fold, label_history
from engine.model.train import train
from engine.model.validate import validate
from kernels.records import SAMPLE
from kernels.schema import TARGETS
from tests.model_rig import MINUTE_MS, SMALL, START_MS, random_bars, random_part

SETTINGS = replace(SMALL, rounds=3)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return build([random_part(1, "BTCUSDT", 2_500), random_part(2, "ETHUSDT", 2_500)])


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    from dask import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def cluster(scheduler: str, tmp_path: Path) -> Iterator[Cluster]:
    opened = Cluster(scheduler, tmp_path / "extract")
    yield opened
    opened.close()


def history(seed: int, symbol: str) -> History:
    bars = random_bars(seed, 3_000)
    rates = np.zeros(6, SAMPLE)
    rates["stamp_ms"] = START_MS + 480 * MINUTE_MS * np.arange(6)
    rates["usable_ms"], rates["value"] = rates["stamp_ms"] + 300_000, 1e-4
    absent = np.array([[START_MS + 700 * MINUTE_MS, START_MS + 703 * MINUTE_MS]])
    return History(symbol, bars, mark=bars[:2_000], funding=rates, settled=rates, gaps=absent)


def test_extracts_come_back_bit_for_bit(data: Dataset, tmp_path: Path) -> None:
    save_rows(data, tmp_path)
    assert weigh(load_rows(tmp_path, data.symbols, data.horizon_minutes)).hash() == data.hash()
    past = history(3, "ETHUSDT")
    save_history(past, tmp_path)
    back = load_history(tmp_path, "ETHUSDT")
    assert back.bars_15m is None
    for part in ("bars", "mark", "funding", "settled", "open_interest", "gaps"):
        assert getattr(back, part).tobytes() == getattr(past, part).tobytes(), part


def test_symbols_are_folded_and_labelled_on_the_cluster_as_here(cluster: Cluster) -> None:
    past = {name: history(seed, name) for seed, name in ((1, "BTCUSDT"), (2, "ETHUSDT"), (3, "SOLUSDT"))}
    asked = ["ETHUSDT", "SOLUSDT"]  # BTCUSDT is read for their features alone
    said: list[str] = []
    found = list(
        cluster.prepare(asked, past.__getitem__, "BTCUSDT", LabelSettings(), lambda what, *_: said.append(what))
    )
    assert [vectors.symbol for vectors, _ in found] == asked and len(said) == 2
    for vectors, labels in found:
        here = fold(past[vectors.symbol], past["BTCUSDT"])
        assert vectors.values.tobytes() == here.values.tobytes()
        expected = label_history(past[vectors.symbol], here, LabelSettings())
        assert len(expected.long) > 2_000 and expected.counts == labels.counts
        for side in ("long", "short"):
            assert getattr(labels, side).tobytes() == getattr(expected, side).tobytes()


def test_cluster_and_local_trainings_are_equal(cluster: Cluster, data: Dataset, tmp_path: Path) -> None:
    folds = walk_forward(data.time_ms, 1, 60)
    local = validate(data, folds, SETTINGS)
    boosters = train(data, local.rounds, SETTINGS)
    kept = Checkpoints(tmp_path / "kept", data.hash())
    trainer = cluster.trainer(data, SETTINGS, kept)
    remote = trainer.validate(folds)
    far = trainer.train(remote.rounds)
    np.testing.assert_array_equal(remote.predictions, local.predictions)
    assert remote.rounds == local.rounds and remote.fold_rounds == local.fold_rounds
    for target in TARGETS:
        assert far[target].model_to_string() == boosters[target].model_to_string()
    # What is finished is not trained again: here, or on a cluster that has gone.
    again = validate(data, folds, SETTINGS, checkpoints=kept)
    np.testing.assert_array_equal(again.predictions, local.predictions)
    assert len(list((tmp_path / "kept").iterdir())) == 16


def test_a_matrix_too_big_for_a_worker_is_known(cluster: Cluster, data: Dataset, scheduler: str, tmp_path) -> None:
    assert not cluster.too_big(data)
    small = Cluster(scheduler, tmp_path, worker_bytes=1 << 20)
    assert small.too_big(data)
    assert not small.distributed(data, SETTINGS).deterministic
    assert small.trainer(data, SETTINGS, NOTHING_KEPT).deterministic
    small.close()
