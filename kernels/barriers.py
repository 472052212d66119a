"""Triple-barrier labels (López de Prado 2018, ch. 3) of both sides at every minute, as FEATURES.md defines them.

This module looks into the future: nothing that trades may import it (checked by import-linter).
"""

from __future__ import annotations

import numba
import numpy as np

from kernels.compile import kernel
from kernels.records import LABEL, Reason

BLOCK_BITS = 3
BLOCK = 1 << BLOCK_BITS  # bars summed up by one low and one high: a scan skips whole blocks that touch no barrier
TP, SL, TIME = int(Reason.TP), int(Reason.SL), int(Reason.TIME)

# Counters written by `label_minutes`, in this order.
COUNTERS: tuple[str, ...] = (
    "labelled",
    "no_atr",
    "short_path",
    "mark_beyond",
    "rows_long",
    "rows_short",
    "both_in_bar_long",
    "both_in_bar_short",
)
MINUTE_MS = 60_000

PATH = "float64[:,::1]"  # rows open, high, low, close over the minute grid
LABEL_TYPE = numba.from_dtype(LABEL)


@kernel(f"void({PATH}, float64[:,::1])")
def fold_blocks(path, blocks):
    """Write the lowest low (row 0) and highest high (row 1) of each whole block of BLOCK bars into `blocks`."""
    for b in range(blocks.shape[1]):
        low, high = np.inf, -np.inf
        for j in range(b * BLOCK, (b + 1) * BLOCK):
            low = min(low, path[2, j])
            high = max(high, path[1, j])
        blocks[0, b] = low
        blocks[1, b] = high


@kernel("void(uint8[::1], int32[::1])")
def count_runs(valid, runs):
    """Write into `runs[i]` how many valid minutes follow minute i without interruption."""
    run = 0
    for i in range(valid.size - 1, -1, -1):
        runs[i] = run
        run = run + 1 if valid[i] else 0


@kernel()
def _first_touch(path, blocks, first, last, lower, upper):
    """Return (j, lowest, highest): j the first bar of first…last that touches a barrier, else last + 1.

    lowest and highest are the extremes of the bars first…j−1; bars before `first` are the caller's.
    """
    lowest, highest = np.inf, -np.inf
    j = first
    while j <= last:
        if j & (BLOCK - 1) == 0 and j + BLOCK - 1 <= last:
            low, high = blocks[0, j >> BLOCK_BITS], blocks[1, j >> BLOCK_BITS]
            step = BLOCK
            if low <= lower or high >= upper:
                low, high = path[2, j], path[1, j]
                step = 1
        else:
            low, high = path[2, j], path[1, j]
            step = 1
        if step == 1 and (low <= lower or high >= upper):
            break
        lowest = low if low < lowest else lowest
        highest = high if high > highest else highest
        j += step
    return j, lowest, highest


@kernel()
def _funding(path, event_index, event_rate, first_event, last, entry):
    """Return Σ rate · path close / entry over the settlements after T up to minute `last`, from `first_event` on."""
    paid = 0.0
    k = first_event
    while k < event_index.size and event_index[k] <= last:
        paid += event_rate[k] * path[3, event_index[k]] / entry
        k += 1
    return paid


@kernel()
def _label_side(path, blocks, last_close, i, side, atr, settings, event_index, event_rate, first_event, on_mark, row):
    """Fill one LABEL row for an entry at minute i; `side` is +1 or −1."""
    tp_atr, sl_atr, cost = settings[0], settings[1], settings[3]
    end = i + int(settings[2])
    entry = last_close[i]
    take = entry + side * tp_atr * atr
    stop = entry - side * sl_atr * atr
    lower, upper = min(take, stop), max(take, stop)
    j, lowest, highest = _first_touch(path, blocks, i + 1, end, lower, upper)
    row.reason = TIME
    row.both_in_bar = 0
    k = min(j, end)
    price = path[3, k]
    if j <= end:
        stopped = path[2, j] <= stop if side > 0 else path[1, j] >= stop
        taken = path[1, j] >= take if side > 0 else path[2, j] <= take
        row.both_in_bar = 1 if stopped and taken else 0
        row.reason = SL if stopped else TP
        price = take
        if stopped:
            price = min(stop, path[0, j]) if side > 0 else max(stop, path[0, j])
        if taken and not stopped:
            lowest, highest = min(lowest, path[2, j]), max(highest, path[1, j])
    basis = last_close[k] - path[3, k]
    exit_price = price + basis
    worst = lowest if side > 0 else highest
    adverse = max(0.0, side * (entry - worst)) if np.isfinite(worst) else 0.0
    if row.reason == SL:
        adverse = max(adverse, side * (entry - exit_price))
    free_price = path[3, end] + (last_close[end] - path[3, end])
    row.entry_price = entry
    row.atr_15m = atr
    row.exit_price = exit_price
    row.gross_return = side * (exit_price - entry) / entry
    row.return_free = side * (free_price - entry) / entry
    row.mae = adverse / entry
    row.hold_minutes = k - i
    row.spare = 0
    row.spare2 = 0
    row.on_mark = on_mark
    funding = _funding(path, event_index, event_rate, first_event, k, entry)
    row.net_return = row.gross_return - cost * (1.0 + exit_price / entry) - side * funding
    funding = _funding(path, event_index, event_rate, first_event, end, entry)
    row.net_free = row.return_free - cost * (1.0 + free_price / entry) - side * funding


@kernel(
    numba.void(
        numba.float64[:, ::1],
        numba.float64[:, ::1],
        numba.float64[:, ::1],
        numba.float64[:, ::1],
        numba.int32[::1],
        numba.int32[::1],
        numba.float64[::1],
        numba.int64[::1],
        numba.float64[::1],
        numba.float64[::1],
        numba.int64,
        LABEL_TYPE[::1],
        LABEL_TYPE[::1],
        numba.int64[::1],
    )
)
def label_minutes(
    last,
    mark,
    last_blocks,
    mark_blocks,
    last_runs,
    mark_runs,
    atr,
    event_index,
    event_rate,
    settings,
    first_close_ms,
    long,
    short,
    counts,
):
    """Label every minute of a grid on both sides.

    last, mark: float64[4, n] open, high, low, close per minute (mark: NaN where not stored); *_blocks: `fold_blocks` of
    them; *_runs: `count_runs` of their usable minutes; atr: float64[n] atr_15m as-of each minute's close;
    event_index, event_rate: the minutes at whose close funding settled, ascending, and the rates;
    settings: [tp in ATR, sl in ATR, limit in minutes, fee + half spread per leg];
    first_close_ms: T of minute 0; long, short: LABEL[n], of which the first counts[4] and counts[5] rows are written;
    counts: int64[8], see COUNTERS.
    """
    n = atr.size
    limit = int(settings[2])
    close = last[3]
    event = 0
    for i in range(n):
        while event < event_index.size and event_index[event] <= i:
            event += 1
        if not (atr[i] > 0.0) or not np.isfinite(close[i]):
            counts[1] += 1
            continue
        if last_runs[i] < limit:
            counts[2] += 1
            continue
        entry, now = close[i], mark[3, i]
        on_mark = 1 if mark_runs[i] >= limit else 0
        path, blocks = (mark, mark_blocks) if on_mark else (last, last_blocks)
        beyond = 0
        for side in (1, -1):
            move = side * (now - entry)  # NaN where the mark at T is not known: nothing to refuse
            if move >= settings[0] * atr[i] or -move >= settings[1] * atr[i]:
                beyond = 1
                continue
            if side > 0:
                row = long[counts[4]]
                counts[4] += 1
            else:
                row = short[counts[5]]
                counts[5] += 1
            row.time_ms = first_close_ms + i * MINUTE_MS
            _label_side(path, blocks, close, i, side, atr[i], settings, event_index, event_rate, event, on_mark, row)
            if row.both_in_bar:
                counts[6 if side > 0 else 7] += 1
        counts[3] += beyond
        counts[0] += 1 - beyond
