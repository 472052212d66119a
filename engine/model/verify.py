"""Prove a packed forest against Booster.predict before it may serve."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from engine.model.opening import GOLDEN_TOLERANCE

Array = npt.NDArray[Any]

GOLDEN_ROWS = 32
PLANTED_ROWS = 10_240
PLANTED_SHARE = 0.3  # of a row's features that are replaced by a planted value
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-35, -1e-35, 1e-38, -1e-38, 3e38, -3e38], np.float32)


class Predicts(Protocol):
    """What is verified: any backend."""

    def predict_row(self, row: Array) -> Array: ...

    def predict(self, rows: Array) -> Array: ...


def planted_rows(boosters: dict[str, Any], sample: Array, seed: int, count: int = PLANTED_ROWS) -> Array:
    """Return float32[count, features]: rows of `sample` with values planted on thresholds, one ulp either side, and ±0,
    ±inf, NaN, ±1e-35. The first GOLDEN_ROWS are sampled rows with plain NaNs only.
    """
    rng = np.random.default_rng(seed)
    thresholds = _thresholds(boosters, sample.shape[1])
    rows = np.array(sample[np.sort(rng.integers(0, len(sample), count))], np.float32)
    rng.shuffle(rows)
    for feature, values in enumerate(thresholds):
        pool = np.concatenate([values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf), SPECIAL])
        chosen = rng.random(count) < PLANTED_SHARE
        chosen[:GOLDEN_ROWS] = False
        special = rng.random(count) < 0.15
        picked = np.where(special, rng.choice(SPECIAL, count), rng.choice(pool, count))
        rows[chosen, feature] = picked[chosen]
    rows[1:GOLDEN_ROWS:4][rng.random((len(rows[1:GOLDEN_ROWS:4]), rows.shape[1])) < 0.2] = np.nan
    rows[-1], rows[-2] = np.nan, 0.0
    return rows


def _thresholds(boosters: dict[str, Any], features: int) -> list[Array]:
    """Return each feature's thresholds over all models, as the nearest float32 (its neighbours are planted too)."""
    found: list[list[float]] = [[] for _ in range(features)]
    for booster in boosters.values():
        split: list[int] = []
        for line in booster.model_to_string().split("\nparameters:")[0].splitlines():
            if line.startswith("split_feature="):
                split = [int(part) for part in line[14:].split()]
            elif line.startswith("threshold="):
                for feature, value in zip(split, line[10:].split(), strict=True):
                    found[feature].append(float(value))
    with np.errstate(over="ignore"):
        return [np.unique(np.array(values, np.float64)).astype(np.float32) for values in found]


def reference(boosters: dict[str, Any], rows: Array) -> Array:
    """Return float64[n, targets] of Booster.predict."""
    return np.column_stack([booster.predict(rows) for booster in boosters.values()])


def verify(predictor: Predicts, expected: Array, rows: Array, targets: list[str]) -> dict[str, Any]:
    """Compare with Booster.predict: the batch bit-identical, a row within 1e-12 × the target's largest |reference|.

    Returns what was compared, for the manifest. Raises DataError naming the target and the row of the worst difference.
    """
    batch = predictor.predict(rows)
    single = np.array([predictor.predict_row(row) for row in rows])
    bound = GOLDEN_TOLERANCE * np.abs(expected).max(axis=0)
    for column, target in enumerate(targets):
        wrong = np.flatnonzero(batch[:, column] != expected[:, column])
        if len(wrong):
            raise DataError(
                f"{target}: {len(wrong)} of {len(rows)} rows differ from Booster.predict in a batch; the first, "
                f"row {wrong[0]}: expected {expected[wrong[0], column]!r}, got {batch[wrong[0], column]!r}"
            )
        wrong = np.flatnonzero(~(np.abs(single[:, column] - expected[:, column]) <= bound[column]))
        if len(wrong):
            raise DataError(
                f"{target}: {len(wrong)} of {len(rows)} single rows differ from Booster.predict; the first, "
                f"row {wrong[0]}: expected {expected[wrong[0], column]!r}, got {single[wrong[0], column]!r}"
            )
    return {"rows": len(rows), "largest_row_difference": float(np.abs(single - expected).max())}
