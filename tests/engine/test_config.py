"""The configuration says all that is wrong with it, in the file and in the environment, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import load
from engine.errors import ConfigError


def test_every_fault_is_named_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ta.toml"
    file.write_text("[risk]\nmax_positon = 3\nrisk_fraction = 2\n")
    monkeypatch.setenv("TA_RISK__MAX_DAY_LOS", "0.1")
    monkeypatch.setenv("TA_RISC__MAX_POSITIONS", "3")
    with pytest.raises(ConfigError) as refused:
        load(file)
    named = "\n".join(refused.value.faults)
    for fault in (
        f"{file}: risk.max_positon: no such key",
        "risk.risk_fraction: Input should be less than or equal to 0.1; got 2",
        "environment TA_RISK__MAX_DAY_LOS: risk.max_day_los: no such key",
        "environment TA_RISC__MAX_POSITIONS: no such section",
    ):
        assert fault in named


def test_a_section_that_does_not_exist_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TA_LOCK_DIR", "/tmp")  # no value of the configuration, and not meant as one
    load()
    monkeypatch.setenv("TA_LIVES__PRODUCTION", "true")
    with pytest.raises(ConfigError, match="TA_LIVES__PRODUCTION: no such section"):
        load()
