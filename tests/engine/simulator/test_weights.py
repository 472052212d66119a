"""What each request costs, from the exchange's documentation: request weight in a header, orders in two more."""

from typing import Any

import aiohttp
import pytest

from tests.engine.simulator.client import Client

ONE = {"symbol": "BTCUSDT"}
CANDLES = ONE | {"interval": "1m"}
PAIR = {"pair": "BTCUSDT", "interval": "1m"}
# method, path, parameters, weight
COSTS: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/fapi/v1/ping", {}, 1),
    ("GET", "/fapi/v1/time", {}, 1),
    ("GET", "/fapi/v1/exchangeInfo", {}, 1),
    *[("GET", "/fapi/v1/depth", ONE | {"limit": n}, w) for n, w in ((5, 2), (50, 2), (100, 5), (500, 10), (1_000, 20))],
    ("GET", "/fapi/v1/depth", ONE, 10),
    ("GET", "/fapi/v1/trades", ONE, 5),
    ("GET", "/fapi/v1/historicalTrades", ONE, 200),
    ("GET", "/fapi/v1/aggTrades", ONE, 20),
    *[("GET", "/fapi/v1/klines", CANDLES | {"limit": n}, w)
      for n, w in ((99, 1), (100, 2), (499, 2), (500, 5), (1_000, 5), (1_001, 10))],
    ("GET", "/fapi/v1/klines", CANDLES, 5),
    ("GET", "/fapi/v1/continuousKlines", PAIR | {"contractType": "PERPETUAL", "limit": 99}, 1),
    ("GET", "/fapi/v1/indexPriceKlines", PAIR | {"limit": 100}, 2),
    ("GET", "/fapi/v1/markPriceKlines", CANDLES | {"limit": 1_500}, 10),
    ("GET", "/fapi/v1/premiumIndexKlines", CANDLES | {"limit": 500}, 5),
    ("GET", "/fapi/v1/premiumIndex", ONE, 1),
    ("GET", "/fapi/v1/premiumIndex", {}, 10),
    ("GET", "/fapi/v1/openInterest", ONE, 1),
    ("GET", "/fapi/v1/ticker/24hr", ONE, 1),
    ("GET", "/fapi/v1/ticker/24hr", {}, 40),
    ("GET", "/fapi/v2/ticker/price", ONE, 1),
    ("GET", "/fapi/v2/ticker/price", {}, 2),
    ("GET", "/fapi/v1/ticker/bookTicker", ONE, 2),
    ("GET", "/fapi/v1/ticker/bookTicker", {}, 5),
    ("GET", "/fapi/v1/tradingSchedule", {}, 5),
    ("GET", "/fapi/v1/symbolAdlRisk", ONE, 1),
    ("GET", "/fapi/v1/openOrders", ONE, 1),
    ("GET", "/fapi/v1/openOrders", {}, 40),
    ("GET", "/fapi/v1/allOrders", ONE, 5),
    ("DELETE", "/fapi/v1/allOpenOrders", ONE, 1),
    ("POST", "/fapi/v1/countdownCancelAll", ONE | {"countdownTime": 0}, 10),
    ("GET", "/fapi/v1/rateLimit/order", {}, 1),
    ("GET", "/fapi/v1/openAlgoOrders", ONE, 1),
    ("GET", "/fapi/v1/openAlgoOrders", {}, 40),
    ("GET", "/fapi/v1/allAlgoOrders", ONE, 5),
    ("DELETE", "/fapi/v1/algoOpenOrders", ONE, 1),
    ("GET", "/fapi/v1/positionSide/dual", {}, 30),
    ("POST", "/fapi/v1/leverage", ONE | {"leverage": 20}, 1),
    ("GET", "/fapi/v1/multiAssetsMargin", {}, 30),
    ("GET", "/fapi/v1/accountConfig", {}, 5),
    ("GET", "/fapi/v1/symbolConfig", {}, 5),
    *[("GET", f"/fapi/v{n}/{name}", {}, 5) for n in (2, 3) for name in ("account", "balance", "positionRisk")],
    ("GET", "/fapi/v1/userTrades", ONE, 5),
    ("GET", "/fapi/v1/income", {}, 30),
    ("GET", "/fapi/v1/commissionRate", ONE, 20),
    ("GET", "/fapi/v1/leverageBracket", {}, 1),
    ("GET", "/fapi/v1/adlQuantile", {}, 5),
    ("GET", "/fapi/v1/forceOrders", ONE, 20),
    ("GET", "/fapi/v1/forceOrders", {}, 50),
]  # fmt: skip
BUY = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.002"}
BATCH = '[{"symbol":"BTCUSDT","side":"BUY","type":"MARKET","quantity":"0.002"}]'
STOP = BUY | {"algoType": "CONDITIONAL", "type": "STOP_MARKET", "triggerPrice": "200000"}
# method, path, parameters, weight, orders in 10 s, orders in a minute
ORDERS: list[tuple[str, str, dict[str, Any], int, int, int]] = [
    ("POST", "/fapi/v1/order", BUY, 0, 1, 1),
    ("POST", "/fapi/v1/order/test", BUY, 0, 0, 0),
    ("POST", "/fapi/v1/batchOrders", {"batchOrders": BATCH}, 5, 5, 1),
    ("POST", "/fapi/v1/algoOrder", STOP, 0, 1, 1),
]


async def headers(client: Client, method: str, path: str, params: dict[str, Any]) -> dict[str, int]:
    """Send a signed request that must succeed; the counting headers of its reply."""
    found: dict[str, int] = {}
    request = client.session.request

    async def status(reply: aiohttp.ClientResponse) -> None:
        found.update({k: int(v) for k, v in reply.headers.items() if k.startswith("X-MBX-")})

    def noted(*args: Any, **kwargs: Any) -> Any:
        return request(*args, **kwargs, raise_for_status=status)

    client.session.request = noted  # type: ignore[method-assign]
    try:
        code, body = await client.call(method, path, **params)
    finally:
        client.session.request = request  # type: ignore[method-assign]
    assert code == 200, (method, path, body)
    return found


@pytest.fixture
def roomy(client: Client) -> Client:
    client.server.rest.weights.limit = 10**9
    return client


async def test_the_weight_of_every_endpoint(roomy: Client) -> None:
    wrong = []
    for method, path, params, weight in COSTS:
        roomy.server.rest.weights.addresses.clear()  # each counts from nothing, whenever a minute turns
        cost = (await headers(roomy, method, path, params))["X-MBX-USED-WEIGHT-1M"]
        if cost != weight:
            wrong.append((method, path, params, weight, cost))
    assert wrong == []


async def test_what_counts_as_orders(roomy: Client) -> None:
    counts = roomy.server.private.limit_of(roomy.server.exchange.venue.ledger.accounts["k"])
    for method, path, params, weight, in_10s, in_minute in ORDERS:
        counts.windows, counts.counts = [-1, -1], [0, 0]
        roomy.server.rest.weights.addresses.clear()
        found = await headers(roomy, method, path, params)
        assert found["X-MBX-USED-WEIGHT-1M"] == weight, path
        assert (found.get("X-MBX-ORDER-COUNT-10S", 0), found.get("X-MBX-ORDER-COUNT-1M", 0)) == (in_10s, in_minute)
