"""Byte tables of the fast kernels: quantisation levels, lockstep words, mask-propagation nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.pack import Tree, node_tables
from kernels.forest import LANES, NODE8, TREE
from kernels.quantise import LEVEL, MAX_SLOTS, MAX_THRESHOLDS, USED

Array = npt.NDArray[Any]

MAX_LEAVES = 64
MAX_DEPTH = 32
INNER64 = 64  # child code of an internal node


@dataclass(frozen=True, slots=True)
class ByteTree:
    """One tree on ranks: internal nodes parent before child; children are leaf numbers or 64 + internal number."""

    slot: Array
    rank: Array
    left: Array
    right: Array
    values: Array
    depth: int


def obstacles(ensembles: list[list[Tree]]) -> list[str]:
    """Return why these trees cannot be byte tables (they are then served by the plain walk); empty if they can."""
    found = []
    trees = [tree for ensemble in ensembles for tree in ensemble]
    leaves = max((int(tree.leaf.sum()) for tree in trees), default=0)
    if leaves > MAX_LEAVES:
        found.append(f"a tree of {leaves} leaves: the fast kernels take {MAX_LEAVES}")
        return found
    depth = max((_depth(tree) for tree in trees), default=0)
    if depth > MAX_DEPTH:
        found.append(f"a tree of depth {depth}: the fast kernels take {MAX_DEPTH}")
    for feature, (thresholds, _) in _thresholds(trees).items():
        if len(thresholds) > MAX_THRESHOLDS:
            found.append(f"feature {feature} has {len(thresholds)} thresholds: the fast kernels take {MAX_THRESHOLDS}")
    used = len(_thresholds(trees))
    if used > MAX_SLOTS - 1:
        found.append(f"{used} features are used: the fast kernels take {MAX_SLOTS - 1}")
    return found


def forest_tables(ensembles: list[list[Tree]]) -> tuple[dict[str, Array], list[str]]:
    """Return every table of the packed file, and the warnings to keep with it: why only the plain walk serves."""
    tables = node_tables(ensembles)
    warnings = obstacles(ensembles)
    if not warnings:
        fast, warnings = fast_tables(ensembles)
        tables |= fast
    return tables, [f"served by the plain node walk: {warning}" for warning in warnings]


def _depth(tree: Tree) -> int:
    depth = np.zeros(len(tree.leaf), np.int64)
    for node in _parents_first(tree):
        depth[[tree.left[node], tree.right[node]]] = depth[node] + 1
    return int(depth.max(initial=0))


def _parents_first(tree: Tree) -> list[int]:
    order, pending = [], [0]
    while pending:
        node = pending.pop()
        if not tree.leaf[node]:
            order.append(node)
            pending += [int(tree.right[node]), int(tree.left[node])]
    return order


def _thresholds(trees: list[Tree]) -> dict[int, tuple[Array, set[tuple[float, bool]]]]:
    """Return feature → (distinct thresholds ascending, pairs of threshold and NaN side)."""
    pairs: dict[int, set[tuple[float, bool]]] = {}
    for tree in trees:
        inner = ~tree.leaf
        columns = (tree.feature[inner].tolist(), tree.threshold[inner].tolist(), tree.nan_left[inner].tolist())
        for feature, threshold, nan_left in zip(*columns, strict=True):
            pairs.setdefault(int(feature), set()).add((threshold, bool(nan_left)))
    return {
        feature: (np.unique(np.array([threshold for threshold, _ in found], np.float32)), found)
        for feature, found in sorted(pairs.items())
    }


def fast_tables(ensembles: list[list[Tree]]) -> tuple[dict[str, Array], list[str]]:
    """Return all tables of the fast kernels, or none and the reason. Trees must be free of `obstacles`."""
    thresholds = _thresholds([tree for ensemble in ensembles for tree in ensemble])
    used = np.zeros(len(thresholds), USED)
    levels = np.full((len(thresholds), LEVEL + LEVEL * LEVEL), np.inf, np.float32)
    slots: dict[tuple[int, bool], int] = {}
    next_slot = 0
    for row, (feature, (values, pairs)) in enumerate(thresholds.items()):
        levels[row, LEVEL : LEVEL + len(values)] = values
        levels[row, :LEVEL] = levels[row, LEVEL:].reshape(LEVEL, LEVEL)[:, -1]
        as_zero = all(nan_left == (threshold >= 0.0) for threshold, nan_left in pairs)
        sides = {nan_left for _, nan_left in pairs}
        needed = 1 if as_zero or len(sides) == 1 else 2
        for side in (True, False):
            slots[feature, side] = next_slot + (1 if needed == 2 and not side else 0)
        # The last byte of `ranks` takes what no node reads: the side that a one-sided feature does not have.
        left = slots[feature, True] if as_zero or True in sides else MAX_SLOTS - 1
        right = slots[feature, False] if as_zero or False in sides else MAX_SLOTS - 1
        used[row] = (feature, left, right, as_zero)
        next_slot += needed
    if next_slot > MAX_SLOTS - 1:
        return {}, [f"{next_slot} features and NaN sides: the fast kernels take {MAX_SLOTS - 1}"]
    ranked = [[_byte_tree(tree, thresholds, slots) for tree in ensemble] for ensemble in ensembles]
    tables = {"used": used, "levels": levels.ravel()}
    return tables | _batch_tables(ranked) | _lockstep_tables(ranked), []


def _byte_tree(tree: Tree, thresholds: dict[int, Any], slots: dict[tuple[int, bool], int]) -> ByteTree:
    order = _parents_first(tree)
    code = np.zeros(len(tree.leaf), np.int64)
    code[np.array(order, np.int64)] = INNER64 + np.arange(len(order))
    code[tree.leaf] = np.arange(int(tree.leaf.sum()))
    slot, rank = np.zeros(len(order), np.uint16), np.zeros(len(order), np.uint8)
    for number, node in enumerate(order):
        feature = int(tree.feature[node])
        slot[number] = slots[feature, bool(tree.nan_left[node])]
        rank[number] = np.searchsorted(thresholds[feature][0], tree.threshold[node])
    nodes = np.array(order, np.int64)
    left, right = code[tree.left[nodes]], code[tree.right[nodes]]
    return ByteTree(slot, rank, left, right, tree.value[tree.leaf], _depth(tree))


def _batch_tables(ranked: list[list[ByteTree]]) -> dict[str, Array]:
    trees = [tree for ensemble in ranked for tree in ensemble]
    table = np.zeros(len(trees), TREE)
    nodes = np.zeros(sum(len(tree.slot) for tree in trees), NODE8)
    first_node = first_leaf = 0
    for row, tree in zip(table, trees, strict=True):
        count = len(tree.slot)
        row["first_node"], row["first_leaf"], row["nodes"] = first_node, first_leaf, count
        row["leaves"], row["depth"] = len(tree.values), tree.depth
        part = nodes[first_node : first_node + count]
        part["slot"], part["rank"], part["left"], part["right"] = tree.slot, tree.rank, tree.left, tree.right
        first_node += count
        first_leaf += len(tree.values)
    return {"mask_nodes": nodes, "mask_trees": table}


def _lockstep_tables(ranked: list[list[ByteTree]]) -> dict[str, Array]:
    words: list[Array] = []
    leaves: list[Array] = []
    groups: list[Array] = []
    spans: list[tuple[int, int]] = []
    word = leaf = 0
    none = np.zeros(0, np.int64)
    null = ByteTree(none, none, none, none, np.zeros(1), 0)
    for ensemble in ranked:
        first_group = len(groups)
        ordered = sorted(ensemble, key=lambda tree: tree.depth)
        ordered += [null] * (-len(ordered) % LANES)
        for start in range(0, len(ordered), LANES):
            batch = ordered[start : start + LANES]
            row = np.zeros(2 * LANES + 1, np.int32)
            for lane, tree in enumerate(batch):
                row[lane], row[LANES + lane] = word + 1, leaf
                words.append(_words(tree))
                leaves.append(tree.values)
                word += len(words[-1])
                leaf += len(tree.values)
            row[2 * LANES] = max(tree.depth for tree in batch)
            groups.append(row)
        spans.append((first_group, len(groups)))
    return {
        "lock_words": np.concatenate(words),
        "lock_groups": np.array(groups, np.int32).reshape(-1, 2 * LANES + 1),
        "lock_spans": np.array(spans, np.int32),
        "lock_leaves": np.concatenate(leaves),
    }


def _words(tree: ByteTree) -> Array:
    """Return the root's number, then the leaves as their own children, then the internal nodes."""
    count = len(tree.values)
    own = np.arange(count, dtype=np.uint32)

    def local(code: Array) -> Array:
        return np.where(code >= INNER64, code - INNER64 + count, code).astype(np.uint32)

    ends = own << 17 | own << 24
    inner = tree.slot.astype(np.uint32) | tree.rank.astype(np.uint32) << 9
    inner = inner | local(tree.left) << 17 | local(tree.right) << 24
    root = np.array([count if len(tree.slot) else 0], np.uint32)
    return np.concatenate([root, ends, inner]).astype(np.uint32)
