"""Mark-price bars of a recorded run, made of the ticks in its journal: what its guards saw, minute by minute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import journal
from kernels.records import BAR, RECORDS, BarFlag, Kind

MINUTE_MS = 60_000


def mark_bars(folder: Path, engine_id: str, run_id: int) -> dict[str, npt.NDArray[Any]]:
    """Return symbol → BAR[n] of the minutes whose ticks are still in the journal; volumes are NaN.

    A minute's first tick is its open, its last its close. Segments that were deleted leave minutes out; the minutes in
    which the run began and ended hold the ticks that it saw.
    """
    names: dict[int, str] = {}
    parts = []
    for segment in journal.segments(folder, engine_id) if folder.is_dir() else []:
        if segment.run_id == run_id:
            parts.append(journal.read_kind(segment, Kind.MARK)[["symbol", "event_ms", "price"]])
            if not names:
                rows = journal.read_kind(segment, Kind.INSTRUMENT)
                names = {int(row["index"]): bytes(row["symbol"]).decode() for row in rows}
    ticks = np.concatenate(parts) if parts else np.zeros(0, RECORDS[Kind.MARK])
    return {name: _bars(ticks[ticks["symbol"] == index]) for index, name in names.items()}


def _bars(ticks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    opens, first = np.unique(ticks["event_ms"] // MINUTE_MS * MINUTE_MS, return_index=True)
    bars = np.zeros(len(opens), BAR)
    if not len(opens):
        return bars
    price = np.ascontiguousarray(ticks["price"])
    bars["open_ms"], bars["open"] = opens, price[first]
    bars["high"], bars["low"] = np.maximum.reduceat(price, first), np.minimum.reduceat(price, first)
    bars["close"] = price[np.append(first[1:], len(price)) - 1]
    for name in ("volume", "quote_volume", "taker_volume", "trades"):
        bars[name] = np.nan
    bars["flags"] = int(BarFlag.BUILT)
    return bars
