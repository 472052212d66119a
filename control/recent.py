"""The newest rows of a list, kept in memory: its pages by any symbol, model or time cost no statement.

Rows of these tables are the engine's records: they are added and never change. What is new is asked for by the sequence
numbers that each run has reached, so a row that arrives late is found whatever its time. A page that reaches further
back than the rows kept here is the store's.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec

from control.listing import Listing, Query, Row, open_cursor, page, paged
from control.reader import Reader
from control.shapes import Page

FRESH_S = 0.3
CHUNK = 2_000  # rows of one statement: requests are answered between two of them
AT_ONCE = 500  # rows decoded in one go, a millisecond or two in which the event loop stands still
SCAN = 20_000  # rows looked at for one page; a rarer thing is the database's to find
EVICT = 1.1  # rows are cut back to what is kept when there are so many times more

Line = tuple[int, str, int, bytes, dict[str, str]]
"""Time, run, sequence number, the row as JSON, the columns that can be asked for."""


class _Keys(msgspec.Struct):
    cursor_ms: int
    cursor_run: str
    cursor_tie: int
    kept_engine: str
    symbol: str = ""
    model_id: str = ""
    reason: str = ""
    side: str = ""


_AFTER = (
    "? > fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC') AND toInt64(seq) > "
    "transform(concat(engine_id, '/', run_id), {runs:Array(String)}, {reached:Array(Int64)}, toInt64(-1))"
)
_BEFORE = "(?, cursor_run, cursor_tie) < (fromUnixTimestamp64Milli({ms:Int64}, 'UTC'), {run:String}, {tie:UInt64})"
_decode = msgspec.json.Decoder(list[_Keys], strict=False).decode


@dataclass
class Recent:
    """The newest `listing.kept` rows of one list; lives on the event loop."""

    listing: Listing[Any]
    clock_s: Callable[[], float] = time.monotonic
    chunk: int = CHUNK
    since_ms: int = -1
    """Rows after this time are all here; -1: every row is."""
    _lines: list[Line] = field(default_factory=list)
    _of_symbol: dict[str, list[Line]] = field(default_factory=dict)
    _reached: dict[tuple[str, str], int] = field(default_factory=dict)
    _asked_s: float | None = None
    _refreshing: asyncio.Task[None] | None = None
    _filling: asyncio.Task[None] | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def page(self, reader: Reader, query: Query) -> list[bytes] | None:
        """Return up to `limit` + 1 rows as JSON, or None when they are not all here."""
        if self._asked_s is None or self.clock_s() - self._asked_s > FRESH_S:
            if self._refreshing is None or self._refreshing.done():
                self._refreshing = _begun(self._refresh(reader, query.newest_ms))
            if self._asked_s is not None:
                await asyncio.shield(self._refreshing)
        return None if self._asked_s is None else self._find(query)

    async def filled(self) -> None:
        """Wait until everything that is to be kept is here."""
        while (task := self._refreshing if self._asked_s is None else self._filling) is not None:
            await asyncio.shield(task)

    def _find(self, query: Query) -> list[bytes] | None:
        equals = {name: value for name, value in (query.equals or {}).items() if value is not None}
        symbol = equals.pop("symbol", None)
        lines = self._lines if symbol is None else self._of_symbol.get(symbol, [])
        end = len(lines)
        if query.to_ms is not None:
            end = bisect_left(lines, (query.to_ms,))
        if query.before is not None:
            end = min(end, bisect_left(lines, open_cursor(query.before)))
        from_ms, found = query.from_ms or 0, list[bytes]()
        for at in range(end - 1, max(-1, end - 1 - SCAN), -1):
            line = lines[at]
            if line[0] < from_ms:
                return found
            if line[0] <= self.since_ms:
                return None
            if all(line[4][name] == value for name, value in equals.items()):
                found.append(line[3])
                if len(found) > query.limit:
                    return found
        return found if end <= SCAN and from_ms > self.since_ms else None

    async def _refresh(self, reader: Reader, newest_ms: int | None) -> None:
        async with self._turn:
            begun_s, where, values = self.clock_s(), "", dict[str, Any]()
            if self._reached:
                where = _AFTER.replace("?", self.listing.time)
                runs = [f"{engine}/{run}" for engine, run in self._reached]
                values = {"since_ms": max(0, self.since_ms), "runs": runs, "reached": list(self._reached.values())}
                newest_ms = None  # the time is in it
            lines, reached = await self._select(reader, where, values, newest_ms)
            if len(lines) >= self.chunk:  # the first ones, or more than can be a continuation
                self._lines, self._of_symbol, self._reached = [], {}, {}
                self.since_ms = lines[0][0]
            for run, seq in reached.items():
                self._reached[run] = max(seq, self._reached.get(run, -1))
            self._add(lines)
            self._asked_s = begun_s
        if self.since_ms >= 0 and len(self._lines) < self.listing.kept and self._filling is None:
            self._filling = _begun(self._fill(reader))

    async def _fill(self, reader: Reader) -> None:
        """Read backwards from the oldest row here. Whoever asks meanwhile takes turns with it: none of a run's new rows

        can then be passed over, for what arrives after a statement has a higher number than all that was here before.
        """
        where = _BEFORE.replace("?", self.listing.time)
        try:
            while self.since_ms >= 0 and len(self._lines) < self.listing.kept:
                async with self._turn:
                    ms, run, tie = self._lines[0][:3]
                    lines, _ = await self._select(reader, where, {"ms": ms, "run": run, "tie": tie}, ms)
                    self.since_ms = lines[0][0] if len(lines) >= self.chunk else -1
                    self._add(lines, older=True)
        finally:
            self._filling = None

    async def _select(
        self, reader: Reader, where: str, values: dict[str, Any], end_ms: int | None
    ) -> tuple[list[Line], dict[tuple[str, str], int]]:
        """Return the newest rows, oldest first; looked for in the windows before `end_ms` first, then everywhere."""
        table, time_ = self.listing.table, self.listing.time
        windows = [] if end_ms is None else [end_ms - length for length in self.listing.windows_ms]
        lines: list[bytes] = []
        for since_ms in [*windows, None]:
            bound = "" if since_ms is None else f"{time_} >= fromUnixTimestamp64Milli({{window_ms:Int64}}, 'UTC')"
            conditions = " AND ".join(filter(None, [where, bound]))
            lines = await reader.lines(
                f"SELECT {self.listing.select()}, toString(engine_id) AS kept_engine FROM {table} "
                f"{'WHERE ' + conditions if conditions else ''} "
                f"ORDER BY {time_} DESC, cursor_run DESC, cursor_tie DESC LIMIT {self.chunk}",
                values | ({} if since_ms is None else {"window_ms": max(0, since_ms)}),
            )
            if len(lines) >= self.chunk:
                break
        return await asyncio.to_thread(_parsed, lines) if len(lines) > AT_ONCE else _parsed(lines)

    def _add(self, lines: list[Line], older: bool = False) -> None:
        of_symbol: dict[str, list[Line]] = {}
        for line in lines:
            of_symbol.setdefault(line[4]["symbol"], []).append(line)
        for symbol, some in of_symbol.items():
            _join(self._of_symbol.setdefault(symbol, []), some, older)
        _join(self._lines, lines, older)
        if len(self._lines) > self.listing.kept * EVICT:
            self._cut(len(self._lines) - self.listing.kept)

    def _cut(self, count: int) -> None:
        self.since_ms = max(self.since_ms, self._lines[count - 1][0])
        del self._lines[:count]
        first = self._lines[0]
        for symbol, lines in list(self._of_symbol.items()):
            del lines[: bisect_left(lines, first)]
            if not lines:
                del self._of_symbol[symbol]


def _parsed(lines: list[bytes]) -> tuple[list[Line], dict[tuple[str, str], int]]:
    """Return the rows, oldest first, and the newest sequence number of each (engine, run)."""
    reached: dict[tuple[str, str], int] = {}
    found: list[Line] = []
    for begin in range(0, len(lines), AT_ONCE):
        some = lines[begin : begin + AT_ONCE]
        for keys, text in zip(_decode(b"[" + b",".join(some) + b"]"), some, strict=True):
            run = (keys.kept_engine, keys.cursor_run)
            reached[run] = max(keys.cursor_tie, reached.get(run, -1))
            named = {"symbol": keys.symbol, "model_id": keys.model_id, "reason": keys.reason, "side": keys.side}
            found.append((keys.cursor_ms, keys.cursor_run, keys.cursor_tie, text, named))
    return found[::-1], reached


def _join(kept: list[Line], lines: list[Line], older: bool) -> None:
    if older:
        kept[:0] = lines
        return
    late = bool(kept and lines) and lines[0][:3] < kept[-1][:3]
    kept.extend(lines)
    if late:
        kept.sort(key=lambda line: line[:3])


def _begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told to whoever waits; tried again
    return task


class Lists:
    """The pages of every list: from memory where they are, else from the store."""

    def __init__(self) -> None:
        self._recent: dict[str, Recent] = {}

    async def page(self, reader: Reader, listing: Listing[Row], query: Query) -> Page[Row]:
        """Return one page. Raises ApiError 400 for a cursor that is not one of ours."""
        if listing.kept and not query.conditions:
            recent = self._recent.get(listing.table)
            if recent is None:
                recent = self._recent[listing.table] = Recent(listing)
            lines = await recent.page(reader, query)
            if lines is not None:
                return paged(listing, lines, query.limit)
        return await page(reader, listing, query)
