"""Who owns the embedded store: one process per path, known by a lock that dies with it and a file with its address."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """The contents of `store/owner.json`: the owning process, the address of its front, and the file of its tokens."""

    pid: int
    url: str


@dataclass(frozen=True)
class Tokens:
    """`read` may only read; `job` may also write. Kept in `store/front.json` (mode 600) with the last port."""

    read: str
    job: str
    port: int = 0


def folder(data_dir: Path) -> Path:
    """Return where everything of the embedded store lives, made if needed."""
    path = data_dir / "store"
    path.mkdir(parents=True, exist_ok=True)
    return path


def try_lock(data_dir: Path) -> int | None:
    """Take the owner's lock. Returns the descriptor that holds it until closed, or None: another process has it."""
    descriptor = os.open(folder(data_dir) / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def read_owner(data_dir: Path) -> Owner | None:
    """Return the owner on file, or None if there is none or the file is not whole."""
    try:
        return Owner(**json.loads((folder(data_dir) / "owner.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_owner(data_dir: Path, owner: Owner) -> None:
    """Announce the owner."""
    _write(folder(data_dir) / "owner.json", asdict(owner))


def clear_owner(data_dir: Path) -> None:
    """Withdraw the announcement; the lock is what counts."""
    (folder(data_dir) / "owner.json").unlink(missing_ok=True)


def tokens(data_dir: Path) -> Tokens:
    """Return the front's tokens, made at the first call; they stay the same so that saved connections go on working."""
    path = folder(data_dir) / "front.json"
    try:
        return Tokens(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        made = Tokens(secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        _write(path, asdict(made))
        return made


def remember_port(data_dir: Path, port: int) -> None:
    """Keep the front's port for the next start."""
    kept = tokens(data_dir)
    if kept.port != port:
        _write(folder(data_dir) / "front.json", asdict(Tokens(kept.read, kept.job, port)))


def _write(path: Path, value: dict) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file)
    partial.replace(path)
