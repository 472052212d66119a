"""`python -m engine.warm`: compile every kernel into the cache, so that nobody waits for a compiler later."""

from __future__ import annotations

import importlib
import pkgutil
import time

import kernels
from engine.simulator.exchange import Exchange
from engine.simulator.options import parse
from engine.simulator.warm import warm


def compile_everything() -> float:
    """Import all kernels (they compile at import) and run the simulator's once; return the seconds it took."""
    started = time.monotonic()
    for module in pkgutil.iter_modules(kernels.__path__):
        importlib.import_module(f"kernels.{module.name}")
    warm(Exchange(parse(["--symbol-count", "2", "--history-days", "1", "--ahead-days", "1", "--quiet"])))
    return time.monotonic() - started


if __name__ == "__main__":
    print("compiling the kernels for this processor, about a minute, once", flush=True)
    print(f"kernels compiled in {compile_everything():.1f} s")
