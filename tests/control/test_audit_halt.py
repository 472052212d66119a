"""`ta audit --halt` against a running engine: it trades on, but the symbol whose candles were changed is left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kernels.records import GATES
from store import queries, writer
from store.client import Store, connect
from tests.control.test_engine_killed import end

DEADLINE_S = 120.0
HALTED = 1 << GATES.index("symbol_halted") | 1 << GATES.index("audit_failed")


def until(condition: Callable[[], bool], processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert all(process.poll() is None for process in processes), "a process ended by itself"
        assert time.monotonic() < deadline, "not there in time"
        time.sleep(0.1)


class Stage:
    """The simulated exchange, an engine and control on one folder; the store through control's front."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.command = [sys.executable, "-m", "control.cli", "--data-dir", str(folder)]
        self.processes: list[subprocess.Popen[str]] = []
        simulator = self._open(
            ["simulator", "--port", "0", "--hold", "--quiet", "--speed", "20", "--symbols", "BTCUSDT,ETHUSDT"],
            dict(os.environ), stdout=subprocess.PIPE,
        )  # fmt: skip
        assert simulator.stdout is not None
        market = json.loads(simulator.stdout.readline())
        self.names = os.environ | {
            "TA_EXCHANGE__NAME": "sim", "TA_EXCHANGE__CLOCK": "replay", "TA_MARKET__DEADLINE_MS": "60000",
            "TA_EXCHANGE__REST_URL": market["rest_url"], "TA_EXCHANGE__STREAM_URL": market["stream_url"],
            "TA_EXCHANGE__WS_API_URL": market["ws_api_url"], "TA_MARKET__SYMBOLS": json.dumps(market["symbols"]),
            "TA_CONTROL__PORT": "0", "TA_MARKET__STORE_FEATURES": json.dumps(market["symbols"]),
        }  # fmt: skip
        self._open(["control"], self.names)
        until((folder / "store" / "owner.json").is_file, self.processes)
        self._open(["engine"], self.names)

    def _open(self, words: list[str], names: dict[str, str], **more: int) -> subprocess.Popen[str]:
        process = subprocess.Popen([*self.command, *words], env=names, text=True, **more)
        self._stack.callback(end, process)
        self.processes.append(process)
        return process

    def ta(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run another `ta` command beside them."""
        return subprocess.run(
            [*self.command, *words], env=self.names, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


def gates(store: Store) -> dict[str, tuple[int, int]]:
    """Return of each symbol how many signals are stored and the audit's gate bits of the newest."""
    sql = f"SELECT symbol, count(), bitAnd(argMax(gates, decision_time), {HALTED}) FROM signals GROUP BY symbol"
    return {str(name): (int(count), int(bits)) for name, count, bits in store.rows(sql)}


@pytest.mark.timeout(900)
def test_entries_of_a_symbol_that_fails_the_audit_stop_and_come_back_when_allowed(stage: Stage) -> None:
    with ExitStack() as stack:
        store: list[Store] = []

        def signals_flow() -> bool:
            if not store:
                store.append(stack.enter_context(connect("embedded", stage.folder)))
            found = gates(store[0])
            return len(found) == 2 and min(count for count, _ in found.values()) >= 3

        until(signals_flow, stage.processes)
        clean = stage.ta("audit", "--halt", "--json")
        assert clean.returncode == 0, clean.stdout[:3_000] + clean.stderr
        assert json.loads(clean.stdout)["failed"] == []
        ((seen_ms,),) = store[0].rows(
            "SELECT toUnixTimestamp64Milli(min(open_time)) FROM bars_seen WHERE symbol = 'ETHUSDT' AND timeframe = '1m'"
        )
        candle = queries.bars(store[0], "ETHUSDT", 0, seen_ms, seen_ms + 1)
        candle["close"] *= 1.0001
        writer.insert_bars(store[0], "ETHUSDT", 0, candle, "rest")

        found = stage.ta("audit", "--halt", "--json")
        assert found.returncode == 1, found.stderr
        answer = json.loads(found.stdout)
        assert answer["failed"] == answer["halted"] == ["ETHUSDT"]
        until(lambda: gates(store[0])["ETHUSDT"][1] == HALTED, stage.processes)
        assert gates(store[0])["BTCUSDT"][1] == 0

        assert stage.ta("allow", "ethusdt").returncode == 0
        until(lambda: gates(store[0])["ETHUSDT"][1] == 0, stage.processes)
