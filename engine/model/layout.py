"""What one row reads, side by side on huge pages: quantisation levels, then the blocks made from the packed trees."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels.blocks import block_places, put_trees
from kernels.quantise import LEVEL, MAX_SLOTS
from kernels.simd import BLOCK_BYTES, LANES

Array = npt.NDArray[Any]

HUGE_PAGE = 1 << 21
LINE = 64
VBMI_SCRATCH = 4  # the last arrays of `vbmi_arrays`


def zeros_together(*shapes: tuple[int | tuple[int, ...], Any]) -> tuple[Array, ...]:
    """Return zeroed arrays, (shape, dtype) each, on cache lines of one mapping: on huge pages where they are granted.

    One page instead of hundreds: a row that comes after other work finds none of their addresses translated.
    """
    sizes = [-(-int(np.prod(shape)) * np.dtype(dtype).itemsize // LINE) * LINE for shape, dtype in shapes]
    whole = -(-sum(sizes) // HUGE_PAGE) * HUGE_PAGE
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # huge pages are for private memory alone
    mapped = mmap.mmap(-1, whole + HUGE_PAGE, flags=private)  # what is never written takes no memory
    base = np.frombuffer(mapped, np.uint8)
    offset = -base.ctypes.data % HUGE_PAGE
    with contextlib.suppress(OSError):  # a kernel without transparent huge pages
        mapped.madvise(mmap.MADV_HUGEPAGE, offset, whole)
    out = []
    for (shape, dtype), size in zip(shapes, sizes, strict=True):
        count = int(np.prod(shape))
        out.append(np.frombuffer(mapped, dtype, count=count, offset=offset).reshape(shape))
        offset += size
    return tuple(out)


def vbmi_arrays(arrays: dict[str, Array], features: int) -> tuple[Array, ...]:
    """Return the arrays that `kernels.vbmi.vbmi_row` reads, scratch last, made from a packed file's.

    Raises DataError where a tree's nodes are not in preorder.
    """
    trees, first_tree = arrays["mask_trees"], arrays["first_tree"]
    places, segments = block_places(trees, first_tree)
    blocks, targets = int(segments[-1, 3]) if len(segments) else 0, len(first_tree) - 1
    small, slots = quantisation(arrays["used"], arrays["levels"], features)
    target = np.repeat(np.arange(targets), np.diff(first_tree))
    values, units = whole_units(arrays["leaves"], trees, target, targets)
    shapes = [(part.shape, part.dtype) for part in small]
    *together, tables, found, leaves, constants, scales, x, starts, ranks, sums = zeros_together(
        *shapes, (blocks * BLOCK_BYTES, np.uint8), (segments.shape, np.int32), (blocks * LANES, np.int64),
        (targets, np.int64), (targets, np.float64), (MAX_SLOTS, np.float32), (MAX_SLOTS, np.int32),
        (MAX_SLOTS, np.uint8), (targets, np.int64),
    )  # fmt: skip
    for mine, part in zip((*together, found, scales), (*small, segments, units), strict=True):
        mine[:] = part
    alone = trees["nodes"] == 0
    np.add.at(constants, target[alone], values[trees["first_leaf"][alone]])
    if not put_trees(arrays["mask_nodes"], trees, values, places, slots, tables, leaves):
        raise DataError("a packed tree whose nodes are not in preorder: train it again")
    return (*together, tables, found, leaves, constants, scales, x, starts, ranks, sums)


def whole_units(values: Array, trees: Array, target: Array, targets: int) -> tuple[Array, Array]:
    """Return leaf values int64[] as multiples of their target's unit, and units float64[targets].

    A unit is the power of two that just keeps the largest possible sum within 62 bits: nine bits finer than the last of
    a float64 of that size, so that rounding values to it loses less than adding them as floats would.

    Raises DataError where that sum is not finite.
    """
    largest = np.maximum.reduceat(np.abs(values), trees["first_leaf"]) if len(trees) else np.zeros(0)
    most, bits = np.frexp(np.bincount(target, largest, targets))
    if not np.isfinite(most).all():
        raise DataError("leaf values without a finite sum: not served")
    exponent = 62 - np.maximum(bits, 62 - 1074)  # no unit is finer than the smallest float64
    of_leaf = np.repeat(exponent[target], trees["leaves"])
    return np.rint(np.ldexp(values, of_leaf)).astype(np.int64), np.ldexp(1.0, -exponent)


def quantisation(used: Array, levels: Array, features: int) -> tuple[tuple[Array, ...], Array]:
    """Return what `quantise_lanes` reads (used, picked, copied, pivots, thresholds), and each old slot's new one.

    A lane for each feature of the row where the slots suffice, so that nothing is gathered; else one for each used.
    """
    left, right = used["slot_left"].copy(), used["slot_right"].copy()
    nowhere = MAX_SLOTS - 1
    both = (left != right) & (left != nowhere) & (right != nowhere)
    whole = features + int(both.sum()) <= nowhere
    lane = used["feature"] if whole else np.arange(len(used))
    picked = np.zeros(0, np.uint16) if whole else used["feature"].copy()
    count = features if whole else len(used)
    thresholds = np.full((-(-count // LEVEL) * LEVEL, LEVEL + LEVEL * LEVEL), np.inf, np.float32)
    thresholds[lane] = levels.reshape(len(used), LEVEL + LEVEL * LEVEL)
    pivots = thresholds[:, :LEVEL].reshape(-1, LEVEL, LEVEL).transpose(0, 2, 1)
    mine = used.copy()
    mine["slot_left"], mine["slot_right"] = (
        np.where(left == nowhere, left, lane),
        np.where(right == nowhere, right, lane),
    )
    mine["slot_right"][both] = count + np.arange(int(both.sum()))
    slots = np.zeros(MAX_SLOTS, np.uint8)
    slots[left], slots[right] = mine["slot_left"], mine["slot_right"]
    new = np.full(count, np.array((0, nowhere, nowhere, 1), used.dtype))
    new[lane] = mine
    copied = lane[both].astype(np.uint8)
    return (new, picked, copied, pivots.ravel(), thresholds[:count, LEVEL:].ravel()), slots
