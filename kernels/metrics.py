"""Statistics of a profit-and-loss series. Pure numpy; every figure of an empty or constant series is NaN or 0, never an
error.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def returns(equity: Floats) -> Floats:
    """Return the simple returns float64[n − 1] between successive equities float64[n]."""
    return equity[1:] / equity[:-1] - 1.0


def sharpe(values: Floats, per_year: float) -> float:
    """Return mean over standard deviation (n − 1) of returns, annualised by √per_year, no riskless rate (Sharpe)."""
    if len(values) < 2:
        return float("nan")
    deviation = float(values.std(ddof=1))
    return float(values.mean() / deviation * np.sqrt(per_year)) if deviation > 0.0 else float("nan")


def sortino(values: Floats, per_year: float) -> float:
    """Return mean over downside deviation of returns against 0, annualised (Sortino & van der Meer 1991)."""
    if len(values) < 2:
        return float("nan")
    downside = float(np.sqrt(np.mean(np.minimum(values, 0.0) ** 2)))
    return float(values.mean() / downside * np.sqrt(per_year)) if downside > 0.0 else float("nan")


def drawdowns(equity: Floats) -> Floats:
    """Return the fraction below the highest equity so far, float64[n] ≥ 0."""
    peaks = np.maximum.accumulate(equity)
    return 1.0 - equity / peaks


def max_drawdown(equity: Floats) -> float:
    """Return the largest fraction lost from a peak."""
    return float(drawdowns(equity).max()) if len(equity) else 0.0


def profit_factor(net: Floats) -> float:
    """Return what winning trades brought over what losing ones cost; infinite without a loss, NaN without trades."""
    won, lost = float(net[net > 0.0].sum()), float(-net[net < 0.0].sum())
    if lost > 0.0:
        return won / lost
    return float("inf") if won > 0.0 else float("nan")


def expectancy(net: Floats) -> float:
    """Return the mean result of a trade."""
    return float(net.mean()) if len(net) else float("nan")


def win_rate(net: Floats) -> float:
    """Return the share of trades with a positive result."""
    return float((net > 0.0).mean()) if len(net) else float("nan")
