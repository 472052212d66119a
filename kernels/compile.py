"""How every kernel is compiled: explicit signatures, IEEE arithmetic, a cache that can never serve stale code."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNUSED = ("scipy", "cffi", "yaml")  # what numba loads where it finds it; no kernel needs any of it


def _load_numba() -> None:
    """Load numba without its optional companions: 0.4 s of a process start. They stay importable afterwards."""
    absent = [name for name in UNUSED if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails, and numba goes without
    try:
        importlib.import_module("numba.core.typing.cffi_utils")
        importlib.import_module("numba.np.arraymath")
    finally:
        for name in absent:
            del sys.modules[name]


_load_numba()

import llvmlite  # noqa: E402
import numba  # noqa: E402
from numba.core import config as numba_config  # noqa: E402

INTERPRETED = bool(numba_config.DISABLE_JIT)  # NUMBA_DISABLE_JIT=1: kernels stay Python functions
KEPT_CACHES = 8  # one per release, CPU target or edit of a kernel; older ones are deleted


def source_hash() -> str:
    """Return the hex hash over all kernel sources, numba, llvmlite and the CPU target.

    numba's own cache does not notice an edit in a callee of another file, so the directory carries this hash.
    """
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update(f"{numba.__version__}|{llvmlite.__version__}|{cpu_target()}".encode())
    return digest.hexdigest()


def cpu_target() -> str:
    """Return the CPU name and features that numba compiles for."""
    name = numba_config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    features = numba_config.CPU_FEATURES
    if features is None and not numba_config.CPU_NAME:
        features = llvmlite.binding.get_host_cpu_features().flatten()
    return f"{name}|{features or ''}"


def _open_cache() -> bool:
    root = Path(os.environ.get("TA_COMPILE_CACHE") or Path(sys.prefix) / "compile-cache")
    mine = root / source_hash()
    try:
        mine.mkdir(parents=True, exist_ok=True)
        os.utime(mine)
        others = sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in others[KEPT_CACHES:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError:
        return False  # a read-only environment: compile afresh
    numba_config.CACHE_DIR = str(mine)
    return True


CACHED = _open_cache()


def kernel(*signatures: Any, lanes: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function eagerly for `signatures`: numpy error model, no fastmath, no contraction.

    Without signatures the function is an inlinable helper that compiles with its caller. `lanes` lets LLVM put sums
    written in independent lanes into one vector register (its SLP pass, which numba leaves off); without fastmath that
    cannot change the order of a sum. `nogil=False` for what the engine's loop calls within microseconds: to let go of
    the interpreter's lock and take it again costs 30 ns, and another thread may run for milliseconds in the middle.
    NUMBA_DISABLE_JIT=1 leaves the Python function as it is. Errors: a signature that does not fit raises numba's
    TypingError at import.
    """
    settings: dict[str, Any] = {"error_model": "numpy", "fastmath": False, "cache": CACHED, "nogil": True} | options

    def decorate(function: Callable[..., Any]) -> Any:
        if signatures:
            before, numba_config.SLP_VECTORIZE = numba_config.SLP_VECTORIZE, int(lanes)
            try:
                return numba.njit(list(signatures), **settings)(function)
            finally:
                numba_config.SLP_VECTORIZE = before
        return numba.njit(**settings)(function)

    return decorate


def entry_point(dispatcher: Any, index: int = 0) -> Callable[..., Any]:
    """Return the compiled entry point of one signature: half the call's cost, but it checks nothing.

    The caller validates dtypes, contiguity and shapes of the arrays once, at start. With the JIT disabled this is the
    Python function itself.
    """
    if not hasattr(dispatcher, "overloads"):
        return dispatcher  # type: ignore[no-any-return]
    return list(dispatcher.overloads.values())[index].entry_point  # type: ignore[no-any-return]


def c_function(function: Callable[[int], None]) -> Any:
    """Compile a kernel of one int64 as a C function, `void(int64)`: its `address` is for compiled code to call.

    Whoever keeps the address keeps the returned object. NUMBA_DISABLE_JIT=1 leaves the Python function as it is.
    """
    if INTERPRETED:
        return function
    return numba.cfunc(numba.void(numba.int64), cache=CACHED, error_model="numpy", fastmath=False)(function)
