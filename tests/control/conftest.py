"""A control plane over a real snapshot file and a real command socket; only the engine's mind is a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from argon2 import PasswordHasher
from litestar.testing import TestClient

from control.app import create_app
from control.auth import CookieSigner, Scope, TokenBook
from control.commands import Commands
from control.door import LinkedEngine
from control.gate import Gate
from control.jobs.runner import JobRunner
from control.services import Services
from control.store_health import StoreHealth
from engine.config import Config
from tests.control.browser import browser, open_page, stage  # noqa: F401 (fixtures, found by their names)
from tests.control.fake_engine import FakeEngine

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class NoStore:
    """A reader of an empty store; `broken` makes it a bug."""

    broken = False

    async def lines(self, sql: str, parameters: dict[str, Any] | None = None) -> list[bytes]:
        if self.broken:
            raise AssertionError(f"a secret cause: {sql}")
        return []

    async def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        return [{} for _ in await self.lines(sql, parameters)]


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
    door = LinkedEngine(data_dir, timeout_s=60.0, keep_ns=0)
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
        promote=AsyncMock(return_value={}),
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
