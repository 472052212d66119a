"""What nobody should send: bodies of every wrong kind, oversize ones, path tricks, forged tokens, replayed commands.

Each is a 4xx with a problem document; the engine receives nothing, and the answer tells nothing of the inside.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar.testing import TestClient

from control.app import create_app
from control.auth import CookieSigner
from control.commands import Commands
from control.gate import COOKIE
from tests.conftest import long_run

EXAMPLES = settings(
    max_examples=long_run(60, 3_000), deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
INSIDE = re.compile(r"Traceback|File \"|/control/|msgspec|argon2|SELECT |hunter2|root:x")
FILLED = {"symbol": "BTCUSDT", "model_id": "m1", "job_id": "train-1-a"}
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=8)
NOT_AN_OBJECT = JSON.filter(lambda value: value is not None and not isinstance(value, dict))
STRANGE_KEYS = st.dictionaries(st.text(min_size=1, max_size=8).map(lambda name: f"x{name}"), JSON, min_size=1)
WRONG_TYPES = st.fixed_dictionaries(
    {
        name: st.one_of(
            st.lists(st.integers()), st.dictionaries(st.text(max_size=3), st.integers()), st.floats(0.1, 0.9)
        )
        for name in ("confirm", "until", "clear_halt", "force", "reason", "kind", "token", "predictor")
    }
)
BODIES = st.one_of(
    st.binary(min_size=1, max_size=200).filter(lambda raw: raw.strip() not in (b"null", b"{}")),
    NOT_AN_OBJECT.map(lambda value: json.dumps(value).encode()),
    STRANGE_KEYS.map(lambda value: json.dumps(value).encode()),
    WRONG_TYPES.map(lambda value: json.dumps(value).encode()),
)


def refused(answer: Any, *statuses: int) -> None:
    assert answer.status_code in (statuses or range(400, 500)), (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    assert not INSIDE.search(answer.text), answer.text


@pytest.fixture
def changes(client: Any) -> list[str]:
    """Every path that changes something, filled in."""
    paths = client.get("/schema").json()["paths"]
    return sorted(path.format(**FILLED) for path, operations in paths.items() if "post" in operations)


@pytest.fixture
def unlocked(services: Any) -> None:
    services.gate.lockout.LIMIT = 10**9


def test_no_body_of_a_wrong_kind_is_taken(client: Any, engine: Any, bearer: Any, changes: list[str]) -> None:
    headers = bearer("admin") | {"Content-Type": "application/json"}
    assert len(changes) >= 14
    takes_none = {path for path in changes if path.endswith(("/cancel", "/session/end"))}

    @EXAMPLES
    @given(st.sampled_from(sorted(set(changes) - takes_none)), BODIES)
    def none_is(path: str, body: bytes) -> None:
        refused(client.post(path, headers=headers, content=body), 400, 404, 415)

    none_is()
    assert engine.commands == []


@pytest.mark.parametrize("size", [65_537, 1_000_000])
@pytest.mark.parametrize("form", [b"x", b"[", b'{"a":', b" "])
def test_oversize_and_bottomless_bodies_are_too_large(
    client: Any, engine: Any, bearer: Any, changes: list[str], size: int, form: bytes
) -> None:
    headers = bearer("admin") | {"Content-Type": "application/json"}
    for path in changes:
        if not path.endswith(("/cancel", "/session/end")):
            refused(client.post(path, headers=headers, content=form * (size // len(form) + 1)), 413)
    deep = (b"[" * 60_000)[:60_000]
    refused(client.post("/api/trading/stop", headers=headers, content=deep), 400)
    assert engine.commands == []


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/msgpack"]
)
def test_other_kinds_of_content_are_refused(client: Any, engine: Any, bearer: Any, kind: str) -> None:
    headers = bearer("admin") | {"Content-Type": kind}
    refused(client.post("/api/trading/flatten", headers=headers, content=b"confirm=1"), 400, 415)
    assert engine.commands == []


DOTS = ["..", "%2e%2e", "%2e.", "..%00", "%252e%252e", "..;", "%c0%ae%c0%ae", "．．"]
ENDS = ["/auth.py", "/etc/passwd", "/../../etc/passwd", "%2f..%2f..%2fetc%2fpasswd", "\\..\\..\\auth.py"]


@pytest.mark.parametrize("dots", DOTS)
@pytest.mark.parametrize("end", ENDS)
def test_no_path_leads_out_of_the_static_files(client: Any, dots: str, end: str) -> None:
    for start in ("/static/", "/static/assets/", "/static//", "/"):
        answer = client.get(f"{start}{dots}{end}")
        assert answer.status_code in (400, 404), (start, answer.status_code)
        assert not INSIDE.search(answer.text)


def test_no_token_that_was_touched_counts(client: Any, engine: Any, services: Any, bearer: Any, unlocked: None) -> None:
    good = bearer("admin")["Authorization"].removeprefix("Bearer ")
    other = bearer("read")["Authorization"].removeprefix("Bearer ")
    forged = [good[:-1], good + "A", good.upper(), good.replace("ta_", "TA_"), "ta__", "ta_" + "0" * 8 + good[11:]]
    forged += [other[:11] + good[11:], good[:11] + other[11:], f" {good[:-2]}", "", "null", "A" * 10_000]
    step = long_run(9, 1)
    forged += [good[:at] + ("x" if good[at] != "x" else "y") + good[at + 1 :] for at in range(0, len(good), step)]
    for text in forged:
        refused(client.post("/api/trading/stop", headers={"Authorization": f"Bearer {text}"}), 401)
    for header in (f"Basic {good}", f"Bearer{good}", good, f"Bearer {good} {good}"):
        refused(client.post("/api/trading/stop", headers={"Authorization": header}), 401)
    assert engine.commands == []
    assert client.get("/api/status", headers={"Authorization": f"Bearer {good}"}).status_code == 200


def test_no_cookie_that_was_touched_counts(client: Any, engine: Any, services: Any, bearer: Any) -> None:
    token_id = bearer("admin")["Authorization"].split("_")[1]
    good = services.gate.cookies.issue(token_id)
    body, _, signature = good.rpartition(".")
    parts = body.split(".")
    later = ".".join([parts[0], str(int(parts[1]) + 86_400_000), parts[2]])
    forged = [
        body,
        f"{later}.{signature}",
        f"{body}.{signature[:-1]}{'1' if signature[-1] == '0' else '0'}",
        f".{good}",
        good[1:],
        "a.b.c.d",
        "x" * 5_000,
    ]
    for value in forged:
        client.cookies.set(COOKIE, value)
        refused(client.get("/api/status"), 401)
        refused(client.post("/api/trading/stop", headers={"x-csrf-token": services.gate.cookies.csrf(value)}), 401)
    client.cookies.set(COOKIE, good)
    assert client.get("/api/status").status_code == 200
    stranger = {"x-csrf-token": services.gate.cookies.csrf(good), "Origin": "https://evil.example"}
    refused(client.post("/api/trading/stop", headers=stranger), 403)
    assert engine.commands == []


def test_a_cookie_of_another_installation_does_not_count(client: Any, engine: Any, bearer: Any, tmp_path: Any) -> None:
    token_id = bearer("admin")["Authorization"].split("_")[1]
    client.cookies.set(COOKIE, CookieSigner(tmp_path / "other.key").issue(token_id))
    refused(client.get("/api/status"), 401)


def test_a_command_replayed_after_a_restart_of_control_is_the_same_command(
    client: Any, engine: Any, services: Any, bearer: Any
) -> None:
    headers = bearer("trade") | {"Idempotency-Key": "night-1"}
    first = client.post("/api/trading/stop", headers=headers).json()
    services.commands = Commands(services.engine)  # control forgets; the engine knows the id
    with TestClient(create_app(services)) as restarted:
        second = restarted.post("/api/trading/stop", headers=headers).json()
    assert first["id"] == second["id"] and {command[3] for command in engine.commands} == {first["id"]}


def test_a_confirmation_confirms_one_request_of_one_person_once(client: Any, engine: Any, bearer: Any) -> None:
    mine, theirs = bearer("trade"), bearer("trade")
    code = client.post("/api/trading/flatten", headers=mine).json()["confirm"]
    refused(client.post("/api/trading/flatten", headers=theirs, json={"confirm": code}), 409)
    refused(client.post("/api/trading/kill", headers=mine, json={"until": "flatten", "confirm": code}), 409)
    assert client.post("/api/trading/flatten", headers=mine, json={"confirm": code}).status_code == 200
    refused(client.post("/api/trading/flatten", headers=mine, json={"confirm": code}), 409)
    assert len(engine.commands) == 1
