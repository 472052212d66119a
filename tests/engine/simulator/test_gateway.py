"""The gateway: signatures, clocks, limits, and whatever a client may send, over TLS too."""

import base64
import random
import ssl
import string
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from engine.simulator import signing
from engine.simulator.certificate import make_certificate
from engine.simulator.errors import Refusal
from engine.simulator.exchange import Exchange
from engine.simulator.limits import Limited, OrderLimit, WeightLimit
from engine.simulator.options import AccountOption, Options
from engine.simulator.server import Server
from engine.simulator.warm import warm
from tests.conftest import long_run
from tests.engine.simulator.client import Client


def test_the_documented_signature() -> None:
    secret = "2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9"
    payload = "symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC"
    payload += "&recvWindow=5000&timestamp=1591702613943"
    signature = "3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9"
    for query, body in (("", payload), (payload, ""), (payload[:30], payload[30:])):
        found, given = signing.split_signature(query, body + ("&" if body else "") + f"signature={signature}")
        signing.verify(secret, found, given)
    signing.verify(secret, payload.encode(), signature.upper())
    with pytest.raises(Refusal, match="-1022"):
        signing.verify(secret, payload.encode() + b"&", signature)


def test_asymmetric_signatures() -> None:
    payload = b"symbol=BTCUSDT&timestamp=1"
    edwards, long = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65_537, 2_048)
    for private, signed in (
        (edwards, edwards.sign(payload)),
        (long, long.sign(payload, padding.PKCS1v15(), hashes.SHA256())),
    ):
        pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        signing.verify(pem.decode(), payload, base64.b64encode(signed).decode())
        assert signing.is_ed25519(pem.decode()) is (private is edwards)
        for wrong in ("", "%%%", base64.b64encode(b"x" * 64).decode()):
            with pytest.raises(Refusal):
                signing.verify(pem.decode(), payload, wrong)


def test_weight_429_then_418() -> None:
    limit = WeightLimit(100)
    assert limit.charge("a", 60, 30.0) == 60
    codes = []
    for _ in range(13):
        with pytest.raises(Limited) as caught:
            limit.charge("a", 50, 31.0)
        codes.append(caught.value.status)
    assert codes == [429] * 11 + [418] * 2
    assert limit.charge("b", 50, 31.0) == 50
    with pytest.raises(Limited):
        limit.charge("a", 1, 120.0)
    assert limit.charge("a", 1, 152.0) == 1


def test_order_counts() -> None:
    limit = OrderLimit(per_10s=3, per_minute=5)
    assert [limit.charge(1, 100.0)[0] for _ in range(3)] == [1, 2, 3]
    with pytest.raises(Limited) as caught:
        limit.charge(1, 101.0)
    assert caught.value.code == -1015
    assert limit.charge(1, 110.0) == (1, 4)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    options = Options(
        port=0, clock="wall", symbol_count=2, history_days=1.0, ahead_days=1.0, latency=0.01, quiet=True,
        weight_limit=10**9, accounts=(AccountOption("k", "s", 100_000),),
    )  # fmt: skip
    exchange = Exchange(options, say=lambda _: None)
    warm(exchange)
    server = Server(exchange)
    await server.start()
    async with aiohttp.ClientSession() as session:
        yield Client(server, session)
    await server.stop()


async def test_keys_and_signatures(client: Client) -> None:
    url = f"{client.base}/fapi/v3/account"
    async with client.session.get(url) as reply:
        assert (reply.status, (await reply.json())["code"]) == (401, -2014)
    async with client.session.get(url, headers={"X-MBX-APIKEY": "nobody"}) as reply:
        assert (reply.status, (await reply.json())["code"]) == (401, -2015)
    async with client.session.get(f"{url}?timestamp=1&signature=00", headers={"X-MBX-APIKEY": "k"}) as reply:
        assert (await reply.json())["code"] == -1022
    status, body = await client.call("GET", "/fapi/v3/account")
    assert status == 200 and body["assets"][0]["updateTime"] > 0
    async with client.session.get(f"{client.base}/fapi/v1/nothing") as reply:
        assert reply.status == 404


async def test_the_window_of_a_timestamp_to_the_millisecond(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to recvWindow old, and less than a second ahead, by the exchange's clock, which stands here."""
    now_ms = client.server.exchange.venue.now_ms()
    monkeypatch.setattr(client.server.exchange.venue, "_exchange_ms", lambda: now_ms)
    for behind_ms, window in ((5_000, {}), (-999, {}), (60_000, {"recvWindow": 60_000}), (1, {"recvWindow": 1})):
        status, _ = await client.call("GET", "/fapi/v3/account", timestamp=now_ms - behind_ms, **window)
        assert status == 200, behind_ms
    for behind_ms, window in ((5_001, {}), (-1_000, {}), (60_001, {"recvWindow": 60_000}), (2, {"recvWindow": 1})):
        _, body = await client.call("GET", "/fapi/v3/account", timestamp=now_ms - behind_ms, **window)
        assert body["code"] == -1021, behind_ms


async def test_headers_count(client: Client) -> None:
    async with client.session.get(f"{client.base}/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=1500") as reply:
        assert reply.headers["X-MBX-USED-WEIGHT-1M"] == "10"
    async with client.session.get(f"{client.base}/fapi/v1/fundingRate") as reply:
        assert "X-MBX-USED-WEIGHT-1M" not in reply.headers


WORDS = [
    "BTCUSDT",
    "ETHUSDT",
    "1m",
    "5m",
    "BUY",
    "SELL",
    "LIMIT",
    "MARKET",
    "GTC",
    "true",
    "0",
    "-1",
    "1.5",
    "1e5",
    "CONDITIONAL",
    "STOP_MARKET",
    "0.1",
    "NaN",
    "null",
    "[1,2]",
    "%",
    "..",
    "",
    "9" * 30,
    "中文",
    '[{"a":1}]',
    '[{"symbol":"BTCUSDT","side":"BUY"}]',
    "\x00",
    "9" * 15,
]
VALID = {
    "symbol": "BTCUSDT", "interval": "1m", "limit": "5", "side": "BUY", "type": "LIMIT", "quantity": "0.01",
    "price": "80000", "timeInForce": "GTC", "pair": "BTCUSDT", "contractType": "PERPETUAL", "period": "5m",
    "orderId": "8389000000", "origClientOrderId": "a", "leverage": "5", "marginType": "CROSSED",
    "algoType": "CONDITIONAL", "triggerPrice": "50000", "dualSidePosition": "false", "amount": "1",
    "countdownTime": "0", "algoId": "2000000000",
    "startTime": str(int(time.time() - 40_000) * 1_000), "endTime": str(int(time.time()) * 1_000),
}  # fmt: skip
EXTRA = [
    "reduceOnly",
    "positionSide",
    "newClientOrderId",
    "batchOrders",
    "orderIdList",
    "closePosition",
    "callbackRate",
    "goodTillDate",
    "priceMatch",
    "fromId",
    "workingType",
    "activatePrice",
    "selfTradePreventionMode",
    "newOrderRespType",
    "recvWindow",
    "clientAlgoId",
    "modifyId",
]


async def test_no_request_makes_a_500(client: Client) -> None:
    numbers = random.Random(4)
    rest = client.server.rest
    public, signed = list(rest.routes), list(client.server.private.routes)
    answered: set[tuple[str, str]] = set()
    for step in range(long_run(1_500, 30_000)):
        params = {name: value for name, value in VALID.items() if numbers.random() < 0.9}
        if numbers.random() < 0.3:
            params |= {"type": "STOP_MARKET"}
        if numbers.random() < 0.3:
            params = {name: value for name, value in params.items() if name not in ("price", "timeInForce")} | {
                "type": "MARKET"
            }
        for _ in range(numbers.randint(0, 3)):
            params[numbers.choice([*VALID, *EXTRA])] = numbers.choice(WORDS)
        if numbers.random() < 0.1:
            params["".join(numbers.choices(string.printable, k=5))] = "".join(numbers.choices(string.printable, k=9))
        method, path = numbers.choice(public if step % 2 else signed)
        if step % 2:
            async with client.session.request(method, client.base + path, params=params) as reply:
                status, body = reply.status, orjson.loads(await reply.read())
        else:
            status, body = await client.call(method, path, **params)
        assert status < 500, (method, path, params, body)
        if status == 200:
            answered.add((method, path))
        else:
            assert set(body) == {"code", "msg"} and isinstance(body["code"], int) and body["code"] < 0, (path, body)
    assert rest.bugs == 0
    assert len(answered) > 60, "most endpoints were reached behind their checks"
    ledger = client.server.exchange.venue.ledger
    assert all(ledger.open_quantity(s) == 0 for s in range(2))


async def test_ws_api_answers_everything(client: Client) -> None:
    socket = await client.session.ws_connect(f"ws://127.0.0.1:{client.server.port}/ws-fapi/v1")
    bad = [
        "", "{", "[]", "1", '{"id":1}', '{"id":{},"method":"depth"}', '{"id":1,"method":"order.place","params":[]}',
        '{"id":1,"method":"order.place","params":{"apiKey":5}}', '{"id":1,"method":"nope"}',
        '{"id":1,"method":"depth","params":{"symbol":{"a":1}}}',
        '{"id":1,"method":"session.logon","params":{"apiKey":"k"}}',
    ]  # fmt: skip
    for text in bad:
        await socket.send_str(text)
        answer = (await socket.receive(60)).json()
        assert answer["error"]["code"] < 0 and "rateLimits" in answer, text
    await socket.send_json({"id": "x", "method": "depth", "params": {"symbol": "BTCUSDT", "limit": 5}})
    answer = (await socket.receive(60)).json()
    assert (answer["id"], answer["status"], len(answer["result"]["bids"])) == ("x", 200, 5)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path)


async def test_an_order_over_tls_by_a_logged_on_session(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    cert, key = certificate
    options = Options(
        port=0, clock="wall", symbol_count=1, history_days=1.0, ahead_days=1.0, latency=0.05, quiet=True,
        accounts=(AccountOption("ed", pem.decode(), 100_000),), tls_cert=cert, tls_key=key,
    )  # fmt: skip
    server = Server(Exchange(options, say=lambda _: None))
    await server.start()
    trust = ssl.create_default_context(cafile=str(cert))

    async def ask(socket: aiohttp.ClientWebSocketResponse, method: str, params: dict[str, Any]) -> Any:
        await socket.send_json({"id": 1, "method": method, "params": params})
        return (await socket.receive(60)).json()

    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
            socket = await session.ws_connect(f"wss://localhost:{server.port}/ws-fapi/v1")
            stamp = int(time.time() * 1_000)
            signature = base64.b64encode(private.sign(f"apiKey=ed&timestamp={stamp}".encode())).decode()
            logon = {"apiKey": "ed", "timestamp": stamp, "signature": signature}
            assert (await ask(socket, "session.logon", logon))["result"]["apiKey"] == "ed"
            terms = {
                "symbol": "BTCUSDT",
                "side": "BUY",
                "type": "MARKET",
                "quantity": "0.01",
                "newOrderRespType": "RESULT",
            }
            placed = await ask(socket, "order.place", terms | {"timestamp": int(time.time() * 1_000)})
            assert placed["result"]["status"] == "FILLED"
            stream = await session.ws_connect(f"wss://localhost:{server.stream_port}/market/ws/btcusdt@markPrice@1s")
            assert (await stream.receive(60)).json()["e"] == "markPriceUpdate"
    finally:
        await server.stop()
