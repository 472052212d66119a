"""LightGBM's Dask estimators on shared edges: one set of edges for 8 models, thresholds on the features themselves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from engine.model.bundle import write_bundle
from engine.model.cluster import Cluster
from engine.model.dataset import Dataset, build
from engine.model.distributed import MAX_EDGES, choose_edges, every_bin, from_bins, to_bins
from engine.model.folds import walk_forward
from engine.model.train import describe, train
from engine.model.verify import _thresholds
from kernels.schema import FEATURES, TARGETS
from tests.conftest import long_run
from tests.model_rig import NOW_MS, SMALL, random_part

SETTINGS = replace(SMALL, rounds=3)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return build([random_part(1, "BTCUSDT", 1_500), random_part(2, "ETHUSDT", 1_500)])


@pytest.fixture(scope="module")
def edges(data: Dataset) -> list[np.ndarray]:
    return choose_edges(data.x, 255)


def test_a_value_is_at_most_an_edge_exactly_if_its_bin_is(data: Dataset, edges: list[np.ndarray]) -> None:
    bins = to_bins(data.x, edges)
    assert np.array_equal(np.isnan(bins), np.isnan(data.x))
    for column in (0, 3, 7, 11):
        assert 1 <= len(edges[column]) <= MAX_EDGES and (np.diff(edges[column]) > 0).all()
        known = ~np.isnan(data.x[:, column])
        for at in range(0, len(edges[column]), 7):
            below = data.x[known, column].astype(np.float64) <= edges[column][at]
            assert np.array_equal(below, bins[known, column] <= at + 1)


def test_planted_rows_hold_every_bin_and_nan_where_there_is_one(edges: list[np.ndarray]) -> None:
    has_nan = np.arange(len(FEATURES)) % 5 == 0
    rows = every_bin(edges, has_nan)
    for column in (0, 1, 7):
        seen = rows[:, column]
        assert set(seen[~np.isnan(seen)].astype(int)) == set(range(1, len(edges[column]) + 2))
        assert np.isnan(seen).any() == has_nan[column]


def test_a_model_on_bins_predicts_as_its_text_on_the_features(data: Dataset, edges: list[np.ndarray]) -> None:
    params = {"num_leaves": 31, "verbosity": -1, "num_threads": 1, "min_data_in_bin": 1, "min_data_in_leaf": 5}
    bins = to_bins(data.x, edges)
    on_bins = lightgbm.train(params, lightgbm.Dataset(bins, data.targets[:, 0], params=params), 8)
    text = from_bins(on_bins.model_to_string(), edges)
    direct = lightgbm.Booster(model_str=text)
    np.testing.assert_array_equal(direct.predict(data.x), on_bins.predict(bins))
    assert direct.num_trees() == 8


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    from dask import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
    ) as scheduler:
        opened = Cluster(scheduler.scheduler_address, tmp_path / "extract", worker_bytes=1 << 20)
        yield opened
        opened.close()


def test_a_matrix_too_big_for_a_worker_is_trained_by_all_of_them(data: Dataset, cluster: Cluster, tmp_path) -> None:
    trainer = cluster.distributed(data, SETTINGS)
    boosters = trainer.train(dict.fromkeys(TARGETS, 3))
    edges = choose_edges(data.x, SETTINGS.max_bin)
    for feature, found in enumerate(_thresholds(boosters, len(FEATURES))):
        allowed = np.append(edges[feature].astype(np.float32), np.inf)
        assert np.isin(found, allowed).all(), FEATURES[feature]
    here = train(data, 3, SETTINGS)
    for target in TARGETS:
        far, near = (models[target].predict(data.x) for models in (boosters, here))
        assert boosters[target].num_trees() == 3
        if not target.startswith("q05"):  # a distributed quantile starts from the mean of the workers' quantiles
            assert np.corrcoef(far, near)[0, 1] > 0.5, target
            assert abs(far.mean() - near.mean()) < 0.1 * abs(near.std() + near.mean()), target
    assert boosters["er_long"].feature_importance()[FEATURES.index("atr_15m")] == 0
    bundle = write_bundle(
        tmp_path, boosters, data, describe(SETTINGS, 3), NOW_MS, extra={"deterministic": trainer.deterministic}
    )
    assert '"deterministic": false' in (bundle / "manifest.json").read_text()
    if long_run(False, True):
        found = trainer.validate(walk_forward(data.time_ms, 1, 60))
        assert np.isfinite(found.predictions).all() and all(1 <= n <= 3 for n in found.rounds.values())
