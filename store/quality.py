"""The quality gate: what a series must be before any of it is stored. Pure: arrays in, findings or a refusal out."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.records import BAR, TIMEFRAME_MS
from store.errors import ImportRefused
from store.formats import Series

FIRST_MS = 1_483_228_800_000  # 2017-01-01: no such market is older
DAY_MS = 86_400_000
FLAT_RUN = 60  # minutes without a trade that a listed perpetual may have; more is another thing than a quiet market
SPOT_HALT_MS = (1_679_661_600_000, 1_679_666_400_000)  # 2023-03-24 12:40–14:00 UTC: spot stood still, futures traded
MIN_OVERLAP = 30
SAME_SHARE = 0.95  # of overlapping closes that must equal what is stored: a file issued again corrects a few
JUMP_FACTOR = 5.0  # from one candle's close to the next one's open: another unit or another contract, not a market
MAX_SHIFT_HOURS = 14
RATES = {"funding": 0.1, "premium": 0.5}  # an absolute rate above is a price or a percentage
PRICES = ("open", "high", "low", "close")
OVERRIDES = ("flat", "differs", "spot", "shift", "jump")


@dataclass(frozen=True)
class Finding:
    """Something worth recording that is no reason to refuse: a gap, or rows that repeat."""

    what: str
    from_ms: int
    to_ms: int
    count: int


def check(series: Series, allow: frozenset[str] = frozenset()) -> list[Finding]:
    """Refuse the series or return findings; removes rows that repeat another one exactly. `allow` names OVERRIDES."""
    _times(series)
    findings = _repeats(series)
    if series.kind in ("klines", "mark", "premium"):
        findings += _bars(series, allow)
    else:
        _samples(series)
    return findings


def to_bars(series: Series, flags: int) -> npt.NDArray:
    """Return the series as BAR[n]; what the file lacks is NaN (a count, a volume) or -1 (the last trade id)."""
    bars = np.zeros(len(series.times_ms), BAR)
    bars["open_ms"] = series.times_ms
    for name in (*PRICES, "volume", "quote_volume", "taker_volume", "trades"):
        bars[name] = series.columns.get(name, np.nan)
    if series.kind != "klines":
        for name in ("volume", "quote_volume", "taker_volume"):
            bars[name] = np.nan
    bars["last_trade_id"] = -1
    bars["flags"] = flags
    return bars


def compare(
    series: Series, stored: npt.NDArray, other: npt.NDArray, allow: frozenset[str] = frozenset()
) -> list[Finding]:
    """Refuse klines that are not what their name says, judged by what is stored; return how many closes differ.

    stored: BAR[n] of the same symbol and timeframe around the file's range; other: the same of BTCUSDT, for symbols of
    which nothing is stored yet.
    """
    if series.kind != "klines":
        return []
    if "jump" not in allow:
        _neighbours(series, stored)
    times, mine, theirs = _aligned(series, stored, 0)
    differs = mine != theirs
    if len(mine) >= MIN_OVERLAP:
        if differs.mean() > 1 - SAME_SHARE:
            if "shift" not in allow:
                _refuse_shift(series, stored, 0.9)
            if "differs" not in allow:
                ratio = float(np.median(mine[differs] / theirs[differs]))
                what = (
                    "spot prices or another contract" if abs(ratio - 1) < 0.01 else f"prices {ratio:.4g} times as high"
                )
                raise ImportRefused(
                    series.path,
                    f"{differs.mean():.0%} of {len(mine)} closes differ from the stored {series.symbol}, "
                    f"by {(ratio - 1) * 1e4:+.1f} basis points at the median: {what}",
                    remedy="check symbol and market; --allow differs imports it all the same",
                )
    elif "shift" not in allow and len(other):
        _refuse_shift(series, other, 0.3)
    return [Finding("differs", int(times[0]), int(times[-1]), int(differs.sum()))] if differs.any() else []


def _times(series: Series) -> None:
    times = series.times_ms
    latest = time.time_ns() // 1_000_000 + DAY_MS
    wrong = (times < FIRST_MS) | (times > latest)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ImportRefused(
            series.path,
            f"time {_iso(int(times[row]))} is outside 2017 to now",
            row=series.line(row),
            remedy="wrong unit?",
        )
    falling = np.diff(times) < 0
    if falling.any():
        row = int(np.argmax(falling)) + 1
        raise ImportRefused(
            series.path,
            f"time runs backwards, from {_iso(int(times[row - 1]))} to {_iso(int(times[row]))}",
            row=series.line(row),
            remedy="sort the file by time, or look for two files joined",
        )
    if series.kind in ("klines", "mark", "premium"):
        step = TIMEFRAME_MS[series.timeframe]
        crooked = times % step != 0
        if crooked.any():
            row = int(np.argmax(crooked))
            rounded = len(np.unique(times)) < len(times) // 2
            raise ImportRefused(
                series.path,
                f"time {_iso(int(times[row]))} is not a whole {step // 60_000} min",
                row=series.line(row),
                remedy="rounded by a spreadsheet; use the file as downloaded" if rounded else "open times are expected",
            )


def _repeats(series: Series) -> list[Finding]:
    times = series.times_ms
    repeats = np.concatenate([[False], np.diff(times) == 0])
    if not repeats.any():
        return []
    for name, values in series.columns.items():
        differs = repeats & np.concatenate([[False], (values[1:] != values[:-1]) & ~np.isnan(values[1:])])
        if differs.any():
            row = int(np.argmax(differs))
            raise ImportRefused(
                series.path,
                f"two rows for {_iso(int(times[row]))} differ in {name}: {values[row - 1]:g} and {values[row]:g}",
                row=series.line(row),
                remedy="keep the right one",
            )
    count, first, last = int(repeats.sum()), int(times[repeats][0]), int(times[repeats][-1])
    series.times_ms = times[~repeats]
    series.columns = {name: values[~repeats] for name, values in series.columns.items()}
    return [Finding("repeated rows", first, last, count)]


def _bars(series: Series, allow: frozenset[str]) -> list[Finding]:
    columns = series.columns
    missing = [name for name in PRICES if name not in columns]
    if missing:
        raise ImportRefused(series.path, f"no column {', '.join(missing)}", remedy="expected open, high, low, close")
    opened, high, low, close = (columns[name] for name in PRICES)
    _first(series, ~np.isfinite(opened + high + low + close), "a price is missing or not finite")
    cut = [name for name, values in columns.items() if np.isnan(values[-1]) and not np.isnan(values[:-1]).any()]
    if cut and len(series.times_ms) > 1:
        raise ImportRefused(
            series.path,
            f"the last row ends before {', '.join(cut)}",
            row=series.line(len(series.times_ms) - 1),
            remedy="the file is cut off; download it again",
        )
    if series.kind == "premium":
        _first(series, np.maximum(np.abs(high), np.abs(low)) > RATES["premium"], "a premium index above 50 %: prices?")
    else:
        _first(series, np.minimum(low, np.minimum(opened, close)) <= 0, "a price is not positive")
    above = high < np.maximum(opened, close)
    _first(series, above | (low > np.minimum(opened, close)), "high or low does not enclose open and close")
    for name in ("volume", "quote_volume", "taker_volume", "trades"):
        if name in columns:
            _first(series, columns[name] < 0, f"{name} is negative")
    if "taker_volume" in columns and "volume" in columns:
        _first(series, columns["taker_volume"] > columns["volume"] * (1 + 1e-9), "taker volume exceeds volume")
    if series.kind == "klines":
        _klines(series, allow)
    if series.kind != "premium" and "jump" not in allow:
        step = TIMEFRAME_MS[series.timeframe]
        jumps = _far(opened[1:], close[:-1]) & (np.diff(series.times_ms) == step)
        _first(
            series,
            np.concatenate([[False], jumps]),
            f"the price is {JUMP_FACTOR:g} times another from one candle to the next",
        )
    return _gaps(series)


def _far(price: npt.NDArray, last: npt.NDArray) -> npt.NDArray[np.bool_]:
    return (price > JUMP_FACTOR * last) | (price * JUMP_FACTOR < last)


def _neighbours(series: Series, stored: npt.NDArray) -> None:
    """Refuse klines whose price is far from the stored candle right before or behind them: a redenominated contract."""
    step = TIMEFRAME_MS[series.timeframe]
    for edge, mine, beside_ms, theirs in (
        (0, "open", series.times_ms[0] - step, "close"),
        (-1, "close", series.times_ms[-1] + step, "open"),
    ):
        beside = stored[stored["open_ms"] == beside_ms][theirs]
        if len(beside) and _far(series.columns[mine][[edge]], beside)[0]:
            raise ImportRefused(
                series.path,
                f"{mine} {series.columns[mine][edge]:g} at {_iso(int(series.times_ms[edge]))}, the stored candle "
                f"beside it has {theirs} {beside[0]:g}",
                remedy="another unit or contract? --allow jump imports it",
            )


def _klines(series: Series, allow: frozenset[str]) -> None:
    columns = series.columns
    volume = columns.get("volume", np.full(len(series.times_ms), np.nan))
    trades = columns.get("trades")
    if trades is not None and len(volume) > 10 and not volume.any() and (trades > 0).all():
        raise ImportRefused(
            series.path, "no volume in any row though each counts ticks: mark-price candles", remedy="give --kind mark"
        )
    if series.market == "spot" and "spot" not in allow:
        raise ImportRefused(
            series.path, "folder or name says spot", remedy="use data/futures/um; --allow spot imports it"
        )
    inside = (series.times_ms >= SPOT_HALT_MS[0]) & (series.times_ms < SPOT_HALT_MS[1])
    around = bool(len(inside)) and series.times_ms[0] < SPOT_HALT_MS[0] and series.times_ms[-1] >= SPOT_HALT_MS[1]
    if around and not (inside & (volume > 0)).any() and series.timeframe < 2 and "spot" not in allow:
        raise ImportRefused(
            series.path,
            "no trade on 2023-03-24 from 12:40 to 14:00 UTC, when only spot stood still: these are spot candles",
            remedy="use the USD-M futures files; --allow spot imports it",
        )
    start, length = _longest_run((volume == 0) & (columns["high"] == columns["low"]))
    if length * TIMEFRAME_MS[series.timeframe] > FLAT_RUN * 60_000 and "flat" not in allow:
        raise ImportRefused(
            series.path,
            f"{length} candles in a row without a trade, from {_iso(int(series.times_ms[start]))}",
            row=series.line(start),
            remedy="filled by a tool or not listed then; --allow flat imports it",
        )


def _gaps(series: Series) -> list[Finding]:
    step = TIMEFRAME_MS[series.timeframe]
    times = series.times_ms
    where = np.nonzero(np.diff(times) > step)[0]
    return [
        Finding("gap", int(times[i]) + step, int(times[i + 1]), int((times[i + 1] - times[i]) // step - 1))
        for i in where
    ]


def _samples(series: Series) -> None:
    columns = series.columns
    if series.kind == "funding":
        if "rate" not in columns and "open" in columns:  # freqtrade keeps the rate in `open`
            columns["rate"] = columns["open"]
        _require(series, "rate")
        _first(series, ~(np.abs(columns["rate"]) <= RATES["funding"]), "expected a rate as a fraction")
    else:
        _require(series, "open_interest")
        _first(series, ~(columns["open_interest"] >= 0), "open interest is missing or negative")


def _require(series: Series, name: str) -> None:
    if name not in series.columns:
        raise ImportRefused(series.path, f"no column {name}", remedy=f"columns: {', '.join(series.columns)}")


def _first(series: Series, wrong: npt.NDArray[np.bool_], what: str) -> None:
    if not wrong.any():
        return
    row = int(np.argmax(wrong))
    shown = ", ".join(f"{name} {values[row]:g}" for name, values in list(series.columns.items())[:6])
    raise ImportRefused(series.path, f"{what} at {_iso(int(series.times_ms[row]))} ({shown})", row=series.line(row))


def _longest_run(flags: npt.NDArray[np.bool_]) -> tuple[int, int]:
    edges = np.diff(np.concatenate([[0], flags.astype(np.int8), [0]]))
    starts, ends = np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0]
    if not len(starts):
        return 0, 0
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest] - starts[longest])


def _aligned(series: Series, stored: npt.NDArray, shift_ms: int) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
    """Return the common times, the file's moved by `shift_ms`, and the closes of both."""
    times, mine, theirs = np.intersect1d(
        series.times_ms + shift_ms, stored["open_ms"], assume_unique=True, return_indices=True
    )
    return times, series.columns["close"][mine], stored["close"][theirs]


def _refuse_shift(series: Series, stored: npt.NDArray, least: float) -> None:
    """Refuse if the file's returns agree with the stored ones at another offset and not at their own."""
    found = {}
    for half_hours in range(-2 * MAX_SHIFT_HOURS, 2 * MAX_SHIFT_HOURS + 1):
        _, mine, theirs = _aligned(series, stored, half_hours * 1_800_000)
        if len(mine) >= 4 * MIN_OVERLAP:
            first, second = np.diff(np.log(mine)), np.diff(np.log(theirs))
            if first.std() > 0 and second.std() > 0:
                found[half_hours] = float(np.corrcoef(first, second)[0, 1])
    if not found:
        return
    best = max(found, key=lambda key: found[key])
    if best != 0 and found[best] > least and found.get(0, 0.0) < found[best] / 2:
        raise ImportRefused(
            series.path,
            f"the prices move like the stored ones {best / 2:+g} h later (correlation {found[best]:.2f}, "
            f"{found.get(0, 0.0):.2f} as they are): times are not UTC",
            remedy="give --zone; --allow shift imports it as it is",
        )


def _iso(time_ms: int) -> str:
    try:
        return str(np.datetime64(time_ms, "ms"))
    except (OverflowError, ValueError):
        return str(time_ms)
