"""`make bench-report`: run the benchmarks, the recorded runs and the gate; write docs/benchmarks.md and its plots.

python -m benchmarks.report                      # measure everything, about half an hour
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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import report_page

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
    facts["date"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts["load"] = [round(x, 1) for x in os.getloadavg()]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    facts["commit"] = commit.stdout.strip()
    facts["packages"] = {}
    for name in PACKAGES:
        try:
            facts["packages"][name] = version(name)
        except PackageNotFoundError:
            facts["packages"][name] = "absent"
    return facts


def measure(chosen: list[str]) -> list[dict[str, Any]]:
    """Run the benchmarks and return name, group, seconds and extra figures of each."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bench.json"
        files = [f"benchmarks/{name}" for name in chosen] or ["benchmarks"]
        command = [sys.executable, "-m", "pytest", *files, "--benchmark-only", "-q"]
        subprocess.run([*command, f"--benchmark-json={out}"], cwd=ROOT, check=False)
        return read_benchmarks(out)


def read_benchmarks(path: Path) -> list[dict[str, Any]]:
    """Return what the page needs of a file that pytest-benchmark wrote."""
    return [
        {
            "file": one["fullname"].split("::")[0].removeprefix("benchmarks/"), "name": one["name"],
            "min_s": one["stats"]["min"], "median_s": one["stats"]["median"], "rounds": one["stats"]["rounds"],
            "extra": one["extra_info"],
        }
        for one in json.loads(path.read_text())["benchmarks"]
    ]  # fmt: skip


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


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--benchmarks", type=Path, help="a file of pytest --benchmark-json instead of a new one")
    parser.add_argument("--runs", type=Path, help="a file of benchmarks.recorded instead of new runs")
    parser.add_argument("--spaced", type=Path, help="a file of benchmarks.percentiles instead of a new one")
    parser.add_argument("--instructions", type=Path, help="what benchmarks.callgrind printed, instead of a new run")
    parser.add_argument("--minutes", type=float, default=3.0, help="of wall time for each recorded run")
    parser.add_argument("--symbols", type=int, default=50, help="in the recorded runs")
    parser.add_argument("only", nargs="*", help="benchmark files; the others keep their last figures")
    options = parser.parse_args()
    nothing: dict[str, Any] = {"benchmarks": [], "runs": [], "spaced": []}
    nothing |= {"spaced_taken": "", "gate": "", "gate_loaded": ""}
    raw = json.loads(RAW.read_text()) if RAW.exists() else nothing
    if not options.page:
        raw["machine"] = machine()
        found = read_benchmarks(options.benchmarks) if options.benchmarks else measure(options.only)
        fresh = {(one["file"], one["name"]) for one in found}
        kept = [one for one in raw["benchmarks"] if options.only and (one["file"], one["name"]) not in fresh]
        raw["benchmarks"] = sorted(kept + found, key=lambda one: (one["file"], one["name"]))
        if options.runs is not None:
            raw["runs"] = json.loads(options.runs.read_text())
        elif not options.only:
            raw["runs"] = recorded_runs(options.minutes, options.symbols)
        if options.spaced is not None:
            raw["spaced"] = json.loads(options.spaced.read_text())["cases"]
            raw["spaced_taken"] = f"taken from a file on {raw['machine']['date']}"
        elif not options.only:
            raw["spaced"] = spaced()
            raw["spaced_taken"] = f"{raw['machine']['date']}, load {os.getloadavg()[0]:.1f} after"
        raw["gate"], raw["gate_loaded"] = printed("benchmarks.gate"), gate_loaded()
        if options.instructions is not None:
            raw["instructions"] = options.instructions.read_text().strip()
        elif not options.only:
            raw["instructions"] = printed("benchmarks.callgrind")
        raw["machine"]["load_after"] = [round(x, 1) for x in os.getloadavg()]
        RAW.write_text(json.dumps(raw, indent=1) + "\n")
    report_page.write(raw, DOCS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
