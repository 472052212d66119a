"""ClickHouse's Native format, written from numpy columns: one block, no intermediate frame.

Layout (ClickHouse documentation, "Native"): number of columns and rows as varints; per column its name, its type, then
the values, fixed-width little-endian or, for String, each prefixed by its length as a varint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Values = npt.NDArray | Sequence[str] | Sequence[int] | Sequence[float] | str
_WIDTHS = {"Int": "<i", "UInt": "<u", "Float": "<f"}


def varint(number: int) -> bytes:
    """Return LEB128 of a non-negative number."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def text(value: str | bytes) -> bytes:
    """Return one String value."""
    raw = value.encode() if isinstance(value, str) else value
    return varint(len(raw)) + raw


def wire_type(kind: str) -> str:
    """Return the type sent for a column of type `kind`; the server converts it to a LowCardinality by itself."""
    return kind[len("LowCardinality(") : -1] if kind.startswith("LowCardinality(") else kind


def column_bytes(kind: str, values: Values, rows: int) -> bytes:
    """Return the column's values. A single string stands for `rows` repetitions of it."""
    if kind == "String":
        if isinstance(values, str):
            return text(values) * rows
        return _strings(values)
    array = np.asarray(values)
    if array.ndim == 0:
        array = np.full(rows, array)
    return np.ascontiguousarray(array, dtype=_numpy_type(kind)).tobytes()


def block(columns: Mapping[str, tuple[str, Values]], rows: int) -> bytes:
    """Return one Native block. `columns` maps a name to (table type, values); all have `rows` values."""
    parts = [varint(len(columns)), varint(rows)]
    for name, (kind, values) in columns.items():
        sent = wire_type(kind)
        if not isinstance(values, str) and np.ndim(values) and len(values) != rows:
            raise ValueError(f"column {name}: expected {rows} values, got {len(values)}")
        parts += [text(name), text(sent), column_bytes(sent, values, rows)]
    return b"".join(parts)


def _strings(values: Iterable) -> bytes:
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "S":
            kinds, where = np.unique(values, return_inverse=True)
            table = [text(bytes(item)) for item in kinds]
            return b"".join([table[index] for index in where.tolist()])
        values = values.tolist()
    return b"".join([text(item) for item in values])


def _numpy_type(kind: str) -> str:
    if kind.startswith("DateTime64"):
        return "<i8"
    if kind.startswith("Enum8"):
        return "<i1"
    if kind == "Bool":
        return "<u1"
    stem = kind.rstrip("0123456789")
    return _WIDTHS[stem] + str(int(kind[len(stem) :]) // 8)
