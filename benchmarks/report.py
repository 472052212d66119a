"""`make bench-report`: run the benchmarks, the recorded runs and the gate; write docs/benchmarks.md and its plots.

python -m benchmarks.report                      # measure everything, about half an hour
python -m benchmarks.report test_path.py         # some files and, beside a training job, their targets; the rest stays
python -m benchmarks.report --beside             # only the benchmarks of targets, beside a training job
python -m benchmarks.report --runs runs.json     # recorded runs from a file of `benchmarks.recorded`
python -m benchmarks.report --page               # only write page and plots again, from docs/benchmarks.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import report_page, targets
from benchmarks.training import training_job

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
RAW = DOCS / "benchmarks.json"
PACKAGES = (
    "numpy", "numba", "llvmlite", "orjson", "picows", "uvloop", "lightgbm", "treelite", "tl2cgen", "onnxruntime",
    "ta-lib", "talipp", "nautilus-trader", "websockets", "aiohttp", "msgspec", "chdb", "polars",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, kernel, interpreter, package versions, date, load, commit."""
    facts = {"kernel": platform.release(), "python": platform.python_version(), "cores": os.cpu_count()}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            facts["cpu"] = line.partition(":")[2].strip()
    memory = Path("/proc/meminfo").read_text().split()[1]
    facts["memory_gib"] = round(int(memory) / 2**20)
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    facts["governor"] = governor.read_text().strip() if governor.exists() else "not shown"
    facts |= stamp() | {"load": [round(x, 1) for x in os.getloadavg()]}
    facts["packages"] = {}
    for name in PACKAGES:
        try:
            facts["packages"][name] = version(name)
        except PackageNotFoundError:
            facts["packages"][name] = "absent"
    return facts


def stamp() -> dict[str, Any]:
    """Return when and on which code a figure is taken, and the load of the last minute before; + is changed code."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=7"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"]
    changed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"commit": commit + ("+" if changed else ""), "date": date, "load": round(os.getloadavg()[0], 1)}


def file_stamp(path: Path) -> dict[str, Any]:
    """Return what is known of figures that come in a file: not of which commit they are."""
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return {"commit": "", "date": written.strftime("%Y-%m-%d %H:%M UTC"), "load": None}


def measure(chosen: list[str]) -> list[dict[str, Any]]:
    """Run benchmarks, all if none is chosen, and return name, seconds, extra figures and the time taken of each."""
    taken = stamp()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bench.json"
        names = [f"benchmarks/{name}" for name in chosen] or ["benchmarks"]
        command = [sys.executable, "-m", "pytest", *names, "--benchmark-only", "-q"]
        subprocess.run([*command, f"--benchmark-json={out}"], cwd=ROOT, check=False)
        found = read_benchmarks(out, taken) if out.exists() else []
    if not found:
        raise RuntimeError(f"no benchmark of {' '.join(names)} gave a figure")
    return found


def read_benchmarks(path: Path, taken: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the page needs of a file that pytest-benchmark wrote."""
    return [
        {
            "file": one["fullname"].split("::")[0].removeprefix("benchmarks/"), "name": one["name"],
            "min_s": one["stats"]["min"], "median_s": one["stats"]["median"], "rounds": one["stats"]["rounds"],
            "extra": one["extra_info"], "taken": taken,
        }
        for one in json.loads(path.read_text())["benchmarks"]
    ]  # fmt: skip


def merge(old: list[dict[str, Any]], new: list[dict[str, Any]], keep: bool) -> list[dict[str, Any]]:
    """Return the new figures and, with `keep`, those of the old that were not taken again."""
    fresh = {(one["file"], one["name"]) for one in new}
    kept = [one for one in old if keep and (one["file"], one["name"]) not in fresh]
    return sorted(kept + new, key=lambda one: (one["file"], one["name"]))


def beside(old: list[dict[str, Any]], files: list[str]) -> list[dict[str, Any]]:
    """Measure the benchmarks of targets, those of `files` alone if there are any, beside a training job."""
    chosen = targets.nodes(files)
    if not chosen:
        return old
    with training_job():
        found = measure(chosen)
    again = [one for one in old if f"{one['file']}::{one['name']}" not in chosen]  # one that failed has no figure
    return merge(again, found, keep=bool(files))


def printed(module: str) -> str:
    """Return what a check prints: the regression gate, the instruction counts."""
    done = subprocess.run([sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def gate_loaded() -> str:
    """Return what three runs of the gate in a row print while every core is kept busy: their verdicts must agree."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        return "\n\n".join(printed("benchmarks.gate") for _ in range(3))
    finally:
        for loop in loops:
            loop.kill()


def spaced() -> list[dict[str, Any]]:
    """Return the cases of `benchmarks.percentiles`: one symbol's frames evenly spaced, epoll and busy polling."""
    if not (ROOT / "benchmarks" / "percentiles.py").exists():
        return []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cases.json"
        subprocess.run([sys.executable, "-m", "benchmarks.percentiles", "--out", str(out)], cwd=ROOT, check=True)
        return json.loads(out.read_text())["cases"]


def recorded_runs(minutes: float, symbols: int) -> list[dict[str, Any]]:
    """Run engine and simulator at 1 × and 10 ×, with and without a training job."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "runs.json"
        options = ["--minutes", str(minutes), "--symbols", str(symbols), "--out", str(out)]
        subprocess.run([sys.executable, "-m", "benchmarks.recorded", *options], cwd=ROOT, check=True)
        return json.loads(out.read_text())


class Steps:
    """Says what is measured, and how long the run has taken so far."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, what: str) -> None:
        """Print the next step."""
        clock = datetime.datetime.now(datetime.UTC).strftime("%H:%M:%S")
        print(f"\n=== {clock} UTC, after {(time.monotonic() - self._began) / 60:.1f} min: {what}", flush=True)


def measure_into(raw: dict[str, Any], options: argparse.Namespace) -> None:
    """Replace those figures of `raw` that the options ask for."""
    step, whole = Steps(), not options.only
    raw["machine"] = machine()
    step("benchmarks")
    given = options.benchmarks
    found = read_benchmarks(given, file_stamp(given)) if given else measure(options.only)
    raw["benchmarks"] = merge(raw["benchmarks"], found, keep=not whole)
    step("benchmarks of targets, beside a training job")
    raw["beside"] = beside(raw["beside"], options.only)
    if options.runs is not None:
        raw["runs"], raw["taken"]["runs"] = json.loads(options.runs.read_text()), file_stamp(options.runs)
    elif whole:
        step("recorded runs")
        raw["taken"]["runs"] = stamp()
        raw["runs"] = recorded_runs(options.minutes, options.symbols)
    if options.spaced is not None:
        raw["spaced"] = json.loads(options.spaced.read_text())["cases"]
        raw["taken"]["spaced"] = file_stamp(options.spaced)
    elif whole:
        step("one frame at a time")
        raw["taken"]["spaced"] = stamp()
        raw["spaced"] = spaced()
    step("regression gate, alone and beside busy loops")
    raw["gate"], raw["gate_loaded"] = printed("benchmarks.gate"), gate_loaded()
    if options.instructions is not None:
        raw["instructions"] = options.instructions.read_text().strip()
        raw["taken"]["instructions"] = file_stamp(options.instructions)
    elif whole:
        step("instruction counts")
        raw["taken"]["instructions"] = stamp()
        raw["instructions"] = printed("benchmarks.callgrind")
    raw["machine"]["load_after"] = [round(x, 1) for x in os.getloadavg()]
    step("done")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--beside", action="store_true", help="only the benchmarks of targets, beside a training job")
    parser.add_argument("--benchmarks", type=Path, help="a file of pytest --benchmark-json instead of a new one")
    parser.add_argument("--runs", type=Path, help="a file of benchmarks.recorded instead of new runs")
    parser.add_argument("--spaced", type=Path, help="a file of benchmarks.percentiles instead of a new one")
    parser.add_argument("--instructions", type=Path, help="what benchmarks.callgrind printed, instead of a new run")
    parser.add_argument("--minutes", type=float, default=3.0, help="of wall time for each recorded run")
    parser.add_argument("--symbols", type=int, default=50, help="in the recorded runs")
    parser.add_argument("only", nargs="*", help="benchmark files; the others keep their last figures")
    options = parser.parse_args()
    nothing: dict[str, Any] = {name: [] for name in ("benchmarks", "beside", "runs", "spaced")}
    nothing |= {"gate": "", "gate_loaded": "", "instructions": "", "taken": {}}
    raw = nothing | (json.loads(RAW.read_text()) if RAW.exists() else {})
    try:
        if options.beside:
            raw.setdefault("machine", machine())  # else it stays: the figures beside state their own time
            raw["beside"] = beside(raw["beside"], options.only)
        elif not options.page:
            measure_into(raw, options)
    finally:  # what was measured before a failure is kept: every figure states its own time
        if not options.page:
            RAW.write_text(json.dumps(raw, indent=1) + "\n")
    report_page.write(raw, DOCS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
