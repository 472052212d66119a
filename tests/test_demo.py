"""The main job with real processes: generated market, history, model, shadow trades, store, and a kill -9."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control.demo import undecided
from engine.link import SnapshotReader
from store.client import Store, connect

DEADLINE_S, MINUTE = 280, 60_000


def ta(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "control.cli", "--data-dir", str(folder), *arguments]


@pytest.mark.timeout(DEADLINE_S + 60)
def test_demo_trades_and_the_store_has_everything_once_after_control_was_killed(tmp_path: Path, long_run) -> None:
    folder, minutes = tmp_path / "var", str(long_run(150, 2_880))
    command = ta(
        folder, "demo", "--speed", "600", "--minutes", minutes, "--history-days", "10.5", "--rounds", "8", "--json"
    )
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TA_CONTROL__PORT": "0"},
    )  # fmt: skip
    try:
        kill_control_once_signals_flow(folder, process)
        output, errors = process.communicate(timeout=long_run(DEADLINE_S, 1_800))
    finally:
        process.kill()
    assert process.returncode == 0, errors
    summary = json.loads(output)
    assert summary["faults"] == []
    assert summary["malformed"] == summary["journal_dropped"] == summary["compilations_after_ready"] == 0
    undecided = summary["undecided"]
    assert summary["signals"] == summary["vectors"] == 4 * (int(minutes) + 1) - sum(undecided.values())
    assert summary["trades"] == summary["rows"]["trades"] > 0
    with connect("embedded", folder) as store:
        for table in ("signals", "orders", "fills", "positions", "trades", "bars_seen"):
            ((total, distinct),) = store.rows(f"SELECT count(), uniqExact(run_id, seq) FROM `{table}`")
            assert total == distinct == summary["records"][RECORD_OF.get(table, table.rstrip("s"))]
        assert_every_minute_has_its_decision_or_its_reason(store, summary)
        ((gross,),) = store.rows("SELECT sum(net_usdt) FROM trades")
        assert gross == pytest.approx(summary["net_usdt"])
    assert_backtest_gives_its_trades(folder, summary)


def assert_every_minute_has_its_decision_or_its_reason(store: Store, summary: dict) -> None:
    """Of each symbol: decisions and minutes that `data_gaps` names as undecided make one run, each minute once."""
    decided = store.rows("SELECT symbol, groupArray(toUnixTimestamp(decision_time)) FROM signals GROUP BY symbol")
    lost = store.rows(
        "SELECT symbol, arrayJoin(range(toUnixTimestamp(from_time), toUnixTimestamp(to_time) + 60, 60)) + 60 "
        "FROM data_gaps WHERE gap_kind = 'undecided'"
    )
    assert len(lost) == summary["undecided"]["lost"]
    assert len(decided) == 4
    for symbol, times in decided:
        run = sorted([*times, *(time_s for name, time_s in lost if name == symbol)])
        of = summary["decisions"][symbol]
        assert run == list(range(of["first_ms"] // 1_000, of["next_ms"] // 1_000, 60))
        ((candles,),) = store.rows(
            "SELECT count() FROM candles_1m WHERE symbol = {symbol:String} "
            "AND toUnixTimestamp(open_time) + 60 BETWEEN {first:UInt32} AND {last:UInt32}",
            {"symbol": symbol, "first": run[0], "last": of["closed_ms"] // 1_000},
        )
        assert candles == (of["closed_ms"] // 1_000 - run[0]) // 60 + 1


def test_minutes_without_a_decision_are_told_apart() -> None:
    whole = {"first_ms": 0, "next_ms": 11 * MINUTE, "closed_ms": 10 * MINUTE, "lost": 0}
    assert undecided([whole, whole], 0, 10 * MINUTE) == {"history": 0, "lost": 0, "waiting": 0, "missing": 0}
    cut = {"first_ms": 2 * MINUTE, "next_ms": 7 * MINUTE, "closed_ms": 9 * MINUTE, "lost": 1}
    assert undecided([whole, cut], 0, 10 * MINUTE) == {"history": 2, "lost": 1, "waiting": 3, "missing": 1}
    ahead = {"first_ms": 0, "next_ms": 9 * MINUTE, "closed_ms": 5 * MINUTE, "lost": 4}  # lost before they closed
    assert undecided([ahead], 0, 10 * MINUTE) == {"history": 0, "lost": 4, "waiting": 0, "missing": 2}
    never = {"first_ms": 0, "next_ms": 0, "closed_ms": 0, "lost": 0}
    assert undecided([None, never], 0, 10 * MINUTE) == {"history": 0, "lost": 0, "waiting": 0, "missing": 22}


def assert_backtest_gives_its_trades(folder: Path, summary: dict) -> None:
    """Backtest what the demonstration stored of its own time: what differs from its shadow trades is explained."""
    done = subprocess.run(
        ta(folder, "backtest", "--compare-run", "last", "--json"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["decisions"] == found["predictions_equal"] == summary["signals"]
    assert found["run_trades"] == summary["trades"]
    assert found["run_net_usdt"] == pytest.approx(summary["net_usdt"])
    assert found["same_exit"] >= 0.8 * len(found["pairs"])
    assert "unexplained" not in found["by_cause"]
    difference = found["run_net_usdt"] - found["backtest_net_usdt"]
    assert sum(row["net_usdt"] for row in found["by_cause"].values()) == pytest.approx(difference, abs=1e-6)


RECORD_OF = {"bars_seen": "bar"}


def kill_control_once_signals_flow(folder: Path, process: subprocess.Popen) -> None:
    reader, deadline = SnapshotReader(folder), time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        view = reader.read() if folder.is_dir() else None
        if view is not None and int(view.status["signals"][0]) > 20:
            os.kill(json.loads((folder / "control.json").read_text())["pid"], signal.SIGKILL)
            return
        time.sleep(0.02)
    raise AssertionError(f"no signals in time: {process.stderr.read() if process.stderr else ''}")


def test_an_occupied_port_and_a_foreign_folder_are_one_clear_message(tmp_path: Path) -> None:
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("do not delete")
    done = subprocess.run(ta(foreign, "demo"), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "holds other data" in done.stderr
    assert (foreign / "thesis.txt").exists()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        variables = {**os.environ, "TA_CONTROL__PORT": str(taken.getsockname()[1])}
        done = subprocess.run(
            ta(tmp_path / "var", "control"), capture_output=True, text=True, check=False, timeout=60, env=variables
        )
    assert done.returncode == 2
    assert "cannot listen" in done.stderr


def test_a_bad_configuration_names_every_fault(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('mode = "yolo"\n[risk]\nrisk_fraction = 5\nlucky = true\n[market]\nwarmup_bars = "many"\n')
    done = subprocess.run(
        [sys.executable, "-m", "control.cli", "--config", str(file), "engine"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    for fault in ("mode", "risk.risk_fraction", "risk.lucky", "market.warmup_bars"):
        assert fault in done.stderr
