"""Frame → decision over a real socket, waiting in epoll or busy polling, at 1 × and 10 ×, with and without a training
job beside: `python -m benchmarks.percentiles --out benchmarks/percentiles.json`.

A process of its own sends the closing frames of one symbol after another minute, evenly spaced: every 100 ms at 1 ×
(600 symbols close 600 candles a minute), every 10 ms at 10 ×. Two times are kept apart: from the sender's send to our
callback (socket, the kernel's wake-up of an idle core, event loop, frame parser), and, as the engine measures, from the
frame in the callback to the decision, the model of 8 × 200 trees included. Three ways of waiting: in epoll with the
path rehearsed five times a millisecond (`epoll`), in epoll with nothing rehearsed (`epoll_cold`), and spinning
(`busy_poll`), on a core of its own as the key `cpu` gives it: sender and job are on the others.

The engine in epoll rehearses only around a minute's end. Each frame here stands for one that ends a minute, so its
window is open all the time; a closing frame that comes after the window meets what `epoll_cold` shows.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect, ws_create_server

from benchmarks.path_rig import PathRig
from benchmarks.training import training_job
from engine.rehearsal import Rehearsal
from engine.spin import rehearse, spin
from engine.urgency import short_slice, take_core

ALL_CORES = os.sched_getaffinity(0)
GAP_MS = {"1x": 100.0, "10x": 10.0}


async def serve(gap_ms: float, path: Path) -> None:
    """Send the frames of a file to whoever connects: a line each `gap_ms`."""
    lines = path.read_text().splitlines()

    async def send(transport: WSTransport) -> None:
        sent_ns = []
        for line in lines:
            await asyncio.sleep(gap_ms / 1e3)
            for frame in line.split("\t"):
                sent_ns.append(time.monotonic_ns())
                transport.send(WSMsgType.TEXT, frame.encode())
        transport.send(WSMsgType.TEXT, orjson.dumps({"result": sent_ns, "id": 1}))

    tasks = []

    class Listener(WSListener):  # type: ignore[misc]
        def on_ws_connected(self, transport: WSTransport) -> None:
            tasks.append(asyncio.get_running_loop().create_task(send(transport)))

    server = await ws_create_server(lambda request: Listener(), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(3_600)


async def receive(rig: PathRig, port: int, wait: str) -> tuple[list[int], list[int]]:
    """Decide on every frame that comes; return the ns that each decision took, and its frame to the callback."""
    taken: list[int] = []
    came: list[tuple[int, int]] = []  # number of the frame, when it was in the callback
    done = asyncio.get_running_loop().create_future()
    source, core, decoder = rig.decoder.source(0), rig.core, rig.decoder
    source.on_reply = lambda data: done.set_result(data["result"])
    signals = core.last_signals[0:1]["decide_ns"]
    number = 0

    class Listener(WSListener):  # type: ignore[misc]
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            nonlocal number
            before, recv_ns = core.counters.signals, time.monotonic_ns()
            decoder.feed(frame.get_payload_as_bytes(), recv_ns, source)
            if core.counters.signals != before:
                taken.append(int(signals[0]))
                came.append((number, recv_ns))
            number += 1

    stop = asyncio.Event()
    ways = {"busy_poll": spin, "epoll": partial(rehearse, due=lambda: True)}
    keeping = asyncio.create_task(ways[wait](Rehearsal(rig.sink, decoder), stop)) if wait in ways else None
    transport, _ = await ws_connect(Listener, f"ws://127.0.0.1:{port}/")
    sent_ns = await done
    stop.set()
    if keeping is not None:
        await keeping
    transport.disconnect(graceful=False)
    return taken, [recv_ns - sent_ns[n] for n, recv_ns in came]


def run(rig: PathRig, wait: str, speed: str, count: int) -> tuple[list[int], list[int]]:
    """Run one case."""
    lines = []
    for _ in range(count):
        frames = [rig.closing_frames()[0].decode()]
        for interval, step_ms in (("15m", 900_000), ("1h", 3_600_000)):
            if rig.now_ms % step_ms == 0:
                frames.insert(0, rig._frame(rig.names[0], interval, rig.now_ms - step_ms, rig.now_ms).decode())
        lines.append("\t".join(frames))
    path = rig.core.config.data_dir / "frames.txt"
    path.write_text("\n".join(lines))
    command = [sys.executable, "-m", "benchmarks.percentiles", "--serve", str(GAP_MS[speed]), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        gc.collect()
        gc.freeze()
        gc.disable()
        here = os.sched_getaffinity(0)
        if wait == "busy_poll" and len(ALL_CORES) > 1:
            take_core(max(ALL_CORES))
        try:
            return uvloop.run(receive(rig, port, wait))
        finally:
            os.sched_setaffinity(0, here)
            gc.enable()
            process.kill()


@contextmanager
def own_core(wait: str) -> Iterator[None]:
    """Give whoever spins a core of its own, as the key `cpu` does; what is started meanwhile begins on the others."""
    cores = os.sched_getaffinity(0)
    if wait == "busy_poll" and len(cores) > 1:
        os.sched_setaffinity(0, cores - {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def case_of(rig: PathRig, wait: str, speed: str, seconds: float, training: bool) -> dict[str, Any]:
    """Run one case and return what is kept of it."""
    decided, came = run(rig, wait, speed, max(100, int(seconds * 1e3 / GAP_MS[speed])))
    taken, wire = np.array(decided[5:]) / 1e3, np.array(came[5:]) / 1e3
    case: dict[str, Any] = {"wait": wait, "speed": speed, "training_beside": training}
    case |= {"decisions": len(taken), "min_us": round(float(taken.min()), 1)}
    points = np.percentile(taken, (50, 90, 99, 99.9)).round(1).tolist()
    case |= dict(zip(("p50_us", "p90_us", "p99_us", "p999_us"), points, strict=True))
    case |= dict(zip(("wire_p50_us", "wire_p99_us"), np.percentile(wire, (50, 99)).round(1).tolist(), strict=True))
    print(case, flush=True)
    return case


def main() -> int:
    """Measure all cases and write them down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each case; 100 frames at least")
    parser.add_argument("--waits", nargs="+", default=["epoll", "epoll_cold", "busy_poll"])
    parser.add_argument("--training", choices=["none", "beside", "both"], default="both")
    parser.add_argument("--serve", nargs=2)
    given = parser.parse_args()
    if given.serve:
        uvloop.run(serve(float(given.serve[0]), Path(given.serve[1])))
        return 0
    short_slice()  # as the engine does
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        rig = PathRig(Path(folder), symbols=1)
        rig.quotes()
        for training in {"none": (False,), "beside": (True,), "both": (False, True)}[given.training]:
            for wait in given.waits:
                with own_core(wait), training_job() if training else nullcontext():
                    cases += [case_of(rig, wait, speed, given.seconds, training) for speed in GAP_MS]
    report = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()), "python": platform.python_version(),
        "cores": os.cpu_count(), "load_1m": os.getloadavg()[0], "cases": cases,
    }  # fmt: skip
    if given.out:
        given.out.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
