"""The supervisor's children: real processes with the environment that they may have."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from control.cli.app import fail
from control.cli.up import reduce_only, say
from control.supervise import API_KEYS, WATCHDOG_KEYS, Child, Supervisor
from tests.control.fake_engine import FakeEngine

SHOW = """
import json, os, signal
print(json.dumps({'ready': True, 'names': sorted(os.environ)}), flush=True)
signal.pause()
"""


def names(tmp_path: Path, *withheld: str) -> set[str]:
    child = Child("x", [sys.executable, "-c", SHOW], {"TA_MODE": "live"}, tmp_path / "x.log", withheld=withheld)
    supervisor = Supervisor([child], print, lambda child: None)
    try:
        return set(json.loads(supervisor.start(child))["names"])
    finally:
        supervisor.stop()


def test_a_child_inherits_no_keys_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"TA_SECRETS__API_KEY", "TA_SECRETS__API_SECRET", "TA_SECRETS__WATCHDOG_KEY"}
    for name in keys:
        monkeypatch.setenv(name, "k")
    assert keys | {"TA_MODE"} <= names(tmp_path)
    assert keys & names(tmp_path, WATCHDOG_KEYS) == {"TA_SECRETS__API_KEY", "TA_SECRETS__API_SECRET"}
    assert not keys & names(tmp_path, API_KEYS, WATCHDOG_KEYS)


def test_an_engine_that_crashes_too_often_is_restarted_and_then_told_to_be_reduce_only(tmp_path: Path) -> None:
    """The supervisor does not wait for an engine that it has yet to restart."""
    told = []
    child = Child("engine", [sys.executable, "-c", "raise SystemExit(3)"], {}, tmp_path / "x.log")
    supervisor = Supervisor([child], lambda text: None, lambda child: told.append(reduce_only(tmp_path, child.name)))
    child.crashes.extend([time.monotonic()] * 4)
    child.spawn()
    assert child.process is not None and child.process.wait(30) == 3
    began = time.monotonic()
    supervisor.tend()
    assert told and child.restart_at and time.monotonic() - began < 5.0, "the supervisor waited"
    engine = FakeEngine(tmp_path)
    try:
        told[0].join(30)
        assert [verb for verb, *_ in engine.commands] == ["reduce_only"]
    finally:
        engine.close()


def test_a_restart_that_the_machine_refuses_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    child = Child("engine", [sys.executable, "-c", "raise SystemExit(3)"], {}, tmp_path / "x.log")
    supervisor = Supervisor([child], said.append, lambda child: None)
    child.spawn()
    assert child.process is not None and child.process.wait(30) == 3
    supervisor.tend()
    spawn, child.restart_at = child.spawn, time.monotonic()

    def refused() -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(child, "spawn", refused)
    supervisor.tend()
    assert "Cannot allocate memory; again in 10 s" in said[-1] and child.restart_at > time.monotonic()
    monkeypatch.setattr(child, "spawn", spawn)
    child.restart_at = time.monotonic()
    supervisor.tend()
    assert child.process.wait(30) == 3, "it ran once more"


def test_the_log_shown_for_a_child_is_its_own(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("a line of yesterday\n")
    said: list[str] = []
    child = Child("engine", [sys.executable, "-c", "import sys; sys.exit('no such key')"], {}, log, refusal=1)
    supervisor = Supervisor([child], said.append, lambda child: None)
    child.spawn()
    assert child.process is not None and child.process.wait(30) == 1
    supervisor.tend()
    assert "no such key" in said[0] and "yesterday" not in said[0]
    assert len(said) == 1, "nothing else runs"


def test_what_a_child_logged_is_told_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The end of a log may hold anything; once its brackets were taken for styles, and what was none ended `ta up`."""
    code = "import sys; sys.exit('[red] and [/api/status]: no such [/thing]')"
    child = Child("engine", [sys.executable, "-c", code], {}, tmp_path / "x.log", refusal=1)
    supervisor = Supervisor([child], say, lambda child: None)
    child.spawn()
    assert child.process is not None and child.process.wait(30) == 1
    supervisor.tend()
    assert "[red] and [/api/status]: no such [/thing]" in capfd.readouterr().err
    with pytest.raises(typer.Exit):
        fail("no file [/etc/ta]" + " and no other" * 20)
    assert "error: no file [/etc/ta]" + " and no other" * 20 in capfd.readouterr().err


def test_a_refused_first_start_says_what_goes_on_and_what_to_do(tmp_path: Path) -> None:
    said: list[str] = []
    engine = Child("engine", [sys.executable, "-c", "import sys; sys.exit(2)"], {}, tmp_path / "engine.log")
    control = Child("control", [sys.executable, "-c", "input()"], {}, tmp_path / "control.log")
    control.process = subprocess.Popen(control.command, stdin=subprocess.PIPE)
    try:
        supervisor = Supervisor([control, engine], said.append, lambda child: None)
        engine.spawn()
        assert engine.process is not None and engine.process.wait(30) == 2
        supervisor.tend()
        assert "it is not restarted" in said[0]
        assert said[1].startswith("control goes on without it") and "run it again" in said[1]
        assert engine.process is None and control.running
    finally:
        control.process.kill()
        control.process.wait()
        control.process.stdin.close()  # type: ignore[union-attr]
