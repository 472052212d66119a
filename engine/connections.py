"""The connections as the snapshot shows them: the state and counts of each, and when it was last heard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy.typing as npt

from engine.link import CONNECTIONS


class Line(NamedTuple):
    """One connection at this moment. frames: everything it has ever delivered."""

    name: str
    kind: str  # public, market (streams); ws_api (orders); private (what becomes of them)
    state: str
    frames: int
    faults: int
    reconnects: int
    streams: int = 0
    pending: int = 0  # requests without an answer yet


class Connections:
    """Writes the lines of `read` into `engine.link.CONNECTION` rows. Lives on the engine's loop.

    Nothing on the way of a frame tells the time for this: a connection was heard at the newest look that found its
    count of frames changed, so the age is right to the interval between two looks.
    """

    def __init__(self, read: Callable[[], Iterable[Line]], clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._read, self._clock_ns = read, clock_ns
        self._heard: dict[str, tuple[int, int]] = {}  # name → frames, when that count was first seen

    def write(self, rows: npt.NDArray[Any]) -> None:
        """Look at every connection and show it; rows beyond them are marked unused."""
        now_ns, found = self._clock_ns(), list(self._read())[:CONNECTIONS]
        for line in found:
            frames, _ = self._heard.get(line.name, (0, 0))
            if line.frames != frames:
                self._heard[line.name] = (line.frames, now_ns)
        rows[: len(found)] = [
            (line.name.encode(), line.kind.encode(), line.state.encode(), line.streams, line.pending, line.frames,
             line.faults, line.reconnects, self._heard.get(line.name, (0, 0))[1])
            for line in found
        ]  # fmt: skip
        rows["name"][len(found) :] = b""
