"""Frames from a socket to the ring on one core: picows as the engine uses it, beside websockets and aiohttp.

The bound is on CPU time of the receiving process, so that a busy machine cannot fail it; wall time is printed too.
Every client decodes with the engine's own decoder: what differs is the way from the socket to it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest
import uvloop
import websockets
from picows import WSFrame, WSListener, WSTransport, ws_connect

from benchmarks.blaster import book_frames, kline_frames
from engine.market.wire import Decoder

COUNT = {"book": 100_000, "kline": 60_000}
TARGET = {"book": 450_000, "kline": 150_000}  # frames a second of CPU


class Sink:
    """Takes the events and does nothing, so that what is measured ends in the ring."""

    on_book = None

    def __init__(self) -> None:
        self.bars = 0

    def on_kline_open(self, symbol: int, timeframe: int) -> None:
        pass

    def on_bar(self, *event: Any) -> None:
        self.bars += 1


def fresh() -> Decoder:
    return Decoder(["BTCUSDT"], Sink())  # type: ignore[arg-type]


async def with_picows(url: str, decoder: Decoder) -> None:
    source, feed, clock_ns = decoder.source(0), decoder.feed, time.monotonic_ns
    done = asyncio.get_running_loop().create_future()
    source.on_reply = lambda data: done.set_result(None)

    class Listener(WSListener):  # type: ignore[misc]
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            feed(frame.get_payload_as_bytes(), clock_ns(), source)

    transport, _ = await ws_connect(Listener, url)
    await done
    transport.disconnect(graceful=False)


async def with_websockets(url: str, decoder: Decoder) -> None:
    source, feed, clock_ns = decoder.source(0), decoder.feed, time.monotonic_ns
    finished = asyncio.Event()
    source.on_reply = lambda data: finished.set()
    async with websockets.connect(url, compression=None, max_queue=None) as socket:
        while not finished.is_set():
            feed(await socket.recv(decode=False), clock_ns(), source)
        socket.transport.abort()


async def with_aiohttp(url: str, decoder: Decoder) -> None:
    source, feed, clock_ns = decoder.source(0), decoder.feed, time.monotonic_ns
    finished = asyncio.Event()
    source.on_reply = lambda data: finished.set()
    at_once = aiohttp.ClientWSTimeout(ws_close=0.01)  # type: ignore[call-arg]
    async with aiohttp.ClientSession() as session, session.ws_connect(url, timeout=at_once) as socket:
        while not finished.is_set():
            message = await socket.receive()
            feed(message.data.encode(), clock_ns(), source)


CLIENTS: dict[str, Callable[[str, Decoder], Awaitable[None]]] = {
    "picows": with_picows,
    "websockets": with_websockets,
    "aiohttp": with_aiohttp,
}


@pytest.fixture(params=["book", "kline"])
def blaster(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    kind = request.param
    command = [sys.executable, "-m", "benchmarks.blaster", kind, str(COUNT[kind])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        yield kind, f"ws://127.0.0.1:{process.stdout.readline().strip()}/market/stream"
        process.stdin.close()


@pytest.mark.parametrize("client", list(CLIENTS))
def test_socket_to_ring(benchmark: Any, blaster: tuple[str, str], client: str) -> None:
    kind, url = blaster
    cpu_s: list[float] = []

    def once() -> None:
        decoder = fresh()
        started = time.process_time()
        uvloop.run(CLIENTS[client](url, decoder))
        cpu_s.append(time.process_time() - started)
        assert sum(decoder.accepted) == COUNT[kind] and not decoder.counts()["faults"]

    benchmark.pedantic(once, rounds=4, warmup_rounds=1)
    rate = COUNT[kind] / min(cpu_s)
    benchmark.extra_info["frames_per_cpu_second"] = round(rate)
    print(f"\n{client} {kind}: {rate:,.0f} frames per second of CPU")
    if client == "picows":
        assert rate >= TARGET[kind]


@pytest.mark.parametrize("kind", ["book", "kline"])
def test_decoder_alone(benchmark: Any, kind: str) -> None:
    frames = (book_frames if kind == "book" else kline_frames)(20_000)

    def once(decoder: Decoder) -> None:
        feed, source = decoder.feed, decoder.source(0)
        for frame in frames:
            feed(frame, 1, source)

    benchmark.pedantic(once, setup=lambda: ((fresh(),), {}), rounds=20, warmup_rounds=1)
    benchmark.extra_info["ns_per_frame"] = round(benchmark.stats["min"] / len(frames) * 1e9)
