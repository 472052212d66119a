"""What a backtest reads, laid out on one minute grid: paths, closes, predictions, flags, funding."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels.features import fold_vectors
from kernels.quiet import FILLED, HAS_BAR, HAS_VECTOR, NAN_UNSEEN, READY
from kernels.records import FEATURE_COUNT, SAMPLE, TARGET_COUNT, TIMEFRAME_MS, BarFlag
from kernels.schema import INDEX, READY_BTC_BARS, READY_OWN_BARS

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]
MINUTE_MS = 60_000
LONGEST_FUNDING_MS = 8 * 3_600_000
ROWS_AT_ONCE = 4_096  # float32 rows made for the forests at a time: 2 MB, which stay in the cache


class Batch(Protocol):
    """What a backtest asks of a model."""

    model_id: str
    nan_unseen: npt.NDArray[np.bool_]

    def predict(self, rows: Array) -> Array:
        """Return float64[n, 8] of float32[n, 132]."""
        ...


@dataclass
class Given:
    """Predictions made beforehand, as a model: by symbol close times int64[n], ascending, and float64[n, 8].

    Where none was made, all 8 are NaN: the decision finds no side.
    """

    model_id: str
    by_symbol: dict[str, tuple[Array, Array]]
    nan_unseen: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(FEATURE_COUNT, bool))

    def predict(self, rows: Array) -> Array:
        """Return NaN: rows without a symbol and a time have no prediction."""
        return np.full((len(rows), TARGET_COUNT), np.nan)

    def at(self, symbol: str, close_ms: Array) -> Array:
        """Return float64[n, 8] of one symbol's closes."""
        times, predictions = self.by_symbol.get(symbol, (np.zeros(0, np.int64), np.zeros((0, TARGET_COUNT))))
        answers = np.full((len(close_ms), TARGET_COUNT), np.nan)
        known = np.flatnonzero(np.isin(close_ms, times))
        answers[known] = predictions[np.searchsorted(times, close_ms[known])]
        return answers


def _no_samples() -> Array:
    return np.zeros(0, SAMPLE)


@dataclass
class History:
    """One symbol's stored past. Bars are BAR arrays in time order; 15m and 1h may be None (built from 1m).

    mark: 1m mark-price bars (minutes without one use the last price); funding: SAMPLE[], scaled to 8 h, for features;
    settled: SAMPLE[], the rates that were paid; open_interest: SAMPLE[];
    gaps: int64[k, 2], minutes [from_ms, to_ms) recorded as absent at the exchange, which no label crosses.
    """

    symbol: str
    bars: Array
    bars_15m: Array | None = None
    bars_1h: Array | None = None
    mark: Array | None = None
    funding: Array = field(default_factory=_no_samples)
    settled: Array = field(default_factory=_no_samples)
    open_interest: Array = field(default_factory=_no_samples)
    gaps: Array = field(default_factory=lambda: np.zeros((0, 2), np.int64))


@dataclass
class Grid:
    """All symbols on the minutes [first_ms, first_ms + N minutes): arrays [S, N, …] as `kernels.quiet` takes them."""

    symbols: list[str]
    first_ms: int
    minutes: int
    flags: Array
    path: Array
    closes: Array
    predictions: Array
    atr: Array
    rates: Array  # of the stream while the minute lasts: the rate settled last
    last_rates: Array  # of its last tick: before a settlement, the rate about to be paid
    next_ms: Array
    on_last_price: int = 0  # minutes whose path is the last price, because no mark price is stored
    unfunded: int = 0  # minutes without a stored funding rate near: positions paid none

    @classmethod
    def empty(cls, symbols: list[str], first_ms: int, minutes: int) -> Grid:
        """Return a grid without any minute."""
        shape = (len(symbols), minutes)
        return cls(
            symbols, first_ms, minutes, np.zeros(shape, np.uint8), np.full((*shape, 4), np.nan),
            np.full((*shape, 2), np.nan), np.full((*shape, TARGET_COUNT), np.nan), np.full(shape, np.nan),
            np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, np.int64),
        )  # fmt: skip


def lay_out(
    histories: list[History],
    btc: History,
    model: Batch,
    from_ms: int,
    to_ms: int,
    progress: Progress = lambda what, done, total: None,
) -> Grid:
    """Fold, predict and lay out the decision minutes [from_ms, to_ms); the fold starts at each history's first bar.

    Raises DataError when no symbol has a bar in the range.
    """
    opens = [h.bars["open_ms"][(h.bars["open_ms"] >= from_ms) & (h.bars["open_ms"] < to_ms)] for h in histories]
    found = [o for o in opens if len(o)]
    if not found:
        raise DataError(f"no 1m bars of {', '.join(h.symbol for h in histories)} in [{from_ms}, {to_ms})")
    first_ms = int(min(o[0] for o in found))
    minutes = (int(max(o[-1] for o in found)) - first_ms) // MINUTE_MS + 1
    grid = Grid.empty([h.symbol for h in histories], first_ms, minutes)
    for s, history in enumerate(histories):
        progress(f"features of {history.symbol}", s, len(histories))
        _lay_out_symbol(grid, s, history, btc, model)
    return grid


def _lay_out_symbol(grid: Grid, s: int, history: History, btc: History, model: Batch) -> None:
    own, bars = history, history.bars
    other = None if own.symbol == btc.symbol else btc
    _, vectors = fold_vectors(
        bars, own.bars_15m, own.bars_1h,
        other.bars if other else None, other.bars_15m if other else None, other.bars_1h if other else None,
        own.open_interest, own.funding,
    )  # fmt: skip
    at = (bars["open_ms"] - grid.first_ms) // MINUTE_MS
    inside = np.flatnonzero((at >= 0) & (at < grid.minutes))
    at = at[inside]
    first = int(inside[0]) if len(inside) else 0  # bars are in time order: those inside are neighbours

    def predict(begin: int) -> None:
        where = at[begin : begin + ROWS_AT_ONCE]
        rows = vectors[first + begin : first + begin + len(where)].astype(np.float32)
        grid.predictions[s, where] = model.predict(rows)
        unseen = (np.isnan(rows) & model.nan_unseen).any(axis=1)
        grid.flags[s, where] |= np.where(unseen, NAN_UNSEEN, 0).astype(np.uint8)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # the forests' kernels hold no GIL
        list(pool.map(predict, range(0, len(inside), ROWS_AT_ONCE)))
    if isinstance(model, Given):
        grid.predictions[s, at] = model.at(own.symbol, bars["open_ms"][inside] + MINUTE_MS)
    grid.atr[s, at] = vectors[inside, INDEX["atr_15m"]]
    grid.closes[s, at, 0], grid.closes[s, at, 1] = bars["open"][inside], bars["close"][inside]
    stepped = np.isfinite(vectors[inside, INDEX["atr_15m"]])
    grid.flags[s, at] |= HAS_BAR
    grid.flags[s, at[stepped]] |= HAS_VECTOR
    grid.flags[s, at[(bars["flags"][inside] & int(BarFlag.FILLED)) > 0]] |= FILLED
    grid.flags[s, at[_ready(history, btc)[inside]]] |= READY
    for k, name in enumerate(("open", "high", "low", "close")):
        grid.path[s, at, k] = bars[name][inside]
    _lay_marks(grid, s, history)
    _lay_funding(grid, s, history.settled)
    grid.unfunded += int(unfunded(history.settled, bars["open_ms"][inside]).sum())


def _lay_marks(grid: Grid, s: int, history: History) -> None:
    has_bar = (grid.flags[s] & HAS_BAR) > 0
    if history.mark is None or not len(history.mark):
        grid.on_last_price += int(has_bar.sum())
        return
    at = (history.mark["open_ms"] - grid.first_ms) // MINUTE_MS
    inside = (at >= 0) & (at < grid.minutes)
    at, mark = at[inside], history.mark[inside]
    usable = has_bar[at] & (mark["low"] > 0.0)
    for k, name in enumerate(("open", "high", "low", "close")):
        grid.path[s, at[usable], k] = mark[name][usable]
    grid.on_last_price += int(has_bar.sum() - usable.sum())


def _lay_funding(grid: Grid, s: int, settled: Array) -> None:
    """Write the next settlement of each minute and the rate that the stream shows: no look at a rate before its time.

    The stream's estimate is taken to be the rate settled last, and on the last tick before a settlement its own.
    """
    if not len(settled):
        return
    stamps = settled["stamp_ms"] // MINUTE_MS * MINUTE_MS
    opens = grid.first_ms + MINUTE_MS * np.arange(grid.minutes)
    coming = np.searchsorted(stamps, opens, side="right")
    known = coming > 0
    grid.rates[s, known] = settled["value"][coming[known] - 1]
    grid.last_rates[s] = grid.rates[s]
    ahead = coming < len(stamps)
    grid.next_ms[s, ahead] = stamps[coming[ahead]]
    due = ahead & (grid.next_ms[s] == opens + MINUTE_MS)
    grid.last_rates[s, due] = settled["value"][coming[due]]


def unfunded(settled: Array, open_ms: Array) -> npt.NDArray[np.bool_]:
    """Return for each minute whether the stored rates (SAMPLE[]) leave more than 8 hours around it without one."""
    stamps = settled["stamp_ms"] // MINUTE_MS * MINUTE_MS
    coming = np.searchsorted(stamps, open_ms, side="right")
    edges = np.concatenate([[-(1 << 60)], stamps, [1 << 60]])
    before, after = open_ms - edges[coming], edges[coming + 1] - open_ms
    inner = (coming > 0) & (coming < len(stamps))
    return np.where(inner, before + after, np.minimum(before, after)) > LONGEST_FUNDING_MS


def _ready(history: History, btc: History) -> npt.NDArray[np.bool_]:
    """Return for each 1m bar whether its vector is past the warm-up, as `Panel` says it."""
    close_ms = history.bars["open_ms"] + MINUTE_MS
    ready = np.ones(len(close_ms), bool)
    for timeframe, step_ms in enumerate(TIMEFRAME_MS):
        last_ms = close_ms - close_ms % step_ms
        for source, needed in ((history, READY_OWN_BARS), (btc, READY_BTC_BARS)):
            first_ms = _first_open(_series(source, timeframe), source.bars, step_ms, last_ms)
            ready &= last_ms - first_ms >= needed * step_ms
    return ready


def _series(source: History, timeframe: int) -> Array | None:
    return (source.bars, source.bars_15m, source.bars_1h)[timeframe]


def _first_open(series: Array | None, minutes: Array, step_ms: int, close_ms: Array) -> Array:
    """Return the first open time of the unbroken run of bars that each close time lies in (the fold's start)."""
    if series is None:  # built from the 1m bars: a larger bar needs all of its minutes
        whole, counts = np.unique(minutes["open_ms"] // step_ms * step_ms, return_counts=True)
        opens = whole[counts == step_ms // MINUTE_MS]
    else:
        opens = series["open_ms"]
    if not len(opens):
        return np.full(len(close_ms), 1 << 60)
    starts = opens[np.concatenate([[0], np.flatnonzero(np.diff(opens) != step_ms) + 1])]
    at = np.searchsorted(starts, close_ms - step_ms, side="right") - 1
    return np.where(at >= 0, starts[np.maximum(at, 0)], 1 << 60)
