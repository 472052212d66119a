"""Each check of `ta doctor` sees the fault it is named after and says what to do."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from control import doctor
from control.cli import doctor as command
from control.cli.app import app
from control.doctor import Line
from engine import journal
from engine.config import Config, load
from kernels.records import BAR, BarFlag, Kind
from store import writer
from store.client import Store, connect
from tests.control.web import answering

MINUTE = 60_000


@pytest.fixture
def exchange() -> Iterator[dict]:
    """An exchange whose clock is `skew_ms` ahead, and whose next answer comes `late_s` after it was made."""
    state = {"skew_ms": 0.0, "late_s": 0.0}

    def answer(path: str) -> bytes:
        body = json.dumps({"serverTime": int(time.time() * 1e3 + state["skew_ms"])}).encode()
        time.sleep(state["late_s"])
        state["late_s"] = 0.0
        return body

    with answering(answer) as url:
        state["url"] = url
        yield state


@pytest.fixture
def config(tmp_path: Path, exchange: dict) -> Config:
    market = {"symbols": ["BTCUSDT", "ETHUSDT"]}
    return load(data_dir=tmp_path, control={"port": 0}, exchange={"rest_url": exchange["url"]}, market=market)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with connect("embedded", tmp_path) as opened:
        yield opened


def states(lines) -> dict[str, str]:
    return {line.check: line.state for line in lines}


def bars(count: int) -> np.ndarray:
    made = np.zeros(count, BAR)
    made["open_ms"] = 1_750_000_020_000 + MINUTE * np.arange(count)
    made["flags"] = BarFlag.REST
    return made


def test_a_fresh_folder_has_nothing_that_fails(config: Config) -> None:
    found = states(doctor.examine(config))
    assert "fail" not in found.values(), found
    for name in ("permissions", "disk", "ports", "exchange", "clock", "store", "schema", "journal"):
        assert found[name] == "ok", found
    assert found["candles"] == found["model"] == found["engine"] == "warn"


def test_a_clock_that_is_off(config: Config, exchange: dict) -> None:
    for skew, state in ((0, "ok"), (400, "warn"), (-5_000, "fail")):
        exchange["skew_ms"] = skew
        (_, line) = doctor.exchange(config)
        assert (line.check, line.state) == ("clock", state)
    assert "exchange is -" in line.detail and "NTP" in line.remedy


def test_one_answer_that_was_held_up_says_nothing_about_the_clock(config: Config, exchange: dict) -> None:
    exchange["late_s"] = 0.7
    assert states(doctor.exchange(config)) == {"exchange": "ok", "clock": "ok"}


def test_a_simulator_that_replays_is_told_from_a_clock_that_is_off(config: Config, exchange: dict) -> None:
    exchange["skew_ms"] = -40 * 86_400_000
    (_, line) = doctor.exchange(config)
    assert line.state == "fail" and "-40 days" in line.detail and 'exchange.clock = "replay"' in line.remedy


def test_an_exchange_that_does_not_answer(tmp_path: Path) -> None:
    lines = doctor.exchange(load(data_dir=tmp_path, exchange={"rest_url": "http://127.0.0.1:1"}))
    assert states(lines) == {"exchange": "fail", "clock": "warn"}


def test_secrets_that_others_can_read_and_a_folder_that_cannot_be_written(config: Config, tmp_path: Path) -> None:
    secret = tmp_path / "cookie.key"
    secret.write_text("x")
    secret.chmod(0o644)
    (line,) = doctor.permissions(config)
    assert line.state == "fail" and f"chmod 600 {secret}" in line.remedy
    (tmp_path / "file").write_text("")
    (line,) = doctor.permissions(load(data_dir=tmp_path / "file"))
    assert line.state == "fail"


def test_a_disk_that_is_nearly_full(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    for free, state in ((200 << 30, "ok"), (1 << 30, "warn"), (100 << 20, "fail")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(1 << 40, 0, free))
        assert states(doctor.disk(config)) == {"disk": state}


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert states(doctor.ports(load(data_dir=tmp_path, control={"port": port}))) == {"ports": "fail"}
    (tmp_path / "control.json").write_text(json.dumps({"pid": 1, "url": "http://127.0.0.1:1"}))
    (line,) = doctor.ports(load(data_dir=tmp_path))
    assert line.state == "fail" and "does not answer" in line.detail


def test_a_schema_that_lacks_a_column(store: Store, config: Config) -> None:
    assert states(doctor.schema(store, config)) == {"schema": "ok"}
    store.command("ALTER TABLE trades DROP COLUMN net_usdt")
    (line,) = doctor.schema(store, config)
    assert line.state == "fail" and "trades.net_usdt" in line.detail


def test_a_journal_that_is_ahead_of_the_store(store: Store, config: Config, tmp_path: Path) -> None:
    written = journal.Writer(tmp_path / "journal", "main", 5, 256 << 10, lambda writer: None)
    written.write(Kind.CONFIG, 1, 1_750_000_000_000, b"hash", b"1", 0, 0)
    (line,) = doctor.journal(store, config)
    assert line.state == "warn" and "configurations" in line.detail


def test_holes_and_symbols_without_candles(store: Store, config: Config) -> None:
    writer.insert_bars(store, "BTCUSDT", 0, np.delete(bars(100), [40, 41]), "rest")
    found = {line.check: line for line in doctor.candles(store, config)}
    assert "ETHUSDT" in found["candles"].detail and found["candles"].state == "warn"
    assert "2 1m candles missing" in found["gaps"].detail and found["gaps"].state == "warn"


def test_a_model_of_another_schema(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.model import registry

    class Stub:
        def __init__(self, *_: object) -> None:
            self.model_id = "m1"

        def production(self) -> Stub:
            return self

        def path(self, model_id: str) -> Path:
            return tmp_path

    from kernels.schema import SCHEMA_HASH

    monkeypatch.setattr(registry, "open_registry", Stub)
    for told, state in ((SCHEMA_HASH, "ok"), (1, "fail")):
        (tmp_path / "manifest.json").write_text(json.dumps({"schema_hash": told}))
        assert states(doctor.model(config)) == {"model": state}


def test_a_check_that_breaks_is_a_line(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Config) -> list[Line]:
        raise RuntimeError("boom")

    monkeypatch.setattr(doctor, "disk", broken)
    lines = {line.check: line for line in doctor.examine(config)}
    assert lines["disk"].state == "fail" and "boom" in lines["disk"].detail
    assert lines["store"].state == "ok"


def test_the_command_line_says_it_in_one_line_each(config: Config, tmp_path: Path, monkeypatch) -> None:
    if not any(item.name == "doctor" for item in app.registered_commands):
        command.register(app)
    monkeypatch.setenv("TA_EXCHANGE__REST_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TA_CONTROL__PORT", "0")
    result = CliRunner().invoke(app, ["--data-dir", str(tmp_path), "doctor", "--json"])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1 and {line["state"] for line in lines} == {"ok", "warn", "fail"}
    assert all(line["remedy"] for line in lines if line["state"] != "ok")
