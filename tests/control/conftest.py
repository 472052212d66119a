"""A control plane over a real snapshot file and a real command socket; only the engine's mind is a stand-in."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from litestar.testing import TestClient

from control.app import create_app
from control.auth import CookieSigner, Scope, TokenBook
from control.commands import Commands
from control.door import LinkedEngine
from control.gate import Gate
from control.jobs.runner import JobRunner
from control.services import Services, StoreHealth
from engine.config import Config
from engine.link import CommandServer, Snapshot
from kernels.records import GATES, Mode, RunState

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")


class FakeEngine:
    """Writes a snapshot and answers commands on the socket from a thread with its own loop."""

    def __init__(self, data_dir: Path, mode: Mode = Mode.SHADOW) -> None:
        self.commands: list[tuple[str, str, dict[str, Any], str]] = []
        self.refuse: str | None = None
        self.delay_s = 0.0
        self.snapshot = Snapshot(data_dir, len(SYMBOLS), 8)
        self._server = CommandServer(data_dir, self._handle)
        self._fill(mode)
        ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(5)

    def beat(self, age_ms: int = 0) -> None:
        """Set the heartbeat to `age_ms` ago; by default so far ahead that it stays fresh for the whole test."""
        ahead = 3_600_000 if age_ms == 0 else 0
        self.snapshot.begin()
        self.snapshot.view.status["heartbeat_ns"] = time.monotonic_ns() + (ahead - age_ms) * 1_000_000
        self.snapshot.end()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def _fill(self, mode: Mode) -> None:
        view = self.snapshot.view
        self.snapshot.begin()
        view.status["engine_id"], view.status["run_id"], view.status["pid"] = b"main", 77, 4242
        view.status["mode"], view.status["run_state"] = mode, RunState.RUNNING
        view.status["equity_usdt"], view.status["peak_equity_usdt"] = 9_900.0, 10_000.0
        view.status["day_pnl_usdt"], view.status["model_id"] = -12.5, b"m1"
        view.status["open_positions"], view.status["journal_seq"] = 1, 1_000
        view.symbols["symbol"] = [name.encode() for name in SYMBOLS]
        view.symbols["mark_price"], view.symbols["ready"] = [50_000.0, 2_500.0, 100.0], 1
        view.signals[0]["seq"], view.signals[0]["decision_ms"] = 10, 1_700_000_000_000
        view.signals[0]["gates"] = 1 << GATES.index("er_low") | 1 << GATES.index("spread")
        view.signals[0]["predictions"] = [-0.001, 0.002, -0.01, float("nan"), 0.004, 0.005, 60.0, 70.0]
        view.signals[1]["seq"], view.signals[1]["decision_ms"] = 11, 1_700_000_060_000
        view.signals[1]["side"], view.signals[1]["entered"] = -1, 1
        row = view.positions[0]
        row["symbol"], row["side"], row["qty"], row["entry_price"] = 1, -1, 2.0, 2_600.0
        row["tp_price"], row["sl_price"], row["position_id"] = 2_450.0, 2_550.0, 11
        self.snapshot.end()
        self.beat()

    async def _handle(self, verb: str, actor: str, args: dict[str, Any], command_id: str) -> dict[str, Any]:
        self.commands.append((verb, actor, args, command_id))
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.refuse is not None:
            raise ValueError(self.refuse)
        return {"verb": verb, **args}

    def _run(self, ready: threading.Event) -> None:
        async def body() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.start()
            ready.set()
            await self._stop.wait()
            await self._server.stop()

        asyncio.run(body())


class NoStore:
    """A reader of an empty store; `broken` makes it a bug."""

    broken = False

    async def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        if self.broken:
            raise AssertionError(f"a secret cause: {sql}")
        return []


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "var"
    folder.mkdir()
    return folder


@pytest.fixture
def engine(data_dir: Path) -> Iterator[FakeEngine]:
    running = FakeEngine(data_dir)
    yield running
    running.close()


@pytest.fixture
def services(data_dir: Path) -> Services:
    config = Config(data_dir=data_dir)
    door = LinkedEngine(data_dir, timeout_s=0.3, keep_ns=0)
    book = TokenBook(data_dir / "tokens.json", hasher=CHEAP)
    gate = Gate(book, CookieSigner(data_dir / "cookie.key"))
    store = StoreHealth(ok=True, detail="test")
    return Services(
        config=config,
        engine=door,
        reader=NoStore(),
        gate=gate,
        commands=Commands(door),
        jobs=JobRunner(data_dir, None, lambda row: None),
        promote=lambda *_: {},
        rollback=lambda *_: {},
        store=store,
    )


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services)) as running:
        yield running


@pytest.fixture
def bearer(services: Services) -> Any:
    """Return a function that makes a token of a scope and gives the request headers for it."""

    def make(scope: str = "read") -> dict[str, str]:
        return {"Authorization": f"Bearer {services.gate.book.create(scope, Scope(scope))}"}

    return make
