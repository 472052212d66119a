"""A kline or bookTicker frame from bytes to doubles in memory: the engine's decoder beside json, orjson and msgspec.

The peers only parse, convert and store. The engine's decoder also checks names, ranges, jumps, order, duplicates, and
hands the event on. Every contender must have stored the same doubles; rounds are interleaved.
"""

from __future__ import annotations

import json
import platform
import struct
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from benchmarks.blaster import book_frames, kline_frames
from engine.market.wire import Decoder

FRAMES, ROUNDS = 4_000, 40
Store = Callable[[bytes], None]


class BookData(msgspec.Struct):
    """A bookTicker frame; with strict=False msgspec reads the quoted numbers as floats itself."""

    u: int
    E: int
    b: float
    B: float
    a: float
    A: float


class Book(msgspec.Struct):
    data: BookData


class Kline(msgspec.Struct):
    t: int
    x: bool
    L: int
    n: int
    o: float
    h: float
    l: float  # noqa: E741
    c: float
    v: float
    q: float
    V: float


class KlineData(msgspec.Struct):
    E: int
    k: Kline


class KlineFrame(msgspec.Struct):
    data: KlineData


class Sink:
    """Takes the events and does nothing."""

    on_book = None

    def on_kline_open(self, symbol: int, timeframe: int) -> None:
        pass

    def on_bar(self, *event: Any) -> None:
        pass


def generic(loads: Callable[[bytes], Any], kind: str, memory: bytearray) -> Store:
    """Return parse → float() → pack with a decoder that gives dictionaries."""
    pack = struct.Struct("<7d" if kind == "kline" else "<4d").pack_into

    def kline(frame: bytes) -> None:
        k = loads(frame)["data"]["k"]
        pack(
            memory, 0, float(k["o"]), float(k["h"]), float(k["l"]), float(k["c"]), float(k["v"]), float(k["q"]),
            float(k["V"]),
        )  # fmt: skip

    def book(frame: bytes) -> None:
        data = loads(frame)["data"]
        pack(memory, 0, float(data["b"]), float(data["B"]), float(data["a"]), float(data["A"]))

    return kline if kind == "kline" else book


def typed(kind: str, memory: bytearray) -> Store:
    """Return msgspec's fastest way: a struct per frame, numbers converted while it parses."""
    pack = struct.Struct("<7d" if kind == "kline" else "<4d").pack_into
    decode = msgspec.json.Decoder(KlineFrame if kind == "kline" else Book, strict=False).decode

    def kline(frame: bytes) -> None:
        k = decode(frame).data.k
        pack(memory, 0, k.o, k.h, k.l, k.c, k.v, k.q, k.V)

    def book(frame: bytes) -> None:
        data = decode(frame).data
        pack(memory, 0, data.b, data.B, data.a, data.A)

    return kline if kind == "kline" else book


def engine_values(decoder: Decoder, kind: str) -> list[float]:
    if kind == "book":
        row = decoder.book[0]
        return [float(row[name]) for name in ("bid", "bid_qty", "ask", "ask_qty")]
    row = decoder._open_views[0]
    return [float(row[x]) for x in ("open", "high", "low", "close", "volume", "quote_volume", "taker_volume")]


@pytest.mark.parametrize("kind", ["book", "kline"])
def test_decoding_against_json_and_msgspec(benchmark, kind: str) -> None:
    benchmark.group = "decode"
    frames = (book_frames if kind == "book" else kline_frames)(FRAMES)
    memory = bytearray(56 if kind == "kline" else 32)
    peers = {
        f"json of Python {platform.python_version()} + float()": generic(json.loads, kind, memory),
        f"orjson {orjson.__version__} + float()": generic(orjson.loads, kind, memory),
        f"msgspec {msgspec.__version__} struct": typed(kind, memory),
    }
    decoder = Decoder(["BTCUSDT"], Sink())  # type: ignore[arg-type]
    for frame in frames:
        decoder.feed(frame, 1)
        for name, store in peers.items():
            store(frame)
            assert np.frombuffer(memory).tolist() == engine_values(decoder, kind), name
    times: dict[str, list[int]] = {name: [] for name in peers}

    def peers_round() -> tuple[tuple[Decoder], dict[str, Any]]:
        for name, store in peers.items():
            started = time.perf_counter_ns()
            for frame in frames:
                store(frame)
            times[name].append(time.perf_counter_ns() - started)
        return (Decoder(["BTCUSDT"], Sink()),), {}  # type: ignore[arg-type]

    def ours(fresh: Decoder) -> None:
        feed, source = fresh.feed, fresh.source(0)
        for frame in frames:
            feed(frame, 1, source)

    benchmark.pedantic(ours, setup=peers_round, rounds=ROUNDS)
    mine = benchmark.stats.stats.min / FRAMES * 1e9
    benchmark.extra_info |= {"ns_per_frame": round(mine)}
    benchmark.extra_info |= {f"{name}, ns_per_frame": round(min(taken) / FRAMES) for name, taken in times.items()}
    print(benchmark.extra_info)
