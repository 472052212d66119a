"""The join, the weights and what is said before training."""

import numpy as np
import pytest

from engine.errors import DataError
from engine.model import dataset
from engine.model.dataset import average_uniqueness, build, problems
from kernels.schema import TARGETS
from tests.model_rig import MINUTE_MS, random_part


def test_uniqueness_is_the_mean_of_one_over_concurrency() -> None:
    # Labels over minutes 1–3, 2–3 and 5: concurrency 1, 2, 2, 0, 1.
    times = np.array([0, 1, 4]) * MINUTE_MS
    assert average_uniqueness(times, np.array([3, 2, 1])).tolist() == pytest.approx([(1 + 0.5 + 0.5) / 3, 0.5, 1.0])


def test_the_sum_of_uniqueness_counts_the_minutes_covered_when_holds_are_equal() -> None:
    times = np.arange(1_000) * MINUTE_MS
    weights = average_uniqueness(times, np.full(1_000, 100))
    assert weights.sum() * 100 == pytest.approx(1_099, rel=0.02)  # every covered minute is shared out once


def test_rows_join_vectors_and_labels_at_the_same_time_over_all_symbols() -> None:
    parts = [random_part(1, "BTCUSDT", 800), random_part(2, "ETHUSDT", 900)]
    data = build(parts)
    assert (np.diff(data.time_ms) >= 0).all()
    for row in range(0, len(data), 37):
        part = parts[data.symbol[row]]
        at = np.searchsorted(part.close_ms, data.time_ms[row])
        np.testing.assert_array_equal(data.x[row], part.vectors[at].astype(np.float32))
        long = part.long[part.long["time_ms"] == data.time_ms[row]][0]
        short = part.short[part.short["time_ms"] == data.time_ms[row]][0]
        expected = [f(side) for f in _READERS for side in (long, short)]
        assert data.targets[row].tolist() == expected
    assert TARGETS[::2] == ("er_long", "q05_long", "e_mae_long", "e_hold_long")


_READERS = [lambda r, name=name: float(r[name]) for name in ("net_return", "net_free", "mae", "hold_minutes")]


def test_a_vector_without_a_label_or_before_it_is_ready_is_left_out() -> None:
    part = random_part(3, "BTCUSDT", 800)
    part.vectors[:50, 1] = np.nan
    data = build([part])
    assert data.time_ms[0] == part.close_ms[50]
    assert data.time_ms[-1] == part.close_ms[800 - 361]


def test_a_large_matrix_is_mapped_and_equal(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [random_part(1, "BTCUSDT", 600)]
    in_memory = build(parts)
    monkeypatch.setattr(dataset, "MEMORY_LIMIT_BYTES", 1_000)
    mapped = build(parts, folder=tmp_path)
    assert isinstance(mapped.x, np.memmap)
    assert mapped.hash() == in_memory.hash()


def test_what_is_wrong_is_said_with_counts() -> None:
    part = random_part(4, "BTCUSDT", 800)
    keep = (part.long["time_ms"] < part.close_ms[100]) | (part.long["time_ms"] >= part.close_ms[110])
    long, short = part.long[keep].copy(), part.short[keep]
    long["mae"] = 0.5
    data = build([dataset.SymbolData("BTCUSDT", part.close_ms, part.vectors, long, short)])
    said = "\n".join(problems(data))
    assert "too little data" in said
    assert "constant target e_mae_long: all 428 rows are 0.5" in said
    assert "BTCUSDT: 10 minutes in 1 gaps" in said


def test_nothing_to_train_on_is_refused_with_counts() -> None:
    part = random_part(5, "BTCUSDT", 500)
    with pytest.raises(DataError, match="BTCUSDT: 500 vectors, 0 labels"):
        build([dataset.SymbolData("BTCUSDT", part.close_ms, part.vectors, part.long[:0], part.short[:0])])
