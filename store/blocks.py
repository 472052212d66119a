"""ClickHouse's own block compression, which JDBC drivers (DBeaver) and Grafana's plugin ask for with `compress=1`.

A block is a 16-byte CityHash128 (version 1.0.2) over what follows it, a byte for the method, two 32-bit sizes (packed
with these nine bytes, and plain), and the data.
"""

from __future__ import annotations

import struct
from typing import Any

import lz4.block
import zstandard

BLOCK_BYTES = 1 << 20
MAX_BLOCK_BYTES = 1 << 30
NONE, LZ4, ZSTD = 0x02, 0x82, 0x90
_HEAD = struct.Struct("<BII")
_SUM = struct.Struct("<QQ")
_SUM_BYTES, _HEAD_BYTES = _SUM.size, _HEAD.size


def checksum(block: bytes) -> bytes:
    """Return the 16 bytes that precede a block."""
    from clickhouse_cityhash.cityhash import CityHash128

    value: Any = CityHash128(block)
    return _SUM.pack(value >> 64, value & (1 << 64) - 1)


def compress(data: bytes) -> bytes:
    """Return `data` as LZ4 blocks; no data is no block."""
    parts = []
    for start in range(0, len(data), BLOCK_BYTES):
        plain = data[start : start + BLOCK_BYTES]
        packed = lz4.block.compress(plain, store_size=False)
        block = _HEAD.pack(LZ4, len(packed) + _HEAD_BYTES, len(plain)) + packed
        parts += [checksum(block), block]
    return b"".join(parts)


def decompress(raw: bytes) -> bytes:
    """Return the data of a sequence of blocks. Raises ValueError naming what is wrong with them."""
    parts, at = [], 0
    while at < len(raw):
        if len(raw) - at < _SUM_BYTES + _HEAD_BYTES:
            raise ValueError(f"expected a compressed block at byte {at}, got {len(raw) - at} bytes")
        method, packed_size, plain_size = _HEAD.unpack_from(raw, at + _SUM_BYTES)
        end = at + _SUM_BYTES + packed_size
        if packed_size < _HEAD_BYTES or end > len(raw) or plain_size > MAX_BLOCK_BYTES:
            raise ValueError(f"block at byte {at}: sizes {packed_size} and {plain_size} do not fit {len(raw)} bytes")
        block = raw[at + _SUM_BYTES : end]
        if checksum(block) != raw[at : at + _SUM_BYTES]:
            raise ValueError(f"block at byte {at}: the checksum does not match")
        parts.append(_plain(method, block[_HEAD_BYTES:], plain_size))
        at = end
    return b"".join(parts)


def _plain(method: int, packed: bytes, size: int) -> bytes:
    if method == NONE:
        return packed
    if method == LZ4:
        try:
            return bytes(lz4.block.decompress(packed, uncompressed_size=size))
        except lz4.block.LZ4BlockError as error:
            raise ValueError(str(error)) from error
    if method == ZSTD:
        try:
            return zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
    raise ValueError(f"unknown compression method {method:#04x}")
