"""Labels of one symbol: bars, mark bars, ATR and funding in, one LABEL row per minute and side out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels.barriers import BLOCK, COUNTERS, count_runs, fold_blocks, label_minutes
from kernels.records import LABEL, SAMPLE, TIMEFRAME_MS, BarFlag

MINUTE_MS = TIMEFRAME_MS[0]
MAX_MINUTES = 20_000_000  # 38 years of one symbol: anything longer is a wrong timestamp

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """Barriers in 15m ATR, the time limit in minutes, and the cost per leg as a fraction of its notional."""

    tp_atr: float = 1.5
    sl_atr: float = 1.0
    time_limit_minutes: int = 360
    taker_fee: float = 0.0005
    half_spread: float = 0.0001

    def hash(self) -> str:
        """Return a hex hash over the settings, which is stored with each label: training takes no labels of others."""
        return hashlib.blake2b(repr(self).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Labels:
    """LABEL rows of both sides (each in time order) and how many minutes were labelled or left out, by reason."""

    long: Array
    short: Array
    counts: dict[str, int]


def label(
    bars: Array,
    atr_15m: Array,
    mark_bars: Array | None = None,
    funding: Array | None = None,
    gaps: Array | None = None,
    settings: LabelSettings | None = None,
) -> Labels:
    """Label every minute whose whole path is stored.

    bars, mark_bars: BAR[] of 1m bars in time order, last and mark price; atr_15m: float64[len(bars)] as-of each bar's
    close; funding: SAMPLE[] whose `value` is the settled rate itself (not scaled to 8 h); gaps: int64[k, 2] of recorded
    gaps [from_ms, to_ms). A filled bar or one in a gap ends the paths that cross it. Raises DataError on bars out of
    order or on arrays of different lengths.
    """
    settings = settings or LabelSettings()
    if len(atr_15m) != len(bars):
        raise DataError(f"labels: expected an ATR per bar ({len(bars)}), got {len(atr_15m)}")
    if not len(bars):
        return Labels(np.zeros(0, LABEL), np.zeros(0, LABEL), dict.fromkeys(COUNTERS, 0))
    first_ms = int(bars["open_ms"][0])
    minutes = int((int(bars["open_ms"][-1]) - first_ms) // MINUTE_MS) + 1
    if not 0 < minutes <= MAX_MINUTES or (np.diff(bars["open_ms"]) <= 0).any():
        raise DataError("labels: expected 1m bars in ascending time order")
    last, last_runs = _grid(bars, first_ms, minutes, gaps)
    mark, mark_runs = _grid(bars[:0] if mark_bars is None else mark_bars, first_ms, minutes, gaps)
    atr = np.full(minutes, np.nan)
    atr[(bars["open_ms"] - first_ms) // MINUTE_MS] = atr_15m
    event_index, event_rate = _settlements(funding, first_ms, minutes)
    long, short = np.empty(minutes, LABEL), np.empty(minutes, LABEL)
    counts = np.zeros(len(COUNTERS), np.int64)
    cost = settings.taker_fee + settings.half_spread
    numbers = np.array([settings.tp_atr, settings.sl_atr, float(settings.time_limit_minutes), cost])
    label_minutes(
        last,
        mark,
        _blocks(last),
        _blocks(mark),
        last_runs,
        mark_runs,
        atr,
        event_index,
        event_rate,
        numbers,
        first_ms + MINUTE_MS,
        long,
        short,
        counts,
    )
    tally = {name: int(count) for name, count in zip(COUNTERS, counts, strict=True)}
    return Labels(long[: tally["rows_long"]], short[: tally["rows_short"]], tally)


def _grid(bars: Array, first_ms: int, minutes: int, gaps: Array | None) -> tuple[Array, Array]:
    """Lay bars on the minute grid: (float64[4, minutes], NaN where absent; runs of usable minutes after each)."""
    path = np.full((4, minutes), np.nan)
    valid = np.zeros(minutes, np.uint8)
    slot = (bars["open_ms"] - first_ms) // MINUTE_MS
    inside = (slot >= 0) & (slot < minutes)
    kept = bars if inside.all() else bars[inside]
    at: Any = slice(None) if len(kept) == minutes else slot[inside]  # without a hole every minute is its own slot
    for row, name in enumerate(("open", "high", "low", "close")):
        path[row, at] = kept[name]
    valid[at] = ((kept["flags"] & BarFlag.FILLED) == 0) & np.isfinite(path[:, at]).all(axis=0)
    for from_ms, to_ms in np.empty((0, 2), np.int64) if gaps is None else gaps:
        begin = max(0, int(from_ms - first_ms) // MINUTE_MS)
        valid[begin : max(begin, -(-int(to_ms - first_ms) // MINUTE_MS))] = 0
    runs = np.zeros(minutes, np.int32)
    count_runs(valid, runs)
    return path, runs


def _blocks(path: Array) -> Array:
    blocks = np.empty((2, path.shape[1] // BLOCK))
    fold_blocks(path, blocks)
    return blocks


def _settlements(funding: Array | None, first_ms: int, minutes: int) -> tuple[Array, Array]:
    """Return (grid minute at whose close funding settled, rate); stamps are floored to the minute."""
    if funding is None:
        funding = np.zeros(0, SAMPLE)
    index = funding["stamp_ms"] // MINUTE_MS - first_ms // MINUTE_MS - 1
    inside = (index >= 0) & (index < minutes) & np.isfinite(funding["value"])
    return index[inside].astype(np.int64), np.ascontiguousarray(funding["value"][inside], np.float64)
