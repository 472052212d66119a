"""One writer per key: an exclusive lock named by the key's hash, and a lease number that a later writer raises.

The watchdog fences a dead engine by taking the lease: an engine whose number is no longer the newest must not send.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from engine.errors import ConfigError


def default_folder() -> Path:
    """Return where locks live: per user of this machine, not per data folder, since two folders may use one key."""
    return Path(os.environ.get("TA_LOCK_DIR") or Path.home() / ".local" / "state" / "ta-engine")


def key_hash(api_key: str) -> str:
    """Return the name of a key's lock: 16 hex digits, from which the key cannot be had."""
    return hashlib.blake2b(api_key.encode(), digest_size=8).hexdigest()


class KeyLock:
    """Held while open. Raises ConfigError when another process holds it, naming that process."""

    def __init__(self, api_key: str, folder: Path | None = None) -> None:
        folder = folder or default_folder()
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{key_hash(api_key)}.lock"
        self._lease_path = self.path.with_suffix(".lease")
        self._file = open(self.path, "a+")  # noqa: SIM115 (held for the life of the process)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise ConfigError([f"secrets.api_key: another engine trades with this key (pid {holder})"]) from error
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()
        self.lease = self.newest_lease() + 1
        partial = self._lease_path.with_suffix(".new")
        partial.write_text(str(self.lease))
        partial.replace(self._lease_path)

    def newest_lease(self) -> int:
        """Return the lease number on disk."""
        try:
            return int(self._lease_path.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def fenced(self) -> bool:
        """Whether somebody took a newer lease: whoever holds the old one must not send any more."""
        return self.newest_lease() != self.lease

    def close(self) -> None:
        """Let go."""
        self._file.close()
