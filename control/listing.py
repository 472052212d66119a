"""Lists that grow: one SELECT per page, newest first, filtered and bounded, with a cursor instead of an offset."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from control.problems import ApiError
from control.reader import Reader
from control.shapes import Page

Row = TypeVar("Row", bound=msgspec.Struct)
MAX_PAGE = 1_000


@dataclass(frozen=True)
class Listing(Generic[Row]):
    """A table as a list: which column is its time, how each field of `shape` is selected."""

    table: str
    time: str
    shape: type[Row]
    expressions: dict[str, str]
    tie: str = "seq"
    run: str = "run_id"
    windows_ms: tuple[int, ...] = ()
    """How far back to look for a page before the whole table is searched: a page is full of the newest rows."""
    kept: int = 0
    """How many of the newest rows `control.recent` keeps in memory; about 1 kB each."""

    def select(self) -> str:
        """Return the select list; `x_ms` is epoch milliseconds of `x_time` unless stated otherwise."""
        parts = []
        for name in self.shape.__struct_fields__:
            given = self.expressions.get(name)
            if given is None and name.endswith("_ms"):
                given = f"toUnixTimestamp64Milli({name[:-3]}_time)"
            if given != "":
                parts.append(f"{given} AS {name}" if given and given != name else name)
        parts += [f"toUnixTimestamp64Milli({self.time}) AS cursor_ms", f"toString({self.run}) AS cursor_run"]
        parts.append(f"toUInt64({self.tie}) AS cursor_tie")
        return ", ".join(parts)


@dataclass(frozen=True)
class Query:
    """What a caller asks of a list. `equals` maps columns (of ours, never of the caller) to wanted values."""

    limit: int = 100
    before: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    equals: dict[str, Any] | None = None
    conditions: tuple[str, ...] = ()
    newest_ms: int | None = None
    """The market's time now, where it is known: there the windows of a first page end."""


class _Cursor(msgspec.Struct):
    cursor_ms: int
    cursor_run: str
    cursor_tie: int


async def page(reader: Reader, listing: Listing[Row], query: Query) -> Page[Row]:
    """Return one page. Raises ApiError 400 for a cursor that is not one of ours."""
    where = list(query.conditions)
    parameters: dict[str, Any] = {"limit": query.limit + 1}
    for column, value in (query.equals or {}).items():
        if value is not None:
            where.append(f"{column} = {{{column}:String}}")
            parameters[column] = value
    if query.to_ms is not None:
        where.append(f"{listing.time} < fromUnixTimestamp64Milli({{to_ms:Int64}}, 'UTC')")
        parameters["to_ms"] = query.to_ms
    end_ms = query.newest_ms if query.to_ms is None else query.to_ms
    if query.before is not None:
        end_ms, run, tie = open_cursor(query.before)
        parameters |= {"c_ms": end_ms, "c_run": run, "c_tie": tie}
        where.append(
            f"({listing.time}, toString({listing.run}), toUInt64({listing.tie})) < "
            "(fromUnixTimestamp64Milli({c_ms:Int64}, 'UTC'), {c_run:String}, {c_tie:UInt64})"
        )
    lines: list[bytes] = []
    for since_ms in _beginnings(listing, query.from_ms, end_ms):
        lines = await _read(reader, listing, where, parameters, since_ms)
        if len(lines) > query.limit:
            break
    return paged(listing, lines, query.limit)


def paged(listing: Listing[Row], lines: list[bytes], limit: int) -> Page[Row]:
    """Return the page of the first `limit` rows (JSON objects); a further one says that there are more."""
    kept = lines[:limit]
    items = msgspec.json.decode(b"[" + b",".join(kept) + b"]", type=list[listing.shape], strict=False)  # type: ignore[name-defined]
    return Page(items=items, next=_seal(kept[-1]) if len(lines) > limit else None)


def _beginnings(listing: Listing[Row], from_ms: int | None, end_ms: int | None) -> list[int | None]:
    """Return the beginnings to try one after the other, the last being what was asked for."""
    if end_ms is None:
        return [from_ms]
    tried = [end_ms - window for window in listing.windows_ms]
    return [*(since for since in tried if since > (from_ms or 0)), from_ms]


async def _read(
    reader: Reader, listing: Listing[Row], where: list[str], parameters: dict[str, Any], since_ms: int | None
) -> list[bytes]:
    conditions = list(where)
    if since_ms is not None:
        conditions.append(f"{listing.time} >= fromUnixTimestamp64Milli({{from_ms:Int64}}, 'UTC')")
        parameters = parameters | {"from_ms": since_ms}
    sql = f"SELECT {listing.select()} FROM {listing.table}"
    if conditions:
        sql += " WHERE " + " AND ".join(conditions)
    sql += f" ORDER BY {listing.time} DESC, cursor_run DESC, cursor_tie DESC LIMIT {{limit:UInt32}}"
    return await reader.lines(sql, parameters)


def _seal(line: bytes) -> str:
    last = msgspec.json.decode(line, type=_Cursor, strict=False)
    text = msgspec.json.encode([last.cursor_ms, last.cursor_run, last.cursor_tie])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def open_cursor(cursor: str) -> tuple[int, str, int]:
    """Return time, run and sequence number of the row that a cursor points at. Raises ApiError 400."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        ms, run, tie = msgspec.json.decode(raw, type=tuple[int, str, int])
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise ApiError(400, "bad-cursor", "`before` is not a cursor from `next`") from None
    if not (0 <= ms <= 1 << 42 and 0 <= tie < 1 << 64):
        raise ApiError(400, "bad-cursor", "`before` is not a cursor from `next`")
    return ms, run, tie
