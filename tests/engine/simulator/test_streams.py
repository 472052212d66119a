"""Streams against REST: two doors to one market."""

from collections import defaultdict
from typing import Any

import orjson
import pytest

from engine.simulator.pump import BACKLOG_BYTES
from tests.engine.simulator.harness import Recorder, get, small

MINUTE = 60_000
ALL = "btcusdt@kline_1m/btcusdt@kline_15m/btcusdt@kline_1h/btcusdt@markPrice@1s"


def closing(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [frame for frame in frames if frame["e"] == "kline" and frame["k"]["x"]]


def test_closed_klines_equal_rest_and_behave_like_real_ones() -> None:
    exchange = small(updates=24)
    recorder = Recorder(exchange, f"/market/ws/{ALL}")
    exchange.pump.advance(exchange.start_ms + 200 * MINUTE)
    frames = recorder.payloads()
    newest: dict[tuple[str, int], dict[str, Any]] = {}
    repeated, orders = [], set()
    by_time = defaultdict(list)
    for frame in frames:
        if frame["e"] != "kline":
            continue
        kline = frame["k"]
        key = (kline["i"], kline["t"])
        if kline["x"]:
            late_ms = frame["E"] - kline["T"] - 1
            assert 100 <= late_ms <= 2_100
            by_time[kline["T"]].append(kline["i"])
            if key in newest:
                repeated.append((kline["L"], kline["n"]) == (newest[key]["L"], newest[key]["n"]))
        else:
            previous = newest.get(key)
            assert previous is None or not previous["x"], "an open frame after the closing one"
        newest[key] = kline
    assert 0.6 < sum(repeated) / len(repeated) < 0.9  # three closes in four repeat the last open frame's trade
    orders = {tuple(names) for names in by_time.values() if len(names) > 1}
    assert len(orders) > 1, "the timeframes always close in one order"
    for interval in ("1m", "15m", "1h"):
        rows = {
            row[0]: row for row in get(exchange, "/fapi/v1/klines", symbol="BTCUSDT", interval=interval, limit=1500)
        }
        closes = [frame["k"] for frame in closing(frames) if frame["k"]["i"] == interval]
        assert len(closes) == {"1m": 199, "15m": 13, "1h": 3}[interval]
        for kline in closes:
            row = rows[kline["t"]]
            fields = [kline[name] for name in ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")]
            assert fields == row


def test_mark_klines_are_the_stream_s_ticks() -> None:
    exchange = small()
    recorder = Recorder(exchange, "/market/ws/btcusdt@markPrice@1s")
    exchange.pump.advance(exchange.start_ms + 20 * MINUTE)
    minutes = defaultdict(list)
    for frame in recorder.payloads():
        minutes[frame["E"] // MINUTE * MINUTE].append(float(frame["p"]))
    rows = get(exchange, "/fapi/v1/markPriceKlines", symbol="BTCUSDT", interval="1m", limit=20)
    compared = 0
    for row in rows[:-1]:
        ticks = minutes[row[0]]
        if len(ticks) == 60:
            assert [float(value) for value in row[1:5]] == [ticks[0], max(ticks), min(ticks), ticks[-1]]
            compared += 1
    assert compared >= 18


def test_rest_shows_nothing_later_than_market_time() -> None:
    exchange = small()
    for step_ms in (1, 30_000, 61_000, 3_600_000):
        exchange.pump.advance(exchange.tape.now_ms + step_ms)
        now = exchange.tape.now_ms
        far = {"startTime": now - 3_600_000, "endTime": now + 10**9}
        for path, key in (("klines", 0), ("markPriceKlines", 0)):
            rows = get(exchange, f"/fapi/v1/{path}", symbol="BTCUSDT", interval="1m", limit=1500, **far)
            assert rows[-1][key] <= now
            assert rows[-1][key] == now // MINUTE * MINUTE
        assert all(row["fundingTime"] <= now for row in get(exchange, "/fapi/v1/fundingRate", symbol="BTCUSDT", **far))
        history = get(exchange, "/futures/data/openInterestHist", symbol="BTCUSDT", period="5m", **far)
        assert all(row["timestamp"] <= now for row in history)
        assert get(exchange, "/fapi/v1/premiumIndex", symbol="BTCUSDT")["time"] <= now


def test_the_running_candle_grows_into_the_closed_one() -> None:
    exchange = small()
    open_ms = exchange.start_ms // MINUTE * MINUTE + MINUTE
    volumes = []
    for second in range(1, 60, 7):
        exchange.pump.advance(open_ms + second * 1_000)
        row = get(exchange, "/fapi/v1/klines", symbol="ETHUSDT", interval="1m", limit=1)[0]
        assert row[0] == open_ms
        volumes.append(float(row[5]))
    assert volumes == sorted(volumes) and volumes[0] < volumes[-1]


def test_rest_sometimes_lacks_the_last_trade_just_after_the_close() -> None:
    exchange = small()
    late = 0
    for minute in range(1, 61):
        close_ms = exchange.start_ms // MINUTE * MINUTE + minute * MINUTE
        counts = []
        for step_ms in (50, 1_450, 1_600):
            exchange.pump.advance(close_ms + step_ms)
            row = get(exchange, "/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit=2)[0]
            assert row[0] == close_ms - MINUTE
            counts.append((row[8], float(row[5])))
        assert counts[0] <= counts[2] and counts[0][0] >= counts[2][0] - 1
        late += counts[0] != counts[2]
    assert 5 <= late <= 30, "about one close in four"


@pytest.mark.parametrize(
    ("path", "heard"),
    [
        ("/market/ws/btcusdt@kline_1m", True),
        ("/public/ws/btcusdt@kline_1m", False),
        ("/ws/btcusdt@kline_1m", False),
        ("/public/ws/btcusdt@bookTicker", True),
        ("/market/ws/btcusdt@bookTicker", False),
        ("/ws/btcusdt@bookTicker", True),
        ("/market/ws/nosuch@kline_1m", False),
        ("/public/stream?streams=btcusdt@bookTicker/ethusdt@depth5", True),
        ("/market/ws/!miniTicker@arr", True),
    ],
)
def test_the_wrong_route_is_silent(path: str, heard: bool) -> None:
    exchange = small()
    recorder = Recorder(exchange, path)
    exchange.pump.advance(exchange.start_ms + 2 * MINUTE)
    assert bool(recorder.payloads()) is heard


def test_the_demo_profile_serves_unrouted_addresses() -> None:
    exchange = small(profile="demo")
    recorder = Recorder(exchange, "/stream?streams=btcusdt@kline_1m")
    exchange.pump.advance(exchange.start_ms + MINUTE)
    frames = recorder.payloads()
    assert frames and set(frames[0]) == {"stream", "data"}


def ask(recorder: Recorder, message: object) -> Any:
    recorder.connection.on_text(message if isinstance(message, bytes) else orjson.dumps(message))
    return recorder.payloads()[-1]


def test_control_messages() -> None:
    exchange = small()
    recorder = Recorder(exchange, "/market/ws/7")
    names = ["btcusdt@kline_1m", "ethusdt@markPrice"]
    assert ask(recorder, {"method": "SUBSCRIBE", "params": names, "id": "a-b"}) == {"result": None, "id": "a-b"}
    assert ask(recorder, {"method": "LIST_SUBSCRIPTIONS", "id": 3}) == {"result": names, "id": 3}
    exchange.pump.advance(exchange.start_ms + MINUTE)
    assert {frame["s"] for frame in recorder.payloads()} == {"BTCUSDT", "ETHUSDT"}
    ask(recorder, {"method": "UNSUBSCRIBE", "params": names[:1], "id": 4})
    exchange.pump.advance(exchange.tape.now_ms + MINUTE)
    assert {frame["s"] for frame in recorder.payloads()} == {"ETHUSDT"}
    assert ask(recorder, {"method": "GET_PROPERTY", "params": ["combined"], "id": 5})["result"] is False
    ask(recorder, {"method": "SET_PROPERTY", "params": ["combined", True], "id": 6})
    exchange.pump.advance(exchange.tape.now_ms + MINUTE)
    assert recorder.payloads()[0]["stream"] == "ethusdt@markPrice"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{", 3),
        (b"\xff\xfe", 3),
        ([1], 2),
        ({"method": "SUBSCRIBE"}, 2),
        ({"method": "DANCE", "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": "x", "id": 1}, 2),
        ({"method": "SUBSCRIBE", "params": [1], "id": 1}, 2),
        ({"method": "SET_PROPERTY", "params": ["combined", 3], "id": 1}, 1),
        ({"method": "GET_PROPERTY", "params": ["other"], "id": 1}, 0),
        ({"method": "SUBSCRIBE", "params": ["x"] * 1_025, "id": 1}, 2),
    ],
)
def test_bad_control_messages_are_answered(message: object, code: int) -> None:
    assert ask(Recorder(small(), "/market/ws"), message)["error"]["code"] == code


def test_the_eleventh_message_in_a_second_cuts() -> None:
    connection = Recorder(small(), "/market/ws").connection
    assert [connection.too_fast(5.0 + i / 100) for i in range(11)] == [False] * 10 + [True]
    assert not connection.too_fast(7.0)


def test_depth_diffs_build_the_book_that_rest_shows() -> None:
    exchange = small(books=600)
    recorder = Recorder(exchange, "/public/ws/btcusdt@depth@100ms")
    book: tuple[dict[str, str], dict[str, str]] = ({}, {})
    last = 0
    for step in range(1, 300):
        exchange.pump.advance(exchange.start_ms + 100 * step)
        for frame in recorder.payloads():
            assert not last or frame["pu"] == last
            last = frame["u"]
            for side, rows in zip(book, (frame["b"], frame["a"]), strict=True):
                for price, qty in rows:
                    if float(qty):
                        side[price] = qty
                    else:
                        side.pop(price)
    rest = get(exchange, "/fapi/v1/depth", symbol="BTCUSDT", limit=1000)
    assert rest["lastUpdateId"] == last
    assert dict(map(tuple, rest["bids"])) == book[0]
    assert dict(map(tuple, rest["asks"])) == book[1]


def test_the_market_waits_for_a_slow_client() -> None:
    exchange = small()
    recorder = Recorder(exchange, "/market/ws/btcusdt@kline_1m")
    assert not exchange.pump.backlogged()
    recorder.unsent = BACKLOG_BYTES + 1
    assert exchange.pump.backlogged()
    assert exchange.pace.target(1_000, exchange.pump.backlogged()) == 1_000
    exchange.hub.detach(recorder.connection)
    assert not exchange.pump.backlogged()


def test_the_end_of_the_data_is_the_end_of_time() -> None:
    exchange = small(minutes=3)
    assert exchange.last_ms == exchange.start_ms + 3 * MINUTE + 2_999
    exchange.pump.advance(exchange.market.end_ms + 10**9)
    assert exchange.tape.now_ms == exchange.market.end_ms - 1
    assert get(exchange, "/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit=1)
