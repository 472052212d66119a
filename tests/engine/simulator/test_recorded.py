"""Recorded frames come out byte for byte, on their route, at their pace."""

import gzip
import itertools
from pathlib import Path

import orjson
import pytest
import zstandard

from engine.errors import DataError
from engine.simulator.exchange import Exchange
from engine.simulator.options import Options
from engine.simulator.recorded import read_recording
from tests.engine.simulator.harness import Recorder, get, unframe


def line(ns: int, stream: str, data: str) -> bytes:
    return f'{ns} {{"stream":"{stream}","data":{data}}}\n'.encode()


BOOK = '{"e":"bookTicker","u":1,"s":"BTCUSDT","b":"61800.20","B":"2.507","a":"61800.30","A":"2.510","E":1723161256313}'
TRADE = '{"e":"trade","E":1723161256322,"T":1723161256322,"s":"BTCUSDT","t":5,"p":"61800.30","q":"0.006","X":"MARKET"}'


def test_frames_are_replayed_verbatim_at_their_pace(tmp_path: Path) -> None:
    file = tmp_path / "frames.gz"
    second = 1_000_000_000
    with gzip.open(file, "wb") as out:
        for k in range(5):
            out.write(line(10**18 + k * second, "btcusdt@bookTicker", BOOK))
            out.write(line(10**18 + k * second + 500, "btcusdt@trade", TRADE))
    exchange = Exchange(Options(frames=file, quiet=True), say=lambda _: None)
    assert exchange.start_ms == 1_723_161_256_313
    ear = Recorder(exchange, "/public/ws/btcusdt@bookTicker")
    deaf = Recorder(exchange, "/market/ws/btcusdt@bookTicker")
    marks = Recorder(exchange, "/market/ws/btcusdt@markPrice@1s")
    exchange.pump.advance(exchange.start_ms + 2_000)
    assert unframe(bytes(ear.raw)) == [BOOK.encode()] * 3
    assert not deaf.raw
    assert abs(float(marks.payloads()[0]["p"]) / 61_800 - 1) < 0.5
    exchange.pump.advance(exchange.last_ms)
    assert unframe(bytes(ear.raw)) == [BOOK.encode()] * 5
    assert get(exchange, "/fapi/v1/exchangeInfo")["symbols"][0]["symbol"] == "BTCUSDT"


@pytest.mark.parametrize("bad", [b"nonsense\n", b"5 {}\n", b"x " + line(1, "a", BOOK)[2:], b""])
def test_a_bad_line_is_named(tmp_path: Path, bad: bytes) -> None:
    file = tmp_path / "frames"
    file.write_bytes((line(1, "btcusdt@bookTicker", BOOK) if bad else b"") + bad)
    with pytest.raises(DataError, match="line 2" if bad else "found 0 frames"):
        read_recording(file)


def test_a_recorded_session_is_read_and_its_other_lines_are_passed_over(tmp_path: Path) -> None:
    lines = [
        {"t": "header", "format": 2},
        {"t": "http", "ts": 1.0, "url": "depth", "data": '{"lastUpdateId":1}'},
        {"t": "recv", "ts": 1626992741.5, "data": '{"stream":"btcusdt@bookTicker","data":' + BOOK + "}"},
        {"t": "recv", "ts": 1626992741.75, "data": '{"stream":"btcusdt@trade","data":' + TRADE + "}\n"},
    ]
    file = tmp_path / "session.jsonl.zst"
    file.write_bytes(zstandard.compress(b"\n".join(orjson.dumps(entry) for entry in lines)))
    recording = read_recording(file)
    assert recording.streams == ["btcusdt@bookTicker", "btcusdt@trade"]
    assert recording.payloads == [BOOK.encode(), TRADE.encode()]
    assert (recording.stamps_ms - recording.start_ms).tolist() == [0, 250]


@pytest.mark.shared_data
def test_a_recorded_session_of_four_symbols(shared_data: Path) -> None:
    exchange = Exchange(Options(frames=shared_data / "frames" / "alts_20210722.jsonl.zst", quiet=True))
    assert exchange.market.symbols == ["AKROUSDT", "CTKUSDT", "KEEPUSDT", "SUSHIUSDT"]
    klines = Recorder(exchange, "/market/stream?streams=sushiusdt@kline_1m/ctkusdt@kline_1m/akrousdt@kline_1m")
    books = Recorder(exchange, "/public/ws/sushiusdt@bookTicker")
    exchange.pump.advance(exchange.last_ms)
    closed = [frame["data"]["k"] for frame in klines.payloads() if frame["data"]["k"]["x"]]
    assert {kline["s"] for kline in closed} >= {"SUSHIUSDT", "CTKUSDT"}
    assert len(books.payloads()) > 100


@pytest.mark.shared_data
def test_a_real_recording(shared_data: Path) -> None:
    exchange = Exchange(Options(frames=shared_data / "frames" / "btcusdt_20240808.gz", quiet=True), say=lambda _: None)
    ear = Recorder(exchange, "/public/ws/btcusdt@bookTicker")
    exchange.pump.advance(exchange.start_ms + 60_000)
    frames = ear.payloads()
    assert len(frames) > 5_000
    assert all(left["u"] < right["u"] for left, right in itertools.pairwise(frames))
