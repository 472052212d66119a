"""The simulator's command line, and where an engine looks for a simulator."""

from __future__ import annotations

import pytest

from engine.config import load
from engine.errors import ConfigError
from engine.market.routes import addresses
from engine.simulator.exchange import Exchange
from engine.simulator.ledger import Account
from engine.simulator.options import parse
from engine.simulator.server import Server


def test_another_key_of_an_account_sees_the_same_account() -> None:
    exchange = Exchange(parse(["--account", "k1:s1", "--account", "k2:s2", "--key", "w1:k1", "--symbol-count", "1"]))
    private = Server(exchange).private
    first: Account = private.account_of("k1")
    assert private.account_of("w1") is first is not private.account_of("k2")
    assert list(exchange.venue.ledger.accounts) == ["k1", "k2"], "one account is one account, whatever its keys"


def test_a_key_of_nobody_or_of_somebody_already_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected KEY:ACCOUNT"):
        parse(["--account", "k1:s1", "--key", "w1"])
    with pytest.raises(ConfigError, match="no --account has the key k3"):
        parse(["--account", "k1:s1", "--key", "w1:k3"])
    with pytest.raises(ConfigError, match="k1 is an account's key already"):
        parse(["--account", "k1:s1", "--key", "k1:k1"])


def test_the_engine_looks_for_the_simulator_where_the_configuration_says() -> None:
    here = addresses(load(simulator={"port": 8861}))
    assert (here.rest_url, here.stream_url) == ("http://127.0.0.1:8861", "ws://127.0.0.1:8862")
    assert here.ws_api_url == "ws://127.0.0.1:8861/ws-fapi/v1"
    elsewhere = addresses(load(simulator={"port": 8861}, exchange={"rest_url": "http://10.0.0.1:1/"}))
    assert (elsewhere.rest_url, elsewhere.stream_url) == ("http://10.0.0.1:1", "ws://127.0.0.1:8862")
    assert addresses(load(exchange={"name": "binance"})).rest_url == "https://fapi.binance.com"
