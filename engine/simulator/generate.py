"""The generated market: correlated, fat-tailed, volatility-clustered minutes with one stated learnable component.

Per symbol a latent mood z (Ornstein–Uhlenbeck, half-life 180 minutes, unit variance, 40 % common) does two
things: it tilts the takers (taker-buy share 0.5 + 0.05 z + noise, always) and it moves the price (drift `edge` ×
0.07 × z standard deviations of a minute). With `edge` 0 the tilt is still there and means nothing, so there is
nothing to learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.simulator.jit import compiled, compiled_as
from engine.simulator.path import (
    CLOSE,
    FIRST_ID,
    HIGH,
    LOW,
    OPEN,
    QUOTE,
    TAKER,
    TAKER_QUOTE,
    TRADES,
    VOLUME,
    uniform,
)

DRIFT_PER_EDGE = 0.07
HALF_LIFE_MINUTES = 180
HOMESICK_MINUTES = 20_000  # prices drift back towards their start this slowly, or months would lead to absurd ones
SUBSTEPS = 8
_COMMON = np.uint64(0x5851F42D4C957F2D)


@compiled_as("float64(uint64, int64, int64)")
def _bell(key: Any, index: Any, salt: Any) -> Any:
    """Return a standardised sum of four uniforms: nearly normal, and without libm the same on every machine."""
    total = 0.0
    for k in range(4):
        total += uniform(key, index, salt + k)
    return (total - 2.0) * 1.7320508075688772


@compiled
def minutes(first_ms: Any, keys: Any, start: Any, volatility: Any, depth: Any, tick: Any, edge: Any, out: Any) -> None:
    """Fill `out` int64[COLUMNS, S, N] with minutes from `first_ms` on.

    keys uint64[S]; start, volatility (of one minute), depth (base quantity per minute, in quantity integers)
    float64[S]; tick int64[S]. QUOTE is in price integer × quantity integer units. The seed is inside the keys.
    """
    _columns, symbols, count = out.shape
    keep = 0.5 ** (1.0 / HALF_LIFE_MINUTES)
    fresh = np.sqrt(1.0 - keep * keep)
    common = keys[0] ^ _COMMON
    pull = 1.0 / HOMESICK_MINUTES
    shared_mood = np.zeros(count)
    shared_move = np.zeros((count, SUBSTEPS))
    heat, mood = 1.0, 0.0
    for i in range(count):
        at = first_ms // 60_000 + i
        total = 0.0
        for k in range(SUBSTEPS):
            move = _bell(common, at, 100 + 8 * k) * np.sqrt(heat / SUBSTEPS)
            if uniform(common, at, 300 + k) < 0.006:
                move *= 5.0
            shared_move[i, k] = move
            total += move
        heat = min(12.0, 0.03 + 0.10 * total * total + 0.87 * heat)
        mood = keep * mood + fresh * _bell(common, at, 400)
        shared_mood[i] = mood
    for s in range(symbols):
        key, price, heat, mood = keys[s], start[s], 1.0, 0.0
        identity = 1_000_000_000 + np.int64(key % np.uint64(1_000_000_000))
        last = np.int64(np.rint(price / tick[s])) * tick[s]
        for i in range(count):
            at = first_ms // 60_000 + i
            mood = keep * mood + fresh * _bell(key, at, 400)
            tilt = 0.6324555320336759 * shared_mood[i] + 0.7745966692414834 * mood
            drift = (edge * DRIFT_PER_EDGE * tilt - (price / start[s] - 1.0) * pull / volatility[s]) / SUBSTEPS
            high, low, first, total = last, last, last, 0.0
            for k in range(SUBSTEPS):
                own = _bell(key, at, 100 + 8 * k) * np.sqrt(heat / SUBSTEPS)
                if uniform(key, at, 300 + k) < 0.006:
                    own *= 5.0
                total += own
                step = 0.75 * shared_move[i, k] + 0.6614378277661477 * own + drift
                price = max(price * (1.0 + volatility[s] * step), 20.0 * tick[s])
                last = np.int64(np.rint(price / tick[s])) * tick[s]
                high, low = max(high, last), min(low, last)
            heat = min(12.0, 0.03 + 0.10 * total * total + 0.87 * heat)
            size = depth[s] * (0.3 + 0.5 * heat + 0.4 * abs(total)) * (0.5 + uniform(key, at, 500))
            volume = max(np.int64(2), np.int64(size))
            share = min(0.95, max(0.05, 0.5 + 0.05 * tilt + 0.04 * _bell(key, at, 510)))
            trades = max(np.int64(2), np.int64(20.0 + 400.0 * size / depth[s] * (0.7 + 0.6 * uniform(key, at, 520))))
            trades = min(trades, volume)
            average = (first + last + high + low) / 4.0
            out[OPEN, s, i], out[HIGH, s, i], out[LOW, s, i], out[CLOSE, s, i] = first, high, low, last
            out[VOLUME, s, i] = volume
            out[QUOTE, s, i] = np.int64(volume * average)
            out[TAKER, s, i] = np.int64(volume * share)
            out[TAKER_QUOTE, s, i] = np.int64(out[TAKER, s, i] * average)
            out[TRADES, s, i] = trades
            out[FIRST_ID, s, i] = identity
            identity += trades
