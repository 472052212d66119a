"""The tl2cgen backend: the 8 models as C, compiled by the system's compiler, called by address.

`build` runs in the background (`python -m engine.model.compiled BUNDLE DATA_DIR`), never in the engine; opening needs
neither tl2cgen nor treelite. The libraries lie in the bundle's folder `compiled/`, which the manifest does not list.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from engine.model.packed import Packed
from engine.model.predictor import COMPILED_FOLDER, PackedPredictor, open_packed
from kernels.schema import FEATURES, TARGETS
from kernels.walk import ZERO

Array = npt.NDArray[Any]

MISSING = -1  # tl2cgen reads an entry whose first int is −1 as missing
COMPILER = "gcc"


def build(bundle: Path) -> Path:
    """Compile the bundle's treelite checkpoints to shared libraries and prove them on the golden rows.

    Takes about 30 s of gcc for 8 × 200 trees × 31 leaves. Raises DataError without a compiler or on a wrong prediction.
    """
    import tl2cgen
    import treelite

    if shutil.which(COMPILER) is None:
        raise DataError(f"predictor tl2cgen: expected a C compiler named {COMPILER} on the PATH, found none")
    final = bundle / COMPILED_FOLDER
    partial = Path(tempfile.mkdtemp(prefix=".compiled-", dir=bundle))
    try:
        for target in TARGETS:
            model = treelite.Model.deserialize(str(bundle / f"{target}.treelite"))
            parameters = {"parallel_comp": max(1, model.num_tree // 25)}  # gcc is not linear in a file's size
            tl2cgen.export_lib(model, COMPILER, str(partial / f"{target}.so"), params=parameters, nthread=1)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        try:
            open_packed(bundle, "tl2cgen")
        except DataError:
            shutil.rmtree(final)
            raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


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
        raise DataError(f"{path}: not built yet: run `python -m engine.model.compiled BUNDLE DATA_DIR`")
    predict = ctypes.CDLL(os.fspath(path)).predict
    predict.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    predict.restype = None
    return predict


def build_and_select(bundle: Path, data_dir: Path) -> str:
    """Build; if the engine that runs on `data_dir` serves this bundle and is to use tl2cgen, ask it to switch now.

    Returns the backend that serves then, or why no engine was asked.
    """
    from engine.link import command

    build(bundle)

    def ask(verb: str, args: dict[str, Any]) -> dict[str, Any]:
        answer = command(data_dir, verb, actor="tl2cgen build", args=args, command_id=secrets.token_hex(16))
        if not answer.get("ok"):
            raise DataError(f"the engine refused: {answer.get('error')}")
        return dict(answer["result"])

    try:
        status = ask("status", {})
        if status["model_id"] != bundle.name or status["predictor"] != "tl2cgen":
            return str(status["backend"])
        return str(ask("predictor", {"predictor": "tl2cgen"})["backend"])
    except ConnectionError:
        return "no engine runs"


if __name__ == "__main__":
    print(build_and_select(Path(sys.argv[1]), Path(sys.argv[2])))
