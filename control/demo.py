"""The demonstration: a simulated exchange, its history, a trained model, and shadow trades on its streams."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control.auth import Scope, TokenBook
from control.supervise import Child, Supervisor, environment, ta_command
from engine.link import SnapshotReader, SnapshotView, command
from store.queries import counts

Say = Callable[[str], None]
MAX_TAIL = 0.10  # six hours of a market of this volatility lose more than the default 3 % in the worst twentieth
MINUTE_MS, DAY_MS = 60_000, 86_400_000
JOURNALLED = {
    "bar": "bars_seen",
    "signal": "signals",
    "order": "orders",
    "fill": "fills",
    "position": "positions",
    "trade": "trades",
    "command": "commands",
    "session": "sessions",
    "gap": "data_gaps",
    "latency": "latency",
    "account": "account",
}  # journal record → the table that holds each of them once
NEEDED = ("candles_1m", "signals", "trades")
START_S = 180.0  # a process that lives is waited for: a machine with ten times its work takes a minute to load one
SETTLE_S = 10.0  # from the end of the market to the decisions on its last minute


@dataclass
class Demo:
    """What the demonstration was asked for, and what it has found out on the way."""

    data_dir: Path
    speed: float = 60.0
    minutes: int | None = None  # market minutes; None: until stopped
    source: Path | None = None  # market data to replay; None: a generated market
    edge: float = 1.0
    seed: int = 7
    port: int = 7101
    quiet: bool = False
    history_days: float = 20.0
    rounds: int = 30
    timings_s: dict[str, float] = field(default_factory=dict)


class DemoRun:
    """One run of the demonstration; `start` to first trades, then `watch` or `finish`."""

    def __init__(self, demo: Demo, supervisor: Supervisor, say: Say) -> None:
        self.demo, self.supervisor, self._say = demo, supervisor, say
        self.market: dict[str, Any] = {}
        self.url = ""
        self.token = ""
        self.engine: Child | None = None
        self._variables: dict[str, str] = {}
        self._reader = SnapshotReader(demo.data_dir)

    # --- steps ---

    def start(self) -> None:
        """Bring everything up: market, control, history, labels, model, engine. Raises RuntimeError with the reason."""
        self._step("simulated exchange", self._start_market)
        self._step("control plane", self._start_control)
        days = min(self.demo.history_days, (self.market["start_ms"] - self.market["history_from_ms"]) / DAY_MS)
        symbols = ",".join(self.market["symbols"])
        self._step(
            f"history of {days:.1f} days", lambda: self._job("collect", "--symbols", symbols, "--days", f"{days}")
        )
        self._step("labels", lambda: self._job("label"))
        trained = self._step(
            f"8 models, {self.demo.rounds} rounds",
            lambda: self._job(
                "train", "--rounds", str(self.demo.rounds), "--to", str(self.market["start_ms"]), "--json"
            ),
        )
        model_id = json.loads(trained)["model_id"]
        self._job("models", "promote", model_id, "--force", "--reason", "demo")
        self._say(f"  {model_id} promoted by force, reason 'demo': a first model has no evidence to pass the gate with")
        self._step("engine", self._start_engine)

    def _step(self, name: str, action: Callable[[], Any]) -> Any:
        started = time.monotonic()
        result = action()
        seconds = time.monotonic() - started
        self.demo.timings_s[name] = round(seconds, 1)
        self._say(f"  {name}: {seconds:.1f} s")
        return result

    def _start_market(self) -> None:
        demo, options = self.demo, ["--port", "0", "--hold", "--quiet"]
        options += ["--speed", str(demo.speed), "--seed", str(demo.seed), "--edge", str(demo.edge)]
        if demo.source is not None:
            options += ["--data", str(demo.source)]
        if demo.minutes is not None:
            options += ["--minutes", str(demo.minutes)]
        child = self._child("simulator", ta_command(demo.data_dir, "simulator", *options), restart=False)
        self.market = json.loads(self.supervisor.start(child))
        self._variables = environment(
            {
                "exchange": {
                    "name": "sim",
                    "clock": "replay",
                    "rest_url": self.market["rest_url"],
                    "stream_url": self.market["stream_url"],
                    "ws_api_url": self.market["ws_api_url"],
                },
                "market": {"symbols": self.market["symbols"], "deadline_ms": round(2_500 + 50 * demo.speed)},
                "risk": {"max_data_age_ms": round(5_000 + 50 * demo.speed)},
                "decision": {"max_tail": MAX_TAIL},
                "control": {"port": demo.port},
            }
        )
        self._say(f"  market: {self.market['market']}; {', '.join(self.market['symbols'])}; speed {demo.speed:g}")
        self._say(
            f"  settings of this demonstration: max_tail {MAX_TAIL:g}; deadlines and data ages 50 ms x speed longer, "
            "because one scheduling slice of this machine is that much market time"
        )
        if self.market["synthesised"]:
            self._say(f"  made up from the seed, because the data lacks it: {', '.join(self.market['synthesised'])}")

    def _start_control(self) -> None:
        child = self._child("control", ta_command(self.demo.data_dir, "control"))
        child.spawn()
        address = self.demo.data_dir / "control.json"
        self._wait(lambda: address.exists() and self._answers(address), child, START_S)
        self.token = TokenBook(self.demo.data_dir / "tokens.json").create("demo", Scope.ADMIN)

    def _answers(self, address: Path) -> bool:
        """Whether control serves and its store is open (the engine is not started yet)."""
        try:
            self.url = json.loads(address.read_text())["url"]
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(json.load(answer)["store"])
        except urllib.error.HTTPError as error:
            return bool(json.load(error).get("store"))
        except (OSError, ValueError):
            return False

    def _start_engine(self) -> None:
        self.engine = self._child("engine", ta_command(self.demo.data_dir, "engine"))
        self.supervisor.start(self.engine)
        self._wait(self._serves_model, self.engine, START_S)

    def _serves_model(self) -> bool:
        """Whether the engine lives and its model is in place, which on a busy machine comes seconds later."""
        view = self.snapshot()
        return view is not None and view.alive and bool(bytes(view.status["model_id"][0]))

    def _child(self, name: str, line: list[str], restart: bool = True) -> Child:
        child = Child(name, line, self._variables, self.demo.data_dir / "logs" / f"{name}.log", restart=restart)
        self.supervisor.children.append(child)
        return child

    def _job(self, *arguments: str) -> str:
        """Run a `ta` command to its end; its progress is the terminal's unless the demonstration is quiet."""
        done = subprocess.run(
            ta_command(self.demo.data_dir, *arguments),
            env={**os.environ, **self._variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self.demo.quiet else None,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"ta {' '.join(arguments)} failed with code {done.returncode}:\n{done.stderr or ''}")
        return done.stdout

    def _wait(self, condition: Callable[[], bool], child: Child, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.supervisor.stopping.is_set():
                raise RuntimeError("stopped")
            if not child.running:
                raise RuntimeError(f"{child.name} did not start:\n{child.tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{child.name} is not ready after {timeout_s:g} s:\n{child.tail()}")
            time.sleep(0.05)

    # --- while it runs ---

    def snapshot(self) -> SnapshotView | None:
        """Return the engine's snapshot."""
        return self._reader.read()

    def get(self, path: str) -> Any:
        """Return the JSON of one API request."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def market_is_over(self) -> bool:
        """Whether the market clock has been at its end for a moment."""
        view = self.snapshot()
        if view is None or self.demo.minutes is None:
            return False
        end_ms = self.market["start_ms"] + self.demo.minutes * 60_000
        return int(view.status["exchange_ms"][0]) >= end_ms - 2_000

    def last_decision_ms(self) -> int:
        """Return the market time of the last decision: the close of its last whole minute."""
        last_ms: int = self.market["last_ms"]
        return last_ms - last_ms % MINUTE_MS

    def settle(self, timeout_s: float) -> None:
        """Wait until every symbol's last minute is decided on; not longer than that, the summary says what is not."""
        deadline = time.monotonic() + timeout_s
        while self.engine is not None and self.engine.running and time.monotonic() < deadline:
            view = self.snapshot()
            if view is not None and bool((view.signals["decision_ms"] >= self.last_decision_ms()).all()):
                return
            time.sleep(0.05)

    def stop_engine(self) -> dict[str, Any]:
        """Flatten nothing, stop the engine in order, and return the summary it leaves."""
        assert self.engine is not None
        command(self.demo.data_dir, "stop", actor="demo")
        self.engine.restart = False
        self.supervisor.stop_child(self.engine)
        summary: dict[str, Any] = json.loads((self.demo.data_dir / "engine.summary.json").read_text())
        return summary

    def import_data(self, source: Path) -> Path:
        """Turn market data into the simulator's bar files; returns their folder. Raises DataError naming the fault."""
        from control.jobs.import_ import write_bar_files
        from store.importers import Options

        folder = self.demo.data_dir / "market"
        written = self._step(f"bar files of {source}", lambda: write_bar_files([source], folder, Options()))
        for name, count in written.items():
            self._say(f"    {name}: {count:,} bars")
        return folder

    def finish(self, timeout_s: float) -> dict[str, Any]:
        """Stop the engine, wait until the store has what the journal has, and return the summary."""
        self.settle(SETTLE_S)
        summary = self.stop_engine()
        first_ms = self.market["start_ms"] - self.market["start_ms"] % MINUTE_MS
        of = [summary["decisions"].get(symbol) for symbol in self.market["symbols"]]
        summary["undecided"] = undecided(of, first_ms, self.last_decision_ms())
        return reconcile(self.demo, summary, timeout_s)


def undecided(decisions: list[dict[str, int] | None], first_ms: int, last_ms: int) -> dict[str, int]:
    """Return why minutes of the market had no decision, and how many: with the decisions made they are all there are.

    decisions: what the engine says of each symbol's (`Vectors.decisions`), None: nothing; the market's minutes close
    from `first_ms` to `last_ms`, both included. history: the engine began with them as history; lost: named in
    `data_gaps`; waiting: a 15m or 1h bar or a sample was not there when it stopped; missing: the minute itself was not,
    or one before it.
    """
    found = dict.fromkeys(("history", "lost", "waiting", "missing"), 0)
    for of in decisions:
        if of is None or not of["next_ms"]:
            found["missing"] += (last_ms - first_ms) // MINUTE_MS + 1
            continue
        seen_ms = max(of["closed_ms"], of["next_ms"] - MINUTE_MS)
        found["history"] += (of["first_ms"] - first_ms) // MINUTE_MS
        found["lost"] += of["lost"]
        found["waiting"] += (seen_ms - of["next_ms"]) // MINUTE_MS + 1
        found["missing"] += (last_ms - seen_ms) // MINUTE_MS
    return found


def reconcile(demo: Demo, summary: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Compare journal and store by table, for as long as the tail may need, and say what the demonstration did."""
    from store.client import connect

    expected = {table: summary["records"].get(kind, 0) for kind, table in JOURNALLED.items()}
    deadline, found, rows = time.monotonic() + timeout_s, {}, {}
    with connect("embedded", demo.data_dir) as store:
        while True:
            parts = [
                f"SELECT '{table}' AS name, count() AS rows FROM `{table}` WHERE run_id = '{summary['run_id']}'"
                for table in expected
            ]
            found = {str(name): int(n) for name, n in store.rows(" UNION ALL ".join(parts))}
            if found == expected or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        rows = counts(store)
    faults = [
        f"{table}: the journal has {expected[table]} records, the store {found.get(table, 0)} rows"
        for table in expected
        if found.get(table, 0) != expected[table]
    ]
    faults += [f"{name}: nothing arrived in the store" for name in NEEDED if not rows.get(name)]
    return {
        **summary,
        "market_minutes": demo.minutes,
        "speed": demo.speed,
        "seconds": demo.timings_s,
        "stages_us": {
            stage: {"p50": values["p50_ns"] / 1_000, "p99": values["p99_ns"] / 1_000, "count": values["count"]}
            for stage, values in summary["stages"].items()
        },
        "rows": rows,
        "faults": faults,
    }
