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

import numba
import numpy as np
import orjson

from benchmarks.path_rig import PathRig
from kernels.records import Kind

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


def paths(rig: PathRig, many_rig: PathRig) -> dict[str, Callable[[], float]]:
    """Return for each budget a function that gives the ns of one call, its preparation not counted."""
    core, journal = rig.core, rig.parts.journal
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

    def many(action: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter_ns()
            for _ in range(CALLS):
                action()
            return (time.perf_counter_ns() - started) / CALLS

        return run

    def decide_and_size() -> None:
        core._decide_on(core.table, 0, rig.now_ms, 0, 0, 100.0, 0.3, 0.0, 1e4, 1e4, 1e4, 0.0, 0.0, 0.0)

    return {
        "kline_frame_to_decision": kline,
        "mark_frame": mark,
        "book_frame": book,
        "minute_close_per_symbol": closes,
        "histogram_add": many(lambda: core.latencies.add(0, 12_345)),
        "journal_append": many(lambda: journal.write(Kind.MARK, 1, 2, 3, 1.0, 0.0, 0, 0, 6)),
        "decide_and_size": many(decide_and_size),
    }


def measure(folder: Path) -> dict[str, float]:
    """Return each path's ratio to the calibration."""
    rigs = []
    for name, symbols in (("one", 1), ("many", 50)):
        (folder / name).mkdir()
        rigs.append(PathRig(folder / name, symbols, rounds=100))
        rigs[-1].quotes()
    calibration, found = Calibration(), paths(*rigs)
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
