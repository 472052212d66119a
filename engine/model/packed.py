"""The packed file: named arrays behind one header, written by jobs, mapped read-only by the engine."""

from __future__ import annotations

import hashlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels.forest import NODE8, TREE
from kernels.quantise import USED
from kernels.walk import NODE

MAGIC = b"TAFORST1"
ALIGN = 64  # a cache line, and the width of an AVX-512 register
MAX_BYTES = 1 << 30  # a forest that cannot be served in time anyway; refuses a broken header before mapping

HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("bytes", "<u8"),
        ("schema_hash", "<u8"),
        ("features", "<u4"),
        ("arrays", "<u4"),
        ("check", "V32"),
    ]
)
ENTRY = np.dtype([("name", "S24"), ("kind", "S8"), ("rows", "<u8"), ("columns", "<u8"), ("offset", "<u8")])
KINDS: dict[bytes, np.dtype] = {b"node": NODE, b"node8": NODE8, b"tree": TREE, b"used": USED} | {
    np.dtype(code).str[1:].encode(): np.dtype(code) for code in ("u1", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
}

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """Arrays borrowed from the mapping; they live as long as this object does."""

    arrays: dict[str, Array]
    schema_hash: int
    features: int
    path: Path


def _check(header: Array, rest: bytes | memoryview) -> bytes:
    bare = header.copy()
    bare["check"] = np.void(bytes(32))
    digest = hashlib.blake2b(bare.tobytes(), digest_size=32)
    digest.update(rest)
    return digest.digest()


def write_packed(path: Path, arrays: dict[str, Array], schema_hash: int, features: int) -> None:
    """Write `arrays` (one or two dimensions, dtypes of KINDS) so that a reader never sees half a file."""
    names = {dtype: kind for kind, dtype in KINDS.items()}
    entries = np.zeros(len(arrays), ENTRY)
    offset = -(-(HEADER.itemsize + entries.nbytes) // ALIGN) * ALIGN
    for entry, (name, array) in zip(entries, arrays.items(), strict=True):
        columns = array.shape[1] if array.ndim == 2 else 0
        entry["name"], entry["kind"], entry["rows"] = name.encode(), names[array.dtype], len(array)
        entry["columns"], entry["offset"] = columns, offset
        offset = -(-(offset + array.nbytes) // ALIGN) * ALIGN
    body = bytearray(offset - HEADER.itemsize)
    body[: entries.nbytes] = entries.tobytes()
    for entry, array in zip(entries, arrays.values(), strict=True):
        start = int(entry["offset"]) - HEADER.itemsize
        body[start : start + array.nbytes] = np.ascontiguousarray(array).tobytes()
    header = np.zeros(1, HEADER)
    header["magic"], header["bytes"], header["schema_hash"] = MAGIC, offset, schema_hash
    header["features"], header["arrays"] = features, len(arrays)
    header["check"] = np.void(_check(header, bytes(body)))
    partial = path.with_name(path.name + ".new")
    with open(partial, "wb") as file:
        file.write(header.tobytes() + bytes(body))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def read_packed(path: Path) -> Packed:
    """Map a packed file. Raises DataError naming what is wrong: not one, cut short, altered."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER.itemsize)
            size = os.fstat(file.fileno()).st_size
            if len(head) < HEADER.itemsize or not head.startswith(MAGIC):
                raise DataError(f"{path}: expected a packed forest ({MAGIC.decode()}), got {head[:8]!r}")
            header = np.frombuffer(head, HEADER)
            if int(header["bytes"][0]) != size or size > MAX_BYTES:
                raise DataError(f"{path}: expected {int(header['bytes'][0])} bytes, got {size}: truncated or extended")
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if _check(header, memoryview(mapped)[HEADER.itemsize :]) != header["check"][0].tobytes():
        raise DataError(f"{path}: its checksum does not match: the file was altered")
    arrays = {}
    for entry in np.frombuffer(mapped, ENTRY, count=int(header["arrays"][0]), offset=HEADER.itemsize):
        dtype, rows, columns = KINDS[bytes(entry["kind"])], int(entry["rows"]), int(entry["columns"])
        array = np.frombuffer(mapped, dtype, count=rows * max(1, columns), offset=int(entry["offset"]))
        arrays[bytes(entry["name"]).decode()] = array.reshape(rows, columns) if columns else array
    return Packed(arrays, int(header["schema_hash"][0]), int(header["features"][0]), path)
