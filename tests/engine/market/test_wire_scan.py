"""The byte scanner against orjson, which is the meaning of a frame: the same events, state and counts, bit for bit."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.market.wire import Decoder
from kernels import frames
from kernels.digits import MAX_DIGITS
from tests.conftest import long_run
from tests.engine.market.test_wire import MINUTE, T0, Recorder, book, kline, mark
from tests.engine.market.test_wire_properties import MARKET, SYMBOLS

ROOT = Path(__file__).resolve().parents[3]


def outcome(payloads: list[bytes], scanning: bool) -> Any:
    """Return everything that a decoder shows after these frames, each from one of two connections."""
    sink = Recorder()
    decoder = Decoder(SYMBOLS, sink)
    sources = [decoder.source(0), decoder.source(1)]
    for number, payload in enumerate(payloads):
        # a frame in another buffer than bytes is never scanned
        decoder.feed(payload if scanning else memoryview(payload), number + 1, sources[number % 2])
    bars = [(s, t, bar.tobytes(), *rest) for s, t, bar, *rest in sink.bars]
    books = [(s, *map(float, values[:4]), *values[4:]) for s, *values in sink.books]  # "1" is parsed as an int
    return (
        bars, [r.tobytes() for r in sink.revisions], [repr(m) for m in sink.marks], [repr(b) for b in books],
        sink.opens, decoder.book.tobytes(), decoder.open_bars.tobytes(), decoder.counts(),
        [(s.frames, s.firsts, s.faults, s.lags, s.lag_ns, list(s.newest)) for s in sources],
    )  # fmt: skip


def scanned(payload: bytes) -> int:
    decoder = Decoder(SYMBOLS, Recorder())
    return int(frames.scan(payload, 1, decoder.memory.words, decoder.source(0).words))


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_exchange_s_own_frames_are_scanned(wrapped: bool) -> None:
    for event, found in ((book(), frames.BOOK), (mark(), frames.MARK), (kline(), frames.CLOSED)):
        payload = orjson.dumps({"stream": "x@y", "data": event} if wrapped else event)
        assert scanned(payload) == found
        assert scanned(payload + b" ") == scanned(payload[:-1]) == frames.REFUSED


def test_members_may_come_in_any_order_and_others_among_them() -> None:
    k = kline(closed=False, n=0, L=-1)["k"]  # a minute without a trade
    idle = kline() | {"k": {"zz": "?", **dict(reversed(k.items())), "B": 1}}
    for event, found in ((book(), frames.BOOK), (mark(r="-0.00010000"), frames.MARK), (idle, frames.OPEN)):
        turned = dict(reversed(event.items())) | {"unknown": "a longer text than any of its own", "n": None, "m": True}
        payload = orjson.dumps({"data": turned, "stream": "x@y"})
        assert scanned(payload) == found
        assert outcome([payload], scanning=True) == outcome([payload], scanning=False)


@pytest.mark.parametrize("rate", ["-0", "-0.0", "0", "0.0", ""])
def test_a_rate_of_zero_has_the_parser_s_sign(rate: str) -> None:
    payload = [orjson.dumps(mark(r=rate))]
    assert outcome(payload, scanning=True) == outcome(payload, scanning=False)


NUMBERS = st.one_of(
    st.floats(1e-9, 1e9).map(lambda x: f"{x:.8f}"),
    st.floats(0.0, 1e16).map(repr),
    st.integers(-5, 10**20).map(str),
    st.sampled_from(["0", "00.1", ".5", "5.", "-0.0", "1e5", "", "true", " 1", "1_0", "0x1", "9007199254740993", "+1"]),
    st.sampled_from(["-", "-0", "1.2.3", ".", "1" * 15 + ".1", "1" * 16 + ".1", "0." + "1" * 15, "9007199254.740993"]),
    st.text("0123456789.-", max_size=19),
)
ODD = st.one_of(
    NUMBERS, st.integers(-(2**63), 2**64 - 1), st.booleans(), st.none(), st.floats(), st.text(max_size=6),
    st.builds(dict), st.lists(st.integers(0, 9), max_size=2),
)  # fmt: skip


def shuffled(draw: st.DrawFn, event: dict[str, Any]) -> dict[str, Any]:
    """Return the members in another order, of the event and of its `k`."""
    members = {
        key: shuffled(draw, value) if key == "k" and isinstance(value, dict) else value for key, value in event.items()
    }
    return {key: members[key] for key in draw(st.permutations(list(members)))}


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """One of the market's frames, now and then with fields, text or bytes changed."""
    event: dict[str, Any] = orjson.loads(orjson.dumps(draw(st.sampled_from(MARKET))[1]))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        inner = event["k"] if isinstance(event.get("k"), dict) and draw(st.booleans()) else event
        key = draw(st.sampled_from([*inner, "st", "zz"]))
        if draw(st.booleans()) and isinstance(inner.get(key), str):
            inner[key] = draw(NUMBERS)
        else:
            inner[key] = draw(ODD)
    if draw(st.integers(0, 3)) == 0:
        event = shuffled(draw, event)
    if draw(st.booleans()):
        wrapper = {"stream": "a@b", "data": event} | draw(st.sampled_from([{}, {}, {"s": 1}, {"k": {}}, {"x": None}]))
        event = shuffled(draw, wrapper) if draw(st.booleans()) else wrapper
    spaced = draw(st.integers(0, 15)) == 0
    payload = bytearray(json.dumps(event).encode("utf-8", "surrogatepass") if spaced else orjson.dumps(event))
    if draw(st.integers(0, 7)) == 0:  # one of its members twice: the last counts
        payload[-1:] = b"," + bytes(payload[1:]) if draw(st.booleans()) else b',"E":1}'
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(payload) - 1))
        payload[at] = draw(st.integers(0, 255))
    if draw(st.integers(0, 20)) == 0:
        payload = payload[: draw(st.integers(0, len(payload)))]
    return bytes(payload)


@settings(max_examples=long_run(400, 20_000), deadline=None)
@given(st.lists(events(), min_size=1, max_size=12))
def test_scanned_and_parsed_frames_give_the_same(payloads: list[bytes]) -> None:
    assert outcome(payloads, scanning=True) == outcome(payloads, scanning=False)


def test_a_whole_market_gives_the_same_over_two_connections() -> None:
    payloads = [orjson.dumps(event) for _, event in MARKET for _ in range(2)]
    late = orjson.dumps(kline(T0, True, T0 + MINUTE + 200, c="83861.00"))
    assert outcome([*payloads, late], scanning=True) == outcome([*payloads, late], scanning=False)


EXAMPLES = {
    "book": book(),
    "book of 2024": {k: v for k, v in (book() | {"T": 0}).items() if k not in ("ps", "st")},
    "mark": mark(),
    "mark without a rate": mark(r=""),
    "kline": kline(),
    "kline in the middle": kline(closed=False, v="114"),
}


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_a_frame_with_any_byte_changed_or_cut_off_anywhere_gives_the_same(name: str) -> None:
    payload = orjson.dumps(EXAMPLES[name])
    changed = [payload[:cut] for cut in range(len(payload))]
    for byte in b'",:{}[0-.e \\' + b"\x00\x1f\x7f\xc3" if long_run(0, 1) else b'",}0-.\\\xc3':
        changed += [payload[:at] + bytes([byte]) + payload[at + 1 :] for at in range(len(payload))]
        changed += [payload[:at] + bytes([byte]) + payload[at:] for at in range(0, len(payload), long_run(5, 1))]
    changed += [payload[:at] + payload[at + 1 :] for at in range(len(payload))]
    for frame in changed:
        assert outcome([frame], scanning=True) == outcome([frame], scanning=False), frame


def test_nothing_behind_a_frame_is_read() -> None:
    """The frame ends where readable memory ends: one byte more would end the process."""
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    head = bytes.__basicsize__ - 1
    for event in EXAMPLES.values():
        whole = orjson.dumps(event)
        wrapped = b'{"stream":"btcusdt@x","data":' + whole + b"}"
        for payload in (whole, wrapped, *(whole[:cut] for cut in range(len(whole)))):
            at = start + mmap.PAGESIZE - len(payload) - head
            ctypes.memmove(at, id(payload), head + len(payload))  # a bytes object but for its last NUL
            ctypes.c_ssize_t.from_address(at).value = 1 << 20  # references: nobody frees it
            found = scanned(ctypes.cast(at, ctypes.py_object).value)
            assert found == scanned(payload) and (found != frames.REFUSED) == (payload in (whole, wrapped))


PRINT_OUTCOME = """
import hashlib, orjson
from tests.engine.market.test_wire_scan import EXAMPLES, MARKET, outcome
payloads = [orjson.dumps(event) for event in EXAMPLES.values()] + [orjson.dumps(event) for _, event in MARKET]
payloads += [b'{"stream":"x","data":' + payload + b"}" for payload in payloads]
payloads += [payload.replace(b"8", b"-", 1) for payload in payloads] + [payload[:-3] for payload in payloads]
print(hashlib.sha256(repr(outcome(payloads, scanning=True)).encode()).hexdigest())
"""


@pytest.mark.parametrize("variables", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_DISABLE_JIT": "1"}])
def test_another_cpu_s_code_and_python_itself_give_the_same(variables: dict[str, str]) -> None:
    seen = []
    for more in ({}, variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")} | more
        command = [sys.executable, "-W", "ignore", "-c", PRINT_OUTCOME]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
        assert run.returncode == 0, run.stderr[-2_000:]
        seen.append(run.stdout)
    assert seen[0] == seen[1]


def test_decimals_become_the_very_doubles_of_the_parser() -> None:
    rng = random.Random(5)
    decoder = Decoder(SYMBOLS, Recorder())
    source = decoder.source(0)
    for _ in range(long_run(20_000, 2_000_000)):
        price = f"{rng.choice((1e-3, 1.0, 1e3, 1e6)) * (rng.random() + 0.1):.{rng.randint(0, 9)}f}"
        if float(price) <= 0.0 or len(price) > MAX_DIGITS:
            continue
        decoder.memory.mark[0], decoder.memory.mark_ms[0] = 0.0, 0  # any price may follow
        assert frames.scan(orjson.dumps(mark(p=price)), 1, decoder.memory.words, source.words) == frames.MARK
        assert decoder.memory.out_doubles[0] == orjson.loads(price)
