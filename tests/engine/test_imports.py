"""The engine process stays small: none of the libraries of jobs, store and control is ever imported into it."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = ("lightgbm", "treelite", "tl2cgen", "polars", "chdb", "clickhouse_connect", "litestar", "pandas")


def test_the_engine_process_imports_no_library_of_jobs_store_or_control() -> None:
    code = f"import sys, engine.main; print([name for name in {FORBIDDEN} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
