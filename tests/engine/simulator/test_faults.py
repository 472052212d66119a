"""Each fault over real sockets: what the client sees, and what really happened."""

import asyncio
import time
from typing import Any

import aiohttp
import orjson
import pytest

from engine.simulator.options import Options
from tests.engine.simulator.client import LYING, SILENT, Client, until


@pytest.mark.parametrize(
    ("name", "status", "code", "executed"),
    LYING,
)
async def test_answers_that_lie_about_the_order(
    client: Client, name: str, status: int, code: int, executed: bool
) -> None:
    client.server.faults.begin(name)
    got, body = await client.buy()
    assert (got, body["code"]) == (status, code)
    assert client.qty() == (10 if executed else 0)
    assert (await client.buy())[0] == 200, "the fault happens once"
    assert client.server.faults.done == {name: 1}


@pytest.mark.parametrize(("name", "executed"), SILENT)
async def test_answers_that_never_come(client: Client, name: str, executed: bool) -> None:
    client.server.faults.begin(name)
    with pytest.raises(aiohttp.ClientError):
        await client.buy()
    assert client.qty() == (10 if executed else 0)


async def private(client: Client) -> aiohttp.ClientWebSocketResponse:
    _, body = await client.call("POST", "/fapi/v1/listenKey")
    return await client.listen(f"/private/ws?listenKey={body['listenKey']}&events=ORDER_TRADE_UPDATE/ACCOUNT_UPDATE")


async def event(socket: aiohttp.ClientWebSocketResponse, seconds: float = 60.0) -> str:
    """The next event's name, and of an order's event what happened to it."""
    message = await asyncio.wait_for(socket.receive(), seconds)
    assert message.type == aiohttp.WSMsgType.TEXT
    body = orjson.loads(message.data)
    if body.get("a", {}).get("m") == "FUNDING_FEE":  # of what was just bought, at every eighth hour
        return await event(socket, seconds)
    return str(body["o"]["x"] if body["e"] == "ORDER_TRADE_UPDATE" else body["e"])


async def events(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[str]:
    """So many events, however long a slow machine takes for them, and none that follows them."""
    found = [await event(socket) for _ in range(count)]
    with pytest.raises(asyncio.TimeoutError):
        found.append(await event(socket, 0.5))
    return found


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({}, ["ACCOUNT_UPDATE", "NEW", "TRADE"]),
        ({"name": "drop_event", "count": 1, "events": "ACCOUNT_UPDATE"}, ["NEW", "TRADE"]),
        ({"name": "duplicate_event", "count": 2, "events": "ORDER_TRADE_UPDATE"},
         ["ACCOUNT_UPDATE", "NEW", "NEW", "TRADE", "TRADE"]),
        ({"name": "partial_fill_then_silence", "count": 1}, ["NEW"]),
        ({"name": "listen_key_expires_silently"}, []),
    ],
)  # fmt: skip
async def test_private_events(client: Client, fault: dict[str, Any], expected: list[str]) -> None:
    socket = await private(client)
    if fault:
        client.server.faults.begin(**fault)
    await client.buy()
    assert sorted(await events(socket, len(expected))) == expected
    assert client.qty() == 10


async def test_late_events_arrive_late(client: Client) -> None:
    socket = await private(client)
    client.server.faults.begin("late_event", events="ORDER_TRADE_UPDATE", late_ms=900)
    asked_s = time.monotonic()
    await client.buy()
    assert [await event(socket), await event(socket)] == ["ACCOUNT_UPDATE", "NEW"]
    assert time.monotonic() - asked_s > 0.9


async def test_a_listen_key_that_expires_says_so_and_the_socket_stays(client: Client) -> None:
    socket = await private(client)
    client.server.faults.begin("listen_key_expires")
    assert (await asyncio.wait_for(socket.receive(), 60)).json()["e"] == "listenKeyExpired"
    await client.buy()
    assert await events(socket, 0) == []
    status, body = await client.call("PUT", "/fapi/v1/listenKey")
    assert (status, body["code"]) == (400, -1125)


async def test_frames_dropped_truncated_garbled_and_doubled(client: Client) -> None:
    socket = await client.listen("/public/ws/btcusdt@bookTicker")
    await asyncio.wait_for(socket.receive(), 60)
    faults = client.server.faults
    for name in ("truncate_frame", "garbage_frame"):
        faults.begin(name)
        deadline = time.monotonic() + 60
        broken = False
        while not broken:
            assert time.monotonic() < deadline
            data = (await asyncio.wait_for(socket.receive(), 60)).data
            try:
                orjson.loads(data)
            except orjson.JSONDecodeError:
                broken = True
    faults.begin("duplicate_frame", count=3)
    seen = [(await asyncio.wait_for(socket.receive(), 60)).json()["u"] for _ in range(8)]
    assert len(set(seen)) < len(seen)
    faults.begin("drop_frame", count=2)
    await until(lambda: faults.done.get("drop_frame") == 2)
    faults.begin("silent_stream")
    with pytest.raises(asyncio.TimeoutError):
        while True:
            await asyncio.wait_for(socket.receive(), 0.6)
    faults.end()
    assert (await asyncio.wait_for(socket.receive(), 60)).json()["s"] == "BTCUSDT"


async def test_frames_held_back_come_late_and_reversed(client: Client) -> None:
    socket = await client.listen("/public/ws/btcusdt@bookTicker")
    await asyncio.wait_for(socket.receive(), 60)
    client.server.faults.begin("hold_frames", count=3)
    seen = [(await asyncio.wait_for(socket.receive(), 60)).json()["u"] for _ in range(8)]
    assert seen != sorted(seen)


async def test_a_connection_storm_cuts_everybody_and_refuses_for_a_while(client: Client) -> None:
    sockets = [await client.listen("/market/ws/btcusdt@markPrice@1s") for _ in range(3)]
    client.server.faults.begin("connection_storm", seconds=60)
    for socket in sockets:
        message = await asyncio.wait_for(socket.receive(), 60)
        while message.type == aiohttp.WSMsgType.TEXT:
            message = await asyncio.wait_for(socket.receive(), 60)
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await client.listen("/market/ws/btcusdt@markPrice@1s")
    client.server.faults.begin("connection_storm", seconds=0.3)
    deadline = time.monotonic() + 60
    while True:
        try:
            await client.listen("/market/ws/btcusdt@markPrice@1s")
            break
        except aiohttp.WSServerHandshakeError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_clock_skew_and_bans(client: Client) -> None:
    client.server.faults.begin("clock_skew", skew_ms=20_000)
    assert (await client.buy())[1]["code"] == -1021
    client.server.faults.end()
    assert (await client.buy())[0] == 200
    client.server.faults.begin("ip_ban", seconds=60)
    status, body = await client.buy()
    assert (status, body["code"]) == (418, -1003)


async def test_listings_change_under_way(client: Client) -> None:
    socket = await client.listen("/market/ws/!contractInfo")
    client.server.faults.begin("filter_change", symbol="BTCUSDT", tick_factor=100)
    async with client.session.get(f"{client.base}/fapi/v1/exchangeInfo") as reply:
        filters = orjson.loads(await reply.read())["symbols"][0]["filters"]
    assert filters[0]["tickSize"] == "10.00"
    client.server.faults.begin("settlement", symbol="BTCUSDT")
    assert (await client.buy())[1]["code"] == -4141
    first, second = [(await asyncio.wait_for(socket.receive(), 60)).json() for _ in range(2)]
    assert (first["cs"], second["cs"]) == ("TRADING", "SETTLING")


async def test_the_admin_port_is_another_one_and_refuses_nonsense(client: Client) -> None:
    admin = f"http://127.0.0.1:{client.server.admin_port}"
    assert client.server.admin_port not in (client.server.port, client.server.stream_port)
    async with client.session.post(f"{admin}/faults", json={"name": "throttled", "count": 1}) as reply:
        assert reply.status == 200
    assert (await client.buy())[0] == 503
    for body in ({"name": "nonsense"}, {}, {"name": "throttled", "what": 1}, []):
        async with client.session.post(f"{admin}/faults", json=body) as reply:
            assert reply.status == 400
    async with client.session.get(f"{admin}/ledger") as reply:
        assert int((await reply.json())["total"]) == client.server.exchange.venue.ledger.total()
    async with client.session.post(f"{client.base}/faults", json={"name": "throttled"}) as reply:
        assert reply.status == 404


def test_no_admin_port_by_default() -> None:
    assert Options().admin_port is None
