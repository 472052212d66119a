"""What the decision rule would have earned on labelled rows: one position per symbol, net of costs, sized by ATR.

An approximation on labels (the backtest replays bars and books): entries at T, exits where the label says, every trade
risks the same fraction of equity per ATR. PnL is in fractions of equity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.dataset import Dataset
from kernels.schema import TARGETS

Array = npt.NDArray[Any]

MINUTE_MS = 60_000
DAY_MS = 86_400_000
ER_LONG, ER_SHORT, Q_LONG, Q_SHORT, MAE_LONG, MAE_SHORT, HOLD_LONG, HOLD_SHORT = range(len(TARGETS))


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The decision's thresholds, the equity risked per ATR, and the largest position as a multiple of equity."""

    min_er: float = 0.0
    max_tail: float = 0.03
    max_mae_atr: float = 1.0
    min_hold_minutes: float = 1.0
    max_hold_minutes: float = 360.0
    risk_fraction: float = 0.005
    max_leverage: float = 5.0


@dataclass(frozen=True, slots=True)
class Trades:
    """Closed trades in entry order: row index, side (+1, −1), net PnL as a fraction of equity, day of entry."""

    row: Array
    side: Array
    pnl: Array
    day: Array


def sides(predictions: Array, reach: Array, settings: PolicySettings) -> Array:
    """Return int8[n]: +1, −1, or 0 where a gate refuses. predictions: float64[n, 8]; reach: ATR over price."""
    p = predictions
    long = p[:, ER_LONG] > p[:, ER_SHORT]
    short = p[:, ER_SHORT] > p[:, ER_LONG]

    def passes(er: Array, q05: Array, mae: Array, hold: Array) -> Array:
        holds = (hold >= settings.min_hold_minutes) & (hold <= settings.max_hold_minutes)
        return (er >= settings.min_er) & (q05 >= -settings.max_tail) & (mae <= settings.max_mae_atr * reach) & holds

    long &= passes(p[:, ER_LONG], p[:, Q_LONG], p[:, MAE_LONG], p[:, HOLD_LONG])
    short &= passes(p[:, ER_SHORT], p[:, Q_SHORT], p[:, MAE_SHORT], p[:, HOLD_SHORT])
    return np.where(long, 1, np.where(short, -1, 0)).astype(np.int8)


def trade(data: Dataset, predictions: Array, settings: PolicySettings | None = None) -> Trades:
    """Walk the rows in time order; a symbol is flat again after its label's holding time."""
    settings = settings or PolicySettings()
    side = sides(predictions, data.reach, settings)
    busy_until = np.zeros(len(data.symbols), np.int64)
    rows = []
    for row in np.flatnonzero(side):
        symbol, time_ms = data.symbol[row], data.time_ms[row]
        if time_ms >= busy_until[symbol]:
            hold = data.targets[row, HOLD_LONG if side[row] > 0 else HOLD_SHORT]
            busy_until[symbol] = time_ms + int(hold) * MINUTE_MS
            rows.append(row)
    taken = np.array(rows, np.int64)
    net = np.where(side[taken] > 0, data.targets[taken, ER_LONG], data.targets[taken, ER_SHORT])
    size = np.minimum(settings.risk_fraction / data.reach[taken], settings.max_leverage)
    return Trades(taken, side[taken], net * size, data.time_ms[taken] // DAY_MS)


def daily(trades: Trades, days: Array) -> Array:
    """Return the PnL of each of `days`."""
    total = np.zeros(len(days))
    np.add.at(total, np.searchsorted(days, trades.day), trades.pnl)
    return total


def bootstrap(day_pnl: Array, seed: int, resamples: int = 4_000) -> Array:
    """Return the sums of `resamples` draws of days with replacement; a day is the block: its trades hang together."""
    rng = np.random.default_rng(seed)
    return np.asarray(day_pnl[rng.integers(0, len(day_pnl), (resamples, len(day_pnl)))].sum(axis=1))
