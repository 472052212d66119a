"""What a tuning step gained: the same path in several checkouts, in turns, in one run.

`python -m benchmarks.steps NAME=FOLDER NAME=FOLDER …` starts one process per checkout, lets them measure round by round
(so that whatever else the machine does meets all of them), and prints the minimum and median of each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import numpy as np

ROUNDS = 12
CHILD = """
import sys, tempfile, time, json, pathlib
from benchmarks.path_rig import PathRig
with tempfile.TemporaryDirectory() as folder:
    folders = [pathlib.Path(folder) / name for name in ("one", "many")]
    for path in folders:
        path.mkdir()
    one, many = PathRig(folders[0], 1, 200), PathRig(folders[1], 200, 20)
    for rig in (one, many):
        rig.quotes()
    clock = one.now_ms + 10**9
    for line in sys.stdin:
        single, warm = [], []
        for _ in range(40):
            one.larger_bars()
            frame, before = one.closing_frames()[0], one.core.counters.signals
            started = time.perf_counter_ns()
            one.decoder.feed(frame, started)
            taken = time.perf_counter_ns() - started
            if one.core.counters.signals > before:  # the frame before a larger bar's decides nothing yet
                single.append(taken)
        many.larger_bars()
        frames = many.closing_frames()
        started = time.perf_counter_ns()
        for frame in frames:
            many.decoder.feed(frame, time.monotonic_ns())
        close = (time.perf_counter_ns() - started) / len(frames)
        books = []
        for _ in range(200):
            clock += 1
            books.append((
                '{"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":%d,"s":"BTCUSDT","b":"99.99","B":"5.007",'
                '"a":"100.01","A":"2.5","T":%d,"E":%d,"st":1}}' % (clock, clock, clock)).encode())
        started = time.perf_counter_ns()
        for frame in books:
            one.decoder.feed(frame, started)
        book = (time.perf_counter_ns() - started) / len(books)
        print(json.dumps({"kline_us": [x / 1e3 for x in single], "close_us": [close / 1e3], "book_us": [book / 1e3]}),
              flush=True)
"""


def main() -> int:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="+", metavar="NAME=FOLDER")
    given = dict(part.split("=", 1) for part in parser.parse_args().checkouts)
    children = {}
    for name, folder in given.items():
        environment = os.environ | {"PYTHONPATH": folder}
        children[name] = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    found: dict[str, dict[str, list[float]]] = {name: {} for name in given}
    for _ in range(ROUNDS):
        for name, child in children.items():
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            for what, values in json.loads(child.stdout.readline()).items():
                found[name].setdefault(what, []).extend(values)
    print("| step | " + " | ".join(f"{what} min / p50" for what in next(iter(found.values()))) + " |")
    for name, results in found.items():
        cells = [f"{min(values):.1f} / {np.median(values):.1f}" for values in results.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for child in children.values():
        child.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
