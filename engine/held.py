"""A file that one process holds as long as it lives, with its process id for whoever finds it held."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from pathlib import Path


class HeldError(Exception):
    """Another process holds the file; the text is its process id, "unknown" if it does not say."""


def hold(path: Path) -> io.FileIO:
    """Return the locked file, to be closed by whom it serves. Raises HeldError, OSError when it cannot be opened.

    On a full disk it may go without the process id: the lock is what counts, and positions wait for it.
    """
    file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(file.fileno(), 32, 0).decode(errors="replace").strip()
        file.close()
        raise HeldError(holder or "unknown") from error
    text = str(os.getpid()).encode()
    with contextlib.suppress(OSError):
        os.pwrite(file.fileno(), text, 0)  # before the cut: what is there is written over, and asks for no room
        os.ftruncate(file.fileno(), len(text))
    return file
