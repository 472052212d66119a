"""The book below the best level: quantities that are a function of (symbol, price, five minutes), so diffs
stay small."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.simulator.jit import compiled
from engine.simulator.path import uniform
from engine.simulator.tape import Tape

DEPTH_LEVELS = 50  # per side; the liquidity of a simulated symbol ends there

Levels = list[tuple[int, int]]


@compiled
def _fill(key: Any, tick: Any, typical: Any, epoch: Any, bid: Any, ask: Any, out: Any) -> None:
    """Fill `out` int64[4, n] with bid prices, quantities, ask prices, quantities from the second level on."""
    for level in range(out.shape[1]):
        gap = 1 + level + level * level // 24
        for side in range(2):
            price = bid - gap * tick if side == 0 else ask + gap * tick
            out[2 * side, level] = price
            share = 0.1 + 0.9 * uniform(key, price // tick, 70 + epoch)
            out[2 * side + 1, level] = max(1, int(typical * share * 0.25))


def levels(tape: Tape, s: int, count: int = DEPTH_LEVELS) -> tuple[Levels, Levels, int]:
    """Return (bids, asks, update id) as of the newest book update, best first, as (price, quantity) integers."""
    bid, bid_qty, ask, ask_qty, update_id = tape.best(s)
    market = tape.market
    rows = np.empty((4, DEPTH_LEVELS - 1), np.int64)
    epoch = tape.open_ms // 300_000
    _fill(market.keys[s], market.ticks[s], market.typical[s], epoch, bid, ask, rows)
    lower = zip(rows[0].tolist(), rows[1].tolist(), strict=True)
    bids = [(bid, bid_qty), *((price, qty) for price, qty in lower if price > 0)]
    asks = [(ask, ask_qty), *zip(rows[2].tolist(), rows[3].tolist(), strict=True)]
    return bids[:count], asks[:count], update_id
