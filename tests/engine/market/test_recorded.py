"""Frames as the exchange sent them, through the decoder; the standard library's json is the oracle."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from engine.market.wire import Decoder
from tests.engine.market.test_wire import Recorder

ALTS = ["SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT"]


def recorded(path: Path) -> list[tuple[int, bytes]]:
    """Return (receive ns, frame) of a recording."""
    with gzip.open(path) as lines:
        return [(int(stamp), frame.strip()) for stamp, frame in (line.split(b" ", 1) for line in lines)]


def alts(folder: Path) -> list[bytes]:
    with open(folder / "frames" / "alts_20210722.jsonl.zst", "rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read()
    rows = [json.loads(line) for line in text.splitlines()]
    return [row["data"].encode() for row in rows if row["t"] == "recv"]


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "count"), [("btcusdt", 66_089), ("ethusdt", 53_992)])
def test_every_recorded_book_frame_arrives_exactly(shared_data: Path, name: str, count: int) -> None:
    frames = recorded(shared_data / "frames" / f"{name}_20240808.gz")
    sink = Recorder()
    decoder = Decoder([name.upper()], sink)
    for stamp, frame in frames:
        decoder.feed(frame, stamp)
    expected = []
    for stamp, frame in frames:
        data = json.loads(frame).get("data", {})
        if data.get("e") == "bookTicker":
            prices = (float(data["b"]), float(data["B"]), float(data["a"]), float(data["A"]))
            expected.append((0, *prices, data["u"], data["E"], stamp))
    assert len(expected) == count and sink.books == expected
    counts = decoder.counts()
    assert (
        set(counts["faults"]) == {"unknown_event", "shape"} and counts["faults"]["shape"] == 1
    )  # depth, trade; a snapshot
    assert decoder.book[0].item()[:7] == (*expected[-1][1:5], expected[-1][5], expected[-1][6], expected[-1][7])


@pytest.mark.shared_data
def test_a_second_recorder_some_milliseconds_behind_adds_nothing(shared_data: Path) -> None:
    frames = [
        item for item in recorded(shared_data / "frames" / "btcusdt_20240808.gz")[:40_000] if b"bookTicker" in item[1]
    ]
    sink = Recorder()
    decoder = Decoder(["BTCUSDT"], sink)
    fast, slow = decoder.source(0), decoder.source(1)
    late_ns = 3_000_000
    both = sorted([(at, 0, frame) for at, frame in frames] + [(at + late_ns, 1, frame) for at, frame in frames])
    for at, which, frame in both:
        decoder.feed(frame, at, (fast, slow)[which])
    assert len(sink.books) == fast.firsts == len(frames) and slow.firsts == 0
    assert not decoder.counts()["faults"] and decoder.counts()["notes"] == {"duplicate": len(frames)}


@pytest.mark.shared_data
def test_recorded_closes_of_quiet_symbols(shared_data: Path) -> None:
    frames = alts(shared_data)
    sink = Recorder()
    decoder = Decoder(ALTS, sink)
    for frame in frames:
        decoder.feed(frame, 1)
    klines: list[dict[str, Any]] = [d for d in (json.loads(f)["data"] for f in frames) if d["e"] == "kline"]
    closes = [d for d in klines if d["k"]["x"]]
    assert len(closes) == len(sink.bars) == 4 and len(klines) == sum(decoder.accepted[:3]) == 67
    for event, (symbol, timeframe, bar, event_ms, _) in zip(closes, sink.bars, strict=True):
        k = event["k"]
        assert (ALTS[symbol], timeframe, event_ms) == (k["s"], 0, event["E"])
        values = tuple(bar[n] for n in ("open", "high", "low", "close", "volume", "quote_volume", "taker_volume"))
        assert values == tuple(float(k[n]) for n in "ohlcvqV")
        assert (bar["open_ms"], bar["trades"], bar["last_trade_id"]) == (k["t"], k["n"], k["L"])
    before = {d["s"]: d["k"] for d in klines if not d["k"]["x"] and d["k"]["t"] == closes[0]["k"]["t"]}
    repeated = sum(before[d["s"]]["L"] == d["k"]["L"] for d in closes)
    assert repeated == 3  # the rule "x or L > last L" is needed: 3 of 4 closes repeat the last trade id
    assert decoder.accepted[4] == 613 and set(decoder.counts()["faults"]) == {"unknown_event"}
