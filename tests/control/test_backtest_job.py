"""`ta backtest` from stored candles to a tear sheet."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from control.jobs.runner import JobRunner
from engine.config import load
from engine.model.registry import open_registry
from kernels.records import BAR
from store import writer
from store.client import connect
from tests.market_data import generated_bars
from tests.model_rig import Trained, trained

__all__ = ["trained"]
MINUTES = 3_000


def stock(folder: Path) -> None:
    """Store bars and mark bars of two symbols."""
    with connect("embedded", folder) as store:
        for seed, symbol in enumerate(("BTCUSDT", "ETHUSDT")):
            bars: np.ndarray = generated_bars(MINUTES, seed)
            assert bars.dtype == BAR
            writer.insert_bars(store, symbol, 0, bars, "file")
            writer.insert_mark_bars(store, symbol, bars[:-10], "file")


def test_backtest_command_trades_the_store(tmp_path: Path, trained: Trained) -> None:
    stock(tmp_path)
    command = [sys.executable, "-m", "control.cli", "--data-dir", str(tmp_path), "backtest", "--json"]
    options = ["--symbol", "ETHUSDT", "--bundle", str(trained.bundle), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["symbols"] == ["ETHUSDT"] and found["minutes_on_last_price"] == 10
    (row,) = found["by_symbol"]
    assert row["decisions"] > MINUTES - 1_000
    assert found["refusals"]["ETHUSDT"]["not_ready"] == row["decisions"]  # 50 hours are no warm-up for the 1h features
    assert found["minutes_unfunded"] == MINUTES  # no rates are stored
    sheet = Path(found["tear_sheet"]).read_text()
    assert sheet.startswith("<!doctype html>") and "3,000 minutes have no funding rate stored" in sheet
    manifest = json.loads((trained.bundle / "manifest.json").read_text())
    learned = found["learned"]
    assert learned["from_ms"] == manifest["from_ms"]
    assert learned["unseen_from_ms"] == manifest["labels_to_ms"] + 86_400_000  # a day's distance, as for the gate
    refused = subprocess.run([*command, "--symbol", "ETHUSDT"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "no production model" in refused.stderr


@pytest.mark.parametrize("hours", [0, 10, 50])
def test_a_backtest_on_days_the_model_learned_from_says_so_first(tmp_path: Path, trained: Trained, hours: int) -> None:
    """The bundle is made to have learned from the first `hours` of the stored 50."""
    stock(tmp_path)
    bundle = shutil.copytree(trained.bundle, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    first_ms = int(generated_bars(1, 0)["open_ms"][0])
    end_ms = first_ms + hours * 3_600_000
    manifest |= {"from_ms": first_ms - 86_400_000, "labels_to_ms": end_ms - 86_400_000}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    command = [sys.executable, "-m", "control.cli", "--data-dir", str(tmp_path), "backtest", "--bundle", str(bundle)]
    options = ["--symbol", "ETHUSDT", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    sheet = (tmp_path / "out" / "tear_sheet.html").read_text()
    assert ("IN SAMPLE" in said) == ("IN SAMPLE" in sheet) == bool(hours)
    found = json.loads((tmp_path / "out" / "result.json").read_text())["learned"]
    assert found["share"] == pytest.approx(hours / 50) and found["unseen_days"] == pytest.approx((50 - hours) / 24)
    if hours:
        assert f"{hours / 50:.0%} of this period" in said and f"{(50 - hours) / 24:.1f} days after" in said


async def test_backtest_runs_as_a_job_of_control_with_progress_and_a_result(tmp_path: Path, trained: Trained) -> None:
    stock(tmp_path)
    model_id = open_registry(load(data_dir=tmp_path)).publish(trained.bundle, "test", 1)
    seen: list[float] = []
    runner = JobRunner(tmp_path, None, lambda row: None, lambda job: seen.append(job.progress or 0.0))
    task = asyncio.ensure_future(runner.run())
    job_id = runner.submit("backtest", {"symbol": "ETHUSDT", "model": model_id}, "me").job_id
    deadline = time.monotonic() + 120
    while (job := runner.job(job_id)).state in ("queued", "running"):
        assert time.monotonic() < deadline, job.log
        await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert job.state == "done", job.log
    assert job.progress == 1.0 and any(line.startswith("progress ") for line in job.log)
    (folder,) = (tmp_path / "backtests").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["model_id"] == model_id and result["hash"] in "".join(job.log)
    assert {"by_symbol", "by_month", "refusals", "statistics"} <= set(result)
    assert (folder / "tear_sheet.html").exists() and (folder / "trades.csv").exists()


@pytest.mark.shared_data
def test_backtest_of_recorded_candles_from_import_to_result(
    tmp_path: Path, trained: Trained, shared_data: Path
) -> None:
    """A month of real candles and settled rates: every minute after the warm-up is decided, the money adds up."""
    command = [sys.executable, "-m", "control.cli", "--data-dir", str(tmp_path)]
    names = [
        f"{name}USDT-{kind}.2025-05.feather" for name in ("BTC", "ETH") for kind in ("1m-futures", "8h-funding_rate")
    ]
    files = [str(shared_data / "klines" / name) for name in names]
    done = subprocess.run([*command, "import", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    options = [
        "--symbol",
        "ETHUSDT",
        "--from",
        "2025-05-14",
        "--to",
        "2025-06-01",
        "--bundle",
        str(trained.bundle),
        "--json",
    ]
    done = subprocess.run([*command, "backtest", *options, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (row,) = found["by_symbol"]
    assert row["decisions"] == (found["last_ms"] - found["first_ms"]) // 60_000 == 18 * 1_440
    assert "not_ready" not in found["refusals"]["ETHUSDT"]
    total = found["statistics"]
    parts = total["gross_usdt"] - total["fees_usdt"] + total["funding_usdt"]
    assert total["net_usdt"] == pytest.approx(parts, abs=1e-6)
    assert sum(month["trades"] for month in found["by_month"]) == row["trades"] == total["trades"]
