"""The operator's commands against a real socket and snapshot: output, JSON, exit codes."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from control.auth import TokenBook
from control.cli.app import PANELS, app, load_groups
from control.present import plain
from engine.exchange.order_budget import OrderBudget
from engine.link import LOCK_NAME, SNAPSHOT_NAME
from engine.market.stream import Streams
from engine.market.wire import Decoder
from engine.repair import Repairer
from tests.control.web import answering

load_groups()


@pytest.fixture
def ta(data_dir: Path, monkeypatch: Any) -> Any:
    """Return a function that runs `ta --data-dir <the test's> …`."""
    monkeypatch.chdir(data_dir)
    monkeypatch.setenv("TA_CONTROL__PORT", "1")  # nobody answers there
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words, **more: CliRunner().invoke(app, ["--data-dir", str(data_dir), *words], **more)


def test_status_shows_the_engine_and_its_positions(ta: Any, engine: Any) -> None:
    shown = ta("status")
    assert shown.exit_code == 0 and "running" in shown.output and "ETHUSDT" in shown.output
    document = json.loads(ta("status", "--json").output)
    assert document["trading"] is True and document["engine"]["equity_usdt"] == 9_900.0
    assert document["control"] == {"answers": False} and document["positions"][0]["symbol"] == "ETHUSDT"


def test_status_shows_open_orders_with_route_and_age(ta: Any, engine: Any) -> None:
    assert "open order" not in ta("status").output
    engine.snapshot.view.status["exchange_ms"] = 1_700_000_900_000
    engine.open_orders()
    lines = [" ".join(line.split()) for line in ta("status").output.splitlines()]
    assert "BTCUSDT buy (entry) limit ioc sent ws1 0.25 50010.5 2 s" in lines
    assert "ETHUSDT buy (sl) stop market standing – all 2563.25 900 s" in lines
    entry, stop = json.loads(ta("status", "--json").output)["open_orders"]
    assert (entry["state"], entry["route"], stop["qty"]) == ("sent", "ws1", None)


def test_the_run_book_is_shown_without_control_and_without_an_engine(ta: Any) -> None:
    shown = ta("alerts", "show", "market_silent")
    assert shown.exit_code == 0 and shown.output.startswith("# Alarm `market_silent`") and "## Do" in shown.output
    assert json.loads(ta("alerts", "show", "drawdown", "--json").output)["text"].startswith("# Alarm `drawdown`")
    unknown = ta("alerts", "show", "../auth")
    assert unknown.exit_code == 2 and "engine_silent" in unknown.output


def test_status_says_what_is_wrong_without_control(ta: Any, engine: Any) -> None:
    assert "alarm" not in ta("status").output
    engine.snapshot.view.status["exchange_ms"] = 60_000  # and no mark price has come since 0
    shown = " ".join(ta("status").output.split())  # however wide the console is
    assert "no mark prices arrive" in shown and "run-book: market_silent" in shown
    assert [item["name"] for item in json.loads(ta("status", "--json").output)["alarms"]] == ["market_silent"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(114782.3, "114782.3"), (12_345_678.0, "12345678"), (1.234e-05, "0.00001234"), (67047.79391166, "67047.7939"),
     (0.743, "0.743"), (0.0, "0"), (None, "–")],
)  # fmt: skip
def test_prices_and_quantities_are_shown_with_their_digits(value: float | None, text: str) -> None:
    assert plain(value) == text


def test_status_of_a_dead_or_missing_engine_exits_with_1(ta: Any, data_dir: Path) -> None:
    absent = ta("status")
    assert absent.exit_code == 1 and "no engine has run" in absent.output and "ta up" in absent.output
    assert json.loads(ta("status", "--json").output)["engine"] is None


def seconds(state: str, shown: str) -> int:
    """How long an engine is said to be in this state; a slow machine has it wait for longer."""
    found = re.search(rf"{state} for (\d+) s", shown)
    assert found is not None, shown
    return int(found[1])


def test_status_of_a_silent_engine_says_so(ta: Any, engine: Any) -> None:
    engine.beat(age_ms=9_000)
    shown = ta("status")
    assert shown.exit_code == 1 and seconds("NOT RUNNING", shown.output) >= 9


def test_status_tells_a_starting_engine_from_one_that_hangs_and_one_that_is_gone(
    ta: Any, engine: Any, data_dir: Path
) -> None:
    pid = json.loads(ta("status", "--json").output)["engine"]["pid"]
    engine.beat(age_ms=9_000)
    with open(data_dir / LOCK_NAME, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(pid))
        lock.flush()
        assert seconds("NOT ANSWERING", ta("status").output) >= 9
        lock.seek(0)
        lock.write("999999999")
        lock.flush()
        assert "pid 999999999 is starting" in ta("status").output
        (data_dir / SNAPSHOT_NAME).unlink()
        assert "(pid 999999999) is still starting" in ta("status").output


@pytest.mark.parametrize("words", [("start",), ("stop",), ("flatten", "--yes"), ("close", "ethusdt", "--yes")])
def test_commands_reach_the_engine_with_the_name_of_who_asked(ta: Any, engine: Any, words: tuple[str, ...]) -> None:
    done = ta(*words, "--json")
    assert done.exit_code == 0 and json.loads(done.output)["ok"] is True
    (verb, actor, args, command_id) = engine.commands[0]
    assert verb == words[0] and actor.startswith("cli:") and len(command_id) == 32
    assert args == ({"symbol": "ETHUSDT"} if verb == "close" else {})


def test_a_refusal_and_a_missing_engine_exit_with_1(ta: Any, engine: Any) -> None:
    engine.refuse = "no open position in BTCUSDT"
    refused = ta("close", "BTCUSDT", "--yes")
    assert refused.exit_code == 1
    engine.close()
    assert ta("stop").exit_code == 1


def test_kill_prints_when_each_step_held(ta: Any, engine: Any) -> None:
    shown = ta("kill", "--until", "cancel", "--yes")
    assert shown.exit_code == 0
    assert [line.split() for line in shown.output.splitlines()] == [
        ["pause", "held", "after", "0", "ms"],
        ["reduce_only", "held", "after", "40", "ms"],
        ["cancel", "held", "after", "80", "ms"],
    ]
    document = json.loads(ta("kill", "--until", "pause", "--json").output)
    assert document == {
        "ok": True, "result": {"until": "pause", "begun_ms": 1, "running": False, "took_ms": {"pause": 0}},
    }  # fmt: skip
    engine.kill = engine.kill | {"running": True}
    engine.stuck = True
    assert ta("kill", "--until", "flatten", "--yes", "--wait", "0.2").exit_code == 1


@pytest.mark.parametrize("words", [("flatten",), ("close", "BTCUSDT"), ("kill", "--until", "flatten")])
def test_without_a_terminal_a_dangerous_command_needs_yes(ta: Any, engine: Any, words: tuple[str, ...]) -> None:
    assert ta(*words, input="y\n").exit_code == 2
    assert engine.commands == []


def test_tokens_are_made_listed_and_revoked(ta: Any, data_dir: Path) -> None:
    made = json.loads(ta("tokens", "create", "ops", "--scope", "trade", "--json").output)
    entry = TokenBook(data_dir / "tokens.json").verify(made["token"])
    assert entry is not None and entry.scope == "trade"
    (listed,) = json.loads(ta("tokens", "list", "--json").output)
    assert listed["counts"] is True and made["token"].split("_", 2)[2] not in json.dumps(listed)
    assert ta("tokens", "revoke", listed["id"]).exit_code == 0
    assert ta("tokens", "revoke", listed["id"]).exit_code == 1
    assert json.loads(ta("tokens", "list", "--json").output)[0]["counts"] is False


def test_top_prints_one_picture(ta: Any, engine: Any) -> None:
    shown = ta("top", "--once")
    assert shown.exit_code == 0
    for word in ("SHADOW", "ETHUSDT", "er low, spread", "frame to decision"):
        assert word in shown.output
    document = json.loads(ta("top", "--json").output)
    assert document["positions"][0]["symbol"] == "ETHUSDT" and document["engine"]["mode"] == "shadow"


def test_halt_and_settings(ta: Any, engine: Any) -> None:
    assert ta("halt", "--yes", "--json").exit_code == 0 and engine.commands[-1][0] == "halt"
    assert ta("start", "--clear-halt").exit_code == 0 and engine.commands[-1][2] == {"clear_halt": True}
    shown = json.loads(ta("settings", "--json").output)
    assert shown["values"]["control"]["port"] and "secrets" not in shown["values"] and len(shown["config_hash"]) == 64
    assert "risk.risk_fraction = 0.005" in ta("settings").output


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_an_address_that_others_reach_is_refused_without_tls_or_proxy(ta: Any, host: str) -> None:
    from control.main import check_bind
    from engine.config import Config
    from engine.errors import ConfigError

    with pytest.raises(ConfigError, match="clear text"):
        check_bind(Config(control={"host": host}))  # type: ignore[arg-type]
    check_bind(Config(control={"host": host, "behind_proxy": True}))  # type: ignore[arg-type]
    check_bind(Config())


def test_an_occupied_port_is_one_clear_message() -> None:
    from control.main import listen
    from engine.errors import ConfigError

    opened = listen("127.0.0.1", 0)
    with pytest.raises(ConfigError, match="Address already in use"):
        listen("127.0.0.1", opened.getsockname()[1])
    opened.close()


@pytest.mark.parametrize("command", ["engine", "control", "status", "up"])
def test_a_data_folder_that_cannot_be_used_is_one_clear_message(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("no folder")
    line = [sys.executable, "-m", "control.cli", "--data-dir", str(tmp_path / "file" / "var"), command]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1  # a supervisor tries again: room may be made
    assert done.stderr.startswith(f"error: {tmp_path}/file/var") or command == "up"
    assert "not a directory" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def market_report() -> dict[str, Any]:
    """What an engine answers, made by its own parts."""
    decoder = Decoder(["BTCUSDT"], None, 1)  # type: ignore[arg-type]
    streams = Streams("ws://127.0.0.1:9", decoder)
    decoder.feed(b"{", 1, streams.links[0].retired)
    streams.links[0].retired.firsts = 5
    repairer = Repairer(None, None, ["BTCUSDT"])  # type: ignore[arg-type]
    return {
        "frames": decoder.counts(), "connections": streams.league(), "resubscribed": 1, "moved": 0,
        "repairs": repairer.status() | {"revisions": 2, "undecided": 3},
        "late_1m": [{"symbol": "BTCUSDT", "bars": 9, "late": 3}],
        "clock": {"offset_ms": -1.25, "good": True, "error_ms": None, "drift_ppm": None},
    }  # fmt: skip


def test_market_shows_the_league_and_what_is_late(ta: Any, engine: Any, market_report: dict[str, Any]) -> None:
    engine.answers["market"] = market_report
    shown = ta("market")
    assert shown.exit_code == 0, shown.output
    first = next(line for line in shown.output.splitlines() if line.split()[:2] == ["0", "public"])
    assert first.split() == ["0", "public", "idle", "1", "5", "0", "0", "1", "0", "0"]
    for said in ("BTCUSDT 3 of 9", "not_json 1", "revisions 2", "-1.2 ms", "good"):
        assert said in shown.output
    document = json.loads(ta("market", "--json").output)
    assert document.pop("orders") == [] and document.pop("limits")["orders"] == []
    assert document == json.loads(json.dumps(market_report))


def test_market_shows_the_order_side_and_what_is_used_of_the_limits(
    ta: Any, engine: Any, market_report: dict[str, Any], data_dir: Path
) -> None:
    engine.answers["market"] = market_report
    engine.connect("down")
    OrderBudget(limit_10s=30, path=data_dir / "order_budget")
    shown = ta("market").output
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "lane 0 down 0 s ago 7 0 0 0" in lines and "private 0 live none yet 0 0 0 0" in lines
    said = "limits 0 of 2,400 request weight this minute; 0 of 30 orders in 10 s; 0 of 1,200 orders in 60 s"
    assert said in " ".join(shown.split())  # on as many lines as the terminal needs


def test_help_groups_every_command_and_the_version_is_told(ta: Any) -> None:
    shown = ta("--help").output
    for panel, names in PANELS.items():
        part = shown.split(f" {panel} ", 1)[1].split("╰", 1)[0]
        assert all(re.search(rf"│ {name} ", part) for name in names), panel
    assert re.fullmatch(r"ta \d+\.\d+\.\d+\n", ta("--version").output)


@pytest.mark.parametrize("words", [["up"], ["engine"], ["collect"]])
def test_a_demonstrations_folder_takes_nothing_of_a_real_exchange(
    ta: Any, data_dir: Path, words: list[str], monkeypatch: Any
) -> None:
    """The demo's generated BTCUSDT and its paper positions must not become history and positions of the real one."""
    monkeypatch.setenv("TA_EXCHANGE__NAME", "binance")
    (data_dir / "demo.json").write_text("{}")
    shown = ta(*words)
    assert shown.exit_code == 2 and "demonstration" in shown.output and "--data-dir" in shown.output
    assert {path.name for path in data_dir.iterdir()} == {"demo.json"}


@pytest.mark.parametrize("words", [["up"], ["engine"], ["collect"]])
def test_a_folder_holds_the_market_of_one_exchange(ta: Any, data_dir: Path, words: list[str], monkeypatch: Any) -> None:
    """After a rehearsal on the exchange's demo its candles must not become the real market's history."""
    monkeypatch.setenv("TA_EXCHANGE__NAME", "binance")
    (data_dir / "exchange").write_text("demo\n")
    shown = ta(*words)
    assert shown.exit_code == 2 and "market data of exchange 'demo', not of 'binance'" in shown.output
    assert {path.name for path in data_dir.iterdir()} == {"exchange"}


def test_status_asks_control_where_it_says_it_serves(ta: Any, engine: Any, data_dir: Path) -> None:
    """A port given to `ta control` is in no configuration that another shell sees."""
    asked: list[str] = []

    def ready(path: str) -> bytes:
        asked.append(path)
        return b'{"store": true}'

    with answering(ready) as url:
        (data_dir / "control.json").write_text(json.dumps({"pid": 1, "url": url}))
        assert json.loads(ta("status", "--json").output)["control"] == {"answers": True, "store": True}
    assert asked == ["/readyz"]


def test_logs_shows_the_end_of_a_log_and_says_where_there_is_none(ta: Any, data_dir: Path) -> None:
    assert ta("logs").exit_code == 1 and "ta up" in ta("logs").output
    (data_dir / "logs").mkdir()
    (data_dir / "logs" / "control.log").write_text("one\ntwo token=abcdefgh\n")
    assert ta("logs", "control", "--lines", "1").output == "two token=[redacted]\n"
    assert json.loads(ta("logs", "control", "--json").output)["lines"][0] == "one"
