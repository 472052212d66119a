"""How much of the account hangs on one movement: the notional held in symbols that move as the candidate does."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

WINDOW = 241  # closes, so 240 one-minute returns
LEAST = 120  # fewer common returns say nothing: then the symbols count as moving together
MINUTE_MS = 60_000
Closes = Callable[[int, int, int], npt.NDArray[np.float64]]
"""closes(symbol, open_ms, count) → float64[count]: closes of the 1m bars that end with the one opened at open_ms."""


def correlation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Return the correlation of the log returns of two series of closes; NaN when too few are known or one stands."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = np.diff(np.log(one)), np.diff(np.log(other))
        known = np.isfinite(a) & np.isfinite(b)
        if known.sum() < LEAST:
            return float("nan")
        a, b = a[known] - a[known].mean(), b[known] - b[known].mean()
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def moving_together_usdt(
    symbol: int, side: int, held: Iterable[tuple[int, int, float]], closes: Closes, least: float, now_ms: int
) -> float:
    """Return the notional of `held` (symbol, side, notional) that wins and loses with a position of `side` in `symbol`.

    The minute that has just closed is left out: not every symbol's bar of it has arrived when the first one decides.
    """
    open_ms = now_ms - now_ms % MINUTE_MS - 2 * MINUTE_MS
    own = None
    together = 0.0
    for other, other_side, notional_usdt in held:
        if own is None:
            own = closes(symbol, open_ms, WINDOW)
        moves = correlation(own, closes(other, open_ms, WINDOW)) * side * other_side
        if not moves < least:  # NaN counts as moving together
            together += notional_usdt
    return together
