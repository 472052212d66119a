"""What live trading looks at before its first order: each refusal by its name, each change only where it is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.config import LiveConfig
from engine.exchange.replies import Reply
from engine.exchange.requests import Call, Request
from engine.exchange.steps import Step
from engine.trading import preflight
from engine.trading.preflight import Report

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
GOOD_KEY = {"enableFutures": True, "ipRestrict": True}


@dataclass
class Account:
    """An account that answers as the exchange documents it. refuse: code by (call, symbol)."""

    config: dict[str, Any] = field(
        default_factory=lambda: {"dualSidePosition": False, "multiAssetsMargin": False, "canTrade": True}
    )
    rights: Reply = field(default_factory=lambda: Reply(200, result=dict(GOOD_KEY)))
    positions: list[dict[str, Any]] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    algos: list[dict[str, Any]] = field(default_factory=list)
    margin: dict[str, str] = field(default_factory=lambda: dict.fromkeys(SYMBOLS, "CROSSED"))
    leverage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SYMBOLS, 5))
    refuse: dict[tuple[Call, str], int] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    shows_algos: bool = True

    async def ask(self, request: Request) -> Reply:
        self.asked.append(request)
        p, call = request.params, request.call
        code = self.refuse.get((call, str(p.get("symbol", ""))))
        if code:
            return Reply(400, code, "refused")
        plain: dict[Call, Any] = {
            Call.ACCOUNT_CONFIG: self.config, Call.POSITIONS: self.positions, Call.OPEN_ORDERS: self.orders,
            Call.OPEN_ALGOS: self.algos, Call.ACCOUNT: {"assets": [{"asset": "USDT", "walletBalance": "1000"}]},
            Call.BRACKETS: [], Call.MARK: {"markPrice": "100.00", "time": 1_800_000_000_000},
            Call.SYMBOL_CONFIG: [
                {"symbol": name, "marginType": self.margin[name], "leverage": self.leverage[name],
                 "maxNotionalValue": "1000000"} for name in SYMBOLS
            ],
        }  # fmt: skip
        if call in plain:
            return Reply(200, result=plain[call])
        if call is Call.KEY_RIGHTS:
            return self.rights
        if call is Call.ALGO_PLACE:
            self.algos = [*self.algos, {**p, "algoStatus": "NEW"}]
        if call is Call.ALGO_QUERY:
            found = [row for row in self.algos if row["clientAlgoId"] == p["clientAlgoId"] and self.shows_algos]
            return Reply(200, result=found[0]) if found else Reply(400, -2013, "Order does not exist.")
        if call is Call.ALGO_CANCEL:
            self.algos = [row for row in self.algos if row["clientAlgoId"] != p["clientAlgoId"]]
        return Reply(200, result={})

    call = ask

    async def checked(
        self,
        production: bool = True,
        known: set[str] | None = None,
        unlisted: frozenset[str] = frozenset(),
        **live: Any,
    ) -> Report:
        """Run the preflight."""
        steps = [(Step(0.01), Step(0.001))] * 2
        return await preflight.preflight(
            self, LiveConfig(**live), "main", SYMBOLS, steps, [0.001] * 2, [5.0] * 2, known or set(), production,
            unlisted,
        )  # fmt: skip

    def sent(self, call: Call) -> list[dict[str, Any]]:
        return [request.params for request in self.asked if request.call is call]


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "LAG_S", 0.02)
    monkeypatch.setattr(preflight, "LOOK_AGAIN_S", 0.01)
    monkeypatch.setattr(preflight, "CANARY_WAIT_S", 0.2)


async def test_a_good_account_passes_and_is_left_as_it_was() -> None:
    account = Account()
    report = await account.checked()
    assert report.faults == [] and report.untraded == {} and report.changed == [] and report.wallet_usdt == 1_000.0
    assert account.sent(Call.MARGIN_TYPE) == account.sent(Call.LEVERAGE) == account.sent(Call.ORDER_PLACE) == []
    (canary,) = account.sent(Call.ALGO_PLACE)
    assert canary["clientAlgoId"].startswith("cnry-") and canary["reduceOnly"] == "true"
    assert (canary["type"], canary["side"], canary["triggerPrice"]) == ("STOP_MARKET", "SELL", "75.00")
    assert canary["quantity"] == "0.067", "the least that is worth 5 USDT there"
    assert len(account.sent(Call.ALGO_QUERY)) == len(account.sent(Call.ALGO_CANCEL)) == 1 and account.algos == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"config": {"dualSidePosition": True}}, "hedge mode"),
        ({"config": {"multiAssetsMargin": True}}, "multi-assets mode"),
        ({"config": {"canTrade": False}}, "may not trade"),
        ({"rights": Reply(200, result={**GOOD_KEY, "enableWithdrawals": True})}, "enableWithdrawals"),
        ({"rights": Reply(200, result={**GOOD_KEY, "enableInternalTransfer": True})}, "enableInternalTransfer"),
        ({"rights": Reply(200, result={**GOOD_KEY, "permitsUniversalTransfer": True})}, "permitsUniversalTransfer"),
        ({"rights": Reply(200, result={"ipRestrict": True})}, "enableFutures=false"),
        ({"rights": Reply(200, result={"enableFutures": True})}, "not restricted to IP addresses"),
        ({"rights": Reply(404, -1, "not found")}, "could not be read"),
        ({"positions": [{"symbol": "SOLUSDT", "positionAmt": "-2"}]}, "foreign position SOLUSDT -2"),
        ({"orders": [{"symbol": "BTCUSDT", "clientOrderId": "web_1"}]}, "foreign order BTCUSDT web_1"),
        ({"algos": [{"symbol": "BTCUSDT", "clientAlgoId": "web_2"}]}, "foreign algo order BTCUSDT web_2"),
    ],
)
async def test_each_refusal_says_what_is_wrong_and_touches_nothing(change: dict[str, Any], fault: str) -> None:
    account = Account(**change)
    report = await account.checked()
    assert len(report.faults) == 1 and fault in report.faults[0]
    changing = {Call.MARGIN_TYPE, Call.LEVERAGE, Call.ALGO_PLACE, Call.ALGO_CANCEL, Call.ORDER_PLACE, Call.ORDER_CANCEL}
    assert not changing & {request.call for request in account.asked}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"config": {"multiAssetsMargin": True}}, "multi-assets mode"),
        ({"rights": Reply(200, result={"enableFutures": True})}, "not restricted to IP addresses"),
        ({"rights": Reply(404, -1, "not found")}, "could not be read"),
        ({"positions": [{"symbol": "SOLUSDT", "positionAmt": "-2"}]}, "foreign position SOLUSDT -2"),
        ({"orders": [{"symbol": "BTCUSDT", "clientOrderId": "web_1"}]}, "foreign order BTCUSDT web_1"),
        ({"algos": [{"symbol": "BTCUSDT", "clientAlgoId": "web_2"}]}, "foreign algo order BTCUSDT web_2"),
        ({"refuse": {(Call.ALGO_PLACE, "BTCUSDT"): -4120}}, "a far stop was refused"),
    ],
)
async def test_what_speaks_against_entries_keeps_nothing_that_is_held_from_its_guards(
    change: dict[str, Any], fault: str
) -> None:
    report = await Account(**change).checked(known={"ETHUSDT"})
    assert report.faults == [] and len(report.closed) == 1 and fault in report.closed[0]
    refused = await Account(**change).checked()
    assert refused.closed == [] and len(refused.faults) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"dualSidePosition": True, "multiAssetsMargin": True}},
        {"config": {"multiAssetsMargin": True}, "refuse": {(Call.POSITIONS, ""): -1_000}},
        {"positions": [{"symbol": "BTCUSDT", "positionAmt": "-2"}], "config": {"multiAssetsMargin": True}},
    ],
)
async def test_where_nothing_could_be_guarded_or_a_person_s_position_be_closed_every_fault_is_named(
    change: dict[str, Any],
) -> None:
    report = await Account(**change).checked(known={"ETHUSDT"})
    assert len(report.faults) == 2 and report.closed == []


async def test_what_is_a_fault_in_production_alone_and_who_is_no_stranger() -> None:
    assert (await Account(rights=Reply(404, -1, "not found")).checked(production=False)).faults == []
    assert (await Account(rights=Reply(200, result={"enableFutures": True})).checked(production=False)).faults == []
    held = [{"symbol": "BTCUSDT", "positionAmt": "1"}]
    assert (await Account(positions=held).checked(known={"BTCUSDT"})).faults == []
    assert (await Account(positions=held).checked(adopt=True)).faults == []
    ours = [{"symbol": "BTCUSDT", "clientAlgoId": "ta-main-1-1-p", "orderType": "STOP_MARKET"}]
    assert (await Account(positions=held, algos=ours).checked(known={"BTCUSDT"})).faults == []


@pytest.mark.parametrize(
    ("call", "code", "traded"),
    [(Call.MARGIN_TYPE, -4046, True), (Call.MARGIN_TYPE, -4047, False), (Call.MARGIN_TYPE, -4048, False),
     (Call.LEVERAGE, -4161, False), (Call.LEVERAGE, -4028, False)],
)  # fmt: skip
async def test_settings_are_changed_where_they_differ_and_a_refusal_rests_the_symbol(
    call: Call, code: int, traded: bool
) -> None:
    account = Account()
    account.margin["BTCUSDT"], account.leverage["BTCUSDT"] = "ISOLATED", 20
    account.refuse[call, "BTCUSDT"] = code
    report = await account.checked()
    assert report.faults == []
    assert account.sent(Call.MARGIN_TYPE) == [{"symbol": "BTCUSDT", "marginType": "CROSSED"}]
    assert ("BTCUSDT" not in report.untraded) is traded
    assert traded or str(code) in report.untraded["BTCUSDT"]
    assert account.sent(Call.ALGO_PLACE)[0]["symbol"] == ("BTCUSDT" if traded else "ETHUSDT")
    if traded:
        assert account.sent(Call.LEVERAGE) == [{"symbol": "BTCUSDT", "leverage": 5}]


async def test_a_canary_that_is_refused_unseen_or_left_from_before() -> None:
    refused = Account(refuse={(Call.ALGO_PLACE, "BTCUSDT"): -4120})
    assert "a far stop was refused" in (await refused.checked()).faults[0]
    unseen = Account(shows_algos=False)
    (fault,) = (await unseen.checked()).faults
    assert "never seen by a query" in fault and unseen.algos == [], "and taken away all the same"
    left = Account(algos=[{"symbol": "BTCUSDT", "clientAlgoId": "cnry-19a"}])
    assert (await left.checked()).faults == []
    assert left.sent(Call.ALGO_CANCEL)[0] == {"clientAlgoId": "cnry-19a"} and left.algos == []


async def test_a_symbol_that_is_not_traded_keeps_no_other_from_its_guards() -> None:
    account = Account(refuse={(Call.ALGO_PLACE, "BTCUSDT"): -4141})
    assert (await account.checked()).faults[0].startswith("canary: a far stop was refused")
    settling = frozenset({"BTCUSDT"})
    assert (await account.checked(unlisted=settling)).faults == []
    assert account.sent(Call.ALGO_PLACE)[-1]["symbol"] == "ETHUSDT"
    nowhere = frozenset(SYMBOLS)
    (fault,) = (await account.checked(unlisted=nowhere)).faults
    assert fault.startswith("no symbol can be traded: BTCUSDT: not tradable by the exchange's listing; ETHUSDT")
    assert (await account.checked(unlisted=nowhere, known={"ETHUSDT"})).faults == [], "what is held is guarded"
