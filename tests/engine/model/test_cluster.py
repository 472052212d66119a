"""A real two-worker Dask cluster gives the models, folds and predictions of the local run."""

from dataclasses import replace

import numpy as np

from engine.model.cluster import Cluster, load_extract, save_extract
from engine.model.dataset import build, weigh
from engine.model.folds import walk_forward
from engine.model.train import train
from engine.model.validate import validate
from kernels.schema import TARGETS
from tests.model_rig import SMALL, random_part


def test_the_extract_comes_back_bit_for_bit(tmp_path) -> None:
    data = build([random_part(1, "BTCUSDT", 700), random_part(2, "ETHUSDT", 700)])
    save_extract(data, tmp_path)
    back = weigh(load_extract(tmp_path, data.symbols, data.horizon_minutes))
    assert back.hash() == data.hash()


def test_cluster_and_local_runs_are_equal(tmp_path) -> None:
    from dask import distributed

    data = build([random_part(1, "BTCUSDT", 2_500), random_part(2, "ETHUSDT", 2_500)])
    settings = replace(SMALL, rounds=3)
    folds = walk_forward(data.time_ms, 1, 60)
    local = validate(data, folds, settings)
    boosters = train(data, local.rounds, settings)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
    ) as scheduler:
        cluster = Cluster(scheduler.scheduler_address, data, tmp_path, settings)
        try:
            remote = cluster.validate(folds)
            far = cluster.train(remote.rounds)
        finally:
            cluster.close()
    np.testing.assert_array_equal(remote.predictions, local.predictions)
    assert remote.rounds == local.rounds and remote.fold_rounds == local.fold_rounds
    for target in TARGETS:
        assert far[target].model_to_string() == boosters[target].model_to_string()
