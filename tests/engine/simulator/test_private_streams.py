"""The private route: every form of its address, what each hears, and what stays silent."""

from typing import Any

import orjson
import pytest

from tests.engine.simulator.harness import Recorder, Rig
from tests.engine.simulator.test_trading import LONG_MS

ALL = {"ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE", "TRADE_LITE"}


@pytest.fixture
def rig() -> Rig:
    return Rig()


def heard(rig: Rig, ear: Recorder) -> set[str]:
    """The types of the events that a market order makes on this connection, unwrapped."""
    rig.order(quantity="0.01")
    rig.run(LONG_MS)
    return {(event["data"] if "stream" in event else event)["e"] for event in ear.payloads()}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/private/ws/{key}", ALL),
        ("/private/ws?listenKey={key}", ALL),
        ("/private/ws?listenKey={key}&events=ORDER_TRADE_UPDATE/TRADE_LITE", {"ORDER_TRADE_UPDATE", "TRADE_LITE"}),
        ("/private/ws?listenKey={key}&events=ODER_TRADE_UPDATE", set()),
        ("/private/ws?listenKey=bogus", set()),
        ("/private/stream?listenKey={key}&events=ACCOUNT_UPDATE", {"ACCOUNT_UPDATE"}),
        ("/market/ws/{key}", set()),
        ("/public/ws?listenKey={key}", set()),
        ("/ws/{key}", set()),
    ],
)
def test_addresses(rig: Rig, path: str, expected: set[str]) -> None:
    key = rig.venue.users.open(rig.account)
    assert heard(rig, Recorder(rig.exchange, path.format(key=key))) == expected


def ask(ear: Recorder, method: str, name: str) -> Any:
    ear.connection.on_text(orjson.dumps({"method": method, "params": [name], "id": "u-1"}))
    return ear.payloads()[-1]


def test_a_key_subscribed_as_a_stream_name(rig: Rig) -> None:
    key = rig.venue.users.open(rig.account)
    ear = Recorder(rig.exchange, "/private/stream")
    for _ in range(2):
        assert ask(ear, "SUBSCRIBE", key) == {"result": None, "id": "u-1"}
    rig.order(quantity="0.01")
    rig.run(LONG_MS)
    frames = ear.payloads()
    assert {event["stream"] for event in frames} == {key}
    assert [event["data"] for event in frames] == rig.events(), "each event once"
    ask(ear, "UNSUBSCRIBE", key)
    assert heard(rig, ear) == set()


def test_two_accounts_on_one_connection_with_events_of_their_own(rig: Rig) -> None:
    bob = rig.venue.open_account("bob", "x", 50_000)
    keys = rig.venue.users.open(rig.account), rig.venue.users.open(bob)
    path = f"/private/stream?listenKey={keys[0]}&events=TRADE_LITE&listenKey={keys[1]}&events=ACCOUNT_UPDATE"
    ear = Recorder(rig.exchange, path)
    rig.order(quantity="0.01")
    rig.order(quantity="0.01", account=bob)
    rig.run(LONG_MS)
    assert {(event["stream"], event["data"]["e"]) for event in ear.payloads()} == {
        (keys[0], "TRADE_LITE"), (keys[1], "ACCOUNT_UPDATE"),
    }  # fmt: skip


def test_one_key_per_account_extended_by_a_second_post_and_gone_after_an_hour(rig: Rig) -> None:
    users = rig.venue.users
    key, ear = users.open(rig.account), rig.ear
    rig.service_ms += 3_000_000
    assert users.open(rig.account) == key and len(key) == 64
    rig.service_ms += 3_500_000
    users.sweep(rig.tape.now_ms)
    assert ear.payloads() == []
    rig.service_ms += 200_000
    users.sweep(rig.tape.now_ms)
    (event,) = ear.payloads()
    assert (event["e"], event["listenKey"]) == ("listenKeyExpired", key)
    assert users.open(rig.account) != key
