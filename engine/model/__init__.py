"""Models: `load(bundle_path)` is the door. Imports are lazy: the engine process stays free of lightgbm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.model.predictor import PackedPredictor

__all__ = ["load"]


def load(bundle_path: str | Path, backend: str = "auto") -> PackedPredictor:
    """Open a bundle whose files all match the hashes in its manifest, and return its predictor.

    `predict_row(float32[132]) -> float64[8]` and `predict(float32[n, 132]) -> float64[n, 8]`, targets in the order of
    `kernels.schema.TARGETS`. Raises DataError naming what is wrong.
    """
    from engine.model.files import check_files
    from engine.model.opening import check_manifest, open_packed

    check_files(Path(bundle_path))
    predictor = open_packed(bundle_path, backend)
    check_manifest(Path(bundle_path), predictor)
    return predictor
