"""Laying trees out in the blocks that `kernels.vbmi` evaluates, from the byte trees of the packed file."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from kernels.compile import kernel
from kernels.forest import NODE8_TYPE, TREE_TYPE
from kernels.simd import BLOCK_BYTES, LANES

ROOTS = (1, 2, 4, 8)  # trees of a block: what their leaves allow
DOUBLINGS = (3, 4, 5)  # a shallower tree loses two instructions, and its own loop would lose more
INNER = 64  # `kernels.forest`: a child code from here on is an internal node's number
LEFT_IS_LEAF = 0x80


@kernel()
def _successor(lane, roots):
    """`simd.successor`, compiled."""
    return roots + lane * ((LANES - roots) // roots) if lane < roots else (lane + 1) % LANES


@kernel()
def _put_tree(nodes, first, count, values, first_leaf, slots, tables, leaves, block, roots, place):
    """Write one tree as number `place` of `roots` into a block; return False unless its nodes are in preorder.

    The tree owns lane and leaf `place`, and those behind successor(place): as many leaves as lanes.
    """
    table, leaf_base = block * BLOCK_BYTES, block * LANES
    second = _successor(place, roots)
    taken = np.uint64(0)
    lane = place
    for n in range(count):
        left = np.int64(nodes[first + n].left)
        following = second if n == 0 else lane + 1  # the last lane of all is never taken: it has no successor
        if left < INNER:
            taken |= np.uint64(1) << np.uint64(following)
            leaves[leaf_base + following] = values[first_leaf + left]
        elif left != INNER + n + 1:
            return False
        lane = second + n
    lane = free = place
    for n in range(count):
        left, right = np.int64(nodes[first + n].left), np.int64(nodes[first + n].right)
        code = second + right - INNER - 1
        if right < INNER:
            while taken & (np.uint64(1) << np.uint64(free)):
                free = second if free == place else free + 1
            taken |= np.uint64(1) << np.uint64(free)
            leaves[leaf_base + free] = values[first_leaf + right]
            code = INNER + free
        tables[table + lane], tables[table + LANES + lane] = slots[nodes[first + n].slot], nodes[first + n].rank
        tables[table + 2 * LANES + lane] = code | (LEFT_IS_LEAF if left < INNER else 0)
        lane = second + n
    return True


@kernel(
    numba.boolean(
        NODE8_TYPE[::1],
        TREE_TYPE[::1],
        numba.int64[::1],
        numba.int64[:, ::1],
        numba.uint8[::1],
        numba.uint8[::1],
        numba.int64[::1],
    )
)
def put_trees(nodes, trees, values, places, slots, tables, leaves):
    """Fill tables and leaves; places: int64[trees, 3] block, place in it, trees in it (0: no split, left out);
    slots: uint8[256], the new slot of each old one.
    """
    for t in range(trees.size):
        block, place, roots = places[t, 0], places[t, 1], places[t, 2]
        if roots == 0:
            continue
        if place == 0:  # until its tree comes, a root's two children are one leaf of value 0
            for root in range(roots):
                tables[block * BLOCK_BYTES + 2 * LANES + root] = LEFT_IS_LEAF | INNER | _successor(root, roots)
        first, count, leaf = np.int64(trees[t].first_node), np.int64(trees[t].nodes), np.int64(trees[t].first_leaf)
        if not _put_tree(nodes, first, count, values, leaf, slots, tables, leaves, block, roots, place):
            return False
    return True


def block_places(
    trees: npt.NDArray[np.void], first_tree: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return where each tree goes (int64[trees, 3]) and the segments of `kernels.vbmi` (int32[s, 4])."""
    split = trees["nodes"] > 0
    roots = np.array(ROOTS)[3 - np.searchsorted([8, 16, 32], trees["leaves"])]
    depth = np.searchsorted([8, 16], trees["depth"])
    kind = np.searchsorted(ROOTS, roots) * len(DOUBLINGS) + depth
    target = np.repeat(np.arange(len(first_tree) - 1), np.diff(first_tree))
    group = np.where(split, target * len(ROOTS) * len(DOUBLINGS) + kind, -1)
    order = np.argsort(group, kind="stable")
    names, starts, counts = np.unique(group[order], return_index=True, return_counts=True)
    places = np.zeros((len(trees), 3), np.int64)
    segments = []
    block = 0
    for name, start, count in zip(names.tolist(), starts.tolist(), counts.tolist(), strict=True):
        if name < 0:
            continue
        mine = order[start : start + count]
        number = np.arange(count)
        width = int(roots[mine[0]])
        places[mine] = np.stack([block + number // width, number % width, np.full(count, width)], axis=1)
        end = block - (-count // width)
        segments.append((name // (len(ROOTS) * len(DOUBLINGS)), name % (len(ROOTS) * len(DOUBLINGS)), block, end))
        block = end
    return places, np.array(segments, np.int32).reshape(-1, 4)
