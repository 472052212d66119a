"""The decoder on hand-made frames: what passes, what is a copy, what is a fault."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from engine.market.wire import Decoder

T0 = 1_790_771_340_000
MINUTE = 60_000


class Recorder:
    """A sink that keeps everything (bars are copied: they are borrowed)."""

    def __init__(self) -> None:
        self.bars: list[tuple[int, int, Any, int, int]] = []
        self.revisions: list[Any] = []
        self.marks: list[tuple[Any, ...]] = []
        self.books: list[tuple[Any, ...]] = []
        self.opens: list[tuple[int, int]] = []

    def on_kline_open(self, symbol: int, timeframe: int) -> None:
        self.opens.append((symbol, timeframe))

    def on_bar(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        self.bars.append((symbol, timeframe, bar.copy(), event_ms, recv_ns))

    def on_revision(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        self.revisions.append(bar.copy())

    def on_mark(self, *event: Any) -> None:
        self.marks.append(event)

    def on_book(self, *event: Any) -> None:
        self.books.append(event)


def kline(open_ms: int = T0, closed: bool = True, event_ms: int = 0, interval: str = "1m", **k: Any) -> dict[str, Any]:
    step = {"1m": MINUTE, "15m": 15 * MINUTE, "1h": 60 * MINUTE}[interval]
    body = {"t": open_ms, "T": open_ms + step - 1, "s": "BTCUSDT", "i": interval, "f": 1, "L": 99, "o": "83896.40"}
    body |= {"c": "83860.20", "h": "83920.00", "l": "83860.10", "v": "114.602", "n": 2239, "x": closed}
    body |= {"q": "9615538.66780", "V": "48.488", "Q": "4068722.10360", "B": "0"}
    event = event_ms or (open_ms + step + 200 if closed else open_ms + 1_000)
    return {"e": "kline", "E": event, "s": "BTCUSDT", "k": body | k}


def mark(event_ms: int = T0, **more: Any) -> dict[str, Any]:
    data = {"e": "markPriceUpdate", "E": event_ms, "s": "BTCUSDT", "p": "76888.10000000", "ap": "76888.1"}
    return data | {"P": "77018.8", "i": "76935.0", "r": "0.00008900", "T": T0 + 8_000, "st": 1} | more


def book(update_id: int = 10, event_ms: int = T0, **more: Any) -> dict[str, Any]:
    data = {"e": "bookTicker", "u": update_id, "E": event_ms, "T": event_ms, "s": "BTCUSDT", "ps": "BTCUSDT"}
    return data | {"b": "61800.20", "B": "2.507", "a": "61800.30", "A": "2.510", "st": 1} | more


@pytest.fixture
def sink() -> Recorder:
    return Recorder()


@pytest.fixture
def decoder(sink: Recorder) -> Decoder:
    return Decoder(["BTCUSDT", "ETHUSDT"], sink)


def feed(decoder: Decoder, *events: Any, source: Any = None) -> None:
    for number, event in enumerate(events):
        decoder.feed(event if isinstance(event, bytes) else orjson.dumps(event), number + 1, source)


def test_a_closing_frame_becomes_a_bar(decoder: Decoder, sink: Recorder) -> None:
    feed(decoder, kline(closed=False, L=98), kline())
    ((symbol, timeframe, bar, event_ms, recv_ns),) = sink.bars
    assert (symbol, timeframe, event_ms, recv_ns) == (0, 0, T0 + 60_200, 2)
    assert bar["open_ms"] == T0 and bar["last_trade_id"] == 99 and bar["flags"] == 1
    assert [bar[n] for n in ("open", "high", "low", "close")] == [83896.40, 83920.00, 83860.10, 83860.20]
    assert [bar[n] for n in ("volume", "quote_volume", "taker_volume", "trades")] == [
        114.602,
        9615538.6678,
        48.488,
        2239,
    ]
    assert sink.opens == [(0, 0)]


@pytest.mark.parametrize("wrapped", [False, True])
def test_raw_and_combined_form_are_the_same(decoder: Decoder, sink: Recorder, wrapped: bool) -> None:
    event = book()
    feed(decoder, {"stream": "btcusdt@bookTicker", "data": event} if wrapped else event)
    assert sink.books == [(0, 61800.20, 2.507, 61800.30, 2.510, 10, T0, 1)]
    row = decoder.book[0]
    assert (row["bid"], row["ask_qty"], row["update_id"], row["recv_ns"], row["updates"]) == (61800.20, 2.510, 10, 1, 1)
    assert decoder.book[1]["updates"] == 0


def test_marks_come_single_and_as_a_list_without_the_other_contract_family(decoder: Decoder, sink: Recorder) -> None:
    other = mark(s="BTCUSD_PERP", st=2)
    feed(decoder, mark(), [mark(T0 + 1_000), other, mark(T0 + 1_000, s="ETHUSDT", r="", p="1.5e3")])
    assert [event[:2] for event in sink.marks] == [(0, 76888.1), (0, 76888.1), (1, 1500.0)]
    assert sink.marks[0][2:5] == (0.000089, T0 + 8_000, T0) and math.isnan(sink.marks[2][2])
    assert decoder.counts()["notes"] == {"coin_m": 1} and not decoder.counts()["faults"]


def test_the_second_connection_only_scores_its_lag(decoder: Decoder, sink: Recorder) -> None:
    fast, slow = decoder.source(0), decoder.source(1)
    for event in (book(), mark(), kline(closed=False), kline()):
        decoder.feed(orjson.dumps(event), 1_000, fast)
        decoder.feed(orjson.dumps(event), 4_000, slow)
    assert (len(sink.books), len(sink.marks), len(sink.bars)) == (1, 1, 1)
    assert (fast.firsts, slow.firsts, slow.lags, slow.lag_ns) == (4, 0, 4, 12_000)
    assert not decoder.counts()["faults"]


def test_a_sequence_reset_of_the_book_is_accepted_after_five_seconds(decoder: Decoder, sink: Recorder) -> None:
    feed(decoder, book(1000, T0), book(5, T0 + 5_000), book(6, T0 + 5_001), book(7, T0 + 5_002))
    assert [event[5] for event in sink.books] == [1000, 6, 7]
    assert decoder.counts()["notes"] == {"sequence_reset": 1}


def test_a_close_repeating_the_last_trade_id_still_closes(decoder: Decoder, sink: Recorder) -> None:
    feed(decoder, kline(closed=False, L=99, n=2239), kline(L=99, n=2239), kline(T0, False, T0 + 61_000, L=100))
    assert len(sink.bars) == 1 and len(sink.opens) == 1
    assert decoder.counts()["notes"] == {"closed_bar": 1}


def test_the_next_bars_frame_never_closes_and_a_late_close_is_still_taken(decoder: Decoder, sink: Recorder) -> None:
    feed(decoder, kline(closed=False), kline(T0 + MINUTE, closed=False, L=120))
    assert not sink.bars
    feed(decoder, kline(event_ms=T0 + 62_100), kline(T0 + MINUTE, L=130))
    assert [bar["open_ms"] for _, _, bar, _, _ in sink.bars] == [T0, T0 + MINUTE]
    assert decoder.counts()["notes"] == {"late_close": 1}


def test_a_missed_close_is_taken_from_the_slower_connection(decoder: Decoder, sink: Recorder) -> None:
    fast, slow = decoder.source(0), decoder.source(1)
    feed(decoder, kline(T0), kline(T0 + 2 * MINUTE), source=fast)
    feed(decoder, kline(T0), kline(T0 + MINUTE), kline(T0 + 2 * MINUTE), source=slow)
    assert [int(bar["open_ms"] - T0) // MINUTE for _, _, bar, _, _ in sink.bars] == [0, 2, 1]
    assert not decoder.counts()["faults"]


def test_a_second_different_close_is_a_revision(decoder: Decoder, sink: Recorder) -> None:
    feed(decoder, kline(), kline(), kline(v="114.702"))
    assert len(sink.bars) == 1 and len(sink.revisions) == 1
    assert sink.revisions[0]["volume"] == 114.702 and sink.revisions[0]["flags"] == 1 | 32
    assert decoder.counts()["notes"] == {"duplicate": 1, "revision": 1}


FAULTS = [
    (b"{", "not_json"),
    (b"\xff\xfe", "not_json"),
    (b"17", "shape"),
    (b"{}", "shape"),
    (b"[1]", "shape"),
    ({"e": "depthUpdate"}, "unknown_event"),
    ({"e": ["kline"]}, "unknown_event"),
    (book(s="DOGEUSDT"), "unknown_symbol"),
    ({k: v for k, v in book().items() if k != "b"}, "missing_field"),
    (book(b=None), "bad_type"),
    (book(b=61800.2), "bad_type"),
    (book(b="NaN"), "bad_type"),
    (book(b="true"), "bad_type"),
    (book(b="1,2"), "bad_type"),
    (book(b=""), "bad_type"),
    (book(b="-1"), "absurd_price"),
    (book(a="1e12"), "absurd_price"),
    (book(B="-0.5"), "absurd_qty"),
    (book(a="61800.10"), "crossed"),
    (book(u="12"), "bad_type"),
    (book(u=1.5), "bad_type"),
    (book(u=False), "bad_type"),
    (kline(L=True), "bad_type"),
    (book(E=17), "backward"),
    (book(E=10**14), "time_jump"),
    (
        b'{"e":"bookTicker","u":99999999999999999999,"E":1790771340000,"s":"BTCUSDT","b":"1","B":"1","a":"2","A":"1"}',
        "bad_type",
    ),
    (mark(p="0"), "absurd_price"),
    (mark(r="3"), "absurd_price"),
    (mark(T="soon"), "absurd_time"),
    (mark(p="Infinity"), "bad_type"),
    (kline(i="3m"), "unknown_interval"),
    (kline(s="ETHUSDT"), "shape"),
    (kline(x=1), "bad_type"),
    (kline(h="1"), "ohlc"),
    (kline(v="-1"), "absurd_qty"),
    (kline(V="115"), "absurd_qty"),
    (kline(n=-1), "bad_type"),
    (kline(n="5"), "bad_type"),
    (kline(T0 + 1), "absurd_time"),
    (kline(event_ms=T0 + 30_000), "absurd_time"),
    (kline(event_ms=T0 + 60_000, T=T0 + 60_000), "absurd_time"),
    (kline(l="0"), "absurd_price"),
]


@pytest.mark.parametrize(("frame", "fault"), FAULTS)
def test_a_bad_frame_is_dropped_and_counted_by_kind(decoder: Decoder, sink: Recorder, frame: Any, fault: str) -> None:
    feed(decoder, frame)
    assert decoder.counts()["faults"] == {fault: 1}
    assert not (sink.bars or sink.marks or sink.books or sink.opens)


def test_time_running_back_on_one_connection_is_a_fault(decoder: Decoder, sink: Recorder) -> None:
    feed(decoder, mark(T0), mark(T0 - 1_000), book(10), book(9), book(11, T0 - 1))
    assert decoder.counts()["faults"] == {"backward": 3}
    assert len(sink.marks) == len(sink.books) == 1


def test_a_price_far_off_needs_three_frames_that_agree(decoder: Decoder, sink: Recorder) -> None:
    feed(decoder, mark(T0), mark(T0 + 1_000, p="7.6"), mark(T0 + 2_000), mark(T0 + 3_000, p="7.6"))
    assert [event[1] for event in sink.marks] == [76888.1, 76888.1]
    feed(decoder, mark(T0 + 4_000, p="7.5"), mark(T0 + 4_000, p="7.5"), mark(T0 + 5_000, p="7.4"))
    assert [event[1] for event in sink.marks] == [76888.1, 76888.1, 7.4]
    assert decoder.counts()["notes"] == {"jump_confirmed": 1}


def test_a_far_future_time_cannot_block_a_stream(decoder: Decoder, sink: Recorder) -> None:
    feed(decoder, mark(T0), mark(T0 + 10**9), mark(T0 + 1_000))
    assert [event[4] for event in sink.marks] == [T0, T0 + 1_000]
    assert decoder.counts()["faults"] == {"time_jump": 1}
    later = T0 + 7_200_000
    feed(decoder, *(mark(later + step) for step in (0, 1_000, 2_000, 3_000)))
    assert [event[4] for event in sink.marks[2:]] == [later + 2_000, later + 3_000]


def test_replies_are_not_faults(decoder: Decoder) -> None:
    replies: list[Any] = []
    source = decoder.source(0)
    source.on_reply = replies.append
    feed(decoder, {"result": None, "id": 1}, {"error": {"code": 2, "msg": "no"}, "id": 2}, source=source)
    assert [reply["id"] for reply in replies] == [1, 2] and not decoder.counts()["faults"]


def test_what_the_sink_raises_is_not_swallowed(sink: Recorder, decoder: Decoder) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("a bug")

    sink.on_mark = broken  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        feed(decoder, mark())
