"""A bundle predicts exactly what LightGBM predicts, and refuses to serve when anything about it is wrong."""

import asyncio
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import lightgbm
import numpy as np
import pytest

import engine.model
from engine.backtest.history import History
from engine.config import load as load_config
from engine.errors import DataError
from engine.model.bundle import write_bundle
from engine.model.checkpoints import Checkpoints
from engine.model.evaluate import evaluate
from engine.model.folds import walk_forward
from engine.model.pack import float32_down, missing_types
from engine.model.packed import HEADER, read_packed, write_packed
from engine.model.policy import Market
from engine.model.train import describe, train
from engine.model.validate import validate
from engine.model.verify import planted_rows
from kernels.schema import FEATURES, TARGETS
from tests.model_rig import NOW_MS, SMALL, Trained, random_bars


def test_predictions_equal_the_model_texts_read_by_lightgbm(trained: Trained) -> None:
    predictor = engine.model.load(trained.bundle)
    rows = planted_rows(trained.boosters, trained.data.x, seed=11, count=3_000)
    expected = np.column_stack(
        [lightgbm.Booster(model_file=str(trained.bundle / f"{target}.txt")).predict(rows) for target in TARGETS]
    )
    np.testing.assert_array_equal(predictor.predict(rows), expected)
    single = np.array([predictor.predict_row(row) for row in rows])
    assert (np.abs(single - expected) <= 1e-12 * np.abs(expected).max(axis=0)).all()


def test_planted_rows_reach_both_sides_of_every_kind_of_value(trained: Trained) -> None:
    rows = planted_rows(trained.boosters, trained.data.x, seed=1)
    assert len(rows) >= 10_000
    assert np.isnan(rows).any(axis=0).all()
    assert (rows == np.inf).any() and (rows == -np.inf).any() and np.signbit(rows[rows == 0]).any()


def test_training_is_deterministic(trained: Trained) -> None:
    again = train(trained.data, settings=SMALL)
    for target in TARGETS:
        assert again[target].model_to_string() == trained.boosters[target].model_to_string()


def test_a_run_that_died_resumes_behind_its_finished_targets(trained: Trained, tmp_path) -> None:
    class Died(Exception):
        pass

    def die(target: str, done: int, total: int) -> None:
        if target == TARGETS[2]:
            raise Died

    settings = replace(SMALL, rounds=2)
    kept = Checkpoints(tmp_path, trained.data.hash())
    with pytest.raises(Died):
        train(trained.data, settings=settings, progress=die, checkpoints=kept)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    seen: list[str] = []
    resumed = train(trained.data, settings=settings, progress=lambda target, *_: seen.append(target), checkpoints=kept)
    assert set(seen) == set(TARGETS[2:])
    straight = train(trained.data, settings=settings)
    for target in TARGETS:
        assert resumed[target].model_to_string() == straight[target].model_to_string()
    train(trained.data, settings=replace(settings, seed=8), checkpoints=kept)
    assert len(list(tmp_path.glob("*.npz"))) == 16  # other parameters, other keys


def test_a_validation_that_died_resumes_behind_its_finished_targets(trained: Trained, tmp_path) -> None:
    class Died(Exception):
        pass

    def die(what: str, done: int, total: int) -> None:
        if done == 11:
            raise Died

    settings = replace(SMALL, rounds=2)
    data, kept = trained.data, Checkpoints(tmp_path, trained.data.hash())
    folds = walk_forward(data.time_ms, 2, 60)
    with pytest.raises(Died):
        validate(data, folds, settings, die, kept)
    assert len(list(tmp_path.glob("*.npz"))) == 11  # the first fold, and three targets of the second
    resumed = validate(data, folds, settings, checkpoints=kept)
    assert len(list(tmp_path.glob("*.npz"))) == 16
    straight = validate(data, folds, settings)
    np.testing.assert_array_equal(resumed.predictions, straight.predictions)
    np.testing.assert_array_equal(resumed.constants, straight.constants)
    assert resumed.fold_rounds == straight.fold_rounds


def test_pooled_training_does_not_split_on_price_units(trained: Trained) -> None:
    index = FEATURES.index("atr_15m")
    assert all(booster.feature_importance()[index] == 0 for booster in trained.boosters.values())
    assert sum(booster.feature_importance().sum() for booster in trained.boosters.values()) > 0


def test_the_manifest_is_readable_without_our_code(trained: Trained) -> None:
    manifest = json.loads((trained.bundle / "manifest.json").read_text())
    assert manifest["targets"] == list(TARGETS)
    assert manifest["missing_types"]["er_long"][FEATURES[3]] == "none"
    assert "nan" in manifest["missing_types"]["er_long"].values()
    assert set(manifest["files"]) == {p.name for p in trained.bundle.iterdir()} - {"manifest.json"}
    rows = np.array([[np.nan if v is None else float(v) for v in row] for row in manifest["golden"]["rows"]])
    text = lightgbm.Booster(model_file=str(trained.bundle / "q05_short.txt"))
    column = TARGETS.index("q05_short")
    assert text.predict(rows).tolist() == [row[column] for row in manifest["golden"]["predictions"]]


def test_the_engine_can_map_a_bundle_without_the_training_libraries(trained: Trained) -> None:
    program = (
        "import sys\n"
        "from engine.model.opening import open_packed\n"
        "predictor = open_packed(sys.argv[1])\n"
        "heavy = {'lightgbm', 'treelite', 'tl2cgen', 'polars', 'pandas', 'sklearn', 'fsspec'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program, str(trained.bundle)], check=True, timeout=120)


@pytest.fixture
def copy(trained: Trained, tmp_path):
    return shutil.copytree(trained.bundle, tmp_path / "copy")


def test_a_truncated_forest_is_refused(copy) -> None:
    body = (copy / "forest.bin").read_bytes()
    (copy / "forest.bin").write_bytes(body[:-100])
    with pytest.raises(DataError, match=r"forest\.bin: expected \d+ bytes, got \d+"):
        engine.model.opening.open_packed(copy)
    with pytest.raises(DataError, match=r"forest\.bin: expected SHA-256"):
        engine.model.load(copy)


@pytest.mark.parametrize("offset", [HEADER.itemsize + 5, 5_000, -1])
def test_an_altered_forest_is_refused(copy, offset: int) -> None:
    body = bytearray((copy / "forest.bin").read_bytes())
    body[offset] ^= 1
    (copy / "forest.bin").write_bytes(body)
    with pytest.raises(DataError, match="altered"):
        engine.model.opening.open_packed(copy)


def test_an_altered_model_text_is_refused(copy) -> None:
    text = (copy / "er_long.txt").read_text()
    (copy / "er_long.txt").write_text(text.replace("leaf_value=", "leaf_value=1", 1))
    with pytest.raises(DataError, match=r"er_long\.txt: expected SHA-256"):
        engine.model.load(copy)


def test_another_schema_hash_and_wrong_golden_rows_are_refused(copy) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"schema_hash": "1"}))
    with pytest.raises(DataError, match="feature schema 1"):
        engine.model.load(copy)
    manifest["golden"]["predictions"][3][2] += 1e-9
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="golden rows differ"):
        engine.model.load(copy)


@pytest.mark.parametrize("opener", ["now", "between frames"])
def test_a_forest_that_predicts_its_golden_rows_differently_is_refused(copy, opener: str) -> None:
    packed = read_packed(copy / "forest.bin")
    arrays = {name: array.copy() for name, array in packed.arrays.items()}
    arrays["golden_predictions"][31, 2] += 1e-9
    write_packed(copy / "forest.bin", arrays, packed.schema_hash, packed.features)
    with pytest.raises(DataError, match="golden rows are predicted differently"):
        if opener == "now":
            engine.model.opening.open_packed(copy)
        else:
            asyncio.run(engine.model.opening.open_between_frames(copy))


def test_a_forest_of_another_schema_is_refused_and_a_good_one_opens_between_frames(copy) -> None:
    predictor = asyncio.run(engine.model.opening.open_between_frames(copy))
    assert predictor.model_id == json.loads((copy / "manifest.json").read_text())["model_id"]
    packed = read_packed(copy / "forest.bin")
    write_packed(copy / "forest.bin", dict(packed.arrays), 17, packed.features)
    with pytest.raises(DataError, match="made for feature schema 17"):
        engine.model.opening.open_packed(copy)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"linear_tree": True}, "linear tree"),
        ({"zero_as_missing": True}, "zero_as_missing"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "averaged output"),
    ],
)
def test_models_that_the_tables_cannot_express_are_refused(trained: Trained, tmp_path, extra, message: str) -> None:
    rows = trained.data.rows(np.arange(1_500))
    params = {"num_leaves": 7, "verbosity": -1, "num_threads": 1, **extra}
    booster = lightgbm.train(params, lightgbm.Dataset(rows.x, rows.targets[:, 2], params=params), 3)
    with pytest.raises(DataError, match=message):
        write_bundle(tmp_path, dict(trained.boosters, er_long=booster), rows, describe(SMALL), NOW_MS)
    assert not list(tmp_path.iterdir())


def test_categorical_splits_are_refused() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (500, 2)).astype(np.float32)
    params = {"num_leaves": 4, "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, "min_data_per_group": 5}
    data = lightgbm.Dataset(x, (x[:, 0] % 2) + rng.normal(0, 0.01, 500), categorical_feature=[0])
    with pytest.raises(DataError, match="categorical"):
        missing_types(lightgbm.train(params, data, 2).model_to_string(), 2)


def test_thresholds_round_down_and_never_to_infinity() -> None:
    assert float32_down(np.array([1e300, -1e300, np.inf])).tolist() == [np.finfo(np.float32).max, -np.inf, np.inf]
    values = np.array([0.1, -0.1, 1.0, np.float64(np.float32(0.3)), 1e-50, -1e-50, 1 / 3])
    down = float32_down(values)
    assert (down.astype(np.float64) <= values).all()
    assert (np.nextafter(down, np.float32(np.inf)).astype(np.float64) > values).all()


def test_the_evaluation_is_stored_with_the_model_and_rendered(trained: Trained, tmp_path) -> None:
    data = trained.data
    settings = replace(SMALL, rounds=3)
    found = validate(data, walk_forward(data.time_ms, 1, 60), settings)
    market = Market(
        load_config(), [History(name, random_bars(seed, 3_000)) for seed, name in enumerate(data.symbols, 1)]
    )
    metrics = evaluate(data, found, trained.boosters, market, 7)
    bundle = write_bundle(tmp_path, trained.boosters, data, describe(SMALL), NOW_MS, extra={"metrics": metrics})
    page = (bundle / "report.html").read_text()
    assert page.count("<svg") == 4 and all(target in page for target in TARGETS)
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    stored = json.loads((bundle / "manifest.json").read_text())["metrics"]
    assert set(stored["targets"]) == set(TARGETS)
    for name, figures in stored["targets"].items():
        assert len(figures["calibration"]) == 10
        assert ("coverage" in figures) == name.startswith("q05")
    assert stored["policy"]["net_q05"] <= stored["policy"]["net"] <= stored["policy"]["net_q95"]
    assert engine.model.load(bundle).model_id == bundle.name
