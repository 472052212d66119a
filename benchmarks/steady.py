"""A steady run: simulator, control and engine as processes for a while; what memory and loop did is printed as JSON.

    python -m benchmarks.steady --symbols 20 --speed 100 --minutes 20
    python -m benchmarks.steady --symbols 600 --speed 1 --minutes 20
    python -m benchmarks.steady --symbols 20 --speed 100 --minutes 1 --freeze 40    # an hour without the database

Memory is anonymous memory (what a leak grows; mapped journal and bar files belong to the page cache), with the whole
resident set beside it. Flat means: the median of the last quarter is not above that of the quarter after the first half
by more than `ALLOWED`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from control.demo import JOURNALLED
from control.supervise import Child, Supervisor, environment, ta_command
from engine.config import load
from engine.link import SnapshotReader, command
from engine.model.bundle import write_bundle
from engine.model.dataset import build
from engine.model.registry import Event, open_registry
from engine.model.train import describe, train
from store.client import connect
from tests.model_rig import SMALL, random_part

NOW_MS = 1_764_000_000_000
SAMPLE_S = 5.0
ALLOWED = 1.03  # of a quarter to the next
SETTLED_MIB = 4.0  # and this much is never called growth


def make_bundle(folder: Path) -> Path:
    """Train a small model on noise that has seen every feature miss, so that it trades on any market."""
    parts = [random_part(seed, name) for seed, name in enumerate(("BTCUSDT", "ETHUSDT"))]
    for part in parts:
        part.vectors[np.random.default_rng(1).random(part.vectors.shape) < 0.02] = np.nan
    data = build(parts)
    return write_bundle(folder, train(data, settings=SMALL), data, describe(SMALL), NOW_MS)


def memory_mib(pid: int) -> tuple[float, float]:
    """Return (anonymous, whole resident) memory of a process in MiB."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "VmRSS"):
            found[name] = int(value.split()[0]) / 1_024
    return found["RssAnon"], found["VmRSS"]


def grew(anonymous: list[float]) -> str:
    """Return what the second half of the samples grew by, empty if it is flat."""
    quarter = len(anonymous) // 4
    third, last = median(anonymous[2 * quarter : 3 * quarter]), median(anonymous[3 * quarter :])
    return "" if last <= max(third * ALLOWED, third + SETTLED_MIB) else f"{third:.1f} MiB became {last:.1f} MiB"


class Steady:
    """The three processes of one run below `folder`."""

    def __init__(self, folder: Path, symbols: int, speed: float, port: int) -> None:
        self.folder, self.symbols, self.speed = folder, symbols, speed
        self._port = port
        self.supervisor = Supervisor([], lambda text: print(text, file=sys.stderr), lambda child: None)
        self._variables: dict[str, str] = {}
        self.samples: dict[str, list[tuple[float, float, float]]] = {"engine": [], "control": []}

    def start(self) -> dict[str, float]:
        """Bring everything up with a model in production; return the seconds each step took."""
        began, seconds = time.monotonic(), {}
        for name, step in (("simulator", self._market), ("control", self._control), ("engine", self._engine)):
            step()
            seconds[name], began = round(time.monotonic() - began, 1), time.monotonic()
        return seconds

    def _market(self) -> None:
        options = [
            "--port",
            "0",
            "--hold",
            "--quiet",
            "--speed",
            f"{self.speed:g}",
            "--symbol-count",
            str(self.symbols),
        ]
        options += ["--history-days", "13", "--ahead-days", str(max(1.0, self.speed / 40))]
        facts = json.loads(self.supervisor.start(self._child("simulator", *options), 300.0))
        exchange = {name: facts[name] for name in ("rest_url", "stream_url", "ws_api_url")}
        values = {
            "exchange": {"name": "sim", "clock": "replay", **exchange},
            "market": {"symbols": facts["symbols"], "deadline_ms": round(2_500 + 50 * self.speed)},
            "risk": {"max_data_age_ms": round(5_000 + 50 * self.speed)},
            "decision": {"max_tail": 0.5, "max_mae_atr": 50.0},
            "control": {"port": self._port},
        }
        self._variables = environment(values)
        self.config = load(None, data_dir=self.folder, **values)
        registry = open_registry(self.config)
        model_id = registry.publish(make_bundle(self.folder / "bundles"), "steady", NOW_MS)
        registry.record(Event(model_id, "production", NOW_MS + 1, "steady", "a steady run", True))

    def _control(self) -> None:
        child = self._child("control")
        child.spawn()
        address, deadline = self.folder / "control.json", time.monotonic() + 60
        while not (address.exists() and _serves(json.loads(address.read_text())["url"])):
            if time.monotonic() > deadline or not child.running:
                raise RuntimeError(f"control did not start:\n{child.tail()}")
            time.sleep(0.1)

    def _engine(self) -> None:
        self.supervisor.start(self._child("engine"), 600.0)

    def _child(self, name: str, *options: str) -> Child:
        log = self.folder / "logs" / f"{name}.log"
        child = Child(name, ta_command(self.folder, name, *options), self._variables, log, restart=False)
        self.supervisor.children.append(child)
        return child

    def watch(self, minutes: float) -> None:
        """Sample the memory of engine and control for `minutes`. Raises RuntimeError if one of them ends."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < minutes * 60:
            for child in self.supervisor.children:
                if not child.running:
                    raise RuntimeError(f"{child.name} ended:\n{child.tail()}")
                if child.name in self.samples and child.process is not None:
                    self.samples[child.name].append((passed, *memory_mib(child.process.pid)))
            time.sleep(min(SAMPLE_S, minutes * 60 / 20))

    def freeze(self, seconds: float) -> dict[str, float]:
        """Freeze control, and with it the database; then say how the engine fared and how soon all was stored."""
        process = next(child.process for child in self.supervisor.children if child.name == "control")
        assert process is not None
        reader, worst_ms = SnapshotReader(self.folder), 0.0
        before_ms, began = _market_ms(reader), time.monotonic()
        process.send_signal(signal.SIGSTOP)
        while time.monotonic() - began < seconds:
            view = reader.read()
            if view is not None:
                worst_ms = max(worst_ms, (time.monotonic_ns() - int(view.status["heartbeat_ns"][0])) / 1e6)
            time.sleep(0.05)
        process.send_signal(signal.SIGCONT)
        resumed, after_ms = time.monotonic(), _market_ms(reader)
        newest = "SELECT toUnixTimestamp64Milli(max(time)) FROM bars_seen"
        with connect("embedded", self.folder) as store:
            while int(store.scalar(newest)) < after_ms - 60_000:
                time.sleep(0.1)
        return {
            "seconds": seconds,
            "market_minutes": round((after_ms - before_ms) / 60_000, 1),
            "engine_heartbeat_worst_ms": round(worst_ms, 1),
            "caught_up_s": round(time.monotonic() - resumed, 1),
        }

    def finish(self) -> dict[str, Any]:
        """Stop the engine in order, wait until the store has all that it journalled, and report."""
        simulator, control, engine = self.supervisor.children
        command(self.folder, "stop", actor="steady")
        self.supervisor.stop_child(engine, 60.0)
        summary = json.loads((self.folder / "engine.summary.json").read_text())
        expected = {table: summary["records"].get(kind, 0) for kind, table in JOURNALLED.items()}
        found: dict[str, int] = {}
        deadline = time.monotonic() + 120
        with connect("embedded", self.folder) as store:
            while found != expected and time.monotonic() < deadline:
                parts = [f"SELECT '{table}' AS name, count() FROM `{table}` WHERE run_id = '{summary['run_id']}'" for table in expected]  # fmt: skip  # noqa: E501
                found = {str(name): int(count) for name, count in store.rows(" UNION ALL ".join(parts))}
                time.sleep(0.2)
        self.supervisor.stop_child(control)
        self.supervisor.stop_child(simulator)
        return self._report(summary, expected, found)

    def _report(self, summary: dict[str, Any], expected: dict[str, int], found: dict[str, int]) -> dict[str, Any]:
        faults = [f"{table}: journal {expected[table]}, store {found.get(table)}" for table in expected if found.get(table) != expected[table]]  # fmt: skip  # noqa: E501
        memory = {}
        for name, rows in self.samples.items():
            anonymous = [row[1] for row in rows]
            if growth := grew(anonymous):
                faults.append(f"{name}: {growth}")
            step = max(1, len(rows) // 20)
            memory[name] = {
                "samples": [[round(at), round(anon, 1), round(whole, 1)] for at, anon, whole in rows[::step]],
                "peak_rss_mib": round(max(row[2] for row in rows), 1),
            }
        names = (
            "frames",
            "candles",
            "marks",
            "signals",
            "trades",
            "journal_records",
            "journal_dropped",
            "malformed",
            "refusals",
            "late_vectors",
            "gaps",
        )
        return {
            "symbols": self.symbols,
            "speed": self.speed,
            "memory": memory,
            "stages_us": {
                stage: {"p50": row["p50_ns"] / 1e3, "p99": row["p99_ns"] / 1e3, "max": row["max_ns"] / 1e3}
                for stage, row in summary["stages"].items()
            },
            **{name: summary[name] for name in names},
            "faults": faults,
        }


def _market_ms(reader: SnapshotReader) -> int:
    view = reader.read()
    return int(view.status["exchange_ms"][0]) if view is not None else 0


def _serves(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(json.load(answer)["store"])
    except urllib.error.HTTPError as error:
        return bool(json.load(error).get("store"))
    except (OSError, ValueError):
        return False


def run(
    folder: Path, symbols: int, speed: float, minutes: float, port: int = 0, freeze_s: float = 0.0
) -> dict[str, Any]:
    """Run all of it below `folder` and return the report; `faults` is empty when nothing was lost and memory flat."""
    steady = Steady(folder, symbols, speed, port)
    try:
        seconds = steady.start()
        steady.watch(minutes)
        frozen = steady.freeze(freeze_s) if freeze_s else {}
        return {"minutes": minutes, "start_s": seconds, "frozen": frozen, **steady.finish()}
    finally:
        steady.supervisor.stop()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--speed", type=float, default=100.0)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--port", type=int, default=0, help="control's; 0: any")
    parser.add_argument("--freeze", type=float, default=0.0, help="at the end, freeze the database for so many seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), options.symbols, options.speed, options.minutes, options.port, options.freeze)
    print(json.dumps(report))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
