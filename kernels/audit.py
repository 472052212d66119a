"""Feature parity: recompute live vectors from bars and samples as seen; compare with the record, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.features import fold_vectors
from kernels.records import FEATURE_COUNT, BarFlag
from kernels.vector import vector_hashes

Bars = Sequence[npt.NDArray[Any]]
VALUES = ("open", "high", "low", "close", "volume", "quote_volume", "taker_volume", "trades")


class ColumnDifference(NamedTuple):
    """How one stored column differs from the recomputed one."""

    column: int
    compared: int
    differing: int
    max_relative: float
    max_ulp: float


def first_seen(seen: npt.NDArray[Any], stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return BAR[] in time order: of each open time the first in `seen` (order of arrival), else that in `stored`."""
    both = np.concatenate([seen, stored])
    _, first = np.unique(both["open_ms"], return_index=True)
    return both[first]


def changed_bars(seen: npt.NDArray[Any], stored: npt.NDArray[Any]) -> tuple[int, npt.NDArray[np.int64]]:
    """Return (bars compared, open times whose stored values are not those first seen); declared revisions are left out.

    seen BAR[] in order of arrival, stored BAR[] in time order. NaN equals NaN.
    """
    first = first_seen(seen, seen[:0])
    kept = stored[(stored["flags"] & np.uint32(BarFlag.REVISION)) == 0]
    open_ms, at, there = np.intersect1d(first["open_ms"], kept["open_ms"], return_indices=True)
    differs = np.zeros(len(open_ms), bool)
    for name in VALUES:
        a, b = first[name][at], kept[name][there]
        differs |= ~((a == b) | (np.isnan(a) & np.isnan(b)))
    return len(open_ms), open_ms[differs]


def recompute(
    bars: Bars,
    btc_bars: Bars | None,
    first_ms: Sequence[int],
    btc_first_ms: Sequence[int],
    open_interest: npt.NDArray[Any],
    funding: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return (close_ms int64[n], vectors float64[n, 132]) of the fold from the recorded first bars.

    bars and btc_bars: BAR[] of 1m, 15m, 1h in time order (btc_bars None for BTCUSDT itself); first_ms and btc_first_ms:
    the open times where the engine's states began; samples with the `usable_ms` that the engine recorded. Raises
    ValueError naming the timeframe whose first bar is not there.
    """
    own = _from(bars, first_ms, "own")
    btc: list[npt.NDArray[Any] | None] = [None, None, None]
    if btc_bars is not None:
        btc = [*_from(btc_bars, btc_first_ms, "BTCUSDT")]
    return fold_vectors(own[0], own[1], own[2], btc[0], btc[1], btc[2], open_interest, funding)


def _from(bars: Bars, first_ms: Sequence[int], whose: str) -> list[npt.NDArray[Any]]:
    cut = []
    for name, series, first in zip(("1m", "15m", "1h"), bars, first_ms, strict=True):
        part = series[series["open_ms"] >= first]
        if not len(part) or int(part["open_ms"][0]) != first:
            got = int(part["open_ms"][0]) if len(part) else "none"
            raise ValueError(f"{whose} {name} bars: expected the first bar of the fold at {first}, got {got}")
        cut.append(part)
    return cut


def compare_hashes(
    close_ms: npt.NDArray[np.int64],
    vectors: npt.NDArray[np.float64],
    decision_ms: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return (found, equal), each bool[m]: whether each recorded decision time was recomputed, and to the same hash."""
    at = np.searchsorted(close_ms, decision_ms)
    found = at < len(close_ms)
    found[found] = close_ms[at[found]] == decision_ms[found]
    again = np.zeros(len(close_ms), np.uint64)
    vector_hashes(np.ascontiguousarray(vectors), again)
    equal = np.zeros(len(decision_ms), bool)
    equal[found] = again[at[found]] == hashes[found]
    return found, equal


def compare_columns(recorded: npt.NDArray[np.float64], recomputed: npt.NDArray[np.float64]) -> list[ColumnDifference]:
    """Return one entry per column of two float64[n, k] that differs in any bit; NaN equals only the same NaN.

    `max_ulp` counts the floats between the two values; inf where one of them is NaN.
    """
    found = []
    a, b = np.ascontiguousarray(recorded), np.ascontiguousarray(recomputed)
    differs = a.view(np.uint64) != b.view(np.uint64)
    for column in np.flatnonzero(differs.any(axis=0)):
        rows = differs[:, column]
        x, y = a[rows, column], b[rows, column]
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(x == y, 0.0, abs(x - y) / np.maximum(abs(x), abs(y)))
        unknown = np.isnan(x) | np.isnan(y)
        low, high = np.minimum(_order(x), _order(y)), np.maximum(_order(x), _order(y))
        ulp = (high - low).astype(float)
        worst = np.where(unknown, np.inf, relative), np.where(unknown, np.inf, ulp)
        found.append(
            ColumnDifference(int(column), len(a), int(rows.sum()), float(worst[0].max()), float(worst[1].max()))
        )
    return found


def _order(x: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Map doubles to integers in the same order, neighbours to neighbours."""
    bits, sign = x.view(np.uint64), np.uint64(1 << 63)
    return np.where(bits >= sign, ~bits, bits | sign)


def drift(recorded_start: npt.NDArray[np.float64], whole_history: npt.NDArray[np.float64]) -> tuple[int, float]:
    """Return (rows that differ in any bit, largest relative difference) of two float64[n, 132]."""
    if recorded_start.shape != whole_history.shape or recorded_start.shape[1:] != (FEATURE_COUNT,):
        raise ValueError(f"expected two float64[n, {FEATURE_COUNT}], got {recorded_start.shape}, {whole_history.shape}")
    differs = recorded_start.view(np.uint64) != whole_history.view(np.uint64)
    both = differs & np.isfinite(recorded_start) & np.isfinite(whole_history)
    x, y = recorded_start[both], whole_history[both]
    largest = float((abs(x - y) / np.maximum(abs(x), abs(y))).max()) if len(x) else 0.0
    return int(differs.any(axis=1).sum()), largest
