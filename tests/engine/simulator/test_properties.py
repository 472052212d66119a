"""Schemathesis over the simulator's REST: requests made from the documented interface, replies held to it."""

import hashlib
import hmac
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi

from engine.simulator.server import Server
from tests.conftest import long_run
from tests.engine.simulator.conftest import spawn
from tests.engine.simulator.harness import small
from tests.engine.simulator.openapi import OPERATIONS, document

EXAMPLES = settings(
    max_examples=long_run(8, 400),
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
]
EXTRA = {  # what clients touch that is not of the futures documentation, or only in part
    ("GET", "/api/v3/ping"), ("GET", "/api/v3/time"), ("GET", "/sapi/v1/capital/config/getall"),
    ("GET", "/fapi/v1/balance"), ("GET", "/fapi/v1/feeBurn"),
}  # fmt: skip


@pytest.fixture(scope="module")
def exchange() -> Iterator[SimpleNamespace]:
    process, facts = spawn(
        "--account", "k:s:1000000", "--symbols", "BTCUSDT,ETHUSDT", "--latency", "0.001", "--history-days", "2",
        "--ahead-days", "1", "--quiet", "--weight-limit", "1000000000",
    )  # fmt: skip
    yield facts
    process.terminate()
    process.wait(60)


def test_every_documented_endpoint_is_served_and_no_other() -> None:
    server = Server(small())
    assert {*server.rest.routes, *server.private.routes} == {*OPERATIONS, *EXTRA}


def send(case: Any, exchange: SimpleNamespace, session: requests.Session) -> requests.Response:
    """Send a generated request, signed over the exact bytes of its query."""
    kwargs = case.as_transport_kwargs(base_url=exchange.rest_url)
    prepared = requests.Request(case.method, kwargs["url"], params=kwargs.get("params")).prepare()
    assert prepared.url is not None
    address, _, query = prepared.url.partition("?")
    query += f"{'&' if query else ''}timestamp={int(time.time() * 1_000)}"
    signature = hmac.new(b"s", query.encode(), hashlib.sha256).hexdigest()
    return session.request(
        case.method, f"{address}?{query}&signature={signature}", headers={"X-MBX-APIKEY": "k"}, timeout=60
    )


@pytest.mark.timeout(3_600)
def test_generated_requests_are_answered_as_documented(exchange: SimpleNamespace) -> None:
    schema = schemathesis.openapi.from_dict(document())
    served: set[tuple[str, str]] = set()
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()

            @EXAMPLES
            @given(case=operation.as_strategy())
            def keeps_to_it(case: Any) -> None:
                response = send(case, exchange, session)
                case.validate_response(response, checks=CHECKS)
                body = response.json()
                assert not (isinstance(body, dict) and body.get("code") == -1000), "a mistake of the simulator's own"
                if response.status_code == 200:
                    served.add((case.method, case.path))

            keeps_to_it()
    assert len(served) > 45
