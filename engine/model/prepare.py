"""One symbol's stored past → its vectors and labels: one function for a local job and for a worker of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backtest.history import History
from engine.errors import DataError
from engine.model.labels import Labels, LabelSettings, label
from kernels.features import fold_vectors
from kernels.schema import INDEX

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Vectors:
    """A symbol's vectors, a row per 1m close: close_ms int64[n], values float64[n, 132]."""

    symbol: str
    close_ms: Array
    values: Array


def fold(own: History, btc: History) -> Vectors:
    """Fold a symbol's whole history; the state starts at its first bar. btc: BTCUSDT's history, or `own` for itself.

    Raises DataError without BTCUSDT's bars.
    """
    other = None if own.symbol == btc.symbol else btc
    if other is not None and not len(other.bars):
        raise DataError(f"{own.symbol}: its features need {btc.symbol}'s 1m candles, and none are stored")
    close_ms, values = fold_vectors(
        own.bars, own.bars_15m, own.bars_1h,
        other.bars if other else None, other.bars_15m if other else None, other.bars_1h if other else None,
        own.open_interest, own.funding,
    )  # fmt: skip
    return Vectors(own.symbol, close_ms, values)


def label_history(own: History, vectors: Vectors, settings: LabelSettings) -> Labels:
    """Label every minute of a history whose whole path it holds."""
    atr = np.ascontiguousarray(vectors.values[:, INDEX["atr_15m"]])
    return label(own.bars, atr, own.mark, own.settled, own.gaps, settings)
