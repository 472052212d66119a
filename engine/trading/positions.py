"""Open positions: one dense array that the stops kernel runs over, at most one position per symbol."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.stops import POSITION

HEAD = struct.Struct("<QHb5xd")  # how a POSITION begins: position_id, symbol, side, …, qty


class Positions:
    """The first `count` rows of `rows` are open. `slot_of[symbol]` is a row's index, or −1 when the symbol is flat."""

    def __init__(self, symbols: int, capacity: int) -> None:
        self.rows: npt.NDArray[Any] = np.zeros(capacity, POSITION)
        self._bytes = self.rows.view(np.uint8).data
        self.slot_of: list[int] = [-1] * symbols
        self.count = 0
        self.model_of: dict[int, bytes] = {}
        self._symbol_of: dict[int, int] = {}

    def open(self, row: npt.NDArray[Any], model_id: bytes) -> int:
        """Add a position (a POSITION[1] array) and return its slot."""
        symbol = int(row["symbol"][0])
        if self.slot_of[symbol] >= 0:
            raise RuntimeError(f"symbol {symbol} already has a position")
        slot = self.count
        self.rows[slot] = row[0]
        self.slot_of[symbol] = slot
        self.count += 1
        self.model_of[int(row["position_id"][0])] = model_id
        self._symbol_of[int(row["position_id"][0])] = symbol
        return slot

    def close(self, slot: int) -> None:
        """Remove a position; the last row takes its place."""
        last = self.count - 1
        self.slot_of[int(self.rows[slot]["symbol"])] = -1
        self.model_of.pop(int(self.rows[slot]["position_id"]), None)
        self._symbol_of.pop(int(self.rows[slot]["position_id"]), None)
        if slot != last:
            self.rows[slot] = self.rows[last]
            self.slot_of[int(self.rows[slot]["symbol"])] = slot
        self.rows[last] = np.zeros(1, POSITION)[0]
        self.count = last

    def head(self, slot: int) -> tuple[int, int, int, float]:
        """Return (position id, symbol, side, quantity) of a row, at a tenth of a numpy record's cost."""
        return HEAD.unpack_from(self._bytes, slot * POSITION.itemsize)  # type: ignore[return-value]

    def slot_of_id(self, position_id: int) -> int:
        """Return the slot of a position by its id, or −1."""
        symbol = self._symbol_of.get(position_id)
        return -1 if symbol is None else self.slot_of[symbol]


def as_row(values: dict[str, Any], index: dict[str, int]) -> np.void:
    """Return one POSITION of a restored position; `index` gives a symbol's number by its name."""
    row = np.zeros(1, POSITION)
    for name in POSITION.names or ():
        row[name] = index[values["symbol"]] if name == "symbol" else values[name]
    return row[0]
