"""The exchange's REST rows as arrays: parse and check, no I/O."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ExchangeError
from kernels.records import BAR, SAMPLE, TIMEFRAME_MS, BarFlag
from kernels.settlements import settlement_hours

FUNDING_DELAY_MS = OPEN_INTEREST_DELAY_MS = 300_000  # as-of rule: usable from its stamp + 300 s
MINUTE_MS = 60_000
_BAR_COLUMNS = ("open", "high", "low", "close", "volume", "quote_volume", "taker_volume")
_ROW_COLUMNS = (1, 2, 3, 4, 5, 7, 9)


def bars(rows: Any, timeframe: int, signed: bool = False) -> npt.NDArray[Any]:
    """Turn kline rows (12 columns) into BAR[n] in time order, flag REST.

    The last row may be a bar that is still open: the caller cuts by server time. `signed`: values may be negative, as
    the premium index is. Raises ExchangeError naming the
    first row that is no candle.
    """
    step = TIMEFRAME_MS[timeframe]
    if not isinstance(rows, list):
        raise ExchangeError(200, 0, f"klines: expected a list of rows, got {type(rows).__name__}")
    result = np.zeros(len(rows), BAR)
    try:
        if rows:
            table = np.array([[row[column] for column in _ROW_COLUMNS] for row in rows], dtype=np.float64)
            for position, name in enumerate(_BAR_COLUMNS):
                result[name] = table[:, position]
            result["open_ms"] = [row[0] for row in rows]
            result["trades"] = [row[8] for row in rows]
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise ExchangeError(200, 0, f"klines: a row is not 12 columns of a candle: {error}") from error
    result["last_trade_id"] = -1
    result["flags"] = BarFlag.REST
    good = (
        (signed | (result["low"] > 0))
        & (result["low"] <= np.minimum(result["open"], result["close"]))
        & (result["high"] >= np.maximum(result["open"], result["close"]))
        & np.isfinite(result["high"])
        & (result["volume"] >= 0)
        & (result["open_ms"] % step == 0)
        & (np.diff(result["open_ms"], prepend=-1) > 0)
    )
    if not good.all():
        row = int(np.argmin(good))
        raise ExchangeError(200, 0, f"klines: row {row} is no candle: {rows[row]!r:.200}")
    return result


def funding(rows: Any, listed_hours: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Turn fundingRate rows into (SAMPLE[n], int64[n] hours): settled Regular rates scaled to 8 h by the interval that
    each ended, stamps floored to the minute. listed_hours: the interval of the first row, which the rows do not tell.
    """
    try:
        kept = [row for row in rows if row.get("rateType", "Regular") == "Regular"]
        stamps = [int(row["fundingTime"]) for row in kept]
        values = [float(row["fundingRate"]) for row in kept]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ExchangeError(200, 0, f"fundingRate: unexpected row: {error!r}") from error
    samples = _samples(stamps, values, FUNDING_DELAY_MS)
    hours = settlement_hours(samples["stamp_ms"], listed_hours)
    samples["value"] *= 8.0
    samples["value"] /= hours
    return samples, hours


def open_interest(rows: Any) -> npt.NDArray[Any]:
    """Turn openInterestHist rows into SAMPLE[n]; the timestamp may be an integer or a string."""
    try:
        stamps = [int(row["timestamp"]) for row in rows]
        values = [float(row["sumOpenInterest"]) for row in rows]
    except (TypeError, ValueError, KeyError) as error:
        raise ExchangeError(200, 0, f"openInterestHist: unexpected row: {error!r}") from error
    return _samples(stamps, values, OPEN_INTEREST_DELAY_MS)


def _samples(stamps_ms: list[int], values: list[float], delay_ms: int) -> npt.NDArray[Any]:
    """Return SAMPLE[n], stamps floored to the minute, in time order, one per stamp."""
    result = np.zeros(len(stamps_ms), SAMPLE)
    result["stamp_ms"] = np.array(stamps_ms, np.int64) // MINUTE_MS * MINUTE_MS
    result["usable_ms"] = result["stamp_ms"] + delay_ms
    result["value"] = values
    _, first = np.unique(result["stamp_ms"], return_index=True)
    return result[first]
