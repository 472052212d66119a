"""Turn a float32 row into one byte per feature and NaN side, so that every comparison of every tree is one on bytes.

q[f] = number of distinct thresholds of f below x[f], over all models; then x <= threshold ⟺ q <= rank of the threshold.
A feature takes one slot, or two where its nodes send NaN to different sides: NaN→left is 0, NaN→right is 255.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels.compile import kernel
from kernels.simd import count_below16
from kernels.walk import ZERO

LEVEL = 16  # a two-level search: 16 pivots, then 16 thresholds behind one of them
MAX_THRESHOLDS = LEVEL * LEVEL - 1
MAX_SLOTS = 256
NAN_RIGHT = 255  # above every rank

USED = np.dtype([("feature", "<u2"), ("slot_left", "<u2"), ("slot_right", "<u2"), ("nan_as_zero", "<u2")])
"""A feature that some node tests; slots may be equal. nan_as_zero: LightGBM's missing type 'none'."""
USED_TYPE = numba.from_dtype(USED)


@kernel(numba.void(USED_TYPE[::1], numba.float32[::1], numba.float32[::1], numba.uint8[::1]))
def quantise_row(used, levels, row, ranks):
    """Write the slots of one row.

    used: USED[u]; levels: float32[u · 272], per used feature 16 pivots (the last threshold of each group) and 256
    thresholds ascending, padded with +inf; row: float32[features]; ranks: uint8[256].
    """
    for u in range(used.size):
        x = row[used[u].feature]
        nan = x != x
        if nan or (x >= -ZERO and x <= ZERO):
            x = np.float32(0.0)
        base = u * (LEVEL + LEVEL * LEVEL)
        group = count_below16(levels, base, x)
        rank = LEVEL * group + count_below16(levels, base + LEVEL + LEVEL * group, x)
        if nan and not used[u].nan_as_zero:
            ranks[used[u].slot_left] = 0
            ranks[used[u].slot_right] = NAN_RIGHT
        else:
            ranks[used[u].slot_left] = rank
            ranks[used[u].slot_right] = rank
