"""Every backend against the plain walk and LightGBM: odd tree shapes, NaN sides, and the choice by CPU and target."""

import gc
import math
import os
import subprocess
import sys
from dataclasses import replace

import lightgbm
import numba
import numpy as np
import pytest
import treelite

from engine.errors import DataError
from engine.model.layout import vbmi_arrays
from engine.model.opening import open_packed
from engine.model.pack import Tree, missing_types, node_tables, read_trees
from engine.model.packed import read_packed, write_packed
from engine.model.predictor import BACKENDS, PackedPredictor
from engine.model.protocol import C_PREDICT, Bound, bind_c
from engine.model.tables import forest_tables
from engine.model.verify import planted_rows, reference, verify
from kernels.simd import has_vbmi
from kernels.walk import walk_batch
from tests.model_rig import Trained

FAST = [backend for backend in BACKENDS if backend != "vbmi" or has_vbmi()]


def packed_of(boosters: dict, features: int, folder, warnings: list[str] | None = None):
    ensembles = []
    for booster in boosters.values():
        missing = missing_types(booster.model_to_string(), features)
        ensembles.append(read_trees(treelite.frontend.from_lightgbm(booster), missing))
    tables, said = forest_tables(ensembles)
    if warnings is not None:
        warnings += said
    tables["nan_unseen"] = np.zeros(features, np.uint8)
    write_packed(folder / "forest.bin", tables, 1, features)
    return read_packed(folder / "forest.bin")


def problem(seed: int, rows: int = 2_000, features: int = 12):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype(np.float32)
    x[:, 0] = np.round(x[:, 0] * 2)
    x[rng.random(rows) < 0.2, 3] = np.nan
    x[rng.random(rows) < 0.5, 4] = np.nan
    x[:, 5] = np.where(rng.random(rows) < 0.3, 0.0, x[:, 5] * 1e-34)
    y = np.nan_to_num(x[:, 1] * x[:, 3]) + np.abs(x[:, 2]) + (x[:, 5] > 0) + np.isnan(x[:, 4])
    return x, y


@pytest.mark.parametrize(
    "params",
    [
        {"num_leaves": 2},
        {"num_leaves": 8},
        {"num_leaves": 9},
        {"num_leaves": 16},
        {"num_leaves": 17},
        {"num_leaves": 31},
        {"num_leaves": 32, "max_depth": 5},
        {"num_leaves": 33},
        {"num_leaves": 64},
        {"num_leaves": 20, "max_depth": 1},
        {"num_leaves": 31, "use_missing": False},
        {"num_leaves": 31, "objective": "quantile", "alpha": 0.05},
        {"num_leaves": 31, "min_data_in_leaf": 3_000},  # no split at all: trees of one leaf
    ],
    ids=str,
)
def test_every_backend_equals_lightgbm(params: dict, tmp_path) -> None:
    x, y = problem(len(str(params)))
    settings = {"objective": "regression", "min_data_in_leaf": 2, "verbosity": -1, "num_threads": 1, **params}
    boosters = {
        "a": lightgbm.train(settings, lightgbm.Dataset(x, y), 21),
        "b": lightgbm.train(settings | {"num_leaves": 7}, lightgbm.Dataset(x, -y), 8),
    }
    warnings: list[str] = []
    packed = packed_of(boosters, x.shape[1], tmp_path, warnings)
    assert not warnings
    rows = planted_rows(boosters, x, seed=3, count=1_500)
    expected = reference(boosters, rows)
    for backend in FAST:
        verify(PackedPredictor(packed, "m", backend), expected, rows, list(boosters))


def chain(depth: int) -> Tree:
    """A tree that is one long branch: the deepest there can be for its leaves."""
    nodes = 2 * depth + 1
    inner = np.arange(nodes) % 2 == 0
    inner[-1] = False
    left = np.where(inner, np.arange(nodes) + 1, -1)
    right = np.where(inner, np.arange(nodes) + 2, -1)
    threshold = np.where(inner, np.arange(nodes), 0).astype(np.float32)
    value = np.where(inner, 0.0, np.arange(nodes) + 0.5)
    return Tree(np.zeros(nodes, int), threshold, np.zeros(nodes, bool), left, right, ~inner, value)


@pytest.mark.parametrize("depth", [1, 2, 3, 16, 17, 31, 32])
def test_the_deepest_trees(depth: int, tmp_path) -> None:
    tables, warnings = forest_tables([[chain(depth), chain(1)]])
    assert not warnings
    write_packed(tmp_path / "f", tables | {"nan_unseen": np.zeros(1, np.uint8)}, 1, 1)
    packed = read_packed(tmp_path / "f")
    rows = np.linspace(-2, 2 * depth + 2, 97, dtype=np.float32).reshape(-1, 1)
    # By hand: the branch ends at the first even threshold not below x.
    step = np.clip(np.ceil(rows[:, 0] / 2), 0, depth)
    expected = np.where(step < depth, 2 * step + 1.5, 2 * depth + 0.5) + np.where(rows[:, 0] <= 0, 1.5, 2.5)
    for backend in FAST:
        predictor = PackedPredictor(packed, "m", backend)
        np.testing.assert_array_equal([predictor.predict_row(row)[0] for row in rows], expected)
        np.testing.assert_array_equal(predictor.predict(rows)[:, 0], expected)


def grown(rng: np.random.Generator, leaves: int, features: np.ndarray) -> Tree:
    """A tree of any shape: a leaf chosen at random splits until there are enough; children in no order."""
    left, right = [-1], [-1]
    depth = [0]
    while left.count(-1) < leaves:
        ends = [node for node in range(len(left)) if left[node] < 0 and depth[node] < 32]
        node = ends[-1] if rng.random() < 0.5 else int(rng.choice(ends))
        children = rng.permutation([len(left), len(left) + 1]).tolist()
        left[node], right[node] = children
        left += [-1, -1]
        right += [-1, -1]
        depth += [depth[node] + 1] * 2
    leaf = np.array(left) < 0
    count = len(leaf)
    threshold = np.where(leaf, 0, rng.integers(-3, 4, count)).astype(np.float32)
    feature, nan_left = np.where(leaf, 0, rng.choice(features, count)), rng.random(count) < 0.5
    return Tree(feature, threshold, nan_left & ~leaf, np.array(left), np.array(right), leaf, rng.normal(size=count))


@pytest.mark.parametrize(("features", "used"), [(7, 7), (60, 60), (127, 127), (200, 127), (1_000, 40)])
def test_trees_of_every_size_and_shape_beside_each_other(features: int, used: int, tmp_path) -> None:
    rng = np.random.default_rng(features)
    some = rng.permutation(features)[:used]  # 127: two slots of each feature, for NaN on both sides, are all there are
    ensembles = [[grown(rng, leaves, some) for leaves in rng.permutation(np.arange(1, 65))] for _ in range(3)]
    ensembles += [[], [grown(rng, 1, some)] * 2, [grown(rng, leaves, some) for leaves in (2, 8, 5, 16, 31)]]
    tables, warnings = forest_tables(ensembles)
    assert not warnings
    write_packed(tmp_path / "f", tables | {"nan_unseen": np.zeros(features, np.uint8)}, 1, features)
    packed = read_packed(tmp_path / "f")
    rows = rng.integers(-4, 5, (300, features)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    rows[rng.random(rows.shape) < 0.1] = 1e-36
    expected = PackedPredictor(packed, "m", "walk").predict(rows)
    for backend in FAST:
        predictor = PackedPredictor(packed, "m", backend)
        np.testing.assert_array_equal(predictor.predict(rows), expected)
        np.testing.assert_allclose([predictor.predict_row(row) for row in rows], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("params", "message"),
    [({"num_leaves": 65}, "a tree of 65 leaves"), ({"max_bin": 1_000}, "thresholds: the fast kernels take 255")],
)
def test_what_does_not_fit_is_served_by_the_walk_with_a_warning(params: dict, message: str, tmp_path) -> None:
    x, y = problem(5, 6_000)
    settings = {"objective": "regression", "min_data_in_leaf": 2, "verbosity": -1, "num_threads": 1, "num_leaves": 64}
    boosters = {"a": lightgbm.train(settings | params, lightgbm.Dataset(x, y, params=params), 60)}
    warnings: list[str] = []
    predictor = PackedPredictor(packed_of(boosters, x.shape[1], tmp_path, warnings), "m")
    assert any(message in warning for warning in warnings)
    assert predictor.backend == "walk"
    rows = planted_rows(boosters, x, seed=3, count=1_000)
    verify(predictor, reference(boosters, rows), rows, ["a"])


def test_a_tree_deeper_than_the_tables_take_is_served_by_the_walk() -> None:
    tables, warnings = forest_tables([[chain(33)]])
    assert warnings == ["served by the plain node walk: a tree of depth 33: the fast kernels take 32"]
    assert tables.keys() == node_tables([[chain(33)]]).keys()


def test_nan_goes_to_either_side_on_one_feature(tmp_path) -> None:
    left, right = chain(1), chain(1)
    left.nan_left[0] = True
    left.threshold[0] = right.threshold[0] = -1.0  # not the side that missing type 'none' would choose
    tables, _ = forest_tables([[left], [right]])
    write_packed(tmp_path / "f", tables | {"nan_unseen": np.zeros(1, np.uint8)}, 1, 1)
    packed = read_packed(tmp_path / "f")
    for backend in FAST:
        predictor = PackedPredictor(packed, "m", backend)
        assert predictor.predict_row(np.array([np.nan])).tolist() == [1.5, 2.5]
        assert predictor.predict(np.full((70, 1), np.nan))[69].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 129])
def test_batches_of_every_size(trained: Trained, count: int) -> None:
    predictor = open_packed(trained.bundle)
    rows = trained.data.x[:count]
    expected = np.empty((count, 8))
    arrays = read_packed(trained.bundle / "forest.bin").arrays
    walk_batch(*(arrays[name] for name in ("nodes", "leaves", "roots", "first_tree")), rows.copy(), expected)
    np.testing.assert_array_equal(predictor.predict(rows), expected)


def test_a_generic_target_never_compiles_vbmi(trained: Trained) -> None:
    program = (
        "import sys, numpy as np\n"
        "from engine.model.opening import open_packed\n"
        "p = open_packed(sys.argv[1])\n"
        "assert p.backend == 'lockstep', p.backend\n"
        "assert 'kernels.vbmi' not in sys.modules\n"
        "print(repr(p.predict(np.ones((3, 132), np.float32)).tolist()))\n"
    )
    environment = os.environ | {"NUMBA_CPU_NAME": "generic"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(trained.bundle)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(open_packed(trained.bundle).predict(np.ones((3, 132), np.float32)).tolist())


@pytest.mark.skipif("vbmi" not in FAST, reason="this CPU or numba's target has no AVX-512 VBMI")
def test_a_pack_whose_trees_are_not_in_preorder_is_refused() -> None:
    tree = chain(3)
    tables, _ = forest_tables([[replace(tree, left=tree.right, right=tree.left)]])
    tables["mask_nodes"] = tables["mask_nodes"][::-1].copy()
    with pytest.raises(DataError, match="not in preorder: train it again"):
        vbmi_arrays(tables, 1)


@pytest.mark.skipif("vbmi" not in FAST, reason="this CPU or numba's target has no AVX-512 VBMI")
@pytest.mark.parametrize("size", [1e-300, 1e-3, 1.0, 1e300])
def test_the_sum_of_leaves_of_all_sizes_is_nearly_exact(size: float, tmp_path) -> None:
    rng = np.random.default_rng(3)
    trees = [chain(1) for _ in range(200)]
    for tree in trees:
        tree.value[1:] = size * rng.normal(size=2) * 10.0 ** rng.integers(-9, 1)
    tables, _ = forest_tables([trees, [chain(0)]])  # and a target whose only leaf is 0.5
    write_packed(tmp_path / "f", tables | {"nan_unseen": np.zeros(1, np.uint8)}, 1, 1)
    predictor = PackedPredictor(read_packed(tmp_path / "f"), "m", "vbmi")
    for x, leaf in ((-1.0, 1), (1.0, 2)):
        exact = math.fsum(tree.value[leaf] for tree in trees)
        largest = math.fsum(abs(tree.value).max() for tree in trees)
        found = predictor.predict_row(np.array([x]))
        assert abs(found[0] - exact) <= 2.0**-53 * (abs(exact) + largest / 2)  # 200 halves of 2**-61 of it
        assert found[1] == 0.5


@pytest.mark.skipif("vbmi" not in FAST, reason="this CPU or numba's target has no AVX-512 VBMI")
def test_a_leaf_that_is_no_number_is_refused() -> None:
    tree = chain(1)
    tree.value[1] = np.inf
    with pytest.raises(DataError, match="leaf values without a finite sum: not served"):
        vbmi_arrays(forest_tables([[tree]])[0], 1)


def test_an_unknown_backend_is_refused_by_name(trained: Trained) -> None:
    with pytest.raises(Exception, match="predictor 'gpu': expected auto or one of"):
        open_packed(trained.bundle, "gpu")


def called(bound: Bound) -> None:
    C_PREDICT(bound.function)(bound.argument)
    if bound.raise_fault is not None:
        bound.raise_fault()


@pytest.mark.parametrize("backend", FAST)
def test_the_c_call_of_a_backend_gives_the_same_doubles(trained: Trained, backend: str) -> None:
    predictor = open_packed(trained.bundle, backend)
    row, out = np.zeros(132, np.float32), np.zeros(8)
    bound = bind_c(predictor, row, out)
    del predictor
    gc.collect()  # the bound call holds its tables itself
    for sample in trained.data.x[:50]:
        row[:] = sample
        called(bound)
        assert out.tolist() == open_packed(trained.bundle, backend).predict_row(sample).tolist()


def test_compiled_code_calls_a_prediction_by_its_address(trained: Trained) -> None:
    predictor = open_packed(trained.bundle)
    row, out = trained.data.x[3].copy(), np.zeros(8)
    bound = predictor.bind_c(row, out)
    call = C_PREDICT(bound.function)

    @numba.njit
    def compiled(argument):
        call(argument)

    compiled(bound.argument)
    assert out.tolist() == predictor.predict_row(row).tolist()


class Moody:
    """A model outside: evaluated in Python, and it may fail."""

    model_id, backend, nan_unseen = "m", "python", np.zeros(132, bool)

    def predict_into(self, row: np.ndarray, out: np.ndarray) -> None:
        out[:4] = row[0]
        if row[0] < 0:
            raise ValueError(f"moody at {row[0]}")
        out[4:] = 1.0


def test_a_fault_in_python_is_raised_by_the_caller_and_predicts_nan() -> None:
    row, out = np.full(132, 2, np.float32), np.zeros(8)
    bound = bind_c(Moody(), row, out)
    called(bound)
    assert out.tolist() == [2, 2, 2, 2, 1, 1, 1, 1]
    row[:] = -1
    with pytest.raises(ValueError, match="moody at -1"):
        called(bound)
    assert np.isnan(out).all()
    row[:] = 3
    called(bound)  # the fault was told once
    assert out[0] == 3


def test_interpreted_kernels_serve_by_the_walk_and_through_a_callback(trained: Trained) -> None:
    program = (
        "import sys, numpy as np\n"
        "from engine.model.opening import open_packed\n"
        "from engine.model.protocol import C_PREDICT\n"
        "p = open_packed(sys.argv[1])\n"
        "row, out = np.ones(132, np.float32), np.zeros(8)\n"
        "bound = p.bind_c(row, out)\n"
        "C_PREDICT(bound.function)(bound.argument)\n"
        "assert p.backend == 'walk' and bound.raise_fault is not None\n"
        "print(repr(out.tolist()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(trained.bundle)],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    expected = open_packed(trained.bundle, "walk").predict_row(np.ones(132, np.float32))
    assert done.stdout.strip() == repr(expected.tolist())
