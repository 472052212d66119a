"""The supervisor's children: real processes with the environment that they may have."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from control.supervise import API_KEYS, WATCHDOG_KEYS, Child, Supervisor

SHOW = "import json, os; print(json.dumps({'ready': True, 'names': sorted(os.environ)}), flush=True); input()"


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
