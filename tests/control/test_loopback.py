"""A proxy of the environment is for the world: what runs on this machine is reached directly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from control.loopback import reach_directly
from tests.control.web import answering

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "")  # so that both names are put back
    monkeypatch.setenv("NO_PROXY", "")


@pytest.mark.parametrize(
    ("given", "becomes"),
    [("", "localhost,127.0.0.1,::1"), ("corp.example, 127.0.0.1", "corp.example, 127.0.0.1,localhost,::1"), ("*", "*")],
)
def test_this_machine_is_added_to_what_needs_no_proxy(
    monkeypatch: pytest.MonkeyPatch, given: str, becomes: str
) -> None:
    monkeypatch.setenv("NO_PROXY", given)
    reach_directly()
    assert os.environ["no_proxy"] == "", "without a proxy nothing is changed"
    monkeypatch.setenv("https_proxy", NOBODY)
    reach_directly()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == becomes


def test_a_command_behind_a_proxy_finds_its_own_machine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "control.cli", "--data-dir", str(tmp_path), "doctor", "--json"]
    with answering(lambda path: b'{"serverTime": 1}') as url:
        names = {"TA_EXCHANGE__REST_URL": url, "TA_CONTROL__PORT": "0", "HTTP_PROXY": NOBODY, "http_proxy": NOBODY}
        done = subprocess.run(command, env=os.environ | names, capture_output=True, text=True, check=False)
    lines = {line["check"]: line["state"] for line in map(json.loads, done.stdout.splitlines())}
    assert lines["exchange"] == "ok", done.stdout + done.stderr
