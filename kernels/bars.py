"""Closed bars: what is refused and why, their order, and larger bars built from 1m ones."""

from __future__ import annotations

import enum
import math
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from kernels.compile import kernel
from kernels.records import BAR, TIMEFRAME_MS, BarFlag
from kernels.state import COUNT, OPEN_MS

_BARS = nb.types.Array(nb.from_dtype(BAR), 1, "C")
_MINUTE_MS = TIMEFRAME_MS[0]
_BUILT, _FILLED, _KEPT = np.uint32(BarFlag.BUILT), np.uint32(BarFlag.FILLED), np.uint32(0xFFFFFFFF - BarFlag.FILLED)


class StepCode(enum.IntEnum):
    """What became of a bar. Only OK and RESTARTED stepped the state."""

    OK = 0
    RESTARTED = 1  # fold only: a hole lies before this bar, the state starts afresh with it
    DUPLICATE = 2
    OUT_OF_ORDER = 3
    GAP = 4  # live: kept until the bars before it are there
    NO_BTC = 5  # live: kept until BTCUSDT's bar of the same close is there
    MISALIGNED = 6
    BAD_OPEN = 7
    BAD_HIGH = 8
    BAD_LOW = 9
    BAD_CLOSE = 10
    HIGH_BELOW_LOW = 11
    BAD_VOLUME = 12
    REVISION = 13  # live only: a closed bar came again with other values; the first version stays


_OK, _RESTARTED, _DUPLICATE, _OUT_OF_ORDER, _GAP, _NO_BTC, _MISALIGNED = 0, 1, 2, 3, 4, 5, 6
_BAD_OPEN, _BAD_HIGH, _BAD_LOW, _BAD_CLOSE, _HIGH_BELOW_LOW, _BAD_VOLUME = 7, 8, 9, 10, 11, 12


@kernel()
def check_bar(bar, step_ms):
    """Return the code of what is wrong with a bar by itself, or OK. Volumes may be NaN, prices may not."""
    if bar["open_ms"] % step_ms != 0:
        return _MISALIGNED
    if not (0.0 < bar["open"] < math.inf):
        return _BAD_OPEN
    if not (0.0 < bar["high"] < math.inf):
        return _BAD_HIGH
    if not (0.0 < bar["low"] < math.inf):
        return _BAD_LOW
    if not (0.0 < bar["close"] < math.inf):
        return _BAD_CLOSE
    if bar["high"] < bar["low"]:
        return _HIGH_BELOW_LOW
    if bar["volume"] < 0.0 or bar["quote_volume"] < 0.0 or bar["taker_volume"] < 0.0 or bar["trades"] < 0.0:
        return _BAD_VOLUME
    return _OK


@kernel(nb.int64(_BARS, nb.int64, nb.int64))
def bar_fault(bars, at, step_ms):
    """Return the code of what is wrong with bars[at] by itself, or OK."""
    return check_bar(bars[at], step_ms)


@kernel()
def check_order(state, open_ms, step_ms):
    """Return the code of a bar's place after the state's newest bar."""
    if state[COUNT] == 0.0:
        return _OK
    ahead = open_ms - np.int64(state[OPEN_MS])
    if ahead == step_ms:
        return _OK
    if ahead > step_ms:
        return _GAP
    return _DUPLICATE if ahead == 0 else _OUT_OF_ORDER


@kernel(nb.int64(_BARS, nb.int64, _BARS))
def _build(bars, step_ms, built):
    """Write the bars of step_ms whose 1m bars are all there; return their number."""
    need = step_ms // _MINUTE_MS
    count = 0
    have = 0
    for k in range(len(bars)):
        bar = bars[k]
        open_ms = bar["open_ms"]
        start = open_ms - open_ms % step_ms
        target = built[count]
        if open_ms == start:
            built[count] = bar
            target["flags"] = bar["flags"] & _KEPT
            have = 1
            filled = 1 if bar["flags"] & _FILLED else 0
        elif have and target["open_ms"] == start and open_ms == start + have * _MINUTE_MS:
            have += 1
            filled += 1 if bar["flags"] & _FILLED else 0
            target["high"] = max(target["high"], bar["high"])
            target["low"] = min(target["low"], bar["low"])
            target["close"] = bar["close"]
            target["volume"] += bar["volume"]
            target["quote_volume"] += bar["quote_volume"]
            target["taker_volume"] += bar["taker_volume"]
            target["trades"] += bar["trades"]
            target["last_trade_id"] = max(target["last_trade_id"], bar["last_trade_id"])
            target["arrived_ms"] = max(target["arrived_ms"], bar["arrived_ms"])
            target["flags"] |= bar["flags"] & _KEPT
        else:
            have = 0
        if have == need:
            target["flags"] |= _BUILT | (_FILLED if filled == need else np.uint32(0))
            count += 1
            have = 0
    return count


def checked(array: npt.NDArray[Any] | None, dtype: np.dtype, name: str) -> npt.NDArray[Any]:
    """Return a contiguous one-dimensional array of `dtype`, empty for None; TypeError says what was expected."""
    if array is None:
        return np.zeros(0, dtype)
    if array.dtype != dtype or array.ndim != 1:
        raise TypeError(f"{name}: expected one dimension of {dtype.names}, got {array.ndim} of {array.dtype}")
    return np.require(array, requirements=["C", "W"])


def build_bars(bars_1m: npt.NDArray[Any], timeframe: int) -> npt.NDArray[Any]:
    """Return the bars of `timeframe` (1: 15m, 2: 1h) whose 1m bars are all there, in time order, flagged BUILT.

    Volumes are summed in time order; a bar of filled minutes alone is flagged FILLED. Returns a new BAR array.
    """
    bars = checked(bars_1m, BAR, "bars_1m")
    built = np.zeros(len(bars) // (TIMEFRAME_MS[timeframe] // _MINUTE_MS) + 2, BAR)
    return built[: _build(bars, TIMEFRAME_MS[timeframe], built)].copy()


def is_filled(bar: Any) -> bool:
    """Return whether a bar stands for a minute confirmed absent: no decision is made on it."""
    return bool(int(bar["flags"]) & BarFlag.FILLED)
