"""Evaluate a bundle: 8 predictions per vector. Imports neither lightgbm nor treelite: the engine process uses this."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from engine.model.layout import VBMI_SCRATCH, vbmi_arrays
from engine.model.packed import Packed
from engine.model.protocol import Bound, bound_python
from kernels.addresses import table_of
from kernels.compile import INTERPRETED, entry_point
from kernels.forest import lockstep_c, lockstep_row, mask_batch
from kernels.quantise import MAX_SLOTS
from kernels.simd import has_vbmi
from kernels.walk import walk_batch, walk_c, walk_on

if has_vbmi():  # importing compiles: for another target that would end the process
    from kernels.vbmi import vbmi_c, vbmi_row

Array = npt.NDArray[Any]

PACKED_NAME = "forest.bin"
WALK_TABLES = ("nodes", "leaves", "roots", "first_tree")
LOCKSTEP_TABLES = ("used", "levels", "lock_words", "lock_groups", "lock_spans", "lock_leaves")
BATCH_TABLES = ("used", "levels", "mask_nodes", "mask_trees", "first_tree", "leaves")


PREDICTORS = ("auto", "packed", "walk", "tl2cgen")
"""What configuration and operators choose from; 'auto' and 'packed' are the fastest packed backend of the machine."""

BACKENDS = ("vbmi", "lockstep", "walk")
"""How one row is evaluated, fastest first. Batches take mask propagation, or the walk where the tables do not fit."""


def usable_backends(packed: Packed) -> tuple[str, ...]:
    """Return the backends that this process can run on these tables, fastest first. Interpreted, only the walk is."""
    if "mask_trees" not in packed.arrays or INTERPRETED:
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
        self._tables, scratch, row, self._c = self._row_kernel(arrays)
        self._row = entry_point(row)
        read = self._tables[: len(self._tables) - scratch]
        self._table = table_of(*self._tables, *map(len, read))
        self._out = np.zeros(self.targets)

    def _row_kernel(self, arrays: dict[str, Array]) -> tuple[tuple[Array, ...], int, Any, Any]:
        """Return the arrays that the backend's kernel reads, how many of them are scratch at the end, and the kernel on
        a table of their addresses: with row and answer as arrays, and as a C function with theirs in the table too."""
        if self.backend == "walk":
            return tuple(arrays[name] for name in WALK_TABLES), 0, walk_on, walk_c
        if self.backend == "vbmi":
            return vbmi_arrays(arrays, self.features), VBMI_SCRATCH, vbmi_row, vbmi_c
        ranks = np.zeros(MAX_SLOTS, np.uint8)
        return (*(arrays[name] for name in LOCKSTEP_TABLES), ranks), 1, lockstep_row, lockstep_c

    def bind_c(self, row: Array, out: Array) -> Bound:
        """Return what predicts the contiguous float32[features] `row` into float64[8] `out`, as a C call.

        It holds the tables, and both arrays, which must stay where they are as long as it is used.
        """
        if INTERPRETED:
            return bound_python(partial(self.predict_into, row, out), out)
        table = np.concatenate([self._table, table_of(row, out, len(row))])
        return Bound(self._c.address, table.ctypes.data, None, (self, table, row, out))

    def predict_into(self, row: Array, out: Array) -> None:
        """Write float64[8] predictions of one contiguous float32[features] row. Nothing is checked: the hot call."""
        self._row(self._table, row, out)

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
