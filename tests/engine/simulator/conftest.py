"""One simulator process with accounts under the wall clock, for tests that need real sockets and real clients."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

ROOT = Path(__file__).parents[3]
ACCOUNTS = {"keyone": "secretone", "keytwo": "secrettwo", "keythree": "secretthree", "keyfour": "secretfour"}


def spawn(*arguments: str) -> tuple[subprocess.Popen[bytes], SimpleNamespace]:
    """Start a simulator process; returns it and its ready line."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
    command = [sys.executable, "-m", "engine.simulator", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        errors.seek(0)
        raise RuntimeError(errors.read().decode())
    return process, SimpleNamespace(**orjson.loads(line))


@pytest.fixture(scope="session")
def simulator() -> Iterator[SimpleNamespace]:
    """The ready line of a simulator with four accounts of 100,000 USDT, quick delays and an admin port."""
    accounts = [item for key, secret in ACCOUNTS.items() for item in ("--account", f"{key}:{secret}:100000")]
    process, facts = spawn(
        *accounts, "--latency", "0.05", "--history-days", "2", "--ahead-days", "1", "--admin-port", "0", "--quiet",
        "--weight-limit", "100000", "--updates", "240",
    )  # fmt: skip
    facts.accounts = ACCOUNTS
    yield facts
    process.terminate()
    process.wait(10)
