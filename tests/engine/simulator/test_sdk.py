"""The exchange's own Python SDK and python-binance, unmodified, trade on the simulator: REST, WS API, streams."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from binance import AsyncClient, BinanceSocketManager, Client
from binance_common.configuration import (
    ConfigurationRestAPI,
    ConfigurationWebSocketAPI,
    ConfigurationWebSocketStreams,
)
from binance_sdk_derivatives_trading_usds_futures.derivatives_trading_usds_futures import DerivativesTradingUsdsFutures


def until(read: Any, accept: Any, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = read()
        if accept(value) or time.monotonic() > deadline:
            assert accept(value), value
            return value
        time.sleep(0.02)


@pytest.fixture
def sdk(simulator: SimpleNamespace) -> DerivativesTradingUsdsFutures:
    secret = simulator.accounts["keythree"]
    return DerivativesTradingUsdsFutures(
        config_rest_api=ConfigurationRestAPI(api_key="keythree", api_secret=secret, base_path=simulator.rest_url),
        config_ws_api=ConfigurationWebSocketAPI(api_key="keythree", api_secret=secret, stream_url=simulator.ws_api_url),
        config_ws_streams=ConfigurationWebSocketStreams(stream_url=simulator.stream_url),
    )


def test_sdk_rest(sdk: DerivativesTradingUsdsFutures) -> None:
    rest = sdk.rest_api
    assert rest.exchange_information().data().symbols[0].symbol == "BTCUSDT"
    assert len(rest.kline_candlestick_data("BTCUSDT", "1m", limit=5).data()) == 5
    assert len(rest.mark_price_kline_candlestick_data("BTCUSDT", "1h", limit=5).data()) == 5
    assert rest.get_funding_rate_history(symbol="BTCUSDT", limit=3).data()[-1].symbol == "BTCUSDT"
    assert rest.open_interest_statistics("BTCUSDT", "5m", limit=3).data()
    assert rest.order_book("BTCUSDT", limit=5).data().bids
    rest.change_initial_leverage("BTCUSDT", 15)
    placed = rest.new_order("BTCUSDT", "BUY", "MARKET", quantity=0.01, new_order_resp_type="RESULT").data()
    assert (placed.status, placed.executed_qty) == ("FILLED", "0.010")
    held = until(
        lambda: rest.position_information_v3(symbol="BTCUSDT").data(),
        lambda rows: rows and rows[0].position_amt == "0.010",
    )
    entry = float(held[0].entry_price)
    trigger = round(entry * 0.95, 1)
    stop = until_accepted(
        lambda: rest.new_algo_order(
            "CONDITIONAL", "BTCUSDT", "SELL", "STOP_MARKET", trigger_price=trigger, close_position="true",
            working_type="MARK_PRICE",
        ).data()
    )  # fmt: skip
    assert rest.query_algo_order(algo_id=stop.algo_id).data().algo_status == "NEW"
    with pytest.raises(Exception, match="GTE and closePosition"):
        rest.new_algo_order(
            "CONDITIONAL", "BTCUSDT", "SELL", "STOP_MARKET", trigger_price=trigger, close_position="true"
        )
    rest.cancel_algo_order(algo_id=stop.algo_id)
    rest.new_order("BTCUSDT", "SELL", "MARKET", quantity=0.01, reduce_only="true")
    until(lambda: rest.account_trade_list("BTCUSDT").data(), lambda rows: len(rows) >= 2)
    assert rest.account_information_v3().data().total_wallet_balance
    assert rest.get_income_history(income_type="COMMISSION").data()
    assert rest.user_commission_rate("BTCUSDT").data().taker_commission_rate == "0.000500"
    assert rest.notional_and_leverage_brackets(symbol="BTCUSDT").data()


def until_accepted(call: Any) -> Any:
    """Repeat while the algo service has not seen the position (−4509): the exchange's own race."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except Exception as error:
            if "GTE can only" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


async def test_sdk_ws_api(sdk: DerivativesTradingUsdsFutures) -> None:
    connection = await sdk.websocket_api.create_connection()
    try:
        price = float((await connection.symbol_price_ticker(symbol="BTCUSDT")).data().actual_instance.result.price)
        placed = await connection.new_order(
            "BTCUSDT", "BUY", "LIMIT", time_in_force="GTC", quantity=0.01, price=round(price * 0.97, 1)
        )
        number = placed.data().result.order_id
        assert placed.rate_limits
        cancelled = await connection.cancel_order("BTCUSDT", order_id=number)
        assert cancelled.data().result.status == "CANCELED"
        assert (await connection.account_information_v2()).data().result
    finally:
        await connection.close_connection(close_session=True)


async def test_sdk_streams(sdk: DerivativesTradingUsdsFutures) -> None:
    got: dict[str, asyncio.Future[Any]] = {name: asyncio.get_running_loop().create_future() for name in "kmbu"}

    def take(name: str) -> Any:
        return lambda data: got[name].done() or got[name].set_result(data)

    connection = await sdk.websocket_streams.create_connection()
    try:
        (await connection.kline_candlestick_streams(symbol="btcusdt", interval="1m")).on("message", take("k"))
        (await connection.mark_price_stream(symbol="btcusdt", update_speed="1s")).on("message", take("m"))
        (await connection.individual_symbol_book_ticker_streams(symbol="btcusdt")).on("message", take("b"))
        key = sdk.rest_api.start_user_data_stream().data().listen_key
        (await connection.user_data(key)).on("message", take("u"))
        assert (await asyncio.wait_for(got["k"], 60)).s == "BTCUSDT"
        assert float((await asyncio.wait_for(got["m"], 60)).p) > 0
        assert float((await asyncio.wait_for(got["b"], 60)).b) > 0
        price = float(sdk.rest_api.symbol_price_ticker_v2("BTCUSDT").data().actual_instance.price)
        order = sdk.rest_api.new_order(
            "BTCUSDT", "BUY", "LIMIT", time_in_force="GTC", quantity=0.01, price=round(price * 0.97, 1)
        ).data()
        assert await asyncio.wait_for(got["u"], 60)
        sdk.rest_api.cancel_order("BTCUSDT", order_id=order.order_id)
    finally:
        await connection.close_connection(close_session=True)


def test_python_binance(simulator: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "API_URL", f"{simulator.rest_url}/api")
    monkeypatch.setattr(Client, "FUTURES_URL", f"{simulator.rest_url}/fapi")
    monkeypatch.setattr(Client, "FUTURES_DATA_URL", f"{simulator.rest_url}/futures/data")
    client = Client("keyfour", simulator.accounts["keyfour"])
    assert client.futures_exchange_info()["symbols"]
    assert client.futures_account()["assets"][0]["asset"] == "USDT"
    client.futures_change_leverage(symbol="ETHUSDT", leverage=7)
    client.futures_create_order(symbol="ETHUSDT", side="BUY", type="MARKET", quantity=1)
    held = until(
        lambda: client.futures_position_information(symbol="ETHUSDT"),
        lambda rows: rows and float(rows[0]["positionAmt"]) == 1,
    )
    assert float(held[0]["entryPrice"]) > 0
    last = float(client.futures_symbol_ticker(symbol="ETHUSDT")["price"])
    stop = client.futures_create_order(
        symbol="ETHUSDT", side="SELL", type="STOP_MARKET", stopPrice=round(last * 0.9, 2), quantity=1, reduceOnly="true"
    )
    client.futures_cancel_order(symbol="ETHUSDT", algoId=stop["algoId"], conditional=True)
    placed = client.futures_place_batch_order(
        batchOrders=[
            {
                "type": "LIMIT",
                "timeInForce": "GTC",
                "symbol": "ETHUSDT",
                "side": side,
                "quantity": "0.5",
                "price": price,
            }
            for side, price in (("BUY", f"{last * 0.97:.2f}"), ("SELL", f"{last * 1.03:.2f}"))
        ]
    )
    numbers = [row["orderId"] for row in placed]
    assert [row["status"] for row in client.futures_cancel_orders(symbol="ETHUSDT", orderidlist=numbers)] == [
        "CANCELED"
    ] * 2
    client.futures_cancel_all_open_orders(symbol="ETHUSDT")
    client.futures_create_order(symbol="ETHUSDT", side="SELL", type="MARKET", quantity=1, reduceOnly="true")
    assert client.futures_account_balance()[0]["asset"] == "USDT"
    assert client.futures_account_trades(symbol="ETHUSDT")


async def test_python_binance_streams(simulator: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsyncClient, "API_URL", f"{simulator.rest_url}/api")
    monkeypatch.setattr(AsyncClient, "FUTURES_URL", f"{simulator.rest_url}/fapi")
    monkeypatch.setattr(BinanceSocketManager, "FSTREAM_URL", f"{simulator.stream_url}/")
    client = await AsyncClient.create("keyfour", simulator.accounts["keyfour"])
    try:
        manager = BinanceSocketManager(client)
        async with manager.futures_multiplex_socket(["btcusdt@kline_1m"]) as socket:
            frame = await asyncio.wait_for(socket.recv(), 60)
            assert frame["data"]["e"] == "kline"
        async with manager.futures_user_socket() as socket:
            price = float((await client.futures_symbol_ticker(symbol="BTCUSDT"))["price"])
            order = await client.futures_create_order(
                symbol="BTCUSDT",
                side="BUY",
                type="LIMIT",
                timeInForce="GTC",
                quantity=0.01,
                price=round(price * 0.97, 1),
            )
            event = await asyncio.wait_for(socket.recv(), 60)
            assert event["o"]["i"] == order["orderId"]
            await client.futures_cancel_order(symbol="BTCUSDT", orderId=order["orderId"])
    finally:
        await client.close_connection()
