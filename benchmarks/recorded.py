"""Recorded runs: engine and control against the simulated exchange at 1 × and 10 ×, with and without a training job.

Each decision's time since its frame's arrival is in its stored signal: a run's percentiles come from the record.

    python -m benchmarks.recorded --speeds 1,10 --minutes 2.5 --symbols 50 --out runs.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.steady import Steady
from benchmarks.training import training_job
from store.client import connect

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)


def run(speed: float, symbols: int, minutes: float, training: bool) -> dict[str, Any]:
    """Return what one run recorded: quantiles in µs of frame → decision, and the engine's own stage histograms."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        steady = Steady(Path(folder), symbols, speed, 0)
        stack.callback(steady.supervisor.stop)
        steady.start()
        if training:
            stack.enter_context(training_job())
        steady.watch(minutes)
        load = os.getloadavg()[0]
        report = steady.finish()
        with connect("embedded", Path(folder)) as store:
            times = np.array([ns for (ns,) in store.rows("SELECT decide_ns FROM signals WHERE model_id != ''")])
    return {
        "speed": speed, "symbols": symbols, "minutes": minutes, "training": training, "load": round(load, 2),
        "decisions": len(times), "frames": report["frames"], "faults": report["faults"],
        "frame_to_decision_us": dict(zip(map(str, QUANTILES), np.quantile(times, QUANTILES) / 1e3, strict=True)),
        "stages_us": report["stages_us"],
    }  # fmt: skip


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speeds", default="1,10")
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=2.5, help="of wall time for each run")
    parser.add_argument("--training", choices=("both", "with", "without"), default="both")
    parser.add_argument("--out", type=Path, help="JSON file that gets the runs, after those it has")
    options = parser.parse_args()
    kinds = {"both": (False, True), "with": (True,), "without": (False,)}[options.training]
    runs: list[dict[str, Any]] = []
    for speed in (float(x) for x in options.speeds.split(",")):
        for training in kinds:
            runs.append(run(speed, options.symbols, options.minutes, training))
            print(json.dumps(runs[-1]), flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
