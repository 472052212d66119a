"""ccxt's binanceusdm, unmodified, trades on the simulator."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ccxt
import ccxt.pro
import pytest

BTC = "BTC/USDT:USDT"
ETH = "ETH/USDT:USDT"


def point(exchange: Any, simulator: SimpleNamespace) -> Any:
    """Point a ccxt exchange at the simulator: addresses only."""
    exchange.has["fetchCurrencies"] = False
    for name, url in exchange.urls["api"].items():
        if name.startswith("fapi") and isinstance(url, str):
            exchange.urls["api"][name] = url.replace("https://fapi.binance.com", simulator.rest_url)
    if "ws" in exchange.urls["api"]:
        exchange.urls["api"]["ws"]["linear"] = f"{simulator.stream_url}/ws"
        exchange.urls["api"]["ws"]["ws-api"]["linear"] = simulator.ws_api_url
    return exchange


def keys(simulator: SimpleNamespace, name: str) -> dict[str, Any]:
    return {"apiKey": name, "secret": simulator.accounts[name], "options": {"fetchCurrencies": False}}


@pytest.fixture
def client(simulator: SimpleNamespace) -> Any:
    exchange = point(ccxt.binanceusdm(keys(simulator, "keyone")), simulator)
    exchange.load_markets()
    return exchange


def until(read: Callable[[], Any], accept: Callable[[Any], bool], seconds: float = 60.0) -> Any:
    """Read until accepted: queries lag behind by design."""
    deadline = time.monotonic() + seconds
    while True:
        value = read()
        if accept(value) or time.monotonic() > deadline:
            assert accept(value), value
            return value
        time.sleep(0.02)


def test_market_data(client: Any) -> None:
    assert (client.markets[BTC]["precision"]["amount"], client.markets[BTC]["precision"]["price"]) == (0.001, 0.1)
    candles = client.fetch_ohlcv(BTC, "15m", limit=10)
    assert len(candles) == 10
    assert all(row[3] <= min(row[1], row[4]) <= max(row[1], row[4]) <= row[2] for row in candles)
    book = client.fetch_order_book(BTC, 5)
    assert book["bids"][0][0] < book["asks"][0][0]
    assert client.fetch_funding_rate(BTC)["fundingRate"] is not None
    assert client.fetch_ticker(BTC)["last"] > 0
    before_ms, told_ms, after_ms = time.time() * 1_000, client.fetch_time(), time.time() * 1_000
    assert before_ms - 1 <= told_ms <= after_ms


def test_a_round_trip_costs_spread_and_fees(client: Any) -> None:
    before = client.fetch_balance()["USDT"]["total"]
    client.set_leverage(10, BTC)
    bought = client.create_order(BTC, "market", "buy", 0.02)
    assert (bought["status"], bought["filled"]) == ("closed", 0.02)
    position = until(
        lambda: client.fetch_positions([BTC]), lambda found: bool(found) and found[0]["contracts"] == 0.02
    )[0]
    assert position["side"] == "long"
    assert position["initialMargin"] == pytest.approx(position["notional"] / 10, rel=1e-6)
    client.create_order(BTC, "market", "sell", 0.02, params={"reduceOnly": True})
    until(lambda: client.fetch_positions([BTC]), lambda found: not found or found[0]["contracts"] == 0)
    trades = until(lambda: client.fetch_my_trades(BTC), lambda found: sum(t["amount"] for t in found) >= 0.04)
    paid = sum(trade["fee"]["cost"] for trade in trades)
    gained = sum(float(trade["info"]["realizedPnl"]) for trade in trades)
    assert paid == pytest.approx(sum(trade["cost"] for trade in trades) * 0.0005, abs=1e-6)
    after = until(lambda: client.fetch_balance()["USDT"]["total"], lambda found: found != before)
    assert after - before == pytest.approx(gained - paid, abs=1e-6)


def test_limit_orders_are_placed_changed_and_cancelled(client: Any) -> None:
    last = client.fetch_ticker(ETH)["last"]
    price = client.price_to_precision
    order = client.create_order(ETH, "limit", "buy", 1, price(ETH, last * 0.97))
    assert order["status"] == "open"
    changed = client.edit_order(order["id"], ETH, "limit", "buy", 2, price(ETH, last * 0.96))
    assert changed["id"] == order["id"]
    until(lambda: client.fetch_order(order["id"], ETH), lambda found: found["amount"] == 2)
    until(lambda: client.fetch_open_orders(ETH), lambda found: [o["id"] for o in found] == [order["id"]])
    assert client.cancel_order(order["id"], ETH)["status"] == "canceled"
    until(lambda: client.fetch_open_orders(ETH), lambda found: not found)
    with pytest.raises(ccxt.OrderNotFound):
        client.cancel_order(order["id"], ETH)
    batch = client.create_orders(
        [
            {"symbol": ETH, "type": "limit", "side": side, "amount": 0.5, "price": price(ETH, last * factor)}
            for side, factor in (("buy", 0.97), ("sell", 1.03))
        ]
    )
    assert len(client.cancel_orders([item["id"] for item in batch], ETH)) == 2
    client.create_order(ETH, "limit", "buy", 0.5, price(ETH, last * 0.97), {"postOnly": True})
    client.cancel_all_orders(ETH)
    until(lambda: client.fetch_open_orders(ETH), lambda found: not found)


def test_conditional_orders_of_each_kind(client: Any) -> None:
    client.create_order(ETH, "market", "buy", 1)
    until(lambda: client.fetch_positions([ETH]), lambda found: bool(found) and found[0]["contracts"] == 1)
    last = client.fetch_ticker(ETH)["last"]
    terms = [
        ("market", None, {"stopLossPrice": last * 0.9, "reduceOnly": True}),
        ("market", None, {"takeProfitPrice": last * 1.1, "reduceOnly": True}),
        ("limit", last * 0.89, {"triggerPrice": last * 0.9, "reduceOnly": True}),
        ("market", None, {"trailingPercent": 5, "reduceOnly": True}),
    ]
    for kind, price, params in terms:
        rounded = {k: client.price_to_precision(ETH, v) if k.endswith("Price") else v for k, v in params.items()}
        price = client.price_to_precision(ETH, price) if price else None
        placed = client.create_order(ETH, kind, "sell", 1, price, rounded)
        assert placed["status"] == "open"
    waiting = client.fetch_open_orders(ETH, params={"trigger": True})
    assert {order["info"]["orderType"] for order in waiting} == {
        "STOP_MARKET", "TAKE_PROFIT_MARKET", "STOP", "TRAILING_STOP_MARKET",
    }  # fmt: skip
    assert client.fetch_order(waiting[0]["id"], ETH, {"trigger": True})["id"] == waiting[0]["id"]
    client.cancel_order(waiting[0]["id"], ETH, {"trigger": True})
    client.cancel_all_orders(ETH, {"trigger": True})
    assert client.fetch_open_orders(ETH, params={"trigger": True}) == []
    client.create_order(ETH, "market", "sell", 1, params={"reduceOnly": True})


def test_errors_become_ccxt_s_exceptions(client: Any, simulator: SimpleNamespace) -> None:
    with pytest.raises(ccxt.ExchangeError, match="-4164"):
        client.create_order(ETH, "market", "buy", 0.001)
    with pytest.raises(ccxt.ExchangeError, match="-2019"):
        client.create_order(BTC, "market", "buy", 100)
    with pytest.raises(ccxt.ExchangeError, match="-2022"):
        client.create_order(BTC, "market", "sell", 0.1, params={"reduceOnly": True})
    wrong = point(ccxt.binanceusdm(keys(simulator, "keyone") | {"secret": "wrong"}), simulator)
    with pytest.raises(ccxt.AuthenticationError):
        wrong.fetch_balance()
    with pytest.raises(ccxt.ExchangeError, match="-4046"):
        client.fapiPrivatePostMarginType({"symbol": "SOLUSDT", "marginType": "CROSSED"})
    client.set_margin_mode("isolated", "SOL/USDT:USDT")
    client.set_margin_mode("cross", "SOL/USDT:USDT")
    client.set_position_mode(True)
    assert client.fetch_position_mode()["hedged"] is True
    client.set_position_mode(False)


async def test_streams(simulator: SimpleNamespace) -> None:
    exchange = point(ccxt.pro.binanceusdm(keys(simulator, "keytwo")), simulator)
    try:
        await exchange.load_markets()
        ticker = await asyncio.wait_for(exchange.watch_ticker(BTC), 60)
        assert ticker["last"] > 0
        candles = await asyncio.wait_for(exchange.watch_ohlcv(BTC, "1m"), 60)
        assert candles[-1][0] % 60_000 == 0
        trades = await asyncio.wait_for(exchange.watch_trades(BTC), 60)
        assert trades[-1]["price"] > 0
        book = await asyncio.wait_for(exchange.watch_order_book(BTC), 60)
        assert book["bids"][0][0] < book["asks"][0][0]
        mark = await asyncio.wait_for(exchange.watch_mark_price(BTC), 60)
        assert mark["markPrice"] > 0
        watching = asyncio.ensure_future(exchange.watch_orders(BTC))
        url = f"{simulator.stream_url}/private"
        deadline = time.monotonic() + 60
        while not any(key.startswith(url) and client.isConnected for key, client in exchange.clients.items()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        placed = await exchange.create_order(
            BTC, "limit", "buy", 0.01, exchange.price_to_precision(BTC, ticker["last"] * 0.97)
        )
        orders = await asyncio.wait_for(watching, 60)
        assert orders[-1]["id"] == placed["id"]
        cancelled = await exchange.cancel_order_ws(placed["id"], BTC)
        assert cancelled["id"] == placed["id"]
        again = await exchange.create_order_ws(BTC, "market", "buy", 0.01)
        assert again["symbol"] == BTC
        await exchange.create_order_ws(BTC, "market", "sell", 0.01, None, {"reduceOnly": True})
    finally:
        await exchange.close()
