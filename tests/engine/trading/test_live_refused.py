"""Live trading on the production exchange is refused, whatever the secrets are, until somebody allows it by name."""

from __future__ import annotations

import pytest

from engine.config import load
from engine.errors import ConfigError
from engine.trading.preflight import judge_strangers
from engine.trading.start import check_config


def test_production_is_refused_by_name_and_says_what_to_do() -> None:
    secrets = {"api_key": "k" * 64, "api_secret": "s" * 64}
    real = [{"name": "binance"}, {"name": "sim", "rest_url": "https://fapi.binance.com"}]
    for exchange in real:
        with pytest.raises(ConfigError, match=r"live.production: .*rehearse on exchange 'demo'"):
            check_config(load(mode="live", exchange=exchange, secrets=secrets))
        check_config(load(mode="live", exchange=exchange, secrets=secrets, live={"production": True}))
    check_config(load(mode="live", exchange={"name": "sim"}, secrets=secrets))


@pytest.mark.parametrize("name", ["autoclose-1795388979862000001", "adl_autoclose", "settlement_autoclose-1"])
def test_the_exchanges_own_forced_orders_do_not_keep_the_guards_from_starting(name: str) -> None:
    order = {"symbol": "BTCUSDT", "clientOrderId": name}
    assert judge_strangers([], [order], [], "main", set(), False) == []
    stranger = {"symbol": "BTCUSDT", "clientOrderId": "web_abc"}
    assert len(judge_strangers([], [order, stranger], [], "main", set(), False)) == 1
