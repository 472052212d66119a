"""Which bars are missing, when to ask REST for them, what its answer proves. Pure: no I/O, time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.market.series import MAX_FILLED, filled
from kernels.records import BAR, TIMEFRAME_MS, BarFlag
from kernels.records import GapKind as GapKind

CLOSED_MS = 3_000  # REST is believed about a bar this long after its close; earlier it may lack the last trades
REREAD_MS = 60_000  # and is asked again after this, because even then it was sometimes revised
RETRY_MS = (5_000, 10_000, 30_000, 60_000)  # of exchange time, between questions for the same series
MAX_REREADS = 4_096
_VALUES = ("open", "high", "low", "close", "volume", "quote_volume", "taker_volume", "trades")
SUM_TOLERANCE = 1e-9  # sums of decimal strings against the exchange's own sum


class Range(NamedTuple):
    """Bars of one series that open in [from_ms, to_ms)."""

    symbol: int
    timeframe: int
    from_ms: int
    to_ms: int


class GapWatch:
    """Watches the newest bar of every series. One instance per engine; the loop's thread owns it."""

    def __init__(self, symbols: int, btc: int) -> None:
        self.suspect: set[int] = set()
        self._btc = btc
        self._retries: dict[tuple[int, int], tuple[int, int]] = {}  # series → (questions asked, next not before)
        self._rereads: list[tuple[int, Range]] = []
        self._next_look_ms = 0

    def due(
        self, newest: Sequence[Sequence[int]], now_ms: int, first: Callable[[int], bool], limit: int
    ) -> list[Range]:
        """Return up to `limit` ranges to ask for now: symbol by symbol, BTCUSDT, then those that `first` says.

        Of a symbol the larger bars come first: its minutes go on only as far as decisions find those.
        `newest[timeframe][symbol]` is the open time of the newest bar in the panel, −1 while there is none. Every
        symbol with a bar missing past its time is in `suspect` afterwards.
        """
        if now_ms < self._next_look_ms:
            return []
        found, suspect = [], set()
        for timeframe, step_ms in enumerate(TIMEFRAME_MS):
            end_ms = (now_ms - CLOSED_MS) // step_ms * step_ms
            for symbol, have_ms in enumerate(newest[timeframe]):
                if 0 <= have_ms < end_ms - step_ms:
                    suspect.add(symbol)
                    if self._retries.get((symbol, timeframe), (0, 0))[1] <= now_ms:
                        found.append(Range(symbol, timeframe, have_ms + step_ms, end_ms))
                elif self._retries:
                    self._retries.pop((symbol, timeframe), None)
        self.suspect = suspect
        minute_ms = TIMEFRAME_MS[0]
        self._next_look_ms = 0 if suspect else (now_ms - CLOSED_MS) // minute_ms * minute_ms + minute_ms + CLOSED_MS
        found.sort(key=lambda part: (part.symbol != self._btc, not first(part.symbol), part.symbol, -part.timeframe))
        return found[:limit]

    def look_again(self) -> None:
        """Look at every series at the next call of `due`: a connection was lost."""
        self._next_look_ms = 0

    def asked(self, part: Range, now_ms: int) -> None:
        """Note that a range was asked for: its series waits longer after each question in vain."""
        count, _ = self._retries.get((part.symbol, part.timeframe), (0, 0))
        wait_ms = RETRY_MS[min(count, len(RETRY_MS) - 1)]
        self._retries[(part.symbol, part.timeframe)] = (count + 1, now_ms + wait_ms)

    def answered(self, part: Range, server_ms: int) -> None:
        """Note when the range is to be read again."""
        if len(self._rereads) < MAX_REREADS:
            self._rereads.append((server_ms + REREAD_MS, part))

    def rereads_due(self, now_ms: int, limit: int) -> list[Range]:
        """Return, and forget, the ranges that should be read a second time by now."""
        due = [part for due_ms, part in self._rereads[:limit] if due_ms <= now_ms]
        del self._rereads[: len(due)]
        return due


def usable(part: Range, bars: npt.NDArray[Any], previous: Any) -> tuple[npt.NDArray[Any], int]:
    """Return the bars of a REST answer that can follow `previous` (the newest bar held), and how many were filled.

    A hole that a later bar proves is filled, up to `MAX_FILLED` bars in a row; a hole at the end proves nothing yet:
    the exchange's own history may be late. Behind a longer hole nothing is returned: the fold must start again there.
    """
    step_ms, expected_ms = TIMEFRAME_MS[part.timeframe], part.from_ms
    out, count = [], 0
    for bar in bars[(bars["open_ms"] >= part.from_ms) & (bars["open_ms"] < part.to_ms)]:
        open_ms = int(bar["open_ms"])
        absent = (open_ms - expected_ms) // step_ms
        if absent > MAX_FILLED:
            break
        if absent > 0:
            out.append(filled(previous, expected_ms, open_ms, part.timeframe))
            count += absent
        out.append(np.array([bar], BAR))
        previous, expected_ms = bar, open_ms + step_ms
    return (np.concatenate(out) if out else np.zeros(0, BAR)), count


def unbridgeable(part: Range, bars: npt.NDArray[Any]) -> bool:
    """Tell whether an answer proves a hole too long to be filled, so that the fold must start again behind it."""
    opens = np.concatenate([[part.from_ms - TIMEFRAME_MS[part.timeframe]], bars["open_ms"]])
    return bool((np.diff(opens) > (MAX_FILLED + 1) * TIMEFRAME_MS[part.timeframe]).any())


def differs(seen: Any, again: Any) -> bool:
    """Tell whether two versions of a bar differ in any value; NaN equals NaN."""
    for name in _VALUES:
        a, b = float(seen[name]), float(again[name])
        if a != b and not (a != a and b != b):
            return True
    return False


def disagreement(bar: Any, minutes: npt.NDArray[Any]) -> str:
    """Return how a larger bar differs from its complete 1m bars (in time order), "" if it does not.

    Prices and trade counts must be equal, volumes within rounding. A value that is NaN on either side is not judged.
    """
    pairs = (
        ("open", minutes["open"][0], 0.0),
        ("high", minutes["high"].max(), 0.0),
        ("low", minutes["low"].min(), 0.0),
        ("close", minutes["close"][-1], 0.0),
        ("volume", minutes["volume"].sum(), SUM_TOLERANCE),
        ("quote_volume", minutes["quote_volume"].sum(), SUM_TOLERANCE),
        ("taker_volume", minutes["taker_volume"].sum(), SUM_TOLERANCE),
        ("trades", minutes["trades"].sum(), 0.0),
    )
    for name, built, tolerance in pairs:
        own = float(bar[name])
        if abs(own - float(built)) > tolerance * max(abs(own), 1.0):
            return f"{name} {own:.10g}, of 1m bars {float(built):.10g}"
    return ""


def minutes_of(file: Any, open_ms: int, timeframe: int) -> npt.NDArray[Any] | None:
    """Return the 1m bars of a larger bar from a 1m BarFile, or None where not all of them are there (yet)."""
    count = TIMEFRAME_MS[timeframe] // TIMEFRAME_MS[0]
    back = (file.last_open_ms - open_ms) // TIMEFRAME_MS[0] + 1
    if back < count or back > min(file.count, file.capacity):
        return None
    index = np.arange(file.count - back, file.count - back + count) % file.capacity
    bars: npt.NDArray[Any] = file.slots[index]
    if bars["open_ms"][0] != open_ms or bars["open_ms"][-1] != open_ms + TIMEFRAME_MS[timeframe] - TIMEFRAME_MS[0]:
        return None
    return bars


def rest_version(bar: Any, arrived_ms: int) -> npt.NDArray[Any]:
    """Return a copy of a REST bar marked as a revision that arrived at `arrived_ms`."""
    copy: npt.NDArray[Any] = np.array([bar], BAR)
    copy["flags"] = np.uint32(BarFlag.REST | BarFlag.REVISION)
    copy["arrived_ms"] = arrived_ms
    return copy
