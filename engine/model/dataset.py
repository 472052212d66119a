"""From vectors and labels to one training matrix: as-of join, sample weights, what is wrong with it said beforehand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels.records import TIMEFRAME_MS
from kernels.schema import FEATURES, MAY_BE_NAN, TARGETS

Array = npt.NDArray[Any]

MINUTE_MS = TIMEFRAME_MS[0]
MEMORY_LIMIT_BYTES = (
    1 << 30
)  # a larger matrix is memory-mapped: training and the machine's other work must fit beside it
LITTLE_DATA = 2_000.0  # independent labels (sum of uniqueness); fewer cannot support 8 models of 31 leaves
SCALE_CLIP = (5.0, 95.0)  # percentiles at which the volatility weights are clipped
HOLD_COLUMNS = (TARGETS.index("e_hold_long"), TARGETS.index("e_hold_short"))
REQUIRED = np.array([name not in MAY_BE_NAN for name in FEATURES])


@dataclass(frozen=True, slots=True)
class SymbolData:
    """One symbol's vectors and labels: close_ms int64[n], vectors float[n, 132], LABEL rows of both sides."""

    symbol: str
    close_ms: Array
    vectors: Array
    long: Array
    short: Array


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows in time order over all symbols; x may be a memory map. Weights are one column per target."""

    x: Array  # float32[n, 132], NaN kept
    targets: Array  # float64[n, 8]
    weights: Array  # float64[n, 8]
    uniqueness: Array  # float64[n, 3]: long, short, without barriers
    reach: Array  # float64[n], atr_15m over the entry price: the barriers' unit
    time_ms: Array  # int64[n], the decision time T
    symbol: Array  # uint16[n], index into symbols
    symbols: tuple[str, ...]
    horizon_minutes: int  # a row's labels look this far past T

    def __len__(self) -> int:
        return len(self.time_ms)

    @property
    def independent_labels(self) -> float:
        """Sum of the long and short sides' mean uniqueness."""
        return float(self.uniqueness[:, :2].mean(axis=1).sum())

    def rows(self, index: Array) -> Dataset:
        """Return the rows of a boolean or integer index, in memory."""
        return Dataset(
            np.asarray(self.x[index]),
            self.targets[index],
            self.weights[index],
            self.uniqueness[index],
            self.reach[index],
            self.time_ms[index],
            self.symbol[index],
            self.symbols,
            self.horizon_minutes,
        )

    def hash(self) -> str:
        """Return a hex hash over vectors, targets, weights, times and symbols."""
        digest = hashlib.blake2b(",".join(self.symbols).encode(), digest_size=16)
        for array in (self.x, self.targets, self.weights, self.time_ms, self.symbol):
            for start in range(0, len(array), 65_536):
                digest.update(np.ascontiguousarray(array[start : start + 65_536]).data)
        return digest.hexdigest()


def average_uniqueness(time_ms: Array, hold_minutes: Array) -> Array:
    """Return each label's average uniqueness (López de Prado 2018, ch. 4): the mean over its minutes of 1/concurrency.

    time_ms: int64[n] ascending decision times of one symbol; hold_minutes: int[n] ≥ 1. A label covers the minutes
    (T, T + hold]. The sum over labels is the number of independent labels.
    """
    if not len(time_ms):
        return np.zeros(0)
    start = (time_ms - time_ms[0]) // MINUTE_MS
    end = start + hold_minutes.astype(np.int64)
    change = np.zeros(int(end.max()) + 1)
    np.add.at(change, start, 1.0)
    np.add.at(change, end, -1.0)
    concurrency = np.cumsum(change)
    with np.errstate(divide="ignore"):
        share = np.where(concurrency > 0.5, 1.0 / concurrency, 0.0)
    total = np.concatenate([[0.0], np.cumsum(share)])
    return np.asarray((total[end] - total[start]) / (end - start))


def build(parts: list[SymbolData], horizon_minutes: int = 360, folder: Path | None = None) -> Dataset:
    """Join vectors and labels of all symbols at equal T, in time order.

    Rows before every OHLC-only feature of the symbol is past its first defined bar are left out, as are minutes without
    labels of both sides. `folder` is where a matrix above MEMORY_LIMIT_BYTES is mapped. Raises DataError if nothing is
    left, saying what each symbol had.
    """
    joined = [_join(part) for part in parts]
    total = sum(len(vectors) for vectors, *_ in joined)
    if not total:
        had = "; ".join(f"{p.symbol}: {len(p.vectors)} vectors, {len(p.long)} labels" for p in parts)
        raise DataError(f"no row has a ready vector and labels of both sides ({had})")
    time_ms = np.concatenate([vectors_time for _, vectors_time, *_ in joined])
    symbol = np.concatenate([np.full(len(v), index, np.uint16) for index, (v, *_) in enumerate(joined)])
    order = np.lexsort((symbol, time_ms))
    x = _matrix(total, folder)
    where = np.empty(total, np.int64)
    where[order] = np.arange(total)
    base = 0
    for vectors, *_ in joined:
        x[where[base : base + len(vectors)]] = vectors
        base += len(vectors)
    long = np.concatenate([row for _, _, row, _ in joined])[order]
    short = np.concatenate([row for _, _, _, row in joined])[order]
    targets = target_columns(long, short)
    names = tuple(part.symbol for part in parts)
    reach = long["atr_15m"] / long["entry_price"]
    unweighted = np.empty((total, 0))
    data = Dataset(x, targets, unweighted, unweighted, reach, time_ms[order], symbol[order], names, horizon_minutes)
    return weigh(data)


def weigh(data: Dataset) -> Dataset:
    """Return the rows with uniqueness and weights computed from these rows alone: no other row has a say in them."""
    uniqueness = np.empty((len(data), 3))
    for index in range(len(data.symbols)):
        mine = np.flatnonzero(data.symbol == index)
        times = data.time_ms[mine]
        holds = (*(data.targets[mine, column] for column in HOLD_COLUMNS), np.full(len(mine), data.horizon_minutes))
        for column, hold in enumerate(holds):
            uniqueness[mine, column] = average_uniqueness(times, hold)
    return replace(data, uniqueness=uniqueness, weights=target_weights(data.reach, uniqueness))


def _join(part: SymbolData) -> tuple[Array, Array, Array, Array]:
    ready = part.close_ms[ready_from(part.vectors) :]
    shared = np.intersect1d(np.intersect1d(ready, part.long["time_ms"]), part.short["time_ms"])
    at = np.searchsorted(part.close_ms, shared)
    long = part.long[np.searchsorted(part.long["time_ms"], shared)]
    short = part.short[np.searchsorted(part.short["time_ms"], shared)]
    return part.vectors[at].astype(np.float32), shared, long, short


def ready_from(vectors: Array) -> int:
    """Return the first row from which every feature that needs prices only has been defined at least once."""
    known = np.isfinite(vectors[:, REQUIRED])
    first = np.where(known.any(axis=0), known.argmax(axis=0), 0)
    return int(first.max(initial=0))


def _matrix(rows: int, folder: Path | None) -> Array:
    shape = (rows, len(FEATURES))
    if folder is None or rows * len(FEATURES) * 4 <= MEMORY_LIMIT_BYTES:
        return np.empty(shape, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(folder / "matrix.npy", "w+", np.float32, shape)


def target_columns(long: Array, short: Array) -> Array:
    """Return float64[n, 8] in the order of TARGETS."""
    sources = {"er": "net_return", "q05": "net_free", "e_mae": "mae", "e_hold": "hold_minutes"}
    columns = []
    for target in TARGETS:
        kind, side = target.rsplit("_", 1)
        columns.append((long if side == "long" else short)[sources[kind]].astype(np.float64))
    return np.column_stack(columns)


def target_weights(reach: Array, uniqueness: Array) -> Array:
    """Return float64[n, 8]: uniqueness of the label's span, times a volatility scale for returns and excursions.

    The scale is (A/e)^−2 under L2 and (A/e)^−1 under the quantile loss, clipped at 5/95 %, mean 1: a symbol or an hour
    of large moves does not outvote the rest.
    """
    square, plain = _scale(reach**-2.0), _scale(1.0 / reach)
    columns = []
    for target in TARGETS:
        kind, side = target.rsplit("_", 1)
        span = uniqueness[:, 2] if kind == "q05" else uniqueness[:, 0 if side == "long" else 1]
        scale = {"er": square, "q05": plain, "e_mae": square}.get(kind)
        columns.append(span if scale is None else span * scale)
    return np.column_stack(columns)


def _scale(weight: Array) -> Array:
    low, high = np.percentile(weight, SCALE_CLIP)
    clipped = np.clip(weight, low, high)
    return np.asarray(clipped / clipped.mean())


def problems(data: Dataset) -> list[str]:
    """Return what makes this data doubtful for training, each with its counts; empty if nothing does."""
    found = []
    if data.independent_labels < LITTLE_DATA:
        found.append(
            f"too little data: {data.independent_labels:,.0f} independent labels in {len(data):,} rows; "
            f"expected at least {LITTLE_DATA:,.0f} (about 600 per symbol and month)"
        )
    for column, target in enumerate(TARGETS):
        values = data.targets[:, column]
        if values.min() == values.max():
            found.append(f"constant target {target}: all {len(data):,} rows are {values[0]:g}")
    for index, name in enumerate(data.symbols):
        times = data.time_ms[data.symbol == index]
        if not len(times):
            found.append(f"{name}: no usable row")
            continue
        missing = int((times[-1] - times[0]) // MINUTE_MS) + 1 - len(times)
        if missing:
            holes = int((np.diff(times) > MINUTE_MS).sum())
            found.append(f"{name}: {missing:,} minutes in {holes:,} gaps between its first and last row")
    return found
