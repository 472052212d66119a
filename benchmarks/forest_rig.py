"""Eight models of 200 trees × 31 leaves on 132 features, and the peers that evaluate the same model texts."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import treelite

from engine.model.pack import missing_types, read_trees
from engine.model.packed import Packed, read_packed, write_packed
from engine.model.tables import forest_tables

FEATURES = 132
TARGETS = 8
PARAMETERS = {
    "objective": "regression",
    "num_leaves": 31,
    "max_bin": 255,
    "feature_fraction": 0.25,  # quicker training, trees of the same size
    "min_data_in_leaf": 5,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Rig:
    boosters: list[Any]
    packed: Packed
    rows: np.ndarray  # float32[600, 132]


def make_rig(folder: Path, rounds: int = 200) -> Rig:
    """Train on one shared Dataset, as `engine.model.train` does, and pack."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6_000, FEATURES)).astype(np.float32)
    x[:, :40][rng.random((len(x), 40)) < 0.01] = np.nan  # as in life: some features miss now and then
    shared = lightgbm.Dataset(x, np.zeros(len(x)), params=PARAMETERS, free_raw_data=False).construct()
    boosters = []
    for _ in range(TARGETS):
        shared.set_label(np.nan_to_num(x) @ rng.normal(size=FEATURES) + rng.normal(size=len(x)))
        boosters.append(lightgbm.train(PARAMETERS, shared, rounds))
    return Rig(boosters, pack(boosters, folder / "forest.bin"), np.ascontiguousarray(x[:600]))


def pack(boosters: list[Any], path: Path) -> Packed:
    """Pack boosters as the training job does."""
    ensembles = [
        read_trees(treelite.frontend.from_lightgbm(b), missing_types(b.model_to_string(), FEATURES)) for b in boosters
    ]
    tables, warnings = forest_tables(ensembles)
    assert not warnings
    tables["nan_unseen"] = np.zeros(FEATURES, np.uint8)
    write_packed(path, tables, 1, FEATURES)
    return read_packed(path)


class SingleRowFast:
    """LightGBM's C API for one row (LGBM_BoosterPredictForMatSingleRowFast), 8 boosters one after the other."""

    def __init__(self, boosters: list[Any]) -> None:
        self._library = lightgbm.basic._LIB
        self._configs = []
        for booster in boosters:
            config = ctypes.c_void_p()
            status = self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                booster._handle, 0, 0, -1, 0, FEATURES, ctypes.c_char_p(b"num_threads=1"), ctypes.byref(config)
            )
            assert status == 0
            self._configs.append(config)
        self._out = np.zeros(TARGETS)
        self._lengths = [ctypes.c_int64() for _ in boosters]
        self._outs = [ctypes.c_void_p(self._out.ctypes.data + 8 * k) for k in range(TARGETS)]

    def predict(self, row: np.ndarray) -> np.ndarray:
        pointer = ctypes.c_void_p(row.ctypes.data)
        call = self._library.LGBM_BoosterPredictForMatSingleRowFast
        for config, length, out in zip(self._configs, self._lengths, self._outs, strict=True):
            call(config, pointer, ctypes.byref(length), out)
        return self._out
