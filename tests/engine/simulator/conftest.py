"""One simulator process with accounts under the wall clock, for tests that need real sockets and real clients."""

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import orjson
import pytest

from engine.simulator.exchange import Exchange
from engine.simulator.options import AccountOption, Options
from engine.simulator.server import Server
from engine.simulator.warm import warm
from tests.engine.simulator.client import Client

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
    process.wait(60)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """A simulator in this process with one account of 100,000 USDT and an admin port."""
    options = Options(
        port=0, clock="wall", symbol_count=2, history_days=1.0, ahead_days=1.0, latency=0.05, quiet=True, updates=240,
        accounts=(AccountOption("k", "s", 100_000),), admin_port=0,
    )  # fmt: skip
    exchange = Exchange(options, say=lambda _: None)
    warm(exchange)
    server = Server(exchange)
    await server.start()
    async with aiohttp.ClientSession() as session:
        yield Client(server, session)
    await server.stop()
