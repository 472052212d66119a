"""Live trading on the production exchange is refused, whatever the secrets are, until its order side is whole."""

from __future__ import annotations

import pytest

from engine.config import load
from engine.errors import ConfigError
from engine.trading.start import check_config


def test_production_is_refused_by_name_and_says_what_to_do() -> None:
    secrets = {"api_key": "k" * 64, "api_secret": "s" * 64}
    with pytest.raises(ConfigError, match=r"watchdog.*rehearse on exchange 'sim' or 'demo'"):
        check_config(load(mode="live", exchange={"name": "binance"}, secrets=secrets))
    check_config(load(mode="live", exchange={"name": "sim"}, secrets=secrets))
