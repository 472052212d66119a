"""Evaluate a bundle: 8 predictions per vector. Imports neither lightgbm nor treelite: the engine process uses this."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from engine.model.packed import Packed, read_packed
from kernels.compile import entry_point
from kernels.forest import lockstep_row, mask_batch
from kernels.quantise import MAX_SLOTS
from kernels.schema import FEATURES, SCHEMA_HASH, TARGETS
from kernels.simd import has_vbmi
from kernels.walk import walk_batch, walk_row

if has_vbmi():  # importing compiles: for another target that would end the process
    from kernels.vbmi import vbmi_row

Array = npt.NDArray[Any]

CARRIED = ("nodes", "leaves", "roots", "first_tree", "nan_unseen", "nan_as_zero", "golden_rows", "model_id", "targets")
GOLDEN_STEP = 4  # golden rows proved in one go: well under a millisecond on every backend
PACKED_NAME = "forest.bin"
MANIFEST_NAME = "manifest.json"
COMPILED_FOLDER = "compiled"  # the tl2cgen libraries, built after promotion; not listed in the manifest
WALK_TABLES = ("nodes", "leaves", "roots", "first_tree")
LOCKSTEP_TABLES = ("used", "levels", "lock_words", "lock_groups", "lock_spans", "lock_leaves")
VBMI_TABLES = ("used", "levels", "vbmi_tables", "vbmi_spans", "vbmi_leaves")
BATCH_TABLES = ("used", "levels", "mask_nodes", "mask_trees", "first_tree", "leaves")
GOLDEN_TOLERANCE = 1e-12  # of the target's largest |reference|: another order of summation, nothing else


PREDICTORS = ("auto", "packed", "walk", "tl2cgen")
"""What configuration and operators choose from; 'auto' and 'packed' are the fastest packed backend of the machine."""

BACKENDS = ("vbmi", "lockstep", "walk")
"""How one row is evaluated, fastest first. Batches take mask propagation, or the walk where the tables do not fit."""


def usable_backends(packed: Packed) -> tuple[str, ...]:
    """Return the backends that this process can run on these tables, fastest first."""
    if "mask_trees" not in packed.arrays:
        return ("walk",)
    return BACKENDS if has_vbmi() else BACKENDS[1:]


class PackedPredictor:
    """8 ensembles on mapped tables. `backend` names the kernel that evaluates one row: 'vbmi', 'lockstep' or 'walk'."""

    def __init__(self, packed: Packed, model_id: str, backend: str = "auto") -> None:
        usable = usable_backends(packed)
        if backend in ("auto", "packed"):
            backend = usable[0]
        if backend not in usable:
            raise DataError(f"predictor {backend!r}: expected auto or one of {', '.join(usable)} on this machine")
        self.model_id = model_id
        self.backend = backend
        self.features = packed.features
        self.schema_hash = packed.schema_hash
        self._packed = packed  # keeps the mapping alive
        arrays = packed.arrays
        self.nan_unseen: Array = arrays["nan_unseen"].astype(bool)
        self.targets = len(arrays["first_tree"]) - 1
        none = np.zeros((0, 0))
        self.golden: tuple[Array, Array] = (arrays.get("golden_rows", none), arrays.get("golden_predictions", none))
        self._ranks = np.zeros(MAX_SLOTS, np.uint8)
        self._tables, self._row = self._row_kernel(arrays)
        self._out = np.zeros(self.targets)

    def _row_kernel(self, arrays: dict[str, Array]) -> tuple[tuple[Array, ...], Callable[..., Any]]:
        if self.backend == "walk":
            return tuple(arrays[name] for name in WALK_TABLES), entry_point(walk_row)
        if self.backend == "vbmi":
            return (*(arrays[name] for name in VBMI_TABLES), self._ranks), entry_point(vbmi_row)
        return (*(arrays[name] for name in LOCKSTEP_TABLES), self._ranks), entry_point(lockstep_row)

    def predict_into(self, row: Array, out: Array) -> None:
        """Write float64[8] predictions of one contiguous float32[features] row. Nothing is checked: the hot call."""
        self._row(*self._tables, row, out)

    def predict_row(self, row: Array) -> Array:
        """Return float64[8], in the order of TARGETS, of one float32[features] vector (any real array is converted)."""
        vector = np.require(row, np.float32, ["C", "A", "W"])
        if vector.shape != (self.features,):
            raise DataError(f"predict_row: expected {self.features} features, got an array of shape {vector.shape}")
        out = np.empty(self.targets)
        self.predict_into(vector, out)
        return out

    def predict(self, rows: Array) -> Array:
        """Return float64[n, 8] of float32[n, features]; sums in LightGBM's order, bit-identical to Booster.predict."""
        matrix = np.require(rows, np.float32, ["C", "A", "W"])
        if matrix.ndim != 2 or matrix.shape[1] != self.features:
            raise DataError(f"predict: expected rows of {self.features} features, got an array of shape {matrix.shape}")
        out = np.empty((len(matrix), self.targets))
        arrays = self._packed.arrays
        if self.backend == "walk":
            walk_batch(*(arrays[name] for name in WALK_TABLES), matrix, out)
        else:
            mask_batch(*(arrays[name] for name in BATCH_TABLES), matrix, out)
        return out

    def warm(self) -> None:
        """Evaluate a dummy row, so that tables and code are in the cache when the minute closes."""
        self.predict_into(np.zeros(self.features, np.float32), self._out)


def read_manifest(bundle: Path) -> dict[str, Any]:
    """Return a bundle's manifest. Raises DataError naming the file and what is wrong with it."""
    path = bundle / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(manifest, dict) or not {"model_id", "schema_hash", "targets", "golden"} <= manifest.keys():
        raise DataError(f"{path}: expected a bundle's manifest with model_id, schema_hash, targets and golden rows")
    return manifest


def open_packed(bundle_path: str | Path, backend: str = "auto") -> PackedPredictor:
    """Map a bundle's packed forest and prove it on the golden rows that it carries.

    backend: 'auto' (= 'packed': the fastest that this machine can run), 'vbmi', 'lockstep', 'walk', or 'tl2cgen' where
    its libraries were built (`engine.model.compiled`).

    Raises DataError on a missing, truncated or altered file, another feature schema, other targets, or a golden row
    whose prediction differs: the caller keeps the model it has.
    """
    bundle = Path(bundle_path)
    predictor = _identified(read_packed(bundle / PACKED_NAME), bundle, backend)
    for _ in _golden_checks(predictor, bundle):
        pass
    return predictor


async def open_between_frames(bundle_path: str | Path, backend: str = "auto") -> PackedPredictor:
    """Do the same on an event loop that may not stall: no step holds it for a millisecond.

    The file's checksum is computed in a thread, in a call that releases the GIL; golden rows are proved few at a time.
    """
    bundle = Path(bundle_path)
    packed = await asyncio.to_thread(read_packed, bundle / PACKED_NAME)
    if backend == "tl2cgen":
        from engine.model.compiled import open_library

        for target in TARGETS:  # opened one by one, then held by the loader: opening all at once would take too long
            open_library(bundle, target)
            await asyncio.sleep(0)
    predictor = _identified(packed, bundle, backend)
    for _ in _golden_checks(predictor, bundle):
        await asyncio.sleep(0)
    return predictor


def _identified(packed: Packed, bundle: Path, backend: str) -> PackedPredictor:
    missing = [name for name in CARRIED if name not in packed.arrays]
    if missing:
        raise DataError(f"{bundle}: its packed forest lacks {', '.join(missing)}: train it again")
    if packed.schema_hash != SCHEMA_HASH or packed.features != len(FEATURES):
        raise DataError(f"{bundle}: made for feature schema {packed.schema_hash}, this program computes {SCHEMA_HASH}")
    targets = packed.arrays["targets"].tobytes().decode().split(",")
    if tuple(targets) != TARGETS:
        raise DataError(f"{bundle}: expected the targets {', '.join(TARGETS)}, got {', '.join(targets)}")
    model_id = packed.arrays["model_id"].tobytes().decode()
    if backend == "tl2cgen":
        from engine.model.compiled import CompiledPredictor

        return CompiledPredictor(packed, model_id, bundle)
    return PackedPredictor(packed, model_id, backend)


def _golden_checks(predictor: PackedPredictor, bundle: Path) -> Iterator[None]:
    """Compare batch and single predictions of the golden rows, yielding every few rows; raise DataError on another."""
    rows, expected = predictor.golden
    if not len(rows) or expected.shape != (len(rows), predictor.targets):
        raise DataError(f"{bundle}: its golden rows have the wrong shape {rows.shape}, {expected.shape}")
    bound = GOLDEN_TOLERANCE * np.abs(expected).max(axis=0)
    for start in range(0, len(rows), GOLDEN_STEP):
        part, wanted = rows[start : start + GOLDEN_STEP], expected[start : start + GOLDEN_STEP]
        single = np.array([predictor.predict_row(row) for row in part])
        wrong = not np.array_equal(predictor.predict(part), wanted)
        if wrong or not (np.abs(single - wanted) <= bound).all():
            worst = float(np.abs(single - wanted).max())
            raise DataError(f"{bundle}: golden rows are predicted differently (by up to {worst:g}): not served")
        yield


def ready_backend(bundle_path: str | Path, configured: str) -> str:
    """Return the backend to open with: 'tl2cgen' serves packed until its libraries are built beside the bundle."""
    unbuilt = configured == "tl2cgen" and not (Path(bundle_path) / COMPILED_FOLDER).is_dir()
    return "auto" if unbuilt else configured


def check_manifest(bundle: Path, predictor: PackedPredictor) -> None:
    """Raise DataError unless the manifest tells of the model that the packed forest holds."""
    manifest = read_manifest(bundle)
    if int(manifest["schema_hash"]) != predictor.schema_hash:
        raise DataError(f"{bundle}: its manifest states feature schema {manifest['schema_hash']}, its forest another")
    if manifest["model_id"] != predictor.model_id or tuple(manifest["targets"]) != TARGETS:
        raise DataError(f"{bundle}: its manifest states another model or other targets than its forest")
    if manifest["golden"]["predictions"] != predictor.golden[1].tolist():
        raise DataError(f"{bundle}: its manifest's golden predictions are not its forest's: golden rows differ")
