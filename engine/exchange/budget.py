"""The request weight of this IP, shared by every process on the machine and corrected by the exchange's headers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

DEFAULT_LIMIT = 2_400
SWEEPS, BACKGROUND = 0.7, 0.5  # parts of the limit: what neither exits nor protects stops here, what can wait before it
STATE = np.dtype([("window", "<i8"), ("used", "<i8"), ("limit", "<i8"), ("banned_until_s", "<f8")])


def machine_folder() -> Path:
    """Return where this user's processes meet on this machine, whatever their data folders: locks and shared counts."""
    return Path(os.environ.get("TA_LOCK_DIR") or Path.home() / ".local" / "state" / "ta-engine")


def shared_path(rest_url: str, data_dir: Path) -> Path:
    """Return the file that counts the request weight of this IP at a host.

    The exchange counts by address, so all data folders of this machine share one file per host; a simulator on this
    machine is an exchange of its own, whose count stays in the data folder that uses it.
    """
    host = urlsplit(rest_url).hostname or ""
    if host in ("localhost", "127.0.0.1", "::1"):
        return data_dir / "rate_budget"
    return machine_folder() / f"weight-{host}"


class WeightBudget:
    """Weight used in the current window of wall time (a minute unless told otherwise).

    Parameters
    ----------
    path
        File that the processes share (32 bytes, guarded by flock); None keeps the count in this process.
    share
        Part of the limit this user of the budget may bring the total to: the collector takes 0.5, so that an engine's
        market helper (0.7: start-up history, repairs) finds room, which in turn leaves 0.3 to exits and protection.
    wall_s
        Wall clock: the exchange counts by its own minute, whose offset the headers reveal soon enough.
    """

    def __init__(
        self,
        path: Path | None = None,
        share: float = 1.0,
        wall_s: Callable[[], float] = time.time,
        limit: int = DEFAULT_LIMIT,
        window_s: int = 60,
    ) -> None:
        self.share = share
        self._window_s = window_s
        self._wall_s = wall_s
        self.path = path
        self._local = np.zeros(1, STATE)
        self._local["limit"] = limit
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def banned_s(self) -> float:
        """Seconds for which the exchange has told this address to be silent."""
        with self._locked() as state:
            return max(0.0, float(state["banned_until_s"][0]) - self._wall_s())

    def take(self, weight: int, share: float = 1.0) -> float:
        """Book `weight` if it fits and return 0.0, else return the seconds to wait before asking again.

        share: of the limit, for this request; the smaller of it and the budget's own counts.
        """
        with self._locked() as state:
            now_s = self._wall_s()
            self._turn(state, now_s)
            if state["banned_until_s"][0] > now_s:
                return float(state["banned_until_s"][0]) - now_s
            if int(state["used"][0]) + weight > max(int(state["limit"][0]) * min(self.share, share), weight):
                return self._window_s - now_s % self._window_s + 0.05
            state["used"] += weight
            return 0.0

    def correct(self, used: int) -> None:
        """Take the exchange's own count from a response header; ours never goes below it."""
        with self._locked() as state:
            self._turn(state, self._wall_s())
            state["used"] = max(int(state["used"][0]), used)

    def set_limit(self, limit: int) -> None:
        """Take the limit from exchangeInfo."""
        with self._locked() as state:
            state["limit"] = limit

    def ban(self, seconds: float) -> None:
        """Stop every process's requests for a while (HTTP 429 or 418)."""
        with self._locked() as state:
            state["banned_until_s"] = max(float(state["banned_until_s"][0]), self._wall_s() + seconds)

    @property
    def used(self) -> int:
        """Weight used in this window, as far as known."""
        with self._locked() as state:
            self._turn(state, self._wall_s())
            return int(state["used"][0])

    def _turn(self, state: np.ndarray, now_s: float) -> None:
        window = int(now_s // self._window_s)
        if state["window"][0] != window:
            state["window"], state["used"] = window, 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[np.ndarray]:
        if self.path is None:
            yield self._local
            return
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            raw = os.pread(file, STATE.itemsize, 0)
            state = np.frombuffer(raw, STATE).copy() if len(raw) == STATE.itemsize else self._local.copy()
            yield state
            os.pwrite(file, state.tobytes(), 0)
        finally:
            os.close(file)
