"""The 44 features once more: slow, obvious, from the definitions' text, sharing no line with the kernels.

Recursions are plain Python loops over float64; windowed statistics are two-pass over extended precision. The result of
`features` is a dict of float64 arrays by feature name.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable

import numpy as np

BIG = np.longdouble
QUIET = {"divide": "ignore", "invalid": "ignore"}


def in_order(values: Iterable[float]) -> float:
    """Add one after the other, as TA-Lib does: Python's own `sum` compensates its rounding from 3.12 on."""
    return functools.reduce(operator.add, values, 0.0)


def lag(x: np.ndarray, k: int) -> np.ndarray:
    out = np.full(len(x), np.nan)
    out[k:] = x[: max(len(x) - k, 0)]
    return out


def windows(x: np.ndarray, size: int) -> np.ndarray:
    """Rows of the last `size` values for every index ≥ size − 1."""
    return np.lib.stride_tricks.sliding_window_view(np.asarray(x, BIG), size)


def over(x: np.ndarray, size: int, function) -> np.ndarray:
    """Apply function(rows of windows) in chunks; NaN before the window is full."""
    out = np.full(len(x), np.nan)
    if len(x) < size:
        return out
    rows = windows(x, size)
    with np.errstate(**QUIET):
        for start in range(0, len(rows), 20_000):
            out[size - 1 + start : size - 1 + start + len(rows[start : start + 20_000])] = function(
                rows[start : start + 20_000]
            )
    return out


def mean(x: np.ndarray, size: int) -> np.ndarray:
    return over(x, size, lambda w: w.mean(axis=1))


def deviation(x: np.ndarray, size: int, degrees: int = 0) -> np.ndarray:
    """Standard deviation; exactly 0 in a flat window."""

    def rows(w: np.ndarray) -> np.ndarray:
        std = w.std(axis=1, ddof=degrees)
        std[(w == w[:, :1]).all(axis=1)] = 0
        return std

    return over(x, size, rows)


def ema(x: list[float], period: int) -> list[float]:
    """TA-Lib's EMA: seeded with the mean of the first `period` values."""
    out = [math.nan] * len(x)
    if len(x) < period:
        return out
    value = in_order(x[:period]) / period
    out[period - 1] = value
    for i in range(period, len(x)):
        value += (x[i] - value) * (2.0 / (period + 1))
        out[i] = value
    return out


def wilder(first_sum: float, x: list[float], start: int, period: int = 14) -> list[float]:
    """Average `first_sum`/period at index start − 1, then (a · 13 + x) / 14 from index start on."""
    out = [math.nan] * len(x)
    if len(x) < start:
        return out
    value = first_sum / period
    out[start - 1] = value
    for i in range(start, len(x)):
        value = (value * (period - 1) + x[i]) / period
        out[i] = value
    return out


def true_range(h: np.ndarray, low: np.ndarray, c: np.ndarray) -> list[float]:
    previous = lag(c, 1)
    return np.fmax(h - low, np.fmax(abs(h - previous), abs(low - previous))).tolist()


def atr(h: np.ndarray, low: np.ndarray, c: np.ndarray) -> np.ndarray:
    ranges = true_range(h, low, c)
    return np.array(wilder(in_order(ranges[1:15]), ranges, 15))


def directional(h: np.ndarray, low: np.ndarray, c: np.ndarray) -> dict[str, np.ndarray]:
    size = len(c)
    ranges = true_range(h, low, c)
    plus, minus = [0.0] * size, [0.0] * size
    for i in range(1, size):
        up, down = float(h[i] - h[i - 1]), float(low[i - 1] - low[i])
        if up > down and up > 0:
            plus[i] = up
        elif down > up and down > 0:
            minus[i] = down
    out = {name: [math.nan] * size for name in ("adx", "plus_di", "minus_di")}
    smooth = [in_order(x[1:14]) for x in (plus, minus, ranges)]
    dx = []
    for i in range(14, size):
        smooth = [s - s / 14 + x[i] for s, x in zip(smooth, (plus, minus, ranges), strict=True)]
        p, m = (100 * smooth[k] / smooth[2] if smooth[2] else 0.0 for k in (0, 1))
        out["plus_di"][i], out["minus_di"][i] = p, m
        dx.append(100 * abs(p - m) / (p + m) if p + m else 0.0)
        if len(dx) == 14:
            out["adx"][i] = in_order(dx) / 14
        elif len(dx) > 14:
            out["adx"][i] = (out["adx"][i - 1] * 13 + dx[-1]) / 14
    return {name: np.array(x) for name, x in out.items()}


def rsi(c: np.ndarray) -> np.ndarray:
    change = np.diff(c, prepend=c[:1])
    gains, losses = np.clip(change, 0, None).tolist(), np.clip(-change, 0, None).tolist()
    gain, loss = (np.array(wilder(in_order(x[1:15]), x, 15)) for x in (gains, losses))
    with np.errstate(**QUIET):
        return np.where(gain + loss == 0, 0.0, 100 * gain / (gain + loss))


def stochastic(h: np.ndarray, low: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    top, bottom = over(h, 14, lambda w: w.max(axis=1)), over(low, 14, lambda w: w.min(axis=1))
    with np.errstate(**QUIET):
        fast = np.where(top == bottom, 0.0, 100 * (c - bottom) / (top - bottom))
    fast[:13] = np.nan
    slow = mean(fast, 3)
    slow_d = mean(slow, 3)
    slow[: min(17, len(slow))] = np.nan
    return slow, slow_d


def macd(c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    prices = c.tolist()
    fast = ([math.nan] * 14 + ema(prices[14:], 12))[: len(c)]
    line = (np.array(fast) - np.array(ema(prices, 26))).tolist()
    signal = np.array(([math.nan] * 25 + ema(line[25:], 9))[: len(c)])
    defined = ~np.isnan(signal)
    line_array = np.where(defined, np.array(line), np.nan)
    return line_array, signal, line_array - signal


def from_newest(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(w − newest, its mean as a column): in extended precision the difference of two near doubles is exact."""
    d = w - w[:, -1:]
    return d, d.mean(axis=1)[:, None]


def cci(typical: np.ndarray) -> np.ndarray:
    def rows(w: np.ndarray) -> np.ndarray:
        d, middle = from_newest(w)
        spread = abs(d - middle).mean(axis=1)
        return np.where(spread == 0, 0.0, -middle[:, 0] / (BIG(0.015) * spread))

    return over(typical, 20, rows)


def bands(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((upper − lower) / middle, (c − lower) / (upper − lower)) of Bollinger's bands at two deviations over 20."""

    def parts(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        d, middle = from_newest(w)
        return w[:, -1], middle[:, 0], np.sqrt(((d - middle) ** 2).mean(axis=1))

    def width(w: np.ndarray) -> np.ndarray:
        newest, middle, spread = parts(w)
        return 4 * spread / (newest + middle)

    def place(w: np.ndarray) -> np.ndarray:
        _, middle, spread = parts(w)
        return np.where(spread == 0, np.nan, (2 * spread - middle) / (4 * spread))

    return over(c, 20, width), over(c, 20, place)


def z_score(x: np.ndarray) -> np.ndarray:
    """(newest − mean) / population deviation over 60; NaN where the deviation is below 1e-9."""

    def rows(w: np.ndarray) -> np.ndarray:
        d, middle = from_newest(w)
        spread = np.sqrt(((d - middle) ** 2).mean(axis=1))
        return np.where(spread < 1e-9, np.nan, -middle[:, 0] / spread)

    return over(x, 60, rows)


def mfi(typical: np.ndarray, v: np.ndarray) -> np.ndarray:
    previous = lag(typical, 1)
    still = abs(typical - previous) <= 1e-14 * (abs(typical) + abs(previous))
    flow = typical * v
    with np.errstate(**QUIET):
        up = np.where((typical > previous) & ~still, flow, 0 * flow)
        down = np.where((typical < previous) & ~still, flow, 0 * flow)
    up[0] = down[0] = np.nan
    ups, downs = (over(x, 14, lambda w: w.sum(axis=1)) for x in (up, down))
    with np.errstate(**QUIET):
        return np.where(ups + downs == 0, 0.0, 100 * ups / (ups + downs))


def sign_against(c: np.ndarray, fast: np.ndarray, slow: np.ndarray) -> np.ndarray:
    out = np.where((c > slow) & (fast > slow), 1.0, np.where((c < slow) & (fast < slow), -1.0, 0.0))
    return np.where(np.isnan(slow), np.nan, out)


def moments(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Σ dx dy, Σ dx², Σ dy²) over 60, with exact zeros in flat windows."""

    def centred(w: np.ndarray) -> np.ndarray:
        out = w - w.mean(axis=1)[:, None]
        out[(w == w[:, :1]).all(axis=1)] = 0
        return out

    size = len(x)
    out = np.full((3, size), np.nan)
    if size >= 60:
        for start in range(0, size - 59, 20_000):
            a, b = (centred(windows(z[start : start + 20_059], 60)) for z in (x, y))
            out[:, start + 59 : start + 59 + len(a)] = (a * b).sum(1), (a * a).sum(1), (b * b).sum(1)
    return out[0], out[1], out[2]


def as_of(samples: list[tuple[int, int, float]], t: int) -> list[tuple[int, float]]:
    """(stamp, value) of the samples usable at t, oldest first; stamps floored to the minute."""
    found = []
    for stamp, usable, value in samples:
        stamp = stamp // 60_000 * 60_000
        if stamp + 300_000 <= t and usable <= t:
            found.append((stamp, value))
    return found


def open_interest(samples: list[tuple[int, int, float]], t: int) -> float:
    known = as_of(samples, t)
    return known[-1][1] if known and t - known[-1][0] <= 900_000 else math.nan


def funding_z(samples: list[tuple[int, int, float]], t: int, size: int) -> float:
    known = as_of(samples, t)
    if len(known) < size:
        return math.nan
    interval = min(known[-1][0] - known[-2][0], 8 * 3_600_000)
    if t - known[-1][0] > 2 * interval:
        return math.nan
    rates = np.array([value for _, value in known[-size:]], BIG)
    if rates.max() == rates.min():
        return 0.0
    return float((rates[-1] - rates.mean()) / rates.std())


def features(bars: np.ndarray, btc: np.ndarray | None) -> dict[str, np.ndarray]:
    """The features of bars (BAR[n], no holes); btc: BTCUSDT's bars of the same times, None for BTCUSDT itself."""
    o, h, low, c = (bars[x].astype(float) for x in ("open", "high", "low", "close"))
    v, q, tb, n = (bars[x].astype(float) for x in ("volume", "quote_volume", "taker_volume", "trades"))
    m = c if btc is None else btc["close"].astype(float)
    f: dict[str, np.ndarray] = {}
    with np.errstate(**QUIET):
        for k in (1, 5, 15, 60):
            f[f"ret_{k}"] = c / lag(c, k) - 1
        f["log_ret"] = np.log((c / lag(c, 1)).astype(BIG)).astype(float)
        f["body_pct"] = (c - o) / o
        f["upper_wick_pct"] = (h - np.maximum(o, c)) / c
        f["lower_wick_pct"] = (np.minimum(o, c) - low) / c
        f["atr"] = atr(h, low, c)
        f["atr_pct"] = f["atr"] / c
        f["volatility"] = deviation(f["log_ret"], 60, 1)
        f["range_pct"] = (h - low) / c
        f["parkinson_vol"] = np.sqrt(mean(np.log((h / low).astype(BIG)) ** 2, 20) / (4 * math.log(2)))
        f["vol_ratio"] = np.where(f["volatility"] == 0, np.nan, deviation(f["log_ret"], 15, 1) / f["volatility"])
        f["bb_width"], f["bb_pctb"] = bands(c)
        f |= directional(h, low, c)
        fast, slow = (np.array(ema(c.tolist(), k)) for k in (20, 50))
        f["trend"] = sign_against(c, fast, slow)
        f["ma_cross"] = fast / slow - 1
        f["ma_distance"] = c / slow - 1
        index = np.arange(20, dtype=BIG) - 9.5
        f["slope"] = over(np.log(c.astype(BIG)), 20, lambda w: (w * index).sum(axis=1) / 665)
        f["rsi"] = rsi(c)
        f["rsi_z"] = z_score(f["rsi"])
        f["stoch_k"], f["stoch_d"] = stochastic(h, low, c)
        f["macd"], f["macd_signal"], f["macd_hist"] = (x / c for x in macd(c))
        typical = (h + low + c) / 3
        f["cci"] = cci(typical)
        f["mfi"] = mfi(typical, v)
        average = mean(v, 20)
        f["volume_ma_ratio"] = np.where(average == 0, np.nan, v / average)
        f["volume_std"] = np.where(average == 0, np.nan, deviation(v, 20) / average)
        v60, q60, v15 = (over(x, size, lambda w: w.sum(axis=1)) for x, size in ((v, 60), (q, 60), (v, 15)))
        vwap = np.where(v60 == 0, np.nan, q60 / v60)
        f["vwap_distance"] = np.where(vwap == 0, np.nan, c / vwap - 1)
        f["taker_buy_ratio"] = np.where(v == 0, np.nan, tb / v)
        net = over(2 * tb - v, 15, lambda w: w.sum(axis=1))
        f["taker_imbalance"] = np.where(v15 == 0, np.nan, net / v15)
        average = mean(n, 20)
        f["trade_count_ratio"] = np.where(average == 0, np.nan, n / average)
        ema50, ema200 = (np.array(ema(m.tolist(), k)) for k in (50, 200))
        f["btc_regime"] = sign_against(m, ema50, ema200)
        market = np.log((m / lag(m, 1)).astype(BIG)).astype(float)
        both, own, other = moments(f["log_ret"], market)
        if btc is None:
            f["btc_corr_60"] = np.where(own > 0, 1.0, np.nan)
            f["btc_beta_60"] = f["btc_corr_60"]
        else:
            f["btc_corr_60"] = np.where((own == 0) | (other == 0), np.nan, both / np.sqrt(own) / np.sqrt(other))
            f["btc_beta_60"] = np.where(other == 0, np.nan, both / other)
        f["btc_rel_60"] = f["ret_60"] - (m / lag(m, 60) - 1)
    return f


def build(bars_1m: np.ndarray, minutes: int) -> list[tuple]:
    """(open_ms, o, h, l, c, v, q, tb, n) of each larger bar whose 1m bars are all there."""
    groups: dict[int, list[np.void]] = {}
    for bar in bars_1m:
        groups.setdefault(int(bar["open_ms"]) // (minutes * 60_000), []).append(bar)
    out = []
    for key, group in sorted(groups.items()):
        if len(group) == minutes:
            sums = [
                in_order(float(bar[x]) for bar in group) for x in ("volume", "quote_volume", "taker_volume", "trades")
            ]
            high, low = max(float(bar["high"]) for bar in group), min(float(bar["low"]) for bar in group)
            out.append((key * minutes * 60_000, group[0]["open"], high, low, group[-1]["close"], *sums))
    return out
