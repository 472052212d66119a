"""A bundle's files and their hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.errors import DataError
from engine.model.opening import MANIFEST_NAME, read_manifest


def file_hash(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Return name → hash of every file of a bundle but its manifest."""
    return {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME}


def check_files(bundle: Path) -> None:
    """Raise DataError unless exactly the files that the manifest lists are there, unaltered."""
    stated: dict[str, str] = read_manifest(bundle).get("files", {})
    for name, expected in stated.items():
        path = bundle / name
        if not path.is_file():
            raise DataError(f"{path}: listed in the manifest, but not there")
        got = file_hash(path)
        if got != expected:
            raise DataError(f"{path}: expected SHA-256 {expected[:12]}…, got {got[:12]}…: altered or truncated")
