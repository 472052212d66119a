"""Lists that grow: one SELECT per page, newest first, filtered and bounded, with a cursor instead of an offset."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
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
    convert: Callable[[dict[str, Any]], dict[str, Any]] = dict
    tie: str = "seq"
    run: str = "run_id"

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


async def page(reader: Reader, listing: Listing[Row], query: Query) -> Page[Row]:
    """Return one page. Raises ApiError 400 for a cursor that is not one of ours."""
    where = list(query.conditions)
    parameters: dict[str, Any] = {"limit": query.limit + 1}
    for column, value in (query.equals or {}).items():
        if value is not None:
            where.append(f"{column} = {{{column}:String}}")
            parameters[column] = value
    for bound, sign in ((query.from_ms, ">="), (query.to_ms, "<")):
        if bound is not None:
            name = "from_ms" if sign == ">=" else "to_ms"
            where.append(f"{listing.time} {sign} fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')")
            parameters[name] = bound
    if query.before is not None:
        ms, run, tie = _open(query.before)
        parameters |= {"c_ms": ms, "c_run": run, "c_tie": tie}
        where.append(
            f"({listing.time}, toString({listing.run}), toUInt64({listing.tie})) < "
            "(fromUnixTimestamp64Milli({c_ms:Int64}, 'UTC'), {c_run:String}, {c_tie:UInt64})"
        )
    sql = f"SELECT {listing.select()} FROM {listing.table}"
    if where:
        sql += " WHERE " + " AND ".join(where)
    sql += f" ORDER BY {listing.time} DESC, cursor_run DESC, cursor_tie DESC LIMIT {{limit:UInt32}}"
    rows = await reader.rows(sql, parameters)
    more = len(rows) > query.limit
    rows = rows[: query.limit]
    following = _seal(rows[-1]) if more and rows else None
    return Page(items=[_shaped(listing, row) for row in rows], next=following)


def _shaped(listing: Listing[Row], row: dict[str, Any]) -> Row:
    plain = {name: value for name, value in row.items() if not name.startswith("cursor_")}
    return msgspec.convert(listing.convert(plain), listing.shape, strict=False)


def _seal(row: dict[str, Any]) -> str:
    text = msgspec.json.encode([row["cursor_ms"], row["cursor_run"], row["cursor_tie"]])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _open(cursor: str) -> tuple[int, str, int]:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        ms, run, tie = msgspec.json.decode(raw, type=tuple[int, str, int])
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise ApiError(400, "bad-cursor", "`before` is not a cursor from `next`") from None
    if not (0 <= ms <= 1 << 42 and 0 <= tie < 1 << 64):
        raise ApiError(400, "bad-cursor", "`before` is not a cursor from `next`")
    return ms, run, tie
