"""Live trading on the production exchange is refused, whatever the secrets are, until somebody allows it by name."""

from __future__ import annotations

import pytest

from engine.config import load
from engine.errors import ConfigError
from engine.exchange.replies import LOST, Reply
from engine.exchange.requests import Call, Request
from engine.trading.preflight import judge_strangers, preflight
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


class Answers:
    """An account in hedge mode whose exchange answers one call with `reply`."""

    def __init__(self, call: Call, reply: Reply) -> None:
        self._call, self._reply = call, reply

    async def ask(self, request: Request) -> Reply:
        if request.call is self._call:
            return self._reply
        if request.call is Call.ACCOUNT_CONFIG:
            return Reply(200, result={"dualSidePosition": True})
        return Reply(200, result={"enableFutures": True, "assets": []} if "ACCOUNT" in request.call.name else [])

    call = ask


@pytest.mark.parametrize(
    ("call", "reply", "passing"),
    [
        (Call.ACCOUNT_CONFIG, LOST, True),
        (Call.ACCOUNT_CONFIG, Reply(503, -1008, "Request throttled by system-level protection."), True),
        (Call.POSITIONS, Reply(502, 0, "Bad gateway"), True),
        (Call.ACCOUNT_CONFIG, Reply(400, -1022, "Signature for this request is not valid."), False),
        (Call.KEY_RIGHTS, Reply(200, result={"enableFutures": True}), False),
    ],
)
async def test_an_exchange_that_does_not_answer_is_no_fault_of_the_configuration(
    call: Call, reply: Reply, passing: bool
) -> None:
    answers = Answers(call, reply)
    live = load(mode="live").live
    report = await preflight(answers, live, "main", ["BTCUSDT"], [], [], [], set(), False)
    assert report.faults and report.passing is passing
