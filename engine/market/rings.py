"""Bar files: mmap'ed rings of closed bars, one per symbol and timeframe; a restart folds from them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels.records import BAR, TIMEFRAME_MS, TIMEFRAMES

HEADER_BYTES = 4_096
MAGIC = b"TABARS01"
COUNT_WORD = 2  # of the header, as int64 words: what the live kernel reads and writes
HEADER = np.dtype([("magic", "S8"), ("capacity", "<u8"), ("count", "<u8"), ("timeframe", "<u8"), ("symbol", "S24")])


class BarFile:
    """One ring of closed bars. The newest bar is at slot (count − 1) mod capacity.

    `append` and `kernels.closing` write a bar before the count that makes it visible, so a reader in another process,
    or a restart after kill -9, never sees half a bar. words: the header as int64.
    """

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path = path
        self._mapped = mapped
        self._header = np.frombuffer(mapped, HEADER, count=1)
        self.words: npt.NDArray[np.int64] = np.frombuffer(mapped, np.int64, count=HEADER.itemsize // 8)
        self.capacity = int(self._header["capacity"][0])
        self.timeframe = int(self._header["timeframe"][0])
        self.symbol = bytes(self._header["symbol"][0]).decode()
        self.slots: npt.NDArray[Any] = np.frombuffer(mapped, BAR, count=self.capacity, offset=HEADER_BYTES)
        self._memory, self._closes = self.words.data, self.slots["close"].data

    @classmethod
    def create(cls, path: Path, symbol: str, timeframe: int, capacity: int) -> BarFile:
        """Create an empty ring with its disk space allocated (ENOSPC now, never SIGBUS later)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".new")
        size = HEADER_BYTES + capacity * BAR.itemsize
        with open(partial, "wb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            header = np.zeros(1, HEADER)
            header[0] = (MAGIC, capacity, 0, timeframe, symbol.encode())
            file.write(header.tobytes())
        partial.rename(path)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> BarFile:
        """Map an existing bar file. Raises DataError naming what does not fit."""
        size = path.stat().st_size
        with open(path, "rb+") as file:
            head = np.frombuffer(file.read(HEADER.itemsize).ljust(HEADER.itemsize, b"\0"), HEADER)[0]
            if head["magic"] != MAGIC:
                raise DataError(f"{path}: expected a bar file ({MAGIC.decode()}), got {bytes(head['magic'])!r}")
            expected = HEADER_BYTES + int(head["capacity"]) * BAR.itemsize
            if size != expected or int(head["timeframe"]) >= len(TIMEFRAMES):
                raise DataError(f"{path}: expected {expected} bytes for {int(head['capacity'])} bars, got {size}")
            return cls(path, mmap.mmap(file.fileno(), size))

    @property
    def count(self) -> int:
        """Bars ever appended; at most `capacity` of them are still here."""
        return self._memory[COUNT_WORD]

    @property
    def last_open_ms(self) -> int:
        """Open time of the newest bar, or -1."""
        count = self.count
        return int(self.slots["open_ms"][(count - 1) % self.capacity]) if count else -1

    def close_of(self, back: int) -> float:
        """Return the close of the bar `back` bars before the newest one."""
        return self._closes[(self._memory[COUNT_WORD] - 1 - back) % self.capacity]

    def touch(self) -> None:
        """Write what is there already to the pages of the next bar: written out, a page faults at its next write."""
        self._memory[COUNT_WORD] = self._memory[COUNT_WORD]
        at = self._memory[COUNT_WORD] % self.capacity
        self._closes[at] = self._closes[at]

    def append(self, bar: Any) -> None:
        """Append one closed bar (a BAR record). It must be exactly one interval after the newest."""
        count = self.count
        self.slots[count % self.capacity] = bar
        self._header["count"][0] = count + 1

    def ordered(self, newest: int | None = None) -> npt.NDArray[Any]:
        """Return a copy of the newest bars in time order, oldest first."""
        count = self.count
        kept = min(count, self.capacity, newest if newest is not None else count)
        index = np.arange(count - kept, count) % self.capacity
        return self.slots[index]

    def rewrite(self, bars: npt.NDArray[Any]) -> None:
        """Replace the whole content by `bars` (time order); only the newest `capacity` are kept."""
        bars = bars[-self.capacity :]
        self._header["count"][0] = 0
        self.slots[: len(bars)] = bars
        self._header["count"][0] = len(bars)

    @property
    def step_ms(self) -> int:
        """Length of one bar."""
        return TIMEFRAME_MS[self.timeframe]

    def close(self) -> None:
        """Release the mapping."""
        del self.slots, self._header, self.words, self._memory, self._closes
        self._mapped.close()


def bar_path(folder: Path, symbol: str, timeframe: int) -> Path:
    """Return where the bars of (symbol, timeframe) live below `folder`."""
    return folder / f"{symbol}.{TIMEFRAMES[timeframe]}"
