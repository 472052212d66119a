"""The links against a small server: subscribing, redundancy, reconnect, roll-over, watchdog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from engine.market.link import TRANSITIONS, Connection, Event, Link, Policy, State
from engine.market.routes import plan
from engine.market.stream import Streams
from engine.market.wire import Decoder
from tests.engine.market.test_wire import T0, Recorder, book, kline, mark
from tests.fake_exchange import FakeExchange

FAST = Policy(message_gap_s=0.01, first_retry_s=0.02, longest_retry_s=0.1, connect_gap_s=0.0, watch_s=0.02)


@pytest.fixture
async def exchange() -> AsyncIterator[FakeExchange]:
    server = FakeExchange(T0)
    await server.start()
    yield server
    await server.stop()


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition belongs to the code under test
            await asyncio.sleep(0.005)


class Ran:
    """A clock of the time in which this process ran: what a busy machine holds it up is nobody's silence."""

    def __init__(self) -> None:
        self._ran_ns, self._read_ns = 0, time.monotonic_ns()

    def __call__(self) -> int:
        read_ns = time.monotonic_ns()
        self._ran_ns += min(read_ns - self._read_ns, 20_000_000)
        self._read_ns = read_ns
        return self._ran_ns


def make(exchange: FakeExchange, policy: Policy = FAST, **more: Any) -> tuple[Streams, Recorder]:
    sink = Recorder()
    return Streams(exchange.stream_url, Decoder(exchange.symbols, sink), policy=policy, random=Random(1), **more), sink


async def test_every_stream_is_subscribed_twice_on_its_route(exchange: FakeExchange) -> None:
    streams, sink = make(exchange)
    streams.start()
    await streams.wait_live(30.0)
    public = {f"{s}@bookTicker" for s in ("btcusdt", "ethusdt")}
    market = {f"{s}@{k}" for s in ("btcusdt", "ethusdt") for k in ("kline_1m", "kline_15m", "kline_1h", "markPrice@1s")}
    by_path = sorted((socket.path, socket.streams) for socket in exchange.sockets)
    assert by_path == [("/market/stream", market)] * 2 + [("/public/stream", public)] * 2
    exchange.send("btcusdt@bookTicker", book())
    exchange.send("btcusdt@markPrice@1s", mark())
    await until(lambda: sum(row["frames"] for row in streams.league()) == 8)  # 4 acknowledgements and 2 × 2 events
    shown = [(at.kind, at.state, at.frames, at.streams, at.faults, at.reconnects) for at in streams.lines()]
    assert shown == [
        ("public", "live", 2, 2, 0, 0), ("market", "live", 2, 8, 0, 0),
    ] * 2  # fmt: skip
    assert len(sink.books) == 1 and len(sink.marks) == 1
    assert sum(row["first"] for row in streams.league()) == sum(row["second"] for row in streams.league()) == 2
    await streams.stop()
    assert all(link.state is State.STOPPED for link in streams.links)


async def test_a_lost_connection_comes_back_alone_after_refusals(exchange: FakeExchange) -> None:
    streams, sink = make(exchange)
    streams.start()
    await streams.wait_live(30.0)
    exchange.refuse = 3
    before = exchange.handshakes
    lost = next(socket for socket in exchange.sockets if socket.path == "/public/stream")
    lost.transport.disconnect(graceful=False)
    await until(lambda: streams.links[0].state is not State.LIVE or streams.links[2].state is not State.LIVE)
    assert streams.live
    await streams.wait_live(30.0)
    assert exchange.handshakes == before + 4 and len(exchange.sockets) == 4
    exchange.send("btcusdt@bookTicker", book())
    await until(lambda: sink.books)
    await streams.stop()


async def test_a_planned_roll_over_overlaps(exchange: FakeExchange) -> None:
    streams, sink = make(exchange, replicas=1)
    streams.start()
    await streams.wait_live(30.0)
    link = next(link for link in streams.links if "/market/" in link.url)
    link.roll()
    await until(lambda: len(exchange.sockets) == 3)
    old, new = (socket for socket in exchange.sockets if socket.path == "/market/stream")
    await until(lambda: new.streams == old.streams)
    assert old in exchange.sockets
    exchange.send("btcusdt@markPrice@1s", mark())
    await until(lambda: old not in exchange.sockets)
    exchange.send("btcusdt@markPrice@1s", mark(T0 + 1_000))
    await until(lambda: len(sink.marks) == 2)
    assert link.rolls == 1 and link.reconnects == 0 and link.state is State.LIVE
    await streams.stop()


async def test_a_connection_is_replaced_before_its_lifetime_ends_without_a_gap(exchange: FakeExchange) -> None:
    streams, sink = make(exchange, Policy(**{**FAST.__dict__, "lifetime_s": 0.4}), replicas=1)
    streams.start()
    await streams.wait_live(30.0)
    step = 0
    link = next(link for link in streams.links if "/market/" in link.url)
    async with asyncio.timeout(30):
        while link.rolls < 3:
            step += 1
            assert exchange.send("btcusdt@markPrice@1s", mark(T0 + step * 1_000)) >= 1  # somebody always listens
            await asyncio.sleep(0.01)
    await until(lambda: sink.marks and sink.marks[-1][4] == T0 + step * 1_000)
    assert len(sink.marks) >= step - link.rolls  # where the two overlap, the newer frame may be read first
    assert link.reconnects == 0 and not link.impossible
    await streams.stop()


async def test_control_messages_are_paced_and_hold_at_most_200_names(
    exchange: FakeExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent_s: dict[Connection, list[float]] = {}
    send = Connection._send_next

    def timed(connection: Connection) -> None:
        if connection._queue:  # timed where it leaves: the first may be a busy machine's time on its way
            sent_s.setdefault(connection, []).append(asyncio.get_running_loop().time())
        send(connection)

    monkeypatch.setattr(Connection, "_send_next", timed)
    exchange.symbols = tuple(f"S{number}USDT" for number in range(150))
    streams, _ = make(exchange, Policy(**{**FAST.__dict__, "message_gap_s": 0.08}), replicas=1)
    streams.start()
    await streams.wait_live(30.0)
    market = next(socket for socket in exchange.sockets if socket.path == "/market/stream")
    assert [len(request["params"]) for request in market.requests] == [200, 200, 200]
    assert len(market.streams) == 600
    assert sorted(map(len, sent_s.values())) == [1, 3]
    assert all(b - a >= 0.08 - 1e-6 for times in sent_s.values() for a, b in pairwise(times))
    assert 1 / Policy().message_gap_s <= 5.0  # of the 10 a second that the exchange allows, pings included
    await streams.stop()


async def test_a_quiet_candle_stream_is_never_judged_alone(exchange: FakeExchange) -> None:
    policy = Policy(**{**FAST.__dict__, "quiet_s": (0.1, 9.0, 9.0, 9.0, 9.0)})
    streams, sink = make(exchange, policy)
    streams.start()
    await streams.wait_live(30.0)
    one, other = (socket for socket in exchange.sockets if socket.path == "/market/stream")
    quiet = len(one.requests) + len(other.requests)
    judged = asyncio.get_running_loop().time() + 0.5
    await until(lambda: asyncio.get_running_loop().time() > judged)
    assert len(one.requests) + len(other.requests) == quiet and streams.resubscribed == 0
    exchange.send("btcusdt@kline_1m", kline(T0), [other])  # now one of the two lags behind the other
    await until(lambda: len(one.requests) > 1)
    assert {request["method"] for request in one.requests[1:]} <= {"UNSUBSCRIBE", "SUBSCRIBE"}
    assert one.requests[1]["params"] == ["btcusdt@kline_1m"] and streams.resubscribed >= 1
    assert len(sink.bars) == 1
    await streams.stop()


async def test_a_silent_stream_is_asked_for_again_and_then_gets_a_fresh_connection(exchange: FakeExchange) -> None:
    policy = Policy(**{**FAST.__dict__, "quiet_s": (9.0, 9.0, 9.0, 0.15, 9.0), "overlap_s": 0.1})
    streams, _ = make(exchange, policy, clock_ns=Ran())
    streams.start()
    await streams.wait_live(30.0)
    deaf = next(socket for socket in exchange.sockets if socket.path == "/market/stream")
    deaf.deaf.add("ethusdt@markPrice@1s")

    async def tick() -> None:
        step = 0
        while True:
            step += 1
            for symbol in ("BTCUSDT", "ETHUSDT"):
                exchange.send(f"{symbol.lower()}@markPrice@1s", mark(T0 + step * 1_000, s=symbol))
            await asyncio.sleep(0.02)

    ticking = asyncio.create_task(tick())
    await until(lambda: any(r["method"] == "UNSUBSCRIBE" for r in deaf.requests))
    assert deaf.requests[-1]["params"] == ["ethusdt@markPrice@1s"]
    await until(lambda: deaf not in exchange.sockets)
    assert streams.moved == 1 and streams.resubscribed >= 1
    assert all("btcusdt@markPrice@1s" not in str(r) for r in deaf.requests[1:])
    ticking.cancel()
    await streams.stop()
    assert not streams.links[0].impossible


async def test_a_connection_that_says_nothing_is_dropped(exchange: FakeExchange) -> None:
    streams, _ = make(exchange, Policy(**{**FAST.__dict__, "dead_s": 0.2}), replicas=1)
    streams.start()
    await streams.wait_live(30.0)
    first = next(socket for socket in exchange.sockets if socket.path == "/market/stream")
    await until(lambda: first not in exchange.sockets)
    await until(lambda: any(socket.path == "/market/stream" for socket in exchange.sockets))
    await streams.stop()


def test_600_symbols_fit_the_limits_of_a_connection() -> None:
    sets = plan([f"S{n}USDT" for n in range(600)])
    assert all(len(some.streams) <= 1_024 for some in sets)
    every = sorted(stream for some in sets for stream in some.streams)
    assert every == list(range(3_000)) and [some.route for some in sets] == ["public", "market", "market", "market"]


def test_back_off_doubles_is_capped_and_jittered() -> None:
    link = Link(0, "", (), str, None, Policy(), None, Random(3))  # type: ignore[arg-type]
    waits = [[link.back_off_s(failures) for _ in range(200)] for failures in (1, 2, 3, 30)]
    for rows, top in zip(waits, (0.25, 0.5, 1.0, 30.0), strict=True):
        assert top / 2 <= min(rows) < 0.6 * top and 0.9 * top < max(rows) <= top


def test_the_table_lets_every_state_stop_and_none_go_live_unsubscribed() -> None:
    assert all(TRANSITIONS[(state, Event.STOP)] is State.STOPPED for state in State)
    into_live = {pair for pair, state in TRANSITIONS.items() if state is State.LIVE}
    assert into_live == {
        (State.SUBSCRIBING, Event.ACKNOWLEDGED),
        (State.LIVE, Event.ACKNOWLEDGED),
        (State.ROLLING, Event.ROLLED),
    }
