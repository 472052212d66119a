"""Packed forests on quantised rows: one row by 8 trees in lockstep, a batch by mask propagation. Runs on every CPU.

Trees have at most 64 leaves; a child code below 64 is a leaf's number, from 64 on an internal node's. `kernels.vbmi`
evaluates a row faster where the CPU has AVX-512 VBMI; `kernels.walk` evaluates what does not fit these tables.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels.addresses import array_at
from kernels.compile import c_function, kernel
from kernels.quantise import MAX_SLOTS, USED, USED_TYPE, quantise_row
from kernels.simd import at_most_mask, store_planes

LANES = 8  # trees walked together: as many dependent loads in flight as fit the registers
ROWS = 64  # rows of a batch evaluated together: one bit each

NODE8 = np.dtype([("slot", "<u2"), ("rank", "<u1"), ("left", "<u1"), ("right", "<u1"), ("spare", "<u1")])
TREE = np.dtype([("first_node", "<u4"), ("first_leaf", "<u4"), ("nodes", "<u2"), ("leaves", "<u2"), ("depth", "<u4")])
NODE8_TYPE = numba.from_dtype(NODE8)
TREE_TYPE = numba.from_dtype(TREE)
"""Internal nodes of a tree lie parent before child; its leaves in the order of their numbers."""


@kernel()
def _root(words, first):
    """Return the local number of a tree's root: kept in the word before its nodes."""
    return words[first - 1]


@kernel()
def _step(words, first, at, ranks):
    """Return the child of local node `at`; a leaf is its own child."""
    word = words[first + at]
    right = ranks[word & 0x1FF] > ((word >> 9) & 0xFF)
    return ((word >> 24) if right else (word >> 17)) & 0x7F


WORDS = 16  # of a table: 7 addresses, 6 sizes; then, where they are bound, those of the row and the answer


@kernel(numba.void(numba.int64[::1], numba.float32[::1], numba.float64[::1]), nogil=False)
def lockstep_row(table, row, out):
    """Write float64[k] predictions of one row, 8 trees at a time.

    table: int64[13], the addresses of used and levels (`quantise_row`), words, groups, spans, leaves and of uint8[256]
    scratch, then the sizes of the first six. words: uint32[] nodes, leaves among them: slot 9 bits, rank 8,
    left 7, right 7 (leaf nodes come first, so a leaf's node number is its leaf number); groups: int32[g, 17]: 8 × first
    word, 8 × first leaf value, steps; spans: int32[k, 2] first and last + 1 group per target. Trees are sorted by depth
    within a target: the sum's order is not LightGBM's.
    """
    used, levels = array_at(table[0], table[7], USED), array_at(table[1], table[8], np.float32)
    words, groups = array_at(table[2], table[9], np.uint32), array_at(table[3], (table[10], 2 * LANES + 1), np.int32)
    spans, leaves = array_at(table[4], (table[11], 2), np.int32), array_at(table[5], table[12], np.float64)
    ranks = array_at(table[6], MAX_SLOTS, np.uint8)
    quantise_row(used, levels, row, ranks)
    for target in range(spans.shape[0]):
        total = 0.0
        for g in range(spans[target, 0], spans[target, 1]):
            f0, f1, f2, f3 = groups[g, 0], groups[g, 1], groups[g, 2], groups[g, 3]
            f4, f5, f6, f7 = groups[g, 4], groups[g, 5], groups[g, 6], groups[g, 7]
            a0, a1, a2, a3 = _root(words, f0), _root(words, f1), _root(words, f2), _root(words, f3)
            a4, a5, a6, a7 = _root(words, f4), _root(words, f5), _root(words, f6), _root(words, f7)
            for _ in range(groups[g, 16]):
                a0 = _step(words, f0, a0, ranks)
                a1 = _step(words, f1, a1, ranks)
                a2 = _step(words, f2, a2, ranks)
                a3 = _step(words, f3, a3, ranks)
                a4 = _step(words, f4, a4, ranks)
                a5 = _step(words, f5, a5, ranks)
                a6 = _step(words, f6, a6, ranks)
                a7 = _step(words, f7, a7, ranks)
            total += leaves[groups[g, 8] + a0] + leaves[groups[g, 9] + a1]
            total += leaves[groups[g, 10] + a2] + leaves[groups[g, 11] + a3]
            total += leaves[groups[g, 12] + a4] + leaves[groups[g, 13] + a5]
            total += leaves[groups[g, 14] + a6] + leaves[groups[g, 15] + a7]
        out[target] = total


@c_function
def lockstep_c(address):
    """Do the same for compiled callers: the address of such a table, longer by the row's address, the answer's, and the
    row's size."""
    table = array_at(address, WORDS, np.int64)
    lockstep_row(table, array_at(table[13], table[15], np.float32), array_at(table[14], table[11], np.float64))


@kernel(
    numba.void(
        USED_TYPE[::1],
        numba.float32[::1],
        NODE8_TYPE[::1],
        TREE_TYPE[::1],
        numba.int32[::1],
        numba.float64[::1],
        numba.float32[:, ::1],
        numba.float64[:, ::1],
    )
)
def mask_batch(used, levels, nodes, trees, first_tree, leaves, rows, out):
    """Write float64[n, k] predictions of float32[n, features], 64 rows at a time, summed in LightGBM's order.

    Each node compares one column of 64 bytes with its rank; the 64-bit mask of rows that reach it is split between its
    children; a leaf's mask says which rows ended there.
    """
    ranks = np.zeros(256, np.uint8)
    columns = np.zeros(256 * ROWS, np.uint8)
    reach = np.zeros(128, np.uint64)
    ids = np.zeros(ROWS, np.uint8)
    sums = np.zeros(ROWS)
    for begin in range(0, rows.shape[0], ROWS):
        count = min(ROWS, rows.shape[0] - begin)
        for r in range(count):
            quantise_row(used, levels, rows[begin + r], ranks)
            for s in range(256):
                columns[s * ROWS + r] = ranks[s]
        for target in range(first_tree.size - 1):
            sums[:] = 0.0
            for t in range(first_tree[target], first_tree[target + 1]):
                tree = trees[t]
                reach[64] = np.uint64(0xFFFFFFFFFFFFFFFF)  # the root's code, or leaf 0 of a tree without a split
                if tree.nodes == 0:
                    reach[0] = reach[64]
                for n in range(tree.nodes):
                    node = nodes[tree.first_node + n]
                    goes = at_most_mask(columns, np.int64(node.slot) * ROWS, node.rank)
                    here = reach[64 + n]
                    reach[node.left] = here & goes
                    reach[node.right] = here & ~goes
                p0 = p1 = p2 = p3 = p4 = p5 = np.uint64(0)
                for leaf in range(tree.leaves):
                    mask = reach[leaf]
                    p0 |= mask if leaf & 1 else np.uint64(0)
                    p1 |= mask if leaf & 2 else np.uint64(0)
                    p2 |= mask if leaf & 4 else np.uint64(0)
                    p3 |= mask if leaf & 8 else np.uint64(0)
                    p4 |= mask if leaf & 16 else np.uint64(0)
                    p5 |= mask if leaf & 32 else np.uint64(0)
                store_planes(ids, p0, p1, p2, p3, p4, p5)
                for r in range(ROWS):
                    sums[r] += leaves[np.int64(tree.first_leaf) + ids[r]]
            for r in range(count):
                out[begin + r, target] = sums[r]
