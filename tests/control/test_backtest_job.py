"""`ta backtest` from stored candles to a tear sheet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from kernels.records import BAR
from store import writer
from store.client import connect
from tests.market_data import generated_bars
from tests.model_rig import Trained, trained

__all__ = ["trained"]
MINUTES = 3_000


def test_backtest_command_trades_the_store(tmp_path: Path, trained: Trained) -> None:
    with connect("embedded", tmp_path) as store:
        for seed, symbol in enumerate(("BTCUSDT", "ETHUSDT")):
            bars: np.ndarray = generated_bars(MINUTES, seed)
            assert bars.dtype == BAR
            writer.insert_bars(store, symbol, 0, bars, "file")
            writer.insert_mark_bars(store, symbol, bars[:-10], "file")
    command = [sys.executable, "-m", "control.cli", "--data-dir", str(tmp_path), "backtest", "--json"]
    options = ["--symbol", "ETHUSDT", "--bundle", str(trained.bundle), "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["symbols"] == ["ETHUSDT"] and found["minutes_on_last_price"] == 10
    (row,) = found["by_symbol"]
    assert row["decisions"] > MINUTES - 1_000
    assert found["refusals"]["ETHUSDT"]["not_ready"] == row["decisions"]  # 50 hours are no warm-up for the 1h features
    assert Path(found["tear_sheet"]).read_text().startswith("<!doctype html>")
    refused = subprocess.run([*command, "--symbol", "ETHUSDT"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "no production model" in refused.stderr
