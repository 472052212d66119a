"""Shared fixtures: small counts by default, the full counts with TA_TEST_LONG=1."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from control.loopback import reach_directly

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"

OURS = ("TA_TEST_LONG", "TA_COMPILE_CACHE", "TA_CHROMIUM", "TA_CLICKHOUSE_URL")  # what a caller says to the tests


# The same examples in each short run, others in each long one; how fast a machine makes or tries them proves nothing.
settings.register_profile(
    "ta", deadline=None, database=None, derandomize="TA_TEST_LONG" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("ta")


def pytest_configure(config: pytest.Config) -> None:
    """Free the tests, and the processes they start, of the caller's configuration and of other runs' key locks."""
    for name in [name for name in os.environ if name.startswith("TA_") and name not in OURS]:
        del os.environ[name]
    reach_directly()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a store that was closed leaves some files open
    locks = tempfile.TemporaryDirectory(prefix="ta-test-locks-")
    config.add_cleanup(locks.cleanup)
    os.environ["TA_LOCK_DIR"] = locks.name


def long_run(short: int, long: int) -> int:
    """Return `short`, or `long` when TA_TEST_LONG is set."""
    return long if os.environ.get("TA_TEST_LONG") else short


@pytest.fixture(name="long_run")
def long_run_fixture():
    """The function `long_run(short, long)`."""
    return long_run


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of its own that can be filled; its size, as tmpfs takes it, is the test's parameter (indirect)."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real market data, or a skip that says so."""
    if not SHARED.is_dir():
        pytest.skip(f"real market data not found at {SHARED}")
    return SHARED
