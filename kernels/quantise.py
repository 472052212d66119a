"""Turn a float32 row into one byte per feature and NaN side, so that every comparison of every tree is one on bytes.

q[f] = number of distinct thresholds of f below x[f], over all models; then x <= threshold ⟺ q <= rank of the threshold.
A feature takes one slot, or two where its nodes send NaN to different sides: NaN→left is 0, NaN→right is 255.
"""

from __future__ import annotations

import numba
import numpy as np

from kernels.compile import kernel
from kernels.simd import count_below16, group_starts
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


@kernel(forceinline=True)
def quantise_lanes(used, picked, copied, pivots, thresholds, row, values, starts, ranks):
    """Do the same a feature a lane: slot l is lane l's, others repeat one.

    picked: uint16[lanes], the features of the lanes, or empty where lane l is feature l of the row; pivots:
    float32[⌈lanes / 16⌉ · 256] in the order of `simd.group_starts`; thresholds: float32[lanes · 256]; copied: uint8[c],
    whose rank slot lanes + i repeats; used: the slots of the lanes, for NaN alone; scratch values float32[256] and
    starts int32[256]. Pivots and scratch begin on a cache line.
    """
    lanes = np.int64(thresholds.size) // (LEVEL * LEVEL)
    for lane in range(picked.size):
        values[lane] = row[picked[lane]]
    nan_groups = 0
    for base in range(0, lanes, LEVEL):
        if picked.size:
            nan = group_starts(pivots, values, base, lanes, values, starts)
        else:
            nan = group_starts(pivots, row, base, lanes, values, starts)
        nan_groups |= np.int64(nan != 0) << (base // LEVEL)
    for lane in range(lanes):
        start = np.int64(starts[lane])
        ranks[lane] = start + count_below16(thresholds, LEVEL * LEVEL * lane + start, values[lane])
    for i in range(copied.size):
        ranks[np.uint64(lanes) + np.uint64(i)] = ranks[np.uint64(copied[i])]
    base = 0
    while nan_groups:
        if nan_groups & 1:
            for lane in range(base, min(base + LEVEL, lanes)):
                x = row[used[lane].feature]
                if x != x and not used[lane].nan_as_zero:
                    ranks[used[lane].slot_left] = 0
                    ranks[used[lane].slot_right] = NAN_RIGHT
        nan_groups >>= 1
        base += LEVEL
