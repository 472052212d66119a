"""Sample files: a symbol's newest open-interest samples and settled funding rates, mapped, as first seen."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels.records import SAMPLE

OPEN_INTEREST, FUNDING = 0, 1
CAPACITY = (256, 160)  # 1h oi_change reaches back 15 h (183 samples of 5 min), funding_z 90 rates
SPARE = (32, 32)  # the oldest samples dropped at once when a buffer is full
READINGS = 5  # of a file that is being written; two that agree end it
MINUTE_MS = 60_000
DELAY_MS = 300_000
_MAGIC = b"TASAMP01"
_HEADER = np.dtype([("magic", "S8"), ("counts", "<i8", (2,))])
_BYTES = _HEADER.itemsize + sum(CAPACITY) * SAMPLE.itemsize


def sample_path(folder: Path, symbol: str) -> Path:
    """Return where a symbol's sample file lies beside its bar files."""
    return folder / f"{symbol}.samples"


def read_held(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return (open interest, funding) SAMPLE[] of a sample file that an engine may be writing; empty without one.

    It maps nothing: the bytes are read until two readings agree, so no sample is half of one and half of another.
    """
    before = b""
    for _ in range(READINGS):
        content = path.read_bytes() if path.is_file() else b""
        if content == before:
            break
        before = content
    else:
        content = b""
    if len(content) != _BYTES or not content.startswith(_MAGIC):
        return np.zeros(0, SAMPLE), np.zeros(0, SAMPLE)
    counts = np.frombuffer(content, _HEADER, count=1)["counts"][0]
    whole = np.frombuffer(content, SAMPLE, offset=_HEADER.itemsize)
    kinds = whole[: CAPACITY[0]][: counts[0]], whole[CAPACITY[0] :][: counts[1]]
    first = [np.unique(x["stamp_ms"] // MINUTE_MS, return_index=True)[1] for x in kinds]
    return kinds[0][first[0]], kinds[1][first[1]]


def read_samples(path: Path) -> npt.NDArray[Any]:
    """Read what the helper process wrote of one kind as SAMPLE[n]; an absent file is an empty series."""
    raw = path.read_bytes() if path.exists() else b""
    if len(raw) % SAMPLE.itemsize:
        raise DataError(f"{path}: expected a multiple of {SAMPLE.itemsize} bytes, got {len(raw)}")
    return np.frombuffer(raw, SAMPLE).copy()


class SampleFile:
    """Both sample series of one symbol, sorted by stamp; the first version of a stamp stays."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".new")
            with open(partial, "wb+") as file:
                os.posix_fallocate(file.fileno(), 0, _BYTES)
                file.write(_MAGIC)
            partial.rename(path)
        with open(path, "rb+") as file:
            if path.stat().st_size != _BYTES:
                raise DataError(f"{path}: expected a sample file of {_BYTES} bytes, got {path.stat().st_size}")
            self._mapped = mmap.mmap(file.fileno(), _BYTES)
        self._header = np.frombuffer(self._mapped, _HEADER, count=1)
        if self._header["magic"][0] != _MAGIC:
            raise DataError(f"{path}: expected a sample file ({_MAGIC.decode()}), got {self._header['magic'][0]!r}")
        self._counts = self._header["counts"][0]
        split = _HEADER.itemsize + CAPACITY[0] * SAMPLE.itemsize
        self.series: tuple[npt.NDArray[Any], npt.NDArray[Any]] = (
            np.frombuffer(self._mapped, SAMPLE, count=CAPACITY[0], offset=_HEADER.itemsize),
            np.frombuffer(self._mapped, SAMPLE, count=CAPACITY[1], offset=split),
        )
        self.known = np.zeros(4, np.int64)  # both counts, then both newest stamps: what the live kernel reads
        self.counts, self.newest_ms = self.known[:2].data, self.known[2:].data
        self.counts[0], self.counts[1] = int(self._counts[0]), int(self._counts[1])
        self._mend()
        for kind in (OPEN_INTEREST, FUNDING):
            self.newest_ms[kind] = self.newest_stamp(kind)

    def _mend(self) -> None:
        """Drop what a kill in the middle of an insertion left twice."""
        for kind, series in enumerate(self.series):
            count = self.counts[kind]
            _, first = np.unique(series["stamp_ms"][:count] // MINUTE_MS, return_index=True)
            if len(first) < count:
                series[: len(first)] = series[first]
                self.counts[kind] = len(first)
                self._counts[kind] = len(first)

    def newest_stamp(self, kind: int) -> int:
        """Return the newest stamp, floored to the minute, or −1."""
        count = self.counts[kind]
        return int(self.series[kind]["stamp_ms"][count - 1]) // MINUTE_MS * MINUTE_MS if count else -1

    def held(self, kind: int) -> npt.NDArray[Any]:
        """Return a copy of the samples in order."""
        return self.series[kind][: self.counts[kind]].copy()

    def insert(self, kind: int, stamp_ms: int, usable_ms: int, value: float) -> bool:
        """Insert a sample at its place; False if its minute is there already or it is older than all kept."""
        series, count = self.series[kind], self.counts[kind]
        minute = stamp_ms // MINUTE_MS * MINUTE_MS
        stamps = series["stamp_ms"][:count] // MINUTE_MS * MINUTE_MS
        at = int(np.searchsorted(stamps, minute))
        if at < count and stamps[at] == minute:
            return False
        if count == CAPACITY[kind]:
            if at <= SPARE[kind]:
                return False
            series[: count - SPARE[kind]] = series[SPARE[kind] : count].copy()
            count -= SPARE[kind]
            at -= SPARE[kind]
        series[at + 1 : count + 1] = series[at:count].copy()
        series[at] = (stamp_ms, usable_ms, value)
        self.counts[kind] = count + 1
        self._counts[kind] = count + 1
        self.newest_ms[kind] = self.newest_stamp(kind)
        return True

    def merge(self, kind: int, samples: npt.NDArray[Any]) -> int:
        """Take a start-up history (SAMPLE[n], in order) at once; what is there already stays. Return how many were new.

        The newest `CAPACITY` are kept.
        """
        held = self.held(kind)
        whole = np.concatenate([held, samples])
        _, first = np.unique(whole["stamp_ms"] // MINUTE_MS, return_index=True)  # of equal minutes the one held
        first = first[-CAPACITY[kind] :]
        new = int((first >= len(held)).sum())
        if new:
            self._counts[kind] = 0  # a kill in between leaves no mixture
            self.series[kind][: len(first)] = whole[first]
            self._counts[kind] = self.counts[kind] = len(first)
            self.newest_ms[kind] = self.newest_stamp(kind)
        return new

    def close(self) -> None:
        """Release the mapping."""
        self.series = (np.zeros(0, SAMPLE), np.zeros(0, SAMPLE))
        del self._counts, self._header
        self._mapped.close()
