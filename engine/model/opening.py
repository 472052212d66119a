"""Opening a bundle: its manifest read, its forest mapped and proved on its golden rows before it may serve."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.model.compiled import COMPILED_FOLDER, CompiledPredictor, open_library
from engine.model.packed import Packed, read_packed
from engine.model.predictor import PACKED_NAME, PackedPredictor
from engine.urgency import impatient
from kernels.schema import FEATURES, SCHEMA_HASH, TARGETS

CARRIED = ("nodes", "leaves", "roots", "first_tree", "nan_unseen", "nan_as_zero", "golden_rows", "model_id", "targets")
GOLDEN_STEP = 4  # golden rows proved in one go: well under a millisecond on every backend
MANIFEST_NAME = "manifest.json"
GOLDEN_TOLERANCE = 1e-12  # of the target's largest |reference|: another order of summation, nothing else


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

    The file's checksum is computed and its trees laid out in threads, mostly in calls that release the GIL (the rest
    gives way to the loop within `engine.urgency.SWITCH_S`); golden rows are proved few at a time.
    """
    bundle = Path(bundle_path)
    packed = await asyncio.to_thread(read_packed, bundle / PACKED_NAME)
    if backend == "tl2cgen":
        for target in TARGETS:  # opened one by one, then held by the loader: opening all at once would take too long
            open_library(bundle, target)
            await asyncio.sleep(0)
    with impatient():
        predictor = await asyncio.to_thread(_identified, packed, bundle, backend)
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
