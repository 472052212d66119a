"""What the decision rule earns with a model: the engine's backtest over stored bars, and the bootstrap of its days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import backtest
from engine.backtest.history import Batch, Given, History, Progress
from engine.config import Config
from engine.model.dataset import Dataset

Array = npt.NDArray[Any]

DAY_MS = 86_400_000
NEVER = 1_000_000  # losses in a row


@dataclass(frozen=True, slots=True)
class Market:
    """What a policy is tried on: the arguments of `engine.backtest.run` but for the model and the period."""

    config: Config
    histories: list[History]
    btc: History | None = None
    instruments: Array | None = None


@dataclass(frozen=True, slots=True)
class Earned:
    """A policy's result on [from_ms, to_ms): per UTC day the change of marked equity over the first one."""

    from_ms: int
    to_ms: int
    days: Array  # int64[d], days since the epoch
    pnl: Array  # float64[d], net of fees, slippage and funding
    trades: int
    won: float

    @property
    def whole_days(self) -> int:
        """Days of data, a part of a day at either end not counted as one."""
        return min(len(self.days), (self.to_ms - self.from_ms) // DAY_MS)


def earn(
    market: Market, model: Batch, from_ms: int = 0, to_ms: int = backtest.FOREVER_MS,
    progress: Progress = lambda what, done, total: None,
) -> Earned:  # fmt: skip
    """Trade [from_ms, to_ms) with `model` as the engine would and return what every day brought.

    The halts that wait for a person (losses in a row, drawdown) are left out: one bad stretch at the beginning would
    make the rest of the period say nothing. Raises DataError without a bar in the period.
    """
    risk = market.config.risk.model_copy(update={"max_losing_streak": NEVER, "max_drawdown": 1.0})
    config = market.config.model_copy(update={"risk": risk})
    result = backtest.run(
        config, market.histories, model, market.instruments, btc=market.btc, from_ms=from_ms, to_ms=to_ms,
        progress=progress,
    )  # fmt: skip
    first_ms, equity = result.daily_equity()
    start = result.start_equity_usdt
    net = result.trades["net_usdt"]
    return Earned(
        result.first_ms,
        result.first_ms + 60_000 * len(result.equity_usdt),
        first_ms // DAY_MS,
        np.diff(np.concatenate([[start], equity])) / start,
        len(net),
        float((net > 0).mean()) if len(net) else 0.0,
    )


def out_of_fold(data: Dataset, predictions: Array) -> Given:
    """Return predictions of rows as a model for `earn`: at any other minute it finds no side.

    A row that several folds tested has the mean of what they predicted.
    """
    by_symbol = {}
    for index, symbol in enumerate(data.symbols):
        mine = np.flatnonzero(data.symbol == index)
        times, where, counts = np.unique(data.time_ms[mine], return_inverse=True, return_counts=True)
        total = np.zeros((len(times), predictions.shape[1]))
        np.add.at(total, where, predictions[mine])
        by_symbol[symbol] = (times, total / counts[:, None])
    return Given("out-of-fold", by_symbol)


def bootstrap(day_pnl: Array, seed: int, resamples: int = 4_000) -> Array:
    """Return the sums of `resamples` draws of days with replacement; a day is the block: its trades hang together."""
    rng = np.random.default_rng(seed)
    return np.asarray(day_pnl[rng.integers(0, len(day_pnl), (resamples, len(day_pnl)))].sum(axis=1))
