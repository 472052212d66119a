"""`make bench-check`: fail when a path has become slower than its budget, against a calibration in the same run.

Absolute times say little on a shared machine, so each path is timed in turn with a fixed workload (an orjson decode, a
memory sweep, a compiled loop), round by round, and the ratio of their minima is held against `budget.toml`.
"""

from __future__ import annotations

import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import orjson

from benchmarks.path_rig import PathRig
from engine.exchange.requests import exit_order
from engine.exchange.signing import HmacSigner, signed_params
from engine.market.wire import Decoder
from kernels import features, stops
from kernels.compile import entry_point
from kernels.records import FEATURES_PER_TIMEFRAME, TIMEFRAMES, Kind
from kernels.stops import POSITION

ROUNDS = 1_000  # a second or two: enough that each path meets some quiet moment of a loaded machine
CALLS = 50
FRAME = b'{"e":"bookTicker","u":400900217,"E":1568014460893,"s":"BNBUSDT","b":"25.35190000","a":"25.36520000"}'


@numba.njit
def _loop(values):  # type: ignore[no-untyped-def]
    total = 0.0
    for value in values:
        total = total * 0.5 + value
    return total


class Calibration:
    """The fixed workload: what a path costs is said in multiples of it."""

    def __init__(self) -> None:
        self._memory = np.arange(4_096, dtype=np.float64)
        _loop(self._memory)

    def __call__(self) -> None:
        orjson.loads(FRAME)
        self._memory.sum()
        _loop(self._memory[:256])


class _Nothing:
    """Takes the closed bars of a decoder that is timed alone."""

    def on_bar(self, symbol: int, timeframe: int, bar: Any, event_ms: int, recv_ns: int) -> None:
        """Do nothing."""


def many(action: Callable[[], object]) -> Callable[[], float]:
    """Return what gives the ns of one call of `action`, over `CALLS` of them."""

    def run() -> float:
        started = time.perf_counter_ns()
        for _ in range(CALLS):
            action()
        return (time.perf_counter_ns() - started) / CALLS

    return run


def stages(rig: PathRig) -> dict[str, Callable[[], float]]:
    """Return the parts of the paths that are timed alone, as `paths` does."""
    core, journal, panel = rig.core, rig.parts.journal, rig.sink.panel
    decoder = Decoder(["BTCUSDT"], _Nothing(), rig.now_ms)  # type: ignore[arg-type]
    clock = {"ms": rig.now_ms}

    def closed_kline() -> float:
        frames = []
        for _ in range(CALLS):
            clock["ms"] += 60_000
            frames.append(rig._frame("BTCUSDT", "1m", clock["ms"] - 60_000, clock["ms"]))
        started = time.perf_counter_ns()
        for frame in frames:
            decoder.feed(frame, started)
        return (time.perf_counter_ns() - started) / CALLS

    rows = [np.zeros((1, FEATURES_PER_TIMEFRAME)) for _ in TIMEFRAMES]
    (oi, funding), counts, out = panel.samples[0].series, panel.samples[0].counts, panel.vectors.copy()
    complete, decision_ms = entry_point(features.complete), rig.now_ms
    positions, marks = np.zeros(100, POSITION), np.full(100, 100.0)
    positions["symbol"], positions["side"], positions["qty"], positions["entry_price"] = np.arange(100), 1, 1.0, 100.0
    positions["tp_price"], positions["sl_price"], positions["deadline_ms"] = 200.0, 50.0, 1 << 60
    slots, reasons, check_all = np.zeros(100, np.int64), np.zeros(100, np.int64), entry_point(stops.check_all)
    signer, params = HmacSigner("s" * 64), exit_order("BTCUSDT", -1, "0.100", "main-1-2-x", True).params

    def order_bytes() -> bytes:
        stated = params | {"recvWindow": 2_000, "apiKey": "k" * 64, "timestamp": decision_ms}
        return orjson.dumps({"id": 1, "method": "order.place", "params": signed_params(stated, signer)})

    return {
        "closed_kline_decode": closed_kline,
        "complete_vector": many(lambda: complete(*rows, 0, decision_ms, oi, counts[0], funding, counts[1], out)),
        "decide_and_size": many(rig.decision()),
        "stops_over_100": many(lambda: check_all(positions, 100, marks, 1, slots, reasons)),
        "order_bytes_signed": many(order_bytes),
        "journal_append": many(lambda: journal.write(Kind.MARK, 1, 2, 3, 1.0, 0.0, 0, 0, 6)),
        "histogram_add": many(lambda: core.latencies.add(0, 12_345)),
    }


def paths(rig: PathRig, many_rig: PathRig) -> dict[str, Callable[[], float]]:
    """Return for each budget a function that gives the ns of one call, its preparation not counted."""
    times = {"ms": rig.now_ms + 10**9}

    def kline() -> float:
        frame = rig.closing_frames()[0]
        rig.larger_bars()  # those that close with it come first: its frame completes the vector
        started = time.perf_counter_ns()
        rig.decoder.feed(frame, started)
        return time.perf_counter_ns() - started

    def mark() -> float:
        times["ms"] += 1_000
        frame = (
            f'{{"e":"markPriceUpdate","E":{times["ms"]},"s":"BTCUSDT","p":"100.01","r":"0.0001",'
            f'"T":{times["ms"] + 3_600_000}}}'
        ).encode()
        started = time.perf_counter_ns()
        rig.decoder.feed(frame, started)
        return time.perf_counter_ns() - started

    def book() -> float:
        frames = []
        for _ in range(CALLS):
            times["ms"] += 1
            frames.append(
                f'{{"stream":"btcusdt@bookTicker","data":{{"e":"bookTicker","u":{times["ms"]},"s":"BTCUSDT","b":"99.99",'
                f'"B":"5.007","a":"100.01","A":"2.5","T":{times["ms"]},"E":{times["ms"]},"st":1}}}}'.encode()
            )
        started = time.perf_counter_ns()
        for frame in frames:
            rig.decoder.feed(frame, started)
        return (time.perf_counter_ns() - started) / CALLS

    def closes() -> float:
        frames = many_rig.closing_frames()
        many_rig.larger_bars()
        started = time.perf_counter_ns()
        for frame in frames:
            many_rig.decoder.feed(frame, started)
        return (time.perf_counter_ns() - started) / len(frames)

    return {
        "kline_frame_to_decision": kline,
        "mark_frame": mark,
        "book_frame": book,
        "minute_close_per_symbol": closes,
    }


def measure(folder: Path) -> dict[str, float]:
    """Return each path's ratio to the calibration."""
    rigs = []
    for name, symbols in (("one", 1), ("many", 50)):
        (folder / name).mkdir()
        rigs.append(PathRig(folder / name, symbols, rounds=100))
        rigs[-1].quotes()
    calibration, found = Calibration(), paths(*rigs) | stages(rigs[0])
    best, base = dict.fromkeys(found, float("inf")), float("inf")
    for turn in range(ROUNDS):
        for name, path in found.items():
            if name == "minute_close_per_symbol" and turn % 10:
                continue  # fifty decisions at once
            best[name] = min(best[name], path())
            started = time.perf_counter_ns()
            for _ in range(CALLS):
                calibration()
            base = min(base, (time.perf_counter_ns() - started) / CALLS)
    print(f"calibration {base:,.0f} ns")
    return {name: value / base for name, value in best.items()}


def main() -> int:
    """Measure, print, and return 1 when a budget is exceeded."""
    budgets = tomllib.loads((Path(__file__).parent / "budget.toml").read_text())["budget"]
    with tempfile.TemporaryDirectory() as folder:
        ratios = measure(Path(folder))
    over = 0
    for name, budget in budgets.items():
        verdict = "ok" if ratios[name] <= budget else "OVER BUDGET"
        over += ratios[name] > budget
        print(f"{name:<28} {ratios[name]:8.2f} of {budget:6.2f}  {verdict}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
