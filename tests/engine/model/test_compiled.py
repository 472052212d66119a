"""The tl2cgen backend: the same numbers as LightGBM, refused by name when it is not there."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from engine.errors import DataError
from engine.model.building import build
from engine.model.bundle import write_bundle
from engine.model.opening import open_packed, ready_backend
from engine.model.train import describe, train
from engine.model.verify import planted_rows, reference, verify
from tests.model_rig import NOW_MS, SMALL, Trained


def test_a_library_that_is_not_built_is_refused_by_name(trained: Trained) -> None:
    with pytest.raises(DataError, match=r"er_long\.so: not built yet"):
        open_packed(trained.bundle, "tl2cgen")


def test_compiled_models_equal_lightgbm(trained: Trained, tmp_path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("tl2cgen needs gcc, and there is none")
    boosters = train(trained.data, settings=replace(SMALL, rounds=3))
    bundle = write_bundle(tmp_path, boosters, trained.data, describe(SMALL, 3), NOW_MS)
    build(bundle)
    predictor = open_packed(bundle, "tl2cgen")
    assert predictor.backend == ready_backend(bundle, "tl2cgen") == "tl2cgen"
    rows = planted_rows(boosters, trained.data.x, seed=5, count=2_000)
    verify(predictor, reference(boosters, rows), rows, list(boosters))
    np.testing.assert_array_equal(predictor.predict_row(rows[7]), open_packed(bundle, "walk").predict_row(rows[7]))


def test_the_configured_backend_serves_packed_until_the_libraries_are_there(trained: Trained) -> None:
    assert ready_backend(trained.bundle, "tl2cgen") == "auto"
    assert ready_backend(trained.bundle, "walk") == "walk"
