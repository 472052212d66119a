"""The timeline of models: two activations in one run, trades belong to the one that opened them."""

from __future__ import annotations

import numpy as np
import pytest

from store import writer
from store.client import connect


@pytest.fixture
def store(tmp_path):
    with connect("embedded", tmp_path) as opened:
        yield opened


def test_each_activation_with_what_it_decided(store) -> None:
    run = {"engine_id": "main", "run_id": "r1"}
    times = {"seq": np.array([10, 50]), "time": np.array([1_000, 5_000])}
    who = {"model_id": ["a", "b"], "backend": ["vbmi", "vbmi"], "actor": ["start", "quant"]}
    writer.insert_columns(store, "activations", run | times | who)
    signals = {"seq": np.array([11, 12, 51]), "time": np.array([1_100, 1_200, 5_100]), "model_id": ["a", "a", "b"]}
    writer.insert_columns(store, "signals", run | signals)
    trades = {
        "seq": np.array([40, 60, 61]),
        "time": np.array([4_000, 6_000, 6_100]),
        "position_id": np.array([11, 12, 51]),  # the second was opened by a and closed under b
        "net_usdt": np.array([1.0, 2.0, -4.0]),
        "model_id": ["a", "a", "b"],
    }
    writer.insert_columns(store, "trades", run | trades)
    sql = (
        "SELECT model_id, toUnixTimestamp64Milli(activated_time), toUnixTimestamp64Milli(until_time), actor, backend, "
        "signals, toUnixTimestamp64Milli(first_signal_time), trades, net_usdt "
        "FROM v_model_timeline ORDER BY activated_time"
    )
    assert store.rows(sql) == [
        ("a", 1_000, 5_000, "start", "vbmi", 2, 1_100, 2, 3.0),
        ("b", 5_000, None, "quant", "vbmi", 1, 5_100, 1, -4.0),
    ]
