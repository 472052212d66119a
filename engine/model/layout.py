"""What one row reads, side by side on huge pages: quantisation levels, then the blocks made from the packed trees."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels.blocks import block_places, put_trees
from kernels.quantise import MAX_SLOTS
from kernels.simd import BLOCK_BYTES, LANES

Array = npt.NDArray[Any]

HUGE_PAGE = 1 << 21
LINE = 64


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


def vbmi_arrays(arrays: dict[str, Array]) -> tuple[Array, ...]:
    """Return what `kernels.vbmi` reads, from a packed file's arrays: used, levels, tables, segments, constants, leaves,
    and the scratch for a row's ranks.

    Raises DataError where a tree's nodes are not in preorder.
    """
    trees, first_tree, values = arrays["mask_trees"], arrays["first_tree"], arrays["leaves"]
    places, found = block_places(trees, first_tree)
    blocks, targets = int(found[-1, 3]) if len(found) else 0, len(first_tree) - 1
    used, levels, tables, segments, constants, leaves, ranks = zeros_together(
        (arrays["used"].shape, arrays["used"].dtype),
        (arrays["levels"].shape, np.float32),
        (blocks * BLOCK_BYTES, np.uint8),
        (found.shape, np.int32),
        (targets, np.float64),
        (blocks * LANES, np.float64),
        (MAX_SLOTS, np.uint8),
    )
    used[:], levels[:], segments[:] = arrays["used"], arrays["levels"], found
    alone = np.flatnonzero(trees["nodes"] == 0)
    target = np.searchsorted(first_tree, alone, side="right") - 1
    np.add.at(constants, target, values[trees["first_leaf"][alone]])
    if not put_trees(arrays["mask_nodes"], trees, values, places, tables, leaves):
        raise DataError("a packed tree whose nodes are not in preorder: train it again")
    return used, levels, tables, segments, constants, leaves, ranks
