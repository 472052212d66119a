"""Runs of bars: where holes are, how confirmed holes are filled, how a file is brought up to date."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.records import BAR, TIMEFRAME_MS, BarFlag

MAX_FILLED = 60  # beyond this many absent bars in a row the fold starts again


def holes(open_ms: npt.NDArray[np.int64], timeframe: int) -> list[tuple[int, int]]:
    """Return the half-open ranges [from_ms, to_ms) of bars missing between ascending open times."""
    step = TIMEFRAME_MS[timeframe]
    where = np.flatnonzero(np.diff(open_ms) != step)
    return [(int(open_ms[i]) + step, int(open_ms[i + 1])) for i in where]


def filled(previous: Any, from_ms: int, to_ms: int, timeframe: int) -> npt.NDArray[Any]:
    """Return FILLED bars for [from_ms, to_ms): flat at the previous close, nothing traded."""
    step = TIMEFRAME_MS[timeframe]
    result = np.zeros((to_ms - from_ms) // step, BAR)
    result["open_ms"] = np.arange(from_ms, to_ms, step)
    for name in ("open", "high", "low", "close"):
        result[name] = previous["close"]
    result["last_trade_id"] = previous["last_trade_id"]
    result["flags"] = BarFlag.FILLED | BarFlag.REST
    return result


def unbroken(bars: npt.NDArray[Any], timeframe: int) -> tuple[npt.NDArray[Any], int]:
    """Return the newest unbroken run of `bars` (ascending, confirmed by the exchange) and how many bars were filled.

    Holes of at most `MAX_FILLED` bars are filled; the run begins after the last longer one.
    """
    step, start, count = TIMEFRAME_MS[timeframe], 0, 0
    parts: list[npt.NDArray[Any]] = []
    opens = bars["open_ms"]
    for i in np.flatnonzero(np.diff(opens) != step):
        missing = int(opens[i + 1] - opens[i]) // step - 1
        if missing > MAX_FILLED:
            parts, count = [], 0
        else:
            parts += [bars[start : i + 1], filled(bars[i], int(opens[i]) + step, int(opens[i + 1]), timeframe)]
            count += missing
        start = int(i) + 1
    parts.append(bars[start:])
    return np.concatenate(parts), count
