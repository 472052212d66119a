"""The keeper: what a run was started on reaches the store, whenever REST has brought it and whatever fails first."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from control import keeper as module
from control.keeper import Keeper
from control.store_health import StoreHealth
from engine.config import load
from engine.market.rings import BarFile, bar_path
from store import queries, writer
from store.client import connect
from store.errors import StoreError
from store.tail import RunStatus
from tests.market_data import generated_bars


def test_the_history_is_stored_when_it_is_complete_and_tried_again_when_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's journal is there before REST has completed the bar files: stored then, its front was a hole for ever."""
    config = load(None, data_dir=tmp_path, market={"symbols": ["BTCUSDT"]})
    bars = generated_bars(300, 3)
    file = BarFile.create(bar_path(tmp_path / "bars", "BTCUSDT", 0), "BTCUSDT", 0, 8_192)
    file.rewrite(bars[:50])  # of an earlier run
    failures = [StoreError("away for a moment")]
    real = module.adopt

    def adopt(*given: Any) -> int:
        if failures:
            raise failures.pop()
        return real(*given)

    monkeypatch.setattr(module, "adopt", adopt)
    with connect("embedded", tmp_path) as store:
        keeper = Keeper(store, config, StoreHealth())
        keeper._tail = SimpleNamespace(status=lambda: [RunStatus("main", 7)], rows=0, error="")  # type: ignore[assignment]

        def report_until_idle() -> None:
            keeper._report()
            deadline = time.monotonic() + 30
            while keeper._adopting.is_set():
                assert time.monotonic() < deadline
                time.sleep(0.01)

        report_until_idle()
        assert not len(queries.bars(store, "BTCUSDT", 0)) and failures
        file.rewrite(bars)  # what the helper brought
        seen = {"engine_id": "main", "run_id": "7", "symbol": "BTCUSDT", "seq": np.array([9], np.uint64)}
        writer.insert_columns(store, "bars_seen", seen | {"time": np.array([int(bars["open_ms"][-1]) + 60_000])})
        report_until_idle()
        assert not failures and not len(queries.bars(store, "BTCUSDT", 0))
        report_until_idle()
        assert queries.bars(store, "BTCUSDT", 0)["open_ms"].tolist() == bars["open_ms"].tolist()
        monkeypatch.setattr(module, "adopt", lambda *_: pytest.fail("once is enough"))
        report_until_idle()
    file.close()
