"""Recorded frames, replayed verbatim: lines `<receive ns> {"stream": name, "data": payload}`, or the JSON lines of a
recorded session (`{"t": "recv", "ts": seconds, "data": frame as text}`, other kinds passed over); plain, gzip or zstd.

Streams that the recording holds are sent byte for byte at the recorded pace (times the speed); everything
else, REST too, comes from a generated market of the same symbols that begins at the recording's first event
time and first price.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
import orjson
import zstandard

from engine.errors import DataError

MAX_FRAMES = 5_000_000


@dataclass
class Recording:
    """`stamps_ms` int64[n]: recorded receive times, moved so that the first equals the first event time."""

    stamps_ms: npt.NDArray[np.int64]
    streams: list[str]
    payloads: list[bytes]
    symbols: list[str]
    prices: dict[str, float]
    start_ms: int

    @property
    def end_ms(self) -> int:
        """Market time of the last frame."""
        return int(self.stamps_ms[-1])


def read_recording(path: Path) -> Recording:
    """Read a recording. Raises DataError naming the line that does not fit."""
    stamps: list[int] = []
    streams: list[str] = []
    payloads: list[bytes] = []
    prices: dict[str, float] = {}
    start_ms = 0
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                stamp_ns, text = _split(line.strip())
                if not text:
                    continue
                frame = orjson.loads(text)
                if "lastUpdateId" in frame and "stream" not in frame:
                    continue  # a depth snapshot that recorders keep between the frames
                name, data = frame["stream"], frame["data"]
                begin = text.index(b'"data":') + 7
                stamps.append(stamp_ns)
                start_ms = start_ms or int(data["E"])
                _note_price(prices, data)
            except (KeyError, TypeError, ValueError) as error:
                got = line[:60].decode("utf-8", "replace")
                raise DataError(f'{path}: line {number}: expected "<ns> {{stream, data}}", got {got!r}') from error
            streams.append(str(name))
            payloads.append(text[begin:-1].strip())
            if len(stamps) > MAX_FRAMES:
                raise DataError(f"{path}: more than {MAX_FRAMES:,} frames")
    if not stamps or not prices:
        raise DataError(f"{path}: expected frames with prices, found {len(stamps)} frames")
    times = (np.array(stamps, np.int64) - stamps[0]) // 1_000_000 + start_ms
    return Recording(np.maximum.accumulate(times), streams, payloads, sorted(prices), prices, start_ms)


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(zstandard.open(path, "rb")))
    return open(path, "rb")


def _split(line: bytes) -> tuple[int, bytes]:
    """Return (receive time in ns, frame); an empty frame for a session's line that holds none."""
    if not line.startswith(b'{"t":'):
        stamp, _, text = line.partition(b" ")
        return int(stamp), text
    entry = orjson.loads(line)
    if entry["t"] != "recv":
        return 0, b""
    return round(entry["ts"] * 1e9), entry["data"].strip().encode()


def _note_price(prices: dict[str, float], data: dict[str, object]) -> None:
    symbol = str(data.get("s", ""))
    price = data.get("p") or data.get("a")
    if symbol and symbol not in prices and data.get("e") in ("trade", "aggTrade", "bookTicker"):
        prices[symbol] = float(str(price))


class Player:
    """Hands due frames of a recording to whoever listens."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.names = frozenset(recording.streams)
        self.next = 0

    def due(self, now_ms: int) -> list[tuple[str, bytes]]:
        """Return the (stream, payload) pairs up to `now_ms`, each once."""
        end = int(np.searchsorted(self.recording.stamps_ms, now_ms, side="right"))
        first, self.next = self.next, max(end, self.next)
        return list(zip(self.recording.streams[first:end], self.recording.payloads[first:end], strict=True))
