"""A run that the engine process recorded, over sockets from the simulated exchange, replays without a difference."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import load
from engine.journal import read_records, segments
from engine.link import SnapshotReader
from engine.replay import registry_models, replay, runs
from kernels.records import Kind
from tests.conftest import long_run

MINUTES = long_run(4, 60)
SYMBOLS = "BTCUSDT,ETHUSDT"


def until(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "the engine ended by itself"
        assert time.monotonic() < deadline, "not there in time"
        time.sleep(0.1)


@pytest.mark.timeout(300 + 60 * MINUTES)
def test_run_of_the_engine_process_replays_without_a_difference(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "control.cli", "--data-dir", str(tmp_path)]
    options = ["--port", "0", "--hold", "--quiet", "--speed", "20", "--symbols", SYMBOLS]
    with subprocess.Popen([*command, "simulator", *options], stdout=subprocess.PIPE, text=True) as simulator:
        try:
            assert simulator.stdout is not None
            market = json.loads(simulator.stdout.readline())
            names = {
                "TA_EXCHANGE__NAME": "sim", "TA_EXCHANGE__CLOCK": "replay", "TA_MARKET__DEADLINE_MS": "60000",
                "TA_EXCHANGE__REST_URL": market["rest_url"], "TA_EXCHANGE__STREAM_URL": market["stream_url"],
                "TA_EXCHANGE__WS_API_URL": market["ws_api_url"], "TA_MARKET__SYMBOLS": json.dumps(market["symbols"]),
            }  # fmt: skip
            with subprocess.Popen([*command, "engine"], env=os.environ | names, text=True) as engine:
                reader = SnapshotReader(tmp_path)

                def played() -> bool:
                    view = reader.read()
                    return (
                        view is not None and int(view.status["exchange_ms"][0]) > market["start_ms"] + MINUTES * 60_000
                    )

                try:
                    until(played, engine, 180.0 + 30 * MINUTES)
                finally:
                    engine.send_signal(signal.SIGTERM)
                    engine.wait(120)
        finally:
            simulator.terminate()
    config = load(data_dir=tmp_path)
    (run_id,) = runs(tmp_path / "journal", "main")
    report = replay(tmp_path / "journal", "main", run_id, registry_models(config))
    assert report.difference is None, str(report.difference)
    assert report.complete
    written = [kind for s in segments(tmp_path / "journal", "main") for kind, _ in read_records(s)]
    assert report.records["signal"] == written.count(Kind.SIGNAL) >= 2 * (MINUTES - 1)
    assert report.records["mark"] == written.count(Kind.MARK) > 50
