"""The one fault injector reaches every door: WS API, sockets, listings, scenario files; no fault is without a test."""

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import aiohttp
import orjson
import pytest

from engine.simulator.faults import NAMES
from tests.engine.simulator.client import LYING, SILENT, Client, until
from tests.engine.simulator.conftest import spawn

TEXT = aiohttp.WSMsgType.TEXT
ENDS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR)


def test_every_fault_is_named_in_a_test() -> None:
    folder = Path(__file__).parent
    text = "".join((folder / name).read_text() for name in ("test_faults.py", "test_injector.py", "client.py"))
    assert [name for name in NAMES if f'"{name}"' not in text] == []


@pytest.mark.parametrize(
    ("name", "status", "code", "executed"),
    LYING,
)
async def test_answers_over_the_ws_api_that_lie_about_the_order(
    client: Client, name: str, status: int, code: int, executed: bool
) -> None:
    socket = await client.api()
    client.server.faults.begin(name)
    answer = await client.buy_by_socket(socket)
    assert (answer["id"], answer["status"], answer["error"]["code"]) == (7, status, code)
    assert "rateLimits" in answer
    assert client.qty() == (10 if executed else 0)
    assert (await client.buy_by_socket(socket))["status"] == 200, "the fault happens once, the socket lives"


@pytest.mark.parametrize(("name", "executed"), SILENT)
async def test_answers_over_the_ws_api_that_never_come(client: Client, name: str, executed: bool) -> None:
    socket = await client.api()
    client.server.faults.begin(name)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(client.buy_by_socket(socket), 0.5)
    await until(lambda: client.qty() == (10 if executed else 0))


async def last(socket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage:
    """The first message that is no text."""
    message = await asyncio.wait_for(socket.receive(), 60)
    while message.type is TEXT:
        assert "id" not in message.json(), "no answer comes"
        message = await asyncio.wait_for(socket.receive(), 60)
    return message


@pytest.mark.parametrize("door", ["ws-api", "rest"])
async def test_the_daily_cut_between_an_order_and_its_answer(client: Client, door: str) -> None:
    socket, stream = await client.api(), await client.listen("/market/ws/btcusdt@markPrice@1s")
    client.server.faults.begin("cut_mid_order")
    if door == "rest":
        with pytest.raises(aiohttp.ClientError):
            await client.buy()
    else:
        await client.ask(socket, "order.place", symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.01")
    for connection in (socket, stream):
        message = await last(connection)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
    assert client.qty() == 10
    assert (await client.buy_by_socket(await client.api()))["status"] == 200


async def test_a_silent_stream_still_answers_and_a_half_open_one_does_not(client: Client) -> None:
    listing = {"method": "LIST_SUBSCRIPTIONS", "id": 3}
    socket = await client.listen("/public/ws/btcusdt@bookTicker")
    client.server.faults.begin("silent_stream", route="public")
    await until(lambda: client.server.faults.wires)
    await socket.send_json(listing)
    message = (await asyncio.wait_for(socket.receive(), 60)).json()
    while "id" not in message:
        message = (await asyncio.wait_for(socket.receive(), 60)).json()
    assert message == {"result": ["btcusdt@bookTicker"], "id": 3}
    client.server.faults.begin("half_open", route="public")
    await socket.send_json(listing)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(socket.receive(), 0.5)
    client.server.faults.end()
    assert (await asyncio.wait_for(socket.receive(), 60)).json()["s"] == "BTCUSDT"


async def test_a_half_open_order_connection_hears_nothing(client: Client) -> None:
    old = await client.api()
    client.server.faults.begin("half_open", route="ws-api")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(client.buy_by_socket(old), 0.5)
    assert client.qty() == 0
    assert (await client.buy_by_socket(await client.api()))["status"] == 200, "a new connection is whole"
    client.server.faults.end()
    assert (await client.buy_by_socket(old))["status"] == 200


async def test_cut_connections_of_one_route(client: Client) -> None:
    socket, stream = await client.api(), await client.listen("/market/ws/btcusdt@markPrice@1s")
    client.server.faults.begin("cut_connections", route="ws-api")
    assert (await last(socket)).type in ENDS
    assert (await asyncio.wait_for(stream.receive(), 60)).type is TEXT


async def test_events_of_the_private_stream_reordered(client: Client) -> None:
    _, body = await client.call("POST", "/fapi/v1/listenKey")
    socket = await client.listen(f"/private/ws?listenKey={body['listenKey']}&events=ORDER_TRADE_UPDATE")
    client.server.faults.begin("hold_frames", count=2, route="private")
    await client.buy()
    found = [(await asyncio.wait_for(socket.receive(), 60)).json()["o"]["X"] for _ in range(2)]
    assert found == ["FILLED", "NEW"]


async def test_listings_and_permissions_change(client: Client) -> None:
    faults = client.server.faults
    faults.begin("status_change", symbol="ETHUSDT", status="PRE_SETTLE")
    assert (await client.buy(symbol="ETHUSDT", quantity="1"))[1]["code"] == -4141
    before = (await client.call("GET", "/fapi/v1/leverageBracket", symbol="BTCUSDT"))[1]["brackets"]
    faults.begin("bracket_change", symbol="BTCUSDT", max_leverage=10)
    after = (await client.call("GET", "/fapi/v1/leverageBracket", symbol="BTCUSDT"))[1]["brackets"]
    assert (before[0]["initialLeverage"], after[0]["initialLeverage"]) == (125, 10)
    assert after[0]["maintMarginRatio"] > before[0]["maintMarginRatio"]
    assert (await client.call("POST", "/fapi/v1/leverage", symbol="BTCUSDT", leverage=20))[1]["code"] == -4028
    await client.call("POST", "/fapi/v1/leverage", symbol="BTCUSDT", leverage=10)
    faults.begin("filter_change", symbol="BTCUSDT", tick_factor=1, step_factor=10, market_max_qty=0.05)
    assert (await client.buy(quantity="0.015"))[1]["code"] == -4023
    assert (await client.buy(quantity="0.06"))[1]["code"] == -4005
    assert (await client.buy())[0] == 200
    faults.begin("liquidate", key="k")
    assert client.qty() == 0
    faults.begin("stop_trading_permission", key="k")
    assert (await client.buy())[:1] == (401,)


async def test_multi_assets_mode_and_isolated_margin_exclude_each_other(client: Client) -> None:
    mode, margin = "/fapi/v1/multiAssetsMargin", "/fapi/v1/marginType"
    _, order = await client.buy(type="LIMIT", timeInForce="GTC", price="70000.00", priceMatch="NONE", quantity="0.002")
    client.server.exchange.venue.ledger.accounts["k"].setting(1).isolated = True
    assert (await client.call("POST", mode, multiAssetsMargin="true"))[1]["code"] == -4167
    client.server.exchange.venue.ledger.accounts["k"].setting(1).isolated = False
    if "orderId" in order:
        assert (await client.call("POST", mode, multiAssetsMargin="true"))[1]["code"] == -4170
        await client.call("DELETE", "/fapi/v1/order", symbol="BTCUSDT", orderId=order["orderId"])
    assert (await client.call("POST", mode, multiAssetsMargin="true"))[0] == 200
    assert (await client.call("POST", mode, multiAssetsMargin="true"))[1]["code"] == -4171
    assert (await client.call("POST", margin, symbol="BTCUSDT", marginType="ISOLATED"))[1]["code"] == -4168
    assert (await client.call("GET", mode))[1] == {"multiAssetsMargin": True}
    assert (await client.call("GET", "/fapi/v2/account"))[1]["multiAssetsMargin"] is True


def test_a_scenario_file_is_played_from_start_to_end(tmp_path: Path) -> None:
    steps = [
        {"after_s": 0, "name": "unknown_503_not_executed", "count": 1, "path": "/fapi/v1/order"},
        {"after_s": 0.3, "name": "filter_change", "symbol": "BTCUSDT", "tick_factor": 10},
        {"after_s": 0.6, "name": "settlement", "symbol": "ETHUSDT"},
    ]
    file = tmp_path / "scenario.json"
    file.write_bytes(orjson.dumps(steps))
    process, facts = spawn(
        "--account", "k:s", "--symbol-count", "2", "--history-days", "1", "--ahead-days", "1", "--quiet",
        "--scenario", str(file), "--admin-port", "0",
    )  # fmt: skip

    def read(url: str) -> Any:
        with urlopen(url) as reply:
            return orjson.loads(reply.read())

    try:
        deadline = time.monotonic() + 60
        while True:
            btc, eth = read(f"{facts.rest_url}/fapi/v1/exchangeInfo")["symbols"]
            if eth["status"] == "SETTLING":
                break
            assert time.monotonic() < deadline
        assert btc["filters"][0]["tickSize"] == "1.00"
        with pytest.raises(OSError, match="503"):
            urlopen(f"{facts.rest_url}/fapi/v1/order")
        assert read(f"http://127.0.0.1:{facts.admin_port}/faults")["done"] == {"unknown_503_not_executed": 1}
    finally:
        process.terminate()
        process.wait(60)
