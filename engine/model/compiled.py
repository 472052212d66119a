"""The tl2cgen backend: the 8 models as C, compiled by the system's compiler, called by address.

`engine.model.building` builds the libraries; opening them needs neither tl2cgen nor treelite. They lie in the bundle's
folder `compiled/`, which the manifest does not list.
"""

from __future__ import annotations

import ctypes
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from engine.model.packed import Packed
from engine.model.predictor import PackedPredictor
from engine.model.protocol import Bound, bound_python
from kernels.schema import FEATURES, TARGETS
from kernels.walk import ZERO

Array = npt.NDArray[Any]

MISSING = -1  # tl2cgen reads an entry whose first int is −1 as missing
COMPILED_FOLDER = "compiled"  # the tl2cgen libraries, built after promotion; not listed in the manifest


class CompiledPredictor(PackedPredictor):
    """One row through 8 compiled libraries; batches go through the packed tables."""

    def __init__(self, packed: Packed, model_id: str, bundle: Path) -> None:
        super().__init__(packed, model_id)
        self.backend = "tl2cgen"
        self._libraries = [open_library(bundle, target) for target in TARGETS]
        self._entries = np.zeros(len(FEATURES))
        self._first_words = self._entries.view(np.int32)[::2]
        self._address = ctypes.c_void_p(self._entries.ctypes.data)
        self._as_zero = packed.arrays["nan_as_zero"].astype(bool)
        self._result = ctypes.c_double()
        self._pointer = ctypes.byref(self._result)

    def bind_c(self, row: Array, out: Array) -> Bound:
        """Return what predicts `row` into `out`, as a C call."""
        return bound_python(partial(self.predict_into, row, out), out)

    def predict_into(self, row: Array, out: Array) -> None:
        """Write float64[8] predictions of one float32 row."""
        entries, nan = self._entries, np.isnan(row)
        entries[:] = row
        entries[(nan & self._as_zero) | (np.abs(row) <= ZERO)] = 0.0
        self._first_words[nan & ~self._as_zero] = MISSING
        for column, predict in enumerate(self._libraries):
            self._result.value = 0.0  # the compiled function adds to it
            predict(self._address, 1, self._pointer)
            out[column] = self._result.value


def open_library(bundle: Path, target: str) -> Any:
    """Return the compiled `predict` of one target. Raises DataError where it was not built."""
    path = bundle / COMPILED_FOLDER / f"{target}.so"
    if not path.is_file():
        raise DataError(f"{path}: not built yet: run `python -m engine.model.building BUNDLE DATA_DIR`")
    predict = ctypes.CDLL(os.fspath(path)).predict
    predict.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    predict.restype = None
    return predict
