"""The plain node walk over a set of tree ensembles: slow, obvious, exact. Oracle of `kernels.forest` and its fallback.

LightGBM's rules, which the tables already carry: a row goes left when x <= threshold (x float32, threshold rounded
*down* to float32, so the comparison is the one in double); |x| <= 1e-35 is read as 0; NaN goes to the node's NaN side.
Leaf values are added in the order of the trees, in double: bit-identical to Booster.predict.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels.addresses import array_at
from kernels.compile import c_function, kernel

ZERO = np.float32(1e-35)  # LightGBM's kZeroThreshold: its Predictor drops such values, which reads as 0

NODE = np.dtype(
    [
        ("threshold", "<f4"),
        ("left", "<i4"),  # a node's index, or ~leaf
        ("right", "<i4"),
        ("feature", "<u2"),
        ("nan_left", "<u1"),
        ("spare", "<u1"),
    ]
)
NODE_TYPE = numba.from_dtype(NODE)


@kernel()
def walk_tree(nodes, root, row):
    """Return the leaf index that `row` reaches; `root` is a node's index or ~leaf."""
    at = root
    while at >= 0:
        node = nodes[at]
        x = row[node["feature"]]
        if x >= -ZERO and x <= ZERO:
            x = np.float32(0.0)
        if x != x:
            at = node["left"] if node["nan_left"] else node["right"]
        else:
            at = node["left"] if x <= node["threshold"] else node["right"]
    return ~at


@kernel(
    numba.void(
        NODE_TYPE[::1], numba.float64[::1], numba.int32[::1], numba.int32[::1], numba.float32[::1], numba.float64[::1]
    )
)
def walk_row(nodes, leaves, roots, first_tree, row, out):
    """Write float64[k], one prediction per ensemble.

    nodes: NODE[]; leaves: float64[]; roots: int32[trees]; first_tree: int32[k + 1]; row: float32[features].
    """
    for target in range(first_tree.size - 1):
        total = 0.0
        for tree in range(first_tree[target], first_tree[target + 1]):
            total += leaves[walk_tree(nodes, roots[tree], row)]
        out[target] = total


WORDS = 11  # of a table: 4 addresses, 4 sizes; then, where they are bound, those of the row and the answer


@kernel(numba.void(numba.int64[::1], numba.float32[::1], numba.float64[::1]), nogil=False)
def walk_on(table, row, out):
    """Do the same on a table: int64[8], the addresses of the first four arrays of `walk_row`, then their sizes."""
    nodes, leaves = array_at(table[0], table[4], NODE), array_at(table[1], table[5], np.float64)
    walk_row(nodes, leaves, array_at(table[2], table[6], np.int32), array_at(table[3], table[7], np.int32), row, out)


@c_function
def walk_c(address):
    """Do the same for compiled callers: the address of such a table, longer by the row's address, the answer's, and the
    row's size."""
    table = array_at(address, WORDS, np.int64)
    walk_on(table, array_at(table[8], table[10], np.float32), array_at(table[9], table[7] - 1, np.float64))


@kernel(
    numba.void(
        NODE_TYPE[::1],
        numba.float64[::1],
        numba.int32[::1],
        numba.int32[::1],
        numba.float32[:, ::1],
        numba.float64[:, ::1],
    )
)
def walk_batch(nodes, leaves, roots, first_tree, rows, out):
    """Write predictions float64[n, k] of rows float32[n, features]."""
    for i in range(rows.shape[0]):
        walk_row(nodes, leaves, roots, first_tree, rows[i], out[i])
