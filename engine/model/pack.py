"""Compile 8 LightGBM models, read through treelite's accessors, to the tables that the kernels evaluate.

Runs in jobs only: the engine maps the file that `write_packed` made (see `engine.model.packed`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels.walk import NODE

Array = npt.NDArray[Any]

FLT_MAX = np.finfo(np.float32).max
LESS_OR_EQUAL = 3  # treelite's comparison code for <=
NUMERICAL = 1  # treelite's node type of a numerical test; 0 is a leaf
MAX_NODES = 1 << 24  # of all trees together: 16 million nodes are far beyond any model that could serve in time
MISSING_NAMES = ("none", "zero", "nan")


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree: parallel arrays over its nodes in treelite's order, node 0 the root."""

    feature: Array
    threshold: Array  # float32, rounded down
    nan_left: Array
    left: Array
    right: Array
    leaf: Array  # bool
    value: Array


def missing_types(model_text: str, features: int) -> list[str]:
    """Return each feature's missing type ('none', 'nan', '' where unused) as the LightGBM text states it.

    Raises DataError on what the tables cannot express: categorical splits, linear trees, zero_as_missing, averaged
    output, more than one output per row.
    """
    types = [""] * features
    split: list[int] = []
    for line in model_text.split("\nparameters:")[0].splitlines():
        key, _, value = line.partition("=")
        if key == "split_feature":
            split = [int(part) for part in value.split()]
        elif key == "decision_type":
            for feature, bits in zip(split, (int(part) for part in value.split()), strict=True):
                if bits & 1:
                    raise DataError("a categorical split: only numerical splits are served")
                types[feature] = MISSING_NAMES[(bits >> 2) & 3]
                if types[feature] == "zero":
                    raise DataError("a model trained with zero_as_missing: not served")
        elif key == "is_linear" and value.strip() != "0":
            raise DataError("a linear tree: only constant leaves are served")
        elif key == "num_tree_per_iteration" and value.strip() != "1":
            raise DataError(f"{value.strip()} outputs per row: expected 1")
        elif line == "average_output":
            raise DataError("averaged output (a random forest): only boosted sums are served")
    return types


def float32_down(threshold: Array) -> Array:
    """Round float64 thresholds down to float32, so that for every float32 x: x <= result ⟺ x <= threshold.

    A finite threshold above the largest float32 (LightGBM writes 1e300 for a bound of infinity) becomes FLT_MAX, never
    inf; inf itself stays (LightGBM writes it where NaN alone goes the other way, and +inf then goes left).
    """
    with np.errstate(over="ignore"):
        nearest = threshold.astype(np.float32)
    down = np.where(nearest.astype(np.float64) > threshold, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return np.where(threshold == np.inf, np.float32(np.inf), np.minimum(down, FLT_MAX)).astype(np.float32)


def read_trees(model: Any, missing: list[str]) -> list[Tree]:
    """Return the trees of one treelite model. `missing` is what `missing_types` returned for it.

    treelite keeps a node's default side; where the feature's missing type is 'none', LightGBM reads NaN as 0.0 instead.
    """
    header = model.get_header_accessor()
    if int(header.get_field("average_tree_output")[0]) or header.get_field("postprocessor") != "identity":
        raise DataError("a model whose output is not the plain sum of its leaves: not served")
    base = float(np.sum(header.get_field("base_scores")))
    if base != 0.0:
        raise DataError(f"a base score of {base}: expected 0 (LightGBM keeps it in the first tree)")
    unseen = np.array([kind == "none" for kind in missing])
    return [_read_tree(model.get_tree_accessor(index), unseen) for index in range(model.num_tree)]


def _read_tree(accessor: Any, none_type: Array) -> Tree:
    def field(name: str) -> Array:
        return np.array(accessor.get_field(name))  # a copy: treelite's own array dies with the model

    kind, left, right = field("node_type"), field("cleft"), field("cright")
    leaf = left < 0
    feature = np.where(leaf, 0, field("split_index"))
    if (kind[~leaf] != NUMERICAL).any() or (field("cmp")[~leaf] != LESS_OR_EQUAL).any():
        raise DataError("a split that is not numerical <=: not served")
    threshold = field("threshold").astype(np.float64)
    if np.isnan(threshold[~leaf]).any():
        raise DataError("a threshold that is not a number")
    nan_left = np.where(none_type[feature], threshold >= 0.0, field("default_left").astype(bool))
    value = np.where(leaf, field("leaf_value").astype(np.float64), 0.0)
    return Tree(feature, float32_down(threshold), nan_left, left, right, leaf, value)


def node_tables(ensembles: list[list[Tree]]) -> dict[str, Array]:
    """Return the tables of `kernels.walk`: nodes, leaves, roots, first_tree."""
    trees = [tree for ensemble in ensembles for tree in ensemble]
    counts = [int((~tree.leaf).sum()) for tree in trees]
    if sum(counts) > MAX_NODES:
        raise DataError(f"{sum(counts)} nodes in all: expected at most {MAX_NODES}")
    nodes = np.zeros(sum(counts), NODE)
    leaves: list[Array] = []
    roots = np.zeros(len(trees), np.int32)
    node_base = leaf_base = 0
    for index, (tree, count) in enumerate(zip(trees, counts, strict=True)):
        inner = ~tree.leaf
        number = np.where(inner, np.cumsum(inner) - 1 + node_base, ~(np.cumsum(tree.leaf) - 1 + leaf_base))
        part = nodes[node_base : node_base + count]
        part["threshold"], part["feature"] = tree.threshold[inner], tree.feature[inner]
        part["left"], part["right"] = number[tree.left[inner]], number[tree.right[inner]]
        part["nan_left"] = tree.nan_left[inner]
        roots[index] = number[0]
        leaves.append(tree.value[tree.leaf])
        node_base += count
        leaf_base += int(tree.leaf.sum())
    first_tree = np.concatenate([[0], np.cumsum([len(ensemble) for ensemble in ensembles])]).astype(np.int32)
    values = np.concatenate(leaves) if leaves else np.zeros(0)
    return {"nodes": nodes, "leaves": values, "roots": roots, "first_tree": first_tree}
