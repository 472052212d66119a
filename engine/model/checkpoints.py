"""What a training has finished, so that one that died goes on behind it: a file per (fold, target) and final model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Checkpoints:
    """Finished parts below a folder, each under a key of everything that decides its result."""

    def __init__(self, folder: Path | None, data_hash: str) -> None:
        self._folder, self._data_hash = folder, data_hash

    def name(self, what: str, *decides: Any) -> Path | None:
        """Return where a part is kept; None: nothing is kept."""
        if self._folder is None:
            return None
        key = hashlib.blake2b(repr((self._data_hash, *decides)).encode(), digest_size=8).hexdigest()
        return self._folder / f"{what}-{key}.npz"

    def load(self, path: Path | None) -> dict[str, Any] | None:
        """Return a part, or None when it is not finished."""
        if path is None or not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}

    def save(self, path: Path | None, **values: Any) -> None:
        """Keep a part; the file appears only when it is complete."""
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".new")
        with open(partial, "wb") as file:
            np.savez(file, **values)
        partial.rename(path)


NOTHING_KEPT = Checkpoints(None, "")
