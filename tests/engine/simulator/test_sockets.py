"""Limits and lives of sockets on both ports, and the request limits that are not the weight's."""

import asyncio
import time

import aiohttp
import pytest

from engine.simulator import sockets
from engine.simulator.limits import OrderLimit
from tests.engine.simulator.client import Client

ENDS = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING)


def address(client: Client, door: str) -> str:
    if door == "ws-api":
        return f"ws://127.0.0.1:{client.server.port}/ws-fapi/v1"
    port = client.server.port if door == "stream on the REST port" else client.server.stream_port
    return f"ws://127.0.0.1:{port}/market/ws"


DOORS = ["ws-api", "stream on the REST port", "stream"]


@pytest.mark.parametrize("door", DOORS)
async def test_the_exchange_pings_and_cuts_who_does_not_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    monkeypatch.setattr(sockets, "PING_S", 0.0)
    ws = await client.session.ws_connect(address(client, door), autoping=False)
    message = await ws.receive(60)
    assert message.type is aiohttp.WSMsgType.PING
    await ws.pong(message.data)
    monkeypatch.setattr(sockets, "PONG_S", 0.0)
    while message.type is aiohttp.WSMsgType.PING:
        message = await ws.receive(60)
    assert message.type in ENDS


@pytest.mark.parametrize("door", DOORS)
async def test_the_daily_cut(client: Client, monkeypatch: pytest.MonkeyPatch, door: str) -> None:
    ws = await client.session.ws_connect(address(client, door))
    monkeypatch.setattr(sockets, "LIFE_S", 0.0)
    message = await ws.receive(60)
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)


@pytest.mark.parametrize("door", DOORS)
async def test_a_client_ping_is_answered_with_its_payload(client: Client, door: str) -> None:
    ws = await client.session.ws_connect(address(client, door), autoping=False)
    await ws.ping(b"hello")
    message = await ws.receive(60)
    assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"hello")


@pytest.mark.parametrize(("door", "allowed"), [("ws-api", 5), ("stream on the REST port", 10), ("stream", 10)])
async def test_too_many_messages_cut(client: Client, door: str, allowed: int) -> None:
    ws = await client.session.ws_connect(address(client, door), autoping=False)
    for _ in range(allowed + 1):
        await ws.ping(b"")
    answered = 0
    message = await ws.receive(60)
    while message.type is aiohttp.WSMsgType.PONG:
        answered += 1
        message = await ws.receive(60)
    assert message.type in ENDS
    assert answered == allowed


async def test_orders_over_the_ws_api_are_not_limited_by_messages(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge = OrderLimit.charge
    monkeypatch.setattr(OrderLimit, "charge", lambda limit, orders, now_s, minute=1: charge(limit, orders, 0.0, minute))
    ws = await client.api()
    replies = [await client.buy_by_socket(ws) for _ in range(20)]
    assert {reply["status"] for reply in replies} == {200}
    assert replies[-1]["rateLimits"][1]["count"] == 20


async def test_funding_and_statistics_have_limits_of_their_own(client: Client) -> None:
    async def ask(path: str) -> int:
        async with client.session.get(client.base + path) as reply:
            assert "X-MBX-USED-WEIGHT-1M" not in reply.headers
            return reply.status

    pool = client.server.rest.pools["funding"]
    charge, now_s = pool.charge, time.time()
    pool.charge = lambda address, weight, _: charge(address, weight, now_s)  # type: ignore[method-assign]
    found = [await ask("/fapi/v1/fundingRate?limit=1") for _ in range(499)]
    assert (set(found), await ask("/fapi/v1/fundingInfo")) == ({200}, 200)
    async with client.session.get(f"{client.base}/fapi/v1/fundingInfo") as reply:
        assert (reply.status, (await reply.json())["code"]) == (429, -1003)
        assert 0 < int(reply.headers["Retry-After"]) <= 301
    assert await ask("/futures/data/basis?pair=BTCUSDT&contractType=PERPETUAL&period=5m&limit=1") == 200
    async with client.session.get(f"{client.base}/fapi/v1/time") as reply:
        assert reply.headers["X-MBX-USED-WEIGHT-1M"] == "1"


async def test_a_connection_ends_while_its_order_is_worked_on(client: Client) -> None:
    ws = await client.api()
    await client.ask(ws, "order.place", symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.01")
    await ws.close()
    deadline = asyncio.get_running_loop().time() + 60
    while client.qty() != 10:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
