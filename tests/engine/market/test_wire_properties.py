"""Properties of the decoder: any interleaving of redundant connections gives each fact once; no bytes can hurt it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.market.wire import Decoder
from tests.conftest import long_run
from tests.engine.market.test_wire import MINUTE, T0, Recorder, book, kline, mark

MINUTES = 5
SYMBOLS = ["BTCUSDT", "ETHUSDT"]


def market() -> list[tuple[str, dict[str, Any]]]:
    """Five minutes as the exchange sent them: (identity, event) in order of sending on any one connection."""
    events: list[tuple[int, str, dict[str, Any]]] = []
    for minute in range(MINUTES):
        start = T0 + minute * MINUTE
        for part in range(4):
            trade = minute * 10 + part
            at = start + 2_500 + part * 14_000
            events.append((at, f"open {minute} {part}", kline(start, False, at, L=trade)))
            events.append((at + 1, f"book {trade}", book(100 + trade, at + 1)))
            events.append((at + 2, f"mark {trade}", mark(at + 2)))
        late = (150, 2_004, 792, 2_005, 204)[minute]
        events.append(
            (start + MINUTE + late, f"close {minute}", kline(start, True, start + MINUTE + late, L=minute * 10 + 3))
        )
    return [(name, event) for _, name, event in sorted(events, key=lambda item: item[0])]


MARKET = market()


@st.composite
def deliveries(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Interleave three connections: each drops some frames and keeps the order of the others."""
    kept = [[i for i in range(len(MARKET)) if draw(st.integers(0, 3))] for _ in range(3)]
    order: list[tuple[int, int]] = []
    where = [0, 0, 0]
    while any(where[c] < len(kept[c]) for c in range(3)):
        connection = draw(st.integers(0, 2))
        for _ in range(draw(st.integers(1, 12))):
            if where[connection] < len(kept[connection]):
                order.append((connection, kept[connection][where[connection]]))
                where[connection] += 1
    return order


@settings(max_examples=long_run(150, 5_000), deadline=None)
@given(deliveries())
def test_any_interleaving_of_connections_gives_each_fact_once(order: list[tuple[int, int]]) -> None:
    sink = Recorder()
    decoder = Decoder(SYMBOLS, sink)
    sources = [decoder.source(index) for index in range(3)]
    for at, (connection, number) in enumerate(order):
        decoder.feed(orjson.dumps(MARKET[number][1]), at + 1, sources[connection])
    delivered = {MARKET[number][0] for _, number in order}
    closed = [int(bar["open_ms"] - T0) // MINUTE for _, _, bar, _, _ in sink.bars]
    wanted = {int(name.split()[1]) for name in delivered if name.startswith("close")}
    first = closed[0] if closed else 0
    assert len(closed) == len(set(closed)) and set(closed) <= wanted
    assert {minute for minute in wanted if minute >= first} == set(closed)  # before the first bar nothing is missed
    for seen, name in ((sink.marks, "mark"), (sink.books, "book")):
        times = [event[4] if name == "mark" else event[5] for event in seen]
        assert all(a < b for a, b in pairwise(times))
        newest = max((int(x.split()[1]) for x in delivered if x.startswith(name)), default=None)
        assert (newest is None) == (not times)
        if newest is not None and name == "book":
            assert times[-1] == 100 + newest
    assert not decoder.counts()["faults"] and not sink.revisions
    assert sum(s.firsts for s in sources) == sum(decoder.accepted)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from(["", "NaN", "-1", "0", "1e400", "true", "1,2", "[1]", "83896.40", "9" * 400, "\x00", "𝟙"]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A real frame with some leaves replaced or removed, sometimes wrapped, sometimes cut or with a byte changed."""
    event = draw(st.sampled_from([kline(), kline(closed=False), mark(), book()]))
    event = orjson.loads(orjson.dumps(event))
    for _ in range(draw(st.integers(0, 3))):
        target = event["k"] if isinstance(event.get("k"), dict) and draw(st.booleans()) else event
        if not target:
            continue
        key = draw(st.sampled_from(sorted(target)))
        if draw(st.booleans()):
            target[key] = draw(LEAVES)
        else:
            del target[key]
    wrapped = draw(st.sampled_from([event, {"stream": "x", "data": event}, [event, 1], {"data": [event, None]}]))
    payload = bytearray(_dumps(wrapped))
    for _ in range(draw(st.integers(0, 2))):
        payload[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.integers(0, len(payload)))] if draw(st.integers(0, 4)) == 0 else payload)


def _dumps(value: Any) -> bytes:
    import json

    return json.dumps(value).encode("utf-8", "surrogatepass")


class Judge(Recorder):
    """A sink that accepts only what a market can say."""

    def on_bar(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        assert 0 < bar["low"] <= min(bar["open"], bar["close"]) <= max(bar["open"], bar["close"]) <= bar["high"] < 1e9
        assert 0 <= bar["volume"] < 1e15 and bar["trades"] >= 0 and bar["open_ms"] % MINUTE == 0
        assert type(event_ms) is int and event_ms > bar["open_ms"]
        super().on_bar(symbol, timeframe, bar, event_ms, recv_ns)

    def on_mark(self, symbol: int, price: Any, rate: Any, next_ms: Any, event_ms: Any, recv_ns: int) -> None:
        assert type(price) is float and 0 < price < 1e9 and (math.isnan(rate) or -1 < rate < 1)
        assert type(next_ms) is int and type(event_ms) is int and 10**12 < event_ms < 10**13

    def on_book(self, symbol: int, bid: Any, bid_qty: Any, ask: Any, ask_qty: Any, *rest: Any) -> None:
        assert 0 < bid < ask < 1e9 and 0 <= bid_qty < 1e15 and 0 <= ask_qty < 1e15
        assert all(type(value) is int for value in rest)


@settings(max_examples=long_run(1_500, 100_000), deadline=None)
@given(st.lists(st.one_of(mutants(), st.binary(max_size=64)), max_size=6))
def test_no_frame_raises_and_only_sane_values_pass(frames: list[bytes]) -> None:
    decoder = Decoder(SYMBOLS, Judge())
    decoder.feed(orjson.dumps(mark(T0 - 1_000)), 1)
    items = 1
    for number, frame in enumerate(frames):
        decoder.feed(frame, number)
        items += _items(frame)
    twice = decoder.notes[2] + decoder.notes[4]  # a reset and a late close are accepted as well as noted
    assert sum(decoder.accepted) + sum(decoder.faults) + sum(decoder.notes) - twice == items
    decoder.feed(orjson.dumps(mark(T0 + 3_000)), 9)
    assert decoder.accepted[3] >= 1


def _items(frame: bytes) -> int:
    """How many events a frame holds for the counters: a list counts each."""
    try:
        message = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return 1
    data = message.get("data", message) if isinstance(message, dict) else message
    return len(data) if isinstance(data, list) else 1


@settings(max_examples=long_run(100, 3_000), deadline=None)
@given(st.lists(mutants(), max_size=30))
def test_garbage_never_stops_good_frames_for_long(frames: list[bytes]) -> None:
    decoder = Decoder(SYMBOLS, Judge(), T0)
    for number, frame in enumerate(frames):
        decoder.feed(frame, number)
    later = T0 + 600_000
    for step in range(4):
        decoder.feed(orjson.dumps(mark(later + step * 1_000)), 1)
        decoder.feed(orjson.dumps(book(10**9 + step, later + step * 1_000)), 1)
    assert decoder.memory.mark_ms[0] == later + 3_000
    assert decoder.book[0]["event_ms"] == later + 3_000
