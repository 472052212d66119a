"""Write a bundle: model texts, treelite checkpoints, packed forest, manifest; proved before it gets its name."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.dataset import Dataset
from engine.model.files import hash_files
from engine.model.labels import LabelSettings
from engine.model.opening import MANIFEST_NAME
from engine.model.pack import missing_types, read_trees
from engine.model.packed import read_packed, write_packed
from engine.model.predictor import PACKED_NAME, PackedPredictor, usable_backends
from engine.model.report import REPORT_NAME, render
from engine.model.tables import forest_tables
from engine.model.verify import GOLDEN_ROWS, planted_rows, reference, verify
from kernels.compile import source_hash
from kernels.schema import FEATURES, SCHEMA_HASH, SCHEMA_VERSION, TARGETS

Array = npt.NDArray[Any]

FORMAT = 1


def new_model_id(data_hash: str, now_ms: int) -> str:
    """Return an id that sorts by time and fits the journal's 40 bytes."""
    return f"{datetime.fromtimestamp(now_ms // 1000, UTC):%Y%m%dT%H%M%S}.{now_ms % 1000:03d}-{data_hash[:8]}"


def write_bundle(
    parent: Path,
    boosters: dict[str, Any],
    data: Dataset,
    parameters: dict[str, Any],
    now_ms: int,
    labels: LabelSettings | None = None,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a bundle as a folder below `parent` and return its path; the folder appears only when it is complete.

    The packed forest is compared with Booster.predict on golden and planted rows first. Raises DataError on a model
    that cannot be served or that is predicted differently; nothing is left behind then.
    """
    data_hash = data.hash()
    model_id = new_model_id(data_hash, now_ms)
    parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        missing = _write_models(partial, boosters)
        seen_nan = np.array([np.isnan(data.x[:, column]).any() for column in range(len(FEATURES))])
        rows = planted_rows(boosters, data.x, seed=int(parameters.get("seed", 0)))
        expected = reference(boosters, rows)
        golden = rows[:GOLDEN_ROWS], expected[:GOLDEN_ROWS]
        warnings = _write_forest(partial, model_id, missing, ~seen_nan, golden)
        packed = read_packed(partial / PACKED_NAME)
        checked = {
            backend: verify(PackedPredictor(packed, model_id, backend), expected, rows, list(boosters))
            for backend in usable_backends(packed)
        }
        manifest = _describe(model_id, data, data_hash, now_ms) | {
            "parameters": parameters,
            "labels": asdict(labels or LabelSettings()),
            "missing_types": {t: dict(zip(FEATURES, kinds, strict=True)) for t, kinds in missing.items()},
            "nan_in_training": [name for name, seen in zip(FEATURES, seen_nan, strict=True) if seen],
            "verified": checked,
            "warnings": warnings,
            "golden": {"rows": _rows_json(golden[0]), "predictions": golden[1].tolist()},
            **(extra or {}),
        }
        if "metrics" in manifest:
            (partial / REPORT_NAME).write_text(render(manifest, manifest["metrics"]))
        manifest["files"] = hash_files(partial)
        (partial / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1, allow_nan=False))
        final = parent / model_id
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def _describe(model_id: str, data: Dataset, data_hash: str, now_ms: int) -> dict[str, Any]:
    """Return what the manifest says of the model's identity and its data."""
    return {
        "format": FORMAT,
        "model_id": model_id,
        "created": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(),
        "schema_version": SCHEMA_VERSION,
        "schema_hash": str(SCHEMA_HASH),  # a string: JSON readers lose 64-bit integers
        "features": list(FEATURES),
        "targets": list(TARGETS),
        "symbols": list(data.symbols),
        "from_ms": int(data.time_ms[0]),
        "to_ms": int(data.time_ms[-1]),
        "labels_to_ms": int(data.time_ms[-1]) + data.horizon_minutes * 60_000,
        "rows": len(data),
        "independent_labels": data.independent_labels,
        "data_hash": data_hash,
        "code_version": importlib.metadata.version("ta-engine"),
        "kernel_hash": source_hash(),
        "deterministic": True,
    }


def _write_models(folder: Path, boosters: dict[str, Any]) -> dict[str, list[str]]:
    import treelite

    missing = {}
    for target, booster in boosters.items():
        text = booster.model_to_string()
        (folder / f"{target}.txt").write_text(text)
        missing[target] = missing_types(text, len(FEATURES))
        treelite.frontend.from_lightgbm(booster).serialize(str(folder / f"{target}.treelite"))
    return missing


def _write_forest(
    folder: Path, model_id: str, missing: dict[str, list[str]], unseen: Array, golden: tuple[Array, Array]
) -> list[str]:
    """Write the packed file from the treelite checkpoints; it carries all that the engine needs to know and prove."""
    import treelite

    ensembles = []
    for target in missing:
        model = treelite.Model.deserialize(str(folder / f"{target}.treelite"))
        ensembles.append(read_trees(model, missing[target]))
    tables, warnings = forest_tables(ensembles)
    tables["nan_unseen"] = unseen.astype(np.uint8)
    # The models share one Dataset, so a feature's missing type is the same wherever it is used.
    tables["nan_as_zero"] = np.array(["none" in kinds for kinds in zip(*missing.values(), strict=True)], np.uint8)
    tables["golden_rows"], tables["golden_predictions"] = golden
    tables["model_id"] = np.frombuffer(model_id.encode(), np.uint8)
    tables["targets"] = np.frombuffer(",".join(missing).encode(), np.uint8)
    write_packed(folder / PACKED_NAME, tables, SCHEMA_HASH, len(FEATURES))
    return warnings


def _rows_json(rows: Array) -> list[list[float | str | None]]:
    """Return rows as JSON values: null is NaN, 'inf' and '-inf' infinities."""

    def value(x: float) -> float | str | None:
        if np.isnan(x):
            return None
        return float(x) if np.isfinite(x) else str(float(x))

    return [[value(x) for x in row] for row in rows]
