"""The configuration says all that is wrong with it, in the file and in the environment, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import load
from engine.errors import ConfigError
from engine.market.origin import check_origin, claim_origin


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


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--mode shadow` must never trade live because a shell still has TA_MODE=live."""
    file = tmp_path / "ta.toml"
    file.write_text('mode = "live"\n[exchange]\nname = "binance"\nconnections = 4\n[control]\nport = 7001\n')
    assert load(file).mode == "live"
    monkeypatch.setenv("TA_EXCHANGE__NAME", "demo")
    monkeypatch.setenv("TA_CONTROL__PORT", "7002")
    config = load(file, mode="shadow", exchange={"name": "sim"})
    assert (config.mode, config.exchange.name, config.exchange.connections) == ("shadow", "sim", 4)
    assert config.control.port == 7002
    monkeypatch.setenv("TA_MODE", "live")
    assert load(mode="shadow").mode == "shadow" and load().mode == "live"


def test_a_fault_names_the_option_the_variable_or_the_file_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ta.toml"
    file.write_text("[control]\nport = 70000\n[market]\nsymbols = [1]\n")
    monkeypatch.setenv("TA_RISK__MAX_POSITIONS", "none")
    with pytest.raises(ConfigError) as refused:
        load(file, mode="paper")
    found = sorted(fault.split(": ")[0] for fault in refused.value.faults)
    assert found == sorted(["command line", "environment TA_RISK__MAX_POSITIONS", str(file), str(file)])


def test_one_underscore_instead_of_two_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TA_RISK_MAX_POSITIONS", "3")
    with pytest.raises(ConfigError, match=r"risk\.max_positions is TA_RISK__MAX_POSITIONS"):
        load()


def test_a_list_in_the_environment_that_is_not_json_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TA_MARKET__SYMBOLS", "BTCUSDT,ETHUSDT")
    monkeypatch.setenv("TA_SECRETS__ALERT_URLS", "tgram://secret")
    with pytest.raises(ConfigError) as refused:
        load()
    assert [fault.split(": ")[0] for fault in refused.value.faults] == [
        "environment TA_MARKET__SYMBOLS", "environment TA_SECRETS__ALERT_URLS",
    ]  # fmt: skip
    assert "secret:" not in str(refused.value) and "tgram" not in str(refused.value)


def test_every_key_says_what_it_means() -> None:
    from engine.config import Config

    silent = [
        f"{section}.{key}"
        for section, field in Config.model_fields.items()
        for key, value in getattr(field.annotation, "model_fields", {"": field}).items()
        if not value.description
    ]
    assert silent == []


def test_a_folder_belongs_to_the_exchange_that_answered_first(tmp_path: Path) -> None:
    demo, real = (load(None, data_dir=tmp_path, exchange={"name": name}) for name in ("demo", "binance"))
    check_origin(real)  # nobody has answered yet: a wrong name is no lasting harm
    claim_origin(demo)
    claim_origin(real)
    check_origin(demo)
    with pytest.raises(ConfigError, match="'demo', not of 'binance'"):
        check_origin(real)
