"""An engine of 600 symbols in a process of its own, fed at a live market's pace, with journal, snapshot and socket.

`python -m benchmarks.api_engine DIR [CORE]` prints `ready`; then reads lines: `reset` forgets what was measured,
`report` prints it (ns) as one JSON line. A second process sends the frames (`--feed`), stamped just before they leave,
so that what is measured begins where a frame would leave the kernel: waking up, waiting and computing are in it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import uvloop

from benchmarks.path_rig import START_MS, PathRig
from engine.link import CommandServer, Snapshot
from engine.operator import Operator
from engine.publish import Publisher
from engine.urgency import leave_core, short_slice, take_core
from kernels.records import TIMEFRAME_MS, TIMEFRAMES, Mode

SYMBOLS = 600
TICK_S = 0.005
MARKS, BOOKS = 3, 15  # frames per tick: 600 marks and 3,000 books a second
MINUTE_TICKS = 1_000  # a market minute in 5 s
CLOSES = 6  # closing frames per tick after a minute's end: all 600 within half a second
STAMP_BYTES = 9  # time sent (ns), kind of the datagram
QUOTES, CLOSING, LARGER = 0, 1, 2


class Recorder:
    """Latencies by kind of frame, ns, since the last reset."""

    def __init__(self) -> None:
        self.values: dict[str, list[int]] = {"mark_to_stops": [], "close_to_decision": []}


def feed(handle: int) -> None:
    """Send frames for ever, on time: a late tick is sent at once and the next ones are not moved."""
    out = socket.socket(fileno=handle)
    names = ["BTCUSDT", *(f"SYM{i:03d}USDT" for i in range(1, SYMBOLS))]
    began, tick, closing = time.monotonic(), 0, SYMBOLS
    while True:
        minute, part = divmod(tick, MINUTE_TICKS)
        now_ms = START_MS + minute * 60_000 + part * 60
        frames = [_mark(names[(tick * MARKS + i) % SYMBOLS], now_ms, tick) for i in range(MARKS)]
        frames += [_book(names[(tick * BOOKS + i) % SYMBOLS], now_ms, tick) for i in range(BOOKS)]
        _send(out, QUOTES, frames)
        if part == 0 and minute:
            closing = 0
            _send_larger(out, names, START_MS + minute * 60_000)
        if closing < SYMBOLS:
            end_ms = START_MS + minute * 60_000
            group = names[closing : closing + CLOSES]
            _send(out, CLOSING, [PathRig._frame(name, "1m", end_ms - 60_000, end_ms) for name in group])
            closing += CLOSES
        tick += 1
        time.sleep(max(0.0, began + tick * TICK_S - time.monotonic()))


def _send_larger(out: socket.socket, names: list[str], end_ms: int) -> None:
    for timeframe in (1, 2):
        step = TIMEFRAME_MS[timeframe]
        if end_ms % step == 0:
            for start in range(0, SYMBOLS, 50):
                group = names[start : start + 50]
                frames = [PathRig._frame(name, TIMEFRAMES[timeframe], end_ms - step, end_ms) for name in group]
                _send(out, LARGER, frames)


def _send(out: socket.socket, kind: int, frames: list[bytes]) -> None:
    out.send(time.monotonic_ns().to_bytes(8, "little") + bytes([kind]) + b"\n".join(frames))


def _mark(name: str, now_ms: int, tick: int) -> bytes:
    price = 100 + tick % 7 / 100
    return (
        f'{{"e":"markPriceUpdate","E":{now_ms},"s":"{name}","p":"{price:.2f}","r":"0.0001","T":{now_ms + 3_600_000}}}'
    ).encode()


def _book(name: str, now_ms: int, tick: int) -> bytes:
    return (
        f'{{"e":"bookTicker","u":{tick + 1},"E":{now_ms},"T":{now_ms},"s":"{name}",'
        f'"b":"99.99","B":"50","a":"100.01","A":"50"}}'
    ).encode()


async def run(folder: Path, cpu: int) -> None:
    """Build, feed, publish; ends with standard input. The market, which is no part of us, keeps off our core too."""
    rig = PathRig(folder, SYMBOLS, rounds=40)
    rig.quotes()
    operator = Operator(rig.parts, rig.names, Mode.SHADOW)
    publisher = Publisher(Snapshot(folder, SYMBOLS, SYMBOLS), rig.core, operator, rig.decoder, Mode.SHADOW, lambda: 0.0)
    server = CommandServer(folder, operator.handle)
    await server.start()
    recorder, loop = Recorder(), asyncio.get_running_loop()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    feeder = _start_feeder(theirs, cpu)
    decode, values = rig.decoder.feed, recorder.values

    def on_datagram() -> None:
        datagram = ours.recv(65_536)
        sent_ns, kind = int.from_bytes(datagram[:8], "little"), datagram[8]
        kept = values["close_to_decision"] if kind == CLOSING else values["mark_to_stops"]
        for index, frame in enumerate(datagram[STAMP_BYTES:].split(b"\n")):
            decode(frame, time.monotonic_ns())
            if kind == CLOSING or (kind == QUOTES and index < MARKS):
                kept.append(time.monotonic_ns() - sent_ns)

    loop.add_reader(ours.fileno(), on_datagram)
    ended = asyncio.Event()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(_obey, line.strip(), recorder)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True).start()
    publisher.ready()
    take_core(cpu)
    short_slice()
    gc.collect()
    gc.freeze()
    gc.disable()
    print("ready", flush=True)
    turn = 0
    while not ended.is_set():
        publisher.publish()
        if turn % 4 == 0:
            rig.core.on_account_timer(rig.core.clock.now_ms())
        if turn % 40 == 0:
            publisher.journal_latency()
        turn += 1
        await asyncio.sleep(0.25)
    feeder.kill()
    await server.stop()


def _start_feeder(theirs: socket.socket, cpu: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.api_engine", "--feed", str(theirs.fileno())]
    started = subprocess.Popen(command, pass_fds=[theirs.fileno()], preexec_fn=lambda: leave_core(cpu))
    theirs.close()
    return started


def _obey(word: str, recorder: Recorder) -> None:
    if word == "reset":
        for values in recorder.values.values():
            values.clear()
    elif word == "report":
        print(json.dumps(recorder.values), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--feed":
        feed(int(sys.argv[2]))
    else:
        uvloop.run(run(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else -1))
