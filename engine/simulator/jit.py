"""Compiled functions of the simulator: `kernels.compile` with a cache keyed by the simulator's own sources as well."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core import config as numba_config

from kernels.compile import CACHED, kernel


def _source_hash() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_bytes()
        if b"@compiled" in source or path.name == "jit.py":
            digest.update(path.name.encode() + source)
    return digest.hexdigest()


_FOLDER = str(Path(numba_config.CACHE_DIR or ".") / f"simulator-{_source_hash()}")


def compiled_as(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile for one signature: a helper of many callers, else numba makes a version for every literal argument."""
    return lambda function: _compile(function, (signature,))


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at first call, cached; numba does not notice an edit in a callee of another file, the folder's
    name does."""
    return _compile(function, ())


def _compile(function: Callable[..., Any], signatures: tuple[str, ...]) -> Any:
    if not CACHED:
        return kernel(*signatures)(function)
    before = numba_config.CACHE_DIR
    numba_config.CACHE_DIR = _FOLDER
    try:
        return kernel(*signatures)(function)
    finally:
        numba_config.CACHE_DIR = before
