"""Triple-barrier labels against a slow twin written from the definition, and on cases worked out by hand."""

import math

import numpy as np
import pytest

from engine.model.labels import LabelSettings, label
from kernels.records import BAR, SAMPLE, BarFlag, Reason

MINUTE_MS = 60_000
START_MS = 1_700_000_040_000 // MINUTE_MS * MINUTE_MS


def bars_of(rng: np.random.Generator, n: int, scale: float = 2e-3, tick: float = 0.05) -> np.ndarray:
    bars = np.zeros(n, BAR)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, scale, n))) / tick) * tick
    bars["open_ms"] = START_MS + MINUTE_MS * np.arange(n)
    bars["close"] = close
    bars["open"] = np.concatenate([[100.0], close[:-1]]) + tick * rng.integers(-3, 4, n)
    bars["high"] = np.maximum(bars["open"], close) + tick * rng.integers(0, 5, n)
    bars["low"] = np.minimum(bars["open"], close) - tick * rng.integers(0, 5, n)
    return bars


def naive(bars, atr, mark, rates, i, side, limit, cost):
    """One label from the words of FEATURES.md; `mark` is a dict minute → bar, `rates` a dict close time → rate."""
    entry = bars[i]["close"]
    ahead = [bars[i + k] for k in range(1, limit + 1) if i + k < len(bars)]
    if len(ahead) < limit or any(b["flags"] & BarFlag.FILLED for b in ahead) or not atr > 0:
        return None
    if any(b["open_ms"] != bars[i]["open_ms"] + MINUTE_MS * (k + 1) for k, b in enumerate(ahead)):
        return None
    take, stop = entry + side * 1.5 * atr, entry - side * atr
    now = mark.get(int(bars[i]["open_ms"]))
    if now is not None and (side * (now["close"] - take) >= 0 or side * (stop - now["close"]) >= 0):
        return None
    marks = [mark.get(int(b["open_ms"])) for b in ahead]
    path = ahead if any(m is None for m in marks) else marks
    worst, reason, both, price, k = 0.0, Reason.TIME, False, path[-1]["close"], limit
    for minute, bar in enumerate(path, 1):
        bad, good = (bar["low"], bar["high"]) if side > 0 else (bar["high"], bar["low"])
        hit_stop, hit_take = side * (bad - stop) <= 0, side * (good - take) >= 0
        if hit_stop:
            reason, both, k = Reason.SL, hit_take, minute
            price = side * min(side * stop, side * bar["open"])
            break
        worst = max(worst, side * (entry - bad))
        if hit_take:
            reason, price, k = Reason.TP, take, minute
            break
    price += ahead[k - 1]["close"] - path[k - 1]["close"]
    if reason == Reason.SL:
        worst = max(worst, side * (entry - price))

    def paid(last):
        return sum(
            rates[int(ahead[m]["open_ms"]) + MINUTE_MS] * path[m]["close"] / entry
            for m in range(last)
            if int(ahead[m]["open_ms"]) + MINUTE_MS in rates
        )

    gross = side * (price - entry) / entry
    end = ahead[-1]["close"]
    free = side * (end - entry) / entry
    return {
        "exit_price": price,
        "gross_return": gross,
        "net_return": gross - cost * (1 + price / entry) - side * paid(k),
        "return_free": free,
        "net_free": free - cost * (1 + end / entry) - side * paid(limit),
        "mae": worst / entry,
        "hold_minutes": k,
        "reason": reason,
        "both_in_bar": both,
        "on_mark": path is marks,
    }


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_definition_spelled_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, limit = 700, 90
    bars = bars_of(rng, n)
    mark = bars_of(rng, n)
    for name in ("open", "high", "low", "close"):
        mark[name] = bars[name] + rng.normal(0, 0.05)
    mark = np.delete(mark, [300])
    bars["flags"][450] = BarFlag.FILLED
    bars = np.delete(bars, [600, 601])
    atr = np.abs(rng.normal(0.8, 0.4, len(bars)))
    atr[::37], atr[5] = np.nan, 0.0
    funding = np.zeros(8, SAMPLE)
    funding["stamp_ms"] = START_MS + MINUTE_MS * 60 * np.arange(1, 9) + 7  # stamps jitter by milliseconds
    funding["value"] = rng.normal(0, 1e-4, 8)
    rates = {int(s) // MINUTE_MS * MINUTE_MS: v for s, v in zip(funding["stamp_ms"], funding["value"], strict=True)}
    result = label(bars, atr, mark, funding, settings=LabelSettings(time_limit_minutes=limit))
    marks = {int(m["open_ms"]): m for m in mark}
    reasons = set()
    for side, rows in ((1, result.long), (-1, result.short)):
        found = {int(row["time_ms"]): row for row in rows}
        for i in range(len(bars)):
            want = naive(bars, atr[i], marks, rates, i, side, limit, 0.0006)
            got = found.pop(int(bars[i]["open_ms"]) + MINUTE_MS, None)
            assert (want is None) == (got is None), i
            if want is None:
                continue
            reasons.add(int(want["reason"]))
            for name, value in want.items():
                assert math.isclose(value, float(got[name]), rel_tol=1e-12, abs_tol=1e-15), (i, side, name)
        assert not found
    assert reasons == {Reason.TP, Reason.SL, Reason.TIME}
    both = sum(int(rows["both_in_bar"].sum()) for rows in (result.long, result.short))
    assert both == result.counts["both_in_bar_long"] + result.counts["both_in_bar_short"]


def flat_then(moves: dict[int, tuple[float, float, float, float]], n: int = 12) -> np.ndarray:
    bars = np.zeros(n, BAR)
    bars["open_ms"] = START_MS + MINUTE_MS * np.arange(n)
    for name in ("open", "high", "low", "close"):
        bars[name] = 100.0
    for i, values in moves.items():
        for name, value in zip(("open", "high", "low", "close"), values, strict=True):
            bars[name][i] = value
    return bars


def first(bars: np.ndarray, **settings: float) -> tuple[np.void, np.void]:
    found = label(bars, np.full(len(bars), 2.0), settings=LabelSettings(time_limit_minutes=10, **settings))
    return found.long[0], found.short[0]


def test_a_gap_through_the_stop_exits_at_the_open() -> None:
    long, short = first(flat_then({4: (95.0, 96.0, 94.0, 95.5)}))
    assert (long["reason"], long["exit_price"], long["hold_minutes"]) == (Reason.SL, 95.0, 4)
    assert long["mae"] == pytest.approx(0.05)  # only to the exit, not to the low of 94
    assert (short["reason"], short["exit_price"]) == (Reason.TP, 97.0)  # a limit fills at the barrier, no better


def test_both_barriers_in_one_bar_count_as_the_stop() -> None:
    long, short = first(flat_then({2: (100.0, 104.0, 96.0, 100.0)}))
    assert (long["reason"], long["exit_price"], long["both_in_bar"]) == (Reason.SL, 98.0, 1)
    assert (short["reason"], short["exit_price"], short["both_in_bar"]) == (Reason.SL, 102.0, 1)


def test_the_time_limit_exits_at_the_close_and_costs_come_off() -> None:
    long, _ = first(flat_then({10: (100.0, 101.0, 100.0, 101.0)}), taker_fee=0.001, half_spread=0.0)
    assert (long["reason"], long["hold_minutes"], long["exit_price"]) == (Reason.TIME, 10, 101.0)
    assert long["net_return"] == pytest.approx(0.01 - 0.001 * 2.01, abs=1e-15)
    assert long["net_return"] == long["net_free"]


def test_a_recorded_gap_removes_the_labels_that_cross_it() -> None:
    bars = flat_then({}, 40)
    gap = np.array([[bars["open_ms"][20], bars["open_ms"][21]]])
    settings = LabelSettings(time_limit_minutes=10)
    found = label(bars, np.ones(40), gaps=gap, settings=settings)
    entries = (found.long["time_ms"] - START_MS) // MINUTE_MS - 1
    assert entries.tolist() == [*range(10), *range(20, 30)]
