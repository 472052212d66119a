"""The engine process stays small: none of the libraries of jobs, store and control is ever imported into it."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = (
    "structlog",
    "rich",
    "lightgbm",
    "treelite",
    "tl2cgen",
    "polars",
    "chdb",
    "clickhouse_connect",
    "litestar",
    "pandas",
)


def loaded(names: tuple[str, ...], code: str) -> list[str]:
    """Return which of the packages a fresh process has loaded after running `code`."""
    line = f"import sys; {code}; print(' '.join(name for name in {names} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.split()


def test_the_engine_process_imports_no_library_of_jobs_store_or_control() -> None:
    assert loaded(FORBIDDEN, "import engine.process, engine.trading.start") == []


def test_numba_is_loaded_without_what_no_kernel_needs_and_that_stays_importable() -> None:
    assert loaded(("scipy", "cffi", "yaml"), "import kernels.compile, kernels.journal") == []
    assert loaded(("scipy",), "import kernels.compile, scipy.linalg") == ["scipy"]


def test_the_door_of_the_engine_loads_neither_kernels_nor_a_user_interface() -> None:
    assert loaded(("numba", "aiohttp", "rich", "litestar"), "import engine.main") == []


def test_the_engine_command_loads_no_other_command() -> None:
    code = "import control.cli.app as a; a.load_groups(('engine',)); assert a.command_of(sys.argv[1:]) == ''"
    assert loaded(("rich.console", "control.cli.top", "control.cli.demo"), code) == []


def test_a_shadow_engine_loads_nothing_that_could_send_an_order_over_rest() -> None:
    senders = ("aiohttp", "cryptography", "engine.trading.connect", "engine.trading.session")
    assert loaded(senders, "import engine.process") == []
