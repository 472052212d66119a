"""Alarms and metrics: told once, taken back, judged on the right engine; bounded series."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from control.alarms import ALARMS, SILENT_MS, Standing
from control.alerts import AGAIN_S, REPEAT_S, Judge, apprise_notifier
from control.routes.status import current_status
from control.shapes import Status
from engine.config import Config


@pytest.fixture
def status(services: Any, engine: Any) -> Status:
    return current_status(services)


def changed(status: Status, **fields: Any) -> Status:
    return msgspec.structs.replace(status, engine=msgspec.structs.replace(status.engine, **fields))


def names(news: Any) -> list[tuple[str, bool]]:
    return [(alarm.name, stands) for alarm, stands in news]


def test_a_healthy_system_tells_nothing(status: Status) -> None:
    assert Judge(Config()).look(status, 0) == []


def test_an_alarm_is_told_once_after_it_held_and_taken_back(status: Status) -> None:
    judge, silent = Judge(Config()), changed(status, alive=False)
    assert judge.look(silent, 0) == [] and judge.look(silent, 9) == []
    assert names(judge.look(silent, 10)) == [("engine_silent", True)]
    assert judge.look(silent, 100) == []
    assert names(judge.look(silent, 10 + REPEAT_S)) == [("engine_silent", True)]
    assert names(judge.look(status, 20 + REPEAT_S)) == [("engine_silent", False)]
    assert judge.look(silent, 30 + REPEAT_S) == []  # it must hold anew


def test_a_condition_that_flickers_is_not_told(status: Status) -> None:
    judge, silent = Judge(Config()), changed(status, alive=False)
    for second in range(0, 60, 6):
        assert judge.look(silent if second % 12 else status, second) == []


@pytest.mark.parametrize(
    ("fields", "alarm"),
    [
        ({"state": "halted"}, "engine_halted"),
        ({"state": "reduce_only"}, "reduce_only"),
        ({"journal_full": True}, "journal_full"),
        ({"model_id": ""}, "no_model"),
        ({"symbols_halted": 2}, "symbols_halted"),
        ({"unprotected": 1}, "unprotected"),
        ({"drawdown": 0.17}, "drawdown"),  # 80 % of 0.2 is 0.16
        ({"equity_usdt": 9_590.0, "day_pnl_usdt": -410.0}, "day_loss"),  # 80 % of 5 % of 10,000 is 400
        ({"clock_offset_ms": -1_500.0}, "clock_offset"),
        ({"mark_age_ms": SILENT_MS + 1}, "market_silent"),
        ({"blind": ["ETHUSDT"]}, "market_silent"),
    ],
)
def test_each_condition_raises_its_alarm_and_a_dead_engine_does_not(status: Status, fields: Any, alarm: str) -> None:
    bad = changed(status, **fields)
    judge = Judge(Config())
    judge.look(bad, 0)
    assert alarm in {item.name for item, _ in [*Judge(Config()).look(bad, 0), *judge.look(bad, 61)]}
    dead = Judge(Config())
    dead.look(changed(bad, alive=False), 0)
    assert names(dead.look(changed(bad, alive=False), 61)) == [("engine_silent", True)]


def test_prices_that_stop_coming_are_seen_from_the_snapshot(services: Any, engine: Any) -> None:
    """All streams were cut, four positions were open, and the page said: running, no warnings, everything green."""
    state, symbols = engine.snapshot.view.status, engine.snapshot.view.symbols
    state["started_ms"], state["exchange_ms"] = 1_000_000, 1_060_000
    symbols["mark_ms"] = [1_059_000, 1_059_500, 1_030_000]
    found = current_status(services).engine
    assert found is not None and (found.mark_age_ms, found.blind) == (500, [])
    symbols["mark_ms"] = [1_059_000, 1_049_999, 1_059_000]
    found = current_status(services).engine
    assert found is not None and (found.mark_age_ms, found.blind) == (1_000, ["ETHUSDT"])  # the one that is held
    symbols["mark_ms"] = 0  # none since the start
    found = current_status(services).engine
    assert found is not None and (found.mark_age_ms, found.blind) == (60_000, ["ETHUSDT"])


def test_an_alarm_stands_once_it_has_held_and_is_shown_with_the_status(services: Any, engine: Any) -> None:
    now = [100.0]
    services.alarms = Standing(services.config, lambda: now[0])
    assert current_status(services).alarms == []
    engine.snapshot.view.status["day_pnl_usdt"] = -1_000.0  # no delay
    engine.snapshot.view.status["model_id"] = b""  # 60 s
    shown = current_status(services)
    assert [(item.name, item.severity) for item in shown.alarms] == [("day_loss", "critical")]
    assert any("day's loss limit" in text for text in shown.warnings)
    now[0] += 61
    assert [item.name for item in current_status(services).alarms] == ["day_loss", "no_model"]
    engine.snapshot.view.status["day_pnl_usdt"] = 0.0
    assert [item.name for item in current_status(services).alarms] == ["no_model"]


def test_halted_symbols_are_named(status: Status) -> None:
    (alarm,) = [alarm for alarm in ALARMS if alarm.name == "symbols_halted"]
    assert alarm.message(changed(status, halted=["BTCUSDT", "ETHUSDT"])).endswith("halted: BTCUSDT, ETHUSDT")
    many = alarm.message(changed(status, halted=[f"S{i}USDT" for i in range(25)]))
    assert "S19USDT and 5 more" in many and "S20USDT" not in many
    assert alarm.message(status) == alarm.says


def test_a_message_that_did_not_arrive_is_sent_again_soon(status: Status) -> None:
    judge, dead = Judge(Config()), changed(status, alive=False)
    judge.look(dead, 0)
    ((alarm, begins),) = judge.look(dead, 61)
    assert begins and judge.look(dead, 62) == []
    judge.not_told(alarm, 62)
    assert judge.look(dead, 62 + AGAIN_S - 1) == [] and judge.look(dead, 62 + AGAIN_S) == [(alarm, True)]


def test_just_below_the_limits_is_no_alarm(status: Status) -> None:
    calm = changed(status, drawdown=0.159, equity_usdt=9_601.0, day_pnl_usdt=-399.0)
    judge = Judge(Config())
    assert judge.look(calm, 0) == [] and judge.look(calm, 100) == []


def test_a_webhook_receives_the_message() -> None:
    heard: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = Config(secrets={"alert_urls": [f"json://127.0.0.1:{server.server_port}/hook"]})  # type: ignore[arg-type]
    notify = apprise_notifier(config)
    assert notify is not None and notify("title", "body")
    assert all(notify(f"[{kind}] unprotected", "body") for kind in ("critical", "warning", "ended"))
    server.shutdown()
    assert heard[0]["title"] == "title" and heard[0]["message"] == "body" and heard[0]["type"] == "info"
    assert [message["type"] for message in heard[1:]] == ["failure", "warning", "success"]


def test_an_address_that_is_none_is_refused_without_being_shown() -> None:
    config = Config(secrets={"alert_urls": ["nonsense-with-secret"]})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="address 1") as caught:
        apprise_notifier(config)
    assert "secret" not in str(caught.value).replace("secrets.", "")


def test_no_address_means_no_notifier() -> None:
    assert apprise_notifier(Config()) is None


def test_metrics_show_the_engine_and_stay_bounded(client: Any, engine: Any, bearer: Any) -> None:
    headers = bearer()
    assert client.get("/metrics").status_code == 401
    for path in ("/api/status", "/api/candles?symbol=AAA", "/api/candles?symbol=BBB", "/api/features/XYZ"):
        client.get(path, headers=headers)
    client.post("/api/trading/stop", headers=bearer("trade"))
    families = {f.name: f for f in text_string_to_metric_families(client.get("/metrics", headers=headers).text)}
    assert families["ta_engine_up"].samples[0].value == 1 and families["ta_equity_usdt"].samples[0].value == 9_900
    assert families["ta_model_active"].samples[0].value == 1
    routes = {sample.labels.get("route") for sample in families["ta_http_request_seconds"].samples}
    assert routes <= {"/api/status", "/api/candles", "/api/features/{symbol}", "/api/trading/stop", "/metrics"}
    assert {tuple(s.labels.values()) for s in families["ta_commands"].samples} == {("done", "stop")}
    states = {sample.labels["state"]: sample.value for sample in families["ta_run_state"].samples}
    assert states["running"] == 0 and states["stopped"] == 1  # after the command above


def test_every_alarm_has_its_page_in_the_run_book_and_a_rule() -> None:
    folder = Path(__file__).resolve().parents[2] / "docs" / "ops"
    rules = (folder / "alerts.yml").read_text()
    for alarm in ALARMS:
        page = folder / "runbook" / f"{alarm.name}.md"
        assert page.is_file(), f"no run-book page for {alarm.name}"
        assert f"alert: {alarm.name}" in rules, f"no Prometheus rule for {alarm.name}"
    pages = {path.stem for path in (folder / "runbook").glob("*.md")} - {"README"}
    assert pages == {alarm.name for alarm in ALARMS}
