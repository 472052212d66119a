"""One writer per key: an exclusive lock named by the key's hash, and a lease that whoever acts last holds.

The lease is a number in a small mapped file beside the lock, with the holder's heartbeat. The watchdog fences an engine
that has been gone too long by taking the next number; an engine that starts takes the next one again. Whoever does not
hold the newest number must not send: looking is one read of memory, so it is done before every request.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import time
from pathlib import Path

from engine.errors import ConfigError
from engine.exchange.budget import machine_folder
from engine.held import HeldError, hold

LEASE_NAME = "live.json"  # in the data folder: where a live engine says which lease is its own
WORDS = 2  # the newest number; when its holder was last seen, ns of the machine's monotonic clock, 0: it said goodbye


def key_hash(api_key: str) -> str:
    """Return the name of a key's lock: 16 hex digits, from which the key cannot be had."""
    return hashlib.blake2b(api_key.encode(), digest_size=8).hexdigest()


class Lease:
    """The shared file of one key. `take` makes the caller its holder; `lost` says that somebody took it since."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if os.fstat(self._file).st_size < 8 * WORDS:
            os.posix_fallocate(self._file, 0, 8 * WORDS)  # a full disk is an error here, not a SIGBUS later
        self._map = mmap.mmap(self._file, 8 * WORDS)
        self._words = memoryview(self._map).cast("q")

    def take(self) -> int:
        """Become the holder of the next number."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self.number = self._words[0] + 1
            self._words[0] = self.number
            self.beat()
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return self.number

    @property
    def newest(self) -> int:
        """The number of the present holder."""
        return self._words[0]

    def lost(self) -> bool:
        """Whether somebody holds a newer number than ours."""
        return self._words[0] != self.number

    def beat(self) -> None:
        """Say that the holder lives; a fenced one changes nothing."""
        if self._words[0] == self.number:
            self._words[1] = time.monotonic_ns()

    def goodbye(self) -> None:
        """Say that the holder ends on purpose and left nothing that needs looking after."""
        if self._words[0] == self.number:
            self._words[1] = 0

    def silent_s(self) -> float | None:
        """Seconds since the holder was last seen; None after a goodbye; infinite when the machine started since."""
        seen_ns, now_ns = self._words[1], time.monotonic_ns()
        if not seen_ns:
            return None
        return (now_ns - seen_ns) / 1e9 if seen_ns <= now_ns else float("inf")

    def close(self) -> None:
        """Unmap the file."""
        self._words.release()
        self._words, self.number = memoryview(bytes(8 * WORDS)).cast("q"), -1  # lost, for whoever still asks
        self._map.close()
        os.close(self._file)


class KeyLock:
    """Held while open, with the key's lease. Raises ConfigError when another process holds it, naming that process."""

    def __init__(self, api_key: str, folder: Path | None = None) -> None:
        folder = folder or machine_folder()  # not the data folder: two of them may use one key
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{key_hash(api_key)}.lock"
        try:
            self._file = hold(self.path)
        except HeldError as error:
            raise ConfigError([f"secrets.api_key: another engine trades with this key (pid {error})"]) from error
        self.lease = Lease(self.path.with_suffix(".lease"))
        self.lease.take()

    def close(self) -> None:
        """Let go."""
        self.lease.close()
        self._file.close()
