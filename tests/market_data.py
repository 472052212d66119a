"""Generated bars for the feature tests: every awkward kind of market, from a seed."""

from __future__ import annotations

import numpy as np

from kernels.records import BAR, SAMPLE, TIMEFRAME_MS, BarFlag

START_MS = 1_700_006_400_000  # a UTC midnight


def generated_bars(count: int, seed: int, price: float = 100.0, timeframe: int = 0, tick: float = 0.0) -> np.ndarray:
    """Return BAR[count]: fat-tailed, volatility-clustered, with flat stretches, zero volumes and filled minutes.

    `tick` > 0 rounds prices to it.
    """
    random = np.random.default_rng(seed)
    scale = 4e-4 * np.exp(np.convolve(random.normal(0, 0.3, count), np.ones(30) / 5)[:count])
    moves = random.standard_t(4, count) * scale
    for start in range(700, count, 2_900):
        moves[start : start + 90] = 0.0
    moved = moves != 0
    moves[moved] -= moves.sum() / moved.sum()  # end where it began: the price level stays the one asked for
    close = price * np.exp(np.cumsum(moves))
    opened = np.concatenate([[price], close[:-1]])
    high = np.maximum(opened, close) * (1 + np.abs(random.normal(0, 2e-4, count)) * (moves != 0))
    low = np.minimum(opened, close) * (1 - np.abs(random.normal(0, 2e-4, count)) * (moves != 0))
    if tick:
        opened, high, low, close = (np.maximum(np.round(x / tick), 1) * tick for x in (opened, high, low, close))
    bars = np.zeros(count, BAR)
    bars["open_ms"] = START_MS + TIMEFRAME_MS[timeframe] * np.arange(count)
    bars["open"], bars["high"], bars["low"], bars["close"] = opened, high, low, close
    bars["volume"] = np.round(random.gamma(0.7, 30, count), 3) * (random.random(count) > 0.05)
    bars["quote_volume"] = bars["volume"] * (high + low) / 2
    bars["taker_volume"] = np.round(bars["volume"] * random.random(count), 3)
    bars["trades"] = np.where(bars["volume"] > 0, 1 + random.poisson(20, count), 0)
    bars["flags"] = BarFlag.REST
    for start in range(1_900, count - 40, 5_000):
        fill = slice(start, start + 20)
        for name in ("open", "high", "low", "close"):
            bars[name][fill] = bars["close"][start - 1]
        for name in ("volume", "quote_volume", "taker_volume", "trades"):
            bars[name][fill] = 0.0
        bars["flags"][fill] = BarFlag.FILLED
        bars["open"][start + 20] = bars["close"][start - 1]
        bars["high"][start + 20] = max(bars["high"][start + 20], bars["open"][start + 20])
        bars["low"][start + 20] = min(bars["low"][start + 20], bars["open"][start + 20])
    return bars


def generated_samples(count: int, seed: int, every_ms: int, from_ms: int = START_MS, level: float = 1e6) -> np.ndarray:
    """Return SAMPLE[count] stamped every `every_ms` with a jitter of ms; some arrived late, some are missing."""
    random = np.random.default_rng(seed)
    samples = np.zeros(count, SAMPLE)
    samples["stamp_ms"] = from_ms + every_ms * np.arange(count) + random.integers(0, 40, count)
    samples["usable_ms"] = samples["stamp_ms"] // 60_000 * 60_000 + 300_000
    late = random.random(count) < 0.03
    samples["usable_ms"][late] += random.integers(1_000, 900_000, int(late.sum()))
    samples["value"] = level * np.exp(np.cumsum(random.normal(0, 1e-3, count)))
    return samples[random.random(count) > 0.01]
