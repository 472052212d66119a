"""Each stage of the path alone, warm: decoding by kind of frame, ring, features, vector, model, decision, stops,
journal, order bytes, snapshot. Whole paths are in `test_path.py`, `test_entry.py` and `test_orders.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.path_rig import PathRig
from engine.exchange.requests import exit_order
from engine.exchange.signing import Ed25519Signer, HmacSigner, signed_params
from engine.link import Snapshot
from engine.market.rings import BarFile
from engine.model.predictor import PackedPredictor
from engine.operator import Operator
from engine.publish import Publisher
from kernels import features, stops
from kernels.compile import entry_point
from kernels.decision import DECIDED
from kernels.records import BAR, FEATURE_COUNT, TARGET_COUNT, TIMEFRAME_MS, TIMEFRAMES, Kind, Mode
from kernels.stops import POSITION

SYMBOLS, FRAMES = 600, 200


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> PathRig:
    rig = PathRig(Path(tmp_path_factory.mktemp("one")), symbols=1)
    rig.quotes()
    return rig


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> PathRig:
    return PathRig(Path(tmp_path_factory.mktemp("many")), symbols=SYMBOLS, rounds=1)


class Nothing:
    """A sink that takes everything and does nothing."""

    def on_bar(self, *event: Any) -> None:
        """A closed bar."""

    def on_mark(self, *event: Any) -> None:
        """A mark price."""


def frame_of(kind: str, number: int, now_ms: int) -> bytes:
    """Return the `number`-th frame of a kind, each newer than the one before."""
    ms = now_ms + number
    if kind == "bookTicker":
        text = (
            f'"e":"bookTicker","u":{ms},"s":"BTCUSDT","b":"99.99","B":"5.007","a":"100.01","A":"2.5","T":{ms},"E":{ms}'
        )
    elif kind == "markPrice":
        text = f'"e":"markPriceUpdate","E":{ms},"s":"BTCUSDT","p":"100.01000000","r":"0.00010000","T":{now_ms + 10**7}'
    else:
        open_ms = now_ms + (number * 60_000 if kind == "kline_closed" else 0)
        closed, event_ms = ("true", open_ms + 60_100) if kind == "kline_closed" else ("false", open_ms + number)
        text = (
            f'"e":"kline","E":{event_ms},"s":"BTCUSDT","k":{{"t":{open_ms},"T":{open_ms + 59_999},"s":"BTCUSDT",'
            f'"i":"1m","f":1,"L":{ms},"o":"100.00","c":"100.10","h":"100.20","l":"99.90","v":"114.602","n":2239,'
            f'"x":{closed},"q":"11460.2","V":"48.488","Q":"4848.8","B":"0"}}'
        )
    return b'{"stream":"x","data":{%b}}' % text.encode()


@pytest.mark.parametrize("kind", ["kline_closed", "kline_open", "markPrice", "bookTicker"])
def test_decode(benchmark, one: PathRig, kind: str) -> None:
    benchmark.group = "decode, a frame"
    decoder = type(one.decoder)(["BTCUSDT"], Nothing(), one.now_ms)  # type: ignore[arg-type]
    numbers, now_ms = count(1), one.now_ms

    def setup() -> tuple[tuple[list[bytes]], dict]:
        return ([frame_of(kind, next(numbers), now_ms) for _ in range(FRAMES)],), {}

    def run(frames: list[bytes]) -> None:
        for frame in frames:
            decoder.feed(frame, 1)

    benchmark.pedantic(run, setup=setup, rounds=50)
    assert sum(decoder.accepted) == 50 * FRAMES and not decoder.counts()["faults"]
    benchmark.extra_info["ns_per_frame"] = round(benchmark.stats.stats.min / FRAMES * 1e9)


def test_ring_store(benchmark, tmp_path: Path) -> None:
    """A closed bar into its file by Python; live, a kernel does it in the call that steps the features."""
    file, bar = BarFile.create(tmp_path / "bars", "BTCUSDT", 0, 2_048), np.zeros(1, BAR)[0]
    benchmark(file.append, bar)


@pytest.mark.parametrize("timeframe", range(len(TIMEFRAMES)), ids=TIMEFRAMES)
def test_feature_step(benchmark, one: PathRig, timeframe: int) -> None:
    """44 features of one closed bar, by the kernel's entry point."""
    benchmark.group = "features of a bar"
    panel, step, market = one.sink.panel, entry_point(features.step), np.zeros(3)
    states, rows = panel.all_states[timeframe].copy(), np.zeros((1, 44))
    bars = panel.files[timeframe][0].ordered(1)
    clock = {"ms": int(bars["open_ms"][0])}

    def run() -> int:
        clock["ms"] += TIMEFRAME_MS[timeframe]
        bars["open_ms"] = clock["ms"]
        return int(step(states, 0, bars, 0, market, True, TIMEFRAME_MS[timeframe], rows))

    assert benchmark(run) == 0


def test_vector(benchmark, one: PathRig) -> None:
    """The 132 features of a decision from three rows and the samples, and their hash."""
    panel, complete = one.sink.panel, entry_point(features.complete)
    rows = [panel.all_rows[t, 0].copy() for t in range(len(TIMEFRAMES))]
    open_interest, funding = panel.samples[0].series
    benchmark(complete, *rows, 0, one.now_ms, open_interest, 0, funding, 0, np.zeros((1, 132)))


def test_predict(benchmark, one: PathRig) -> None:
    """8 models of 200 trees on the backend that the machine has; each backend beside its peers: `test_forest.py`."""
    row, out = np.zeros(FEATURE_COUNT, np.float32), np.zeros(TARGET_COUNT)
    predictor = one.core.predictor
    assert isinstance(predictor, PackedPredictor)
    benchmark(predictor.predict_into, row, out)


def test_decide(benchmark, one: PathRig) -> None:
    """All gates, the side and the size of an order, from a vector's float32 row on."""
    assert benchmark(one.decision()) == DECIDED


@pytest.mark.parametrize("held", [1, 10, 100])
def test_stops(benchmark, held: int) -> None:
    """Every open position against its mark, stop, target and time limit."""
    benchmark.group = "stops over n positions"
    rows, marks = np.zeros(100, POSITION), np.full(100, 100.0)
    rows["symbol"], rows["side"], rows["qty"], rows["entry_price"] = np.arange(100), 1, 1.0, 100.0
    rows["tp_price"], rows["sl_price"], rows["deadline_ms"] = 200.0, 50.0, 1 << 60
    slots, reasons = np.zeros(100, np.int64), np.zeros(100, np.int64)
    assert benchmark(entry_point(stops.check_all), rows, held, marks, 1, slots, reasons) == 0


@pytest.mark.parametrize("kind", ["MARK", "SIGNAL"])
def test_journal_append(benchmark, one: PathRig, kind: str) -> None:
    """A mark price packed by Python; a signal as its kernel writes it."""
    benchmark.group = "journal append"
    core, journal = one.core, one.core.journal

    def mark() -> int:
        return journal.write(Kind.MARK, 1, 2, 3, 1.0, 0.0, 0, 0, 6)

    def signal() -> int:
        at = journal.place(Kind.SIGNAL)
        core._sign(core.table, journal.words, at, journal.seq + 1, 1, 0, 1, 2, 1, 7, 0, 0, 0, 1, 2)
        return journal.placed(Kind.SIGNAL)

    assert benchmark(mark if kind == "MARK" else signal) > 0


@pytest.mark.parametrize("kind", ["hmac", "ed25519", "logged_on"])
def test_order_bytes(benchmark, kind: str) -> None:
    """A request's bytes from its parameters; on a lane that is logged on an order bears no signature."""
    benchmark.group = "order bytes"
    signer = HmacSigner("s" * 64) if kind == "hmac" else Ed25519Signer(Ed25519PrivateKey.generate())
    params = exit_order("BTCUSDT", -1, "0.100", "main-1-2-x", True).params

    def plain() -> bytes:
        stated = params | {"recvWindow": 2_000, "timestamp": 1_800_000_000_000}
        return orjson.dumps({"id": 1, "method": "order.place", "params": stated})

    def signed() -> bytes:
        stated = params | {"recvWindow": 2_000, "apiKey": "k" * 64, "timestamp": 1_800_000_000_000}
        return orjson.dumps({"id": 1, "method": "order.place", "params": signed_params(stated, signer)})

    make: Callable[[], bytes] = plain if kind == "logged_on" else signed
    assert orjson.loads(benchmark(make))["method"] == "order.place"


def test_snapshot(benchmark, many: PathRig, tmp_path: Path) -> None:
    """What control reads of the engine, written for 600 symbols; four times a second."""
    operator = Operator(many.parts, many.names, Mode.SHADOW)
    snapshot = Snapshot(tmp_path, SYMBOLS, len(many.core.desk.positions.rows))
    publisher = Publisher(snapshot, many.core, operator, many.decoder, Mode.SHADOW, lambda: 0.0)
    begun_ns = time.monotonic_ns()
    benchmark(publisher.publish)
    assert int(snapshot.view.status[0]["heartbeat_ns"]) >= begun_ns
