"""The HTTP surface: scopes, commands in one or two steps, problem documents, headers."""

from __future__ import annotations

from typing import Any

import pytest

from control.alarms import ALARMS
from kernels.records import Mode


def test_the_open_paths_need_no_token_and_the_others_do(client: Any, engine: Any) -> None:
    for path in ("/healthz", "/readyz", "/schema", "/", "/static/status.js"):
        assert client.get(path).status_code == 200, path
    for path in ("/api/status", "/api/signals/latest", "/api/positions", "/api/trades", "/api/session"):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "unauthenticated"


def test_status_shows_what_the_snapshot_holds(client: Any, engine: Any, bearer: Any) -> None:
    status = client.get("/api/status", headers=bearer()).json()
    assert status["trading"] is True and status["mode"] == "shadow"
    shown = status["engine"]
    assert (shown["engine_id"], shown["pid"], shown["state"]) == ("main", 4242, "running")
    assert shown["equity_usdt"] == 9_900.0
    assert shown["drawdown"] == pytest.approx(0.01)
    assert status["warnings"] == []


def test_a_live_position_without_a_stop_on_the_exchange_is_said(
    client: Any, engine: Any, services: Any, bearer: Any
) -> None:
    assert client.get("/api/status", headers=bearer()).json()["engine"]["unprotected"] == 0
    engine.snapshot.view.status["mode"] = Mode.LIVE
    services.answers.forget()
    body = client.get("/api/status", headers=bearer()).json()
    assert body["engine"]["unprotected"] == 1 and any("no stop on the exchange" in text for text in body["warnings"])


def test_a_dead_engine_is_said_to_be_dead(client: Any, engine: Any, bearer: Any) -> None:
    engine.beat(age_ms=5_000)
    status = client.get("/api/status", headers=bearer()).json()
    assert status["trading"] is False and status["engine"]["alive"] is False
    assert "not beaten for 5 s" in status["warnings"][0]
    assert client.get("/readyz").status_code == 503


def test_without_an_engine_status_and_signals_still_answer(client: Any, bearer: Any) -> None:
    headers = bearer()
    status = client.get("/api/status", headers=headers).json()
    assert status["engine"] is None and status["trading"] is False
    assert client.get("/api/signals/latest", headers=headers).json() == {"items": []}
    assert client.get("/readyz").status_code == 200


def test_latest_signals_name_every_gate_and_map_nan_to_null(client: Any, engine: Any, bearer: Any) -> None:
    items = client.get("/api/signals/latest", headers=bearer()).json()["items"]
    assert [item["symbol"] for item in items] == ["ETHUSDT", "BTCUSDT"]
    assert items[0]["entered"] is True and items[0]["side"] == "short"
    assert items[1]["refused_by"] == ["er_low", "spread"]
    assert items[1]["predictions"]["q05_short"] is None
    only = client.get("/api/signals/latest?symbol=BTCUSDT", headers=bearer()).json()["items"]
    assert [item["symbol"] for item in only] == ["BTCUSDT"]


def test_positions_show_the_distance_to_each_guard(client: Any, engine: Any, bearer: Any) -> None:
    (position,) = client.get("/api/positions", headers=bearer()).json()["items"]
    assert position["symbol"] == "ETHUSDT" and position["side"] == "short"
    assert position["unrealised_usdt"] == pytest.approx(2.0 * (2_600 - 2_500))
    assert position["to_tp"] == pytest.approx(0.02)  # 2,450 is 2 % below the mark of 2,500: in a short's favour
    assert position["to_sl"] == pytest.approx(0.02)  # 2,550 is 2 % above it
    assert position["to_liquidation"] == pytest.approx(9_900 / 5_000)


def test_open_orders_show_state_route_and_age_and_guards_their_trigger(
    client: Any, engine: Any, services: Any, bearer: Any
) -> None:
    assert client.get("/api/orders/open", headers=bearer()).json() == {"items": []}
    engine.snapshot.view.status["exchange_ms"] = 1_700_000_900_000
    engine.open_orders()
    services.answers.forget()
    entry, stop = client.get("/api/orders/open", headers=bearer()).json()["items"]
    assert (entry["symbol"], entry["side"], entry["state"], entry["route"]) == ("BTCUSDT", "long", "sent", "ws1")
    assert (entry["type"], entry["qty"], entry["price"]) == ("limit_ioc", 0.25, 50_010.5)
    assert entry["created_ms"] == 1_700_000_900_000 - 1_500 and not entry["reduce_only"]
    assert (stop["symbol"], stop["type"], stop["state"]) == ("ETHUSDT", "stop_market", "standing")
    assert (stop["reason"], stop["qty"], stop["price"], stop["reduce_only"]) == ("sl", None, 2_563.25, True)


def test_connections_show_what_works_what_was_heard_and_what_is_used(
    client: Any, engine: Any, services: Any, bearer: Any
) -> None:
    assert client.get("/api/connections", headers=bearer()).json()["items"] == []
    engine.connect("down")
    services.answers.forget()
    shown = client.get("/api/connections", headers=bearer()).json()
    public, market, lane, private = shown["items"]
    assert (public["name"], public["kind"], public["ok"], public["silent_ms"]) == ("link 0", "public", True, 0)
    assert (market["streams"], market["frames"], market["reconnects"]) == (12, 3_400, 1)
    assert (lane["kind"], lane["state"], lane["ok"]) == ("ws_api", "down", False)
    assert (private["ok"], private["silent_ms"]) == (True, None)
    assert shown["weight"] == {"used": 0, "limit": 2_400, "banned_ms": 0} and shown["orders"] == []


def test_the_run_book_of_every_alarm_is_served_and_of_nothing_else(client: Any, bearer: Any) -> None:
    head = bearer()
    for alarm in ALARMS:
        page = client.get(f"/api/runbook/{alarm.name}", headers=head).json()
        assert page["text"].startswith(f"# Alarm `{alarm.name}`\n") and page["path"].endswith(f"/{alarm.name}.md")
    assert client.get("/api/runbook/readme", headers=head).json()["code"] == "no-such-page"
    assert client.get("/api/runbook/..%2Fauth", headers=head).status_code in (400, 404)


@pytest.mark.parametrize("path", ["/api/trading/start", "/api/trading/stop", "/api/positions/BTCUSDT/close"])
def test_a_command_needs_the_trade_scope(client: Any, engine: Any, bearer: Any, path: str) -> None:
    refused = client.post(path, headers=bearer("read"))
    assert refused.status_code == 403 and refused.json()["code"] == "scope"
    assert engine.commands == []
    done = client.post(path, headers=bearer("trade"))
    assert done.status_code == 200 and done.json()["state"] == "done"
    (verb, actor, _args, command_id) = engine.commands[0]
    assert verb == path.rsplit("/", 1)[1] and actor.startswith("trade#") and command_id == done.json()["id"]


def test_flatten_takes_two_steps_and_the_code_works_once(client: Any, engine: Any, bearer: Any) -> None:
    headers = bearer("trade")
    first = client.post("/api/trading/flatten", headers=headers)
    assert first.status_code == 428 and engine.commands == []
    assert "this closes 1 open position at" in first.json()["detail"]
    code = first.json()["confirm"]
    stranger = client.post("/api/trading/flatten", headers=bearer("trade"), json={"confirm": code})
    assert stranger.status_code == 409 and engine.commands == []
    second = client.post("/api/trading/flatten", headers=headers, json={"confirm": code})
    assert second.status_code == 200 and [item[0] for item in engine.commands] == ["flatten"]
    again = client.post("/api/trading/flatten", headers=headers, json={"confirm": code})
    assert again.status_code == 409 and len(engine.commands) == 1


def test_a_start_in_live_mode_takes_two_steps(client: Any, engine: Any, bearer: Any) -> None:
    engine.snapshot.view.status["mode"] = Mode.LIVE
    headers = bearer("trade")
    first = client.post("/api/trading/start", headers=headers)
    assert first.status_code == 428 and "real money" in first.json()["detail"]
    done = client.post("/api/trading/start", headers=headers, json={"confirm": first.json()["confirm"]})
    assert done.status_code == 200


@pytest.mark.parametrize("until", ["pause", "reduce_only"])
def test_the_gentle_steps_of_the_kill_ladder_are_taken_at_once(
    client: Any, engine: Any, bearer: Any, until: str
) -> None:
    done = client.post("/api/trading/kill", headers=bearer("trade"), json={"until": until})
    assert done.status_code == 200 and engine.commands[0][0::2] == ("kill", {"until": until})


@pytest.mark.parametrize("until", ["cancel", "flatten"])
def test_the_hard_steps_take_two_and_say_when_each_held(client: Any, engine: Any, bearer: Any, until: str) -> None:
    headers = bearer("trade")
    first = client.post("/api/trading/kill", headers=headers, json={"until": until})
    assert first.status_code == 428 and engine.commands == []
    code = first.json()["confirm"]
    assert (
        client.post("/api/trading/kill", headers=headers, json={"until": "pause", "confirm": code}).status_code == 200
    )
    assert client.post("/api/trading/flatten", headers=headers, json={"confirm": code}).status_code == 409
    done = client.post("/api/trading/kill", headers=headers, json={"until": until, "confirm": code})
    assert done.status_code == 200
    report = client.get("/api/trading/kill", headers=bearer()).json()
    assert report["until"] == until and not report["running"] and until in report["took_ms"]
    assert client.post("/api/trading/kill", headers=headers, json={"until": "burn"}).status_code == 400
    assert client.post("/api/trading/kill", headers=bearer(), json={"until": "pause"}).status_code == 403


def test_a_live_flatten_goes_down_the_ladder(client: Any, engine: Any, bearer: Any) -> None:
    engine.snapshot.view.status["mode"] = Mode.LIVE
    headers = bearer("trade")
    code = client.post("/api/trading/flatten", headers=headers).json()["confirm"]
    assert client.post("/api/trading/flatten", headers=headers, json={"confirm": code}).status_code == 200
    assert engine.commands[0][0::2] == ("kill", {"until": "flatten"})
    trading = client.get("/api/trading", headers=bearer())
    assert trading.status_code == 200


def test_a_shadow_engine_has_no_order_side(client: Any, engine: Any, bearer: Any) -> None:
    assert client.get("/api/trading", headers=bearer()).json()["code"] == "not-live"


def test_the_same_key_is_carried_out_once(client: Any, engine: Any, bearer: Any) -> None:
    headers = bearer("trade") | {"Idempotency-Key": "k1"}
    first, second = (client.post("/api/trading/stop", headers=headers) for _ in range(2))
    assert first.json() == second.json() and len(engine.commands) == 1
    other = client.post("/api/trading/start", headers=headers)
    assert other.status_code == 422 and len(engine.commands) == 1
    someone = client.post("/api/trading/stop", headers=bearer("trade") | {"Idempotency-Key": "k1"})
    assert someone.status_code == 200 and len(engine.commands) == 2


def test_a_refusal_is_a_conflict_with_the_engines_words(client: Any, engine: Any, bearer: Any) -> None:
    engine.refuse = "no open position in BTCUSDT"
    answer = client.post("/api/positions/BTCUSDT/close", headers=bearer("trade"))
    assert answer.status_code == 409 and answer.json()["detail"] == "no open position in BTCUSDT"


def test_a_slow_engine_gives_pending_and_no_engine_503(client: Any, engine: Any, services: Any, bearer: Any) -> None:
    headers = bearer("trade")
    services.engine._timeout_s, engine.delay_s = 0.3, 30.0
    slow = client.post("/api/trading/stop", headers=headers)
    assert slow.status_code == 202 and slow.json()["state"] == "pending"
    engine.close()
    gone = client.post("/api/trading/stop", headers=headers)
    assert gone.status_code == 503 and gone.json()["code"] == "engine-unreachable"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/nothing", None, 404),
        ("DELETE", "/api/status", None, 405),
        ("GET", "/api/signals/latest?symbol=../../etc", None, 400),
        ("GET", "/api/trades?limit=0", None, 400),
        ("GET", "/api/trades?limit=x", None, 400),
        ("GET", "/api/trades?before=zzz", None, 400),
        ("GET", "/api/trades?reason=luck", None, 400),
        ("POST", "/api/positions/btc%20usdt/close", None, 400),
        ("POST", "/api/trading/stop", b"[1]", 400),
        ("POST", "/api/trading/stop", b"{", 400),
        ("POST", "/api/trading/stop", b'{"confirm": 7}', 400),
        ("POST", "/api/trading/stop", b"x" * 70_000, 413),
        ("GET", "/static/..%2f..%2fauth.py", None, 404),
        ("GET", "/static/%2e%2e/%2e%2e/auth.py", None, 404),
    ],
)
def test_bad_input_is_a_problem_document_and_changes_nothing(
    client: Any, engine: Any, bearer: Any, method: str, path: str, body: bytes | None, status: int
) -> None:
    headers = bearer("trade") | {"Content-Type": "application/json"}
    answer = client.request(method, path, headers=headers, content=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert engine.commands == []


def test_every_answer_carries_the_security_headers(client: Any) -> None:
    for path in ("/", "/healthz", "/api/status", "/nothing"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"


def test_a_bug_tells_nothing(client: Any, services: Any, bearer: Any) -> None:
    services.reader.broken = True
    answer = client.get("/api/commands", headers=bearer())
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.json()["code"] == "internal-error"


def test_the_openapi_document_names_every_command(client: Any) -> None:
    paths = client.get("/schema").json()["paths"]
    assert {"/api/status", "/api/signals/latest", "/api/trades", "/api/trading/start", "/api/trading/stop"} <= set(
        paths
    )
    assert "428" in paths["/api/trading/flatten"]["post"]["responses"]
