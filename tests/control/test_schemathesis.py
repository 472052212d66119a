"""Generated requests against the OpenAPI document: no 500, no status or body that the document does not name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi

from control.app import create_app
from control.auth import CookieSigner, Scope, TokenBook
from control.commands import Commands
from control.door import LinkedEngine
from control.gate import Gate
from control.jobs.runner import JobRunner
from control.reader import StoreReader
from control.services import Services
from control.store_health import StoreHealth
from engine.config import Config
from store.client import connect
from tests.conftest import long_run
from tests.control.conftest import CHEAP
from tests.control.fake_engine import FakeEngine


class _Gate(Gate):
    """Never locks anybody out: the generated requests carry thousands of wrong tokens."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lockout.LIMIT = 10**9


@pytest.fixture(scope="module")
def api(tmp_path_factory: Any) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("fuzz") / "var"
    folder.mkdir()
    engine, store = FakeEngine(folder), connect("embedded", folder)
    door, reader = LinkedEngine(folder, 1.0), StoreReader(store)
    book = TokenBook(folder / "tokens.json", hasher=CHEAP)
    services = Services(
        config=Config(data_dir=folder),
        engine=door,
        reader=reader,
        gate=_Gate(book, CookieSigner(folder / "cookie.key")),
        commands=Commands(door),
        jobs=JobRunner(folder, None, lambda row: None),
        promote=AsyncMock(return_value={}),
        rollback=lambda *_: {},
        store=StoreHealth(ok=True, detail="test"),
    )
    app = create_app(services)
    app.state.token = book.create("fuzz", Scope.ADMIN)
    schema = schemathesis.openapi.from_asgi("/schema", app)
    schema.config.headers = {"Authorization": f"Bearer {app.state.token}"}
    yield schema
    reader.close()
    store.close()
    engine.close()


EXAMPLES = settings(
    max_examples=long_run(6, 500),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    checks.not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
    openapi.response_headers_conformance,
    openapi.negative_data_rejection,
]
PUBLIC = {("GET", "/healthz"), ("GET", "/readyz"), ("POST", "/api/session")}


def test_every_operation_but_the_open_ones_refuses_without_a_token(client: Any) -> None:
    paths = client.get("/schema").json()["paths"]
    for path, operations in paths.items():
        for method in operations:
            answer = client.request(
                method, path.format(symbol="BTCUSDT", model_id="m", job_id="train-1", feature="rsi", name="engine")
            )
            if (method.upper(), path) not in PUBLIC:
                assert answer.status_code == 401, (method, path, answer.status_code)


def test_the_api_keeps_to_its_document(api: Any) -> None:
    faults, tried = [], 0
    for found in api.get_all_operations():
        operation = found.ok()
        if (operation.method.upper(), operation.path) == ("POST", "/api/jobs"):
            continue  # a generated job would start a process; tests/control/test_runner.py covers it
        tried += 1

        @EXAMPLES
        @given(case=operation.as_strategy())
        def keeps_to_it(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        try:
            keeps_to_it()
        except (Exception, BaseExceptionGroup) as error:
            causes = getattr(error, "exceptions", [error])
            faults.append(f"{operation.method} {operation.path}: " + "; ".join(str(cause) for cause in causes))
    assert tried >= 35
    assert faults == [], "\n\n".join(faults)
