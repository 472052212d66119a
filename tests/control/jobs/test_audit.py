"""The audit: live vectors come out again from the stored candles; a planted candle and a planted feature are found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from control.jobs import audit, history
from control.keeper import NEWEST_AUDIT
from engine.config import Config, load
from engine.market.panel import OPEN_INTEREST, Panel
from engine.market.rings import BarFile, bar_path
from kernels import features
from kernels.records import BAR, FEATURES_PER_TIMEFRAME, TIMEFRAME_MS, TIMEFRAMES
from kernels.schema import NAMES, SCHEMA_HASH
from store import writer
from store.client import Store, connect
from tests import market_data
from tests.market_data import START_MS

SYMBOLS = ("BTCUSDT", "ETHUSDT")
MINUTES, LIVE = 4_000, 130
LIVE_MS = START_MS + (MINUTES - LIVE) * 60_000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(None, data_dir=tmp_path, market={"symbols": list(SYMBOLS)})


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    with connect("embedded", config.data_dir) as opened:
        record_a_run(opened, config.data_dir)
        yield opened


def record_a_run(store: Store, folder: Path) -> None:
    """Run a panel over generated bars and store what an engine's journal would bring: bars seen, signals, vectors."""
    series = []
    for seed, price in ((1, 60_000.0), (2, 3_000.0)):
        one = market_data.generated_bars(MINUTES, seed, price)
        series.append([one, features.build_bars(one, 1), features.build_bars(one, 2)])
    signals: list[tuple[int, int, int, tuple[int, ...], np.ndarray]] = []

    def on_vector(symbol: int, decision_ms: int, vector: np.ndarray, vector_hash: int, bits: int) -> None:
        signals.append((symbol, decision_ms, vector_hash, panel.first_bars(symbol), vector.copy()))

    live = []
    for s, name in enumerate(SYMBOLS):
        for timeframe, bars in enumerate(series[s]):
            writer.insert_bars(store, name, timeframe, bars, "rest")
            past = bars["open_ms"] + TIMEFRAME_MS[timeframe] <= LIVE_MS
            file = BarFile.create(bar_path(folder / "bars", name, timeframe), name, timeframe, 8_192)
            file.rewrite(bars[past])
            file.close()
            live += [(int(bar["open_ms"]) + TIMEFRAME_MS[timeframe], s, timeframe, bar) for bar in bars[~past]]
    panel = Panel(folder / "bars", SYMBOLS, on_vector, warmup_bars=1_500)
    for s, name in enumerate(SYMBOLS):
        samples = market_data.generated_samples(700, s, 300_000, LIVE_MS - 650 * 300_000)
        writer.insert_open_interest(store, name, samples)
        panel.seed_samples(s, OPEN_INTEREST, samples)
    panel.seed()
    seen: list[tuple[int, int, np.void]] = []
    for close_ms, s, timeframe, bar in sorted(live, key=lambda x: x[:3]):
        panel.on_bar(s, timeframe, bar, close_ms + 100)
        seen.append((s, timeframe, bar))
    assert len(signals) == 2 * LIVE
    store_seen(store, seen)
    store_signals(store, signals)
    panel.close()


def store_seen(store: Store, seen: list[tuple[int, int, np.void]]) -> None:
    bars = np.array([bar for _, _, bar in seen], BAR)
    columns = {name: bars[name] for name in audit.audit.VALUES}
    columns |= {"open_time": bars["open_ms"], "flags": bars["flags"], "seq": np.arange(1, len(seen) + 1)}
    columns |= {"symbol": [SYMBOLS[s] for s, _, _ in seen], "timeframe": [t for _, t, _ in seen]}
    columns |= {"engine_id": "main", "run_id": "run1", "time": bars["open_ms"] + 60_000}
    writer.insert_columns(store, "bars_seen", columns)


def store_signals(store: Store, signals: list) -> None:
    times = np.array([x[1] for x in signals])
    columns = {"engine_id": "main", "run_id": "run1", "seq": 10_000 + np.arange(len(signals)), "time": times}
    columns |= {"symbol": [SYMBOLS[x[0]] for x in signals], "decision_time": times}
    columns["vector_hash"] = np.array([x[2] for x in signals], np.uint64)
    for k, name in enumerate(audit.FIRST_COLUMNS):
        columns[name] = np.array([x[3][k] for x in signals])
    writer.insert_columns(store, "signals", columns)
    for timeframe, name in enumerate(TIMEFRAMES):
        rows = [(k, x) for k, x in enumerate(signals) if x[1] % TIMEFRAME_MS[timeframe] == 0]
        parts = np.array([x[4][timeframe * 44 : timeframe * 44 + FEATURES_PER_TIMEFRAME] for _, x in rows])
        columns = {"engine_id": "main", "run_id": "run1", "seq": np.array([20_000 + k for k, _ in rows])}
        columns |= {"symbol": [SYMBOLS[x[0]] for _, x in rows], "close_time": np.array([x[1] for _, x in rows])}
        columns |= {"schema_hash": np.full(len(rows), SCHEMA_HASH, np.uint64), "time": columns["close_time"]}
        writer.insert_columns(store, f"features_{name}", columns | {x: parts[:, k] for k, x in enumerate(NAMES)})


def audits(store: Store) -> list[tuple]:
    return store.rows("SELECT symbol, timeframe, feature, compared, differing FROM audits ORDER BY ALL")


def test_a_clean_run_is_reproduced_bit_for_bit(store: Store, config: Config) -> None:
    btc, eth = audit.run(store, config, [], 0, 1 << 42)
    for report in (btc, eth):
        assert (report.compared, report.differing, report.unreachable) == (LIVE, 0, 0)
        assert not report.columns and not report.candles_differing and not report.failed
        assert report.rows_compared == {"1m": LIVE, "15m": 8, "1h": 2}
        assert report.candles_compared == LIVE + 8 + 2
        assert report.drift_relative < 1e-6
    assert audits(store) == [(name, "all", "vector_hash", LIVE, 0) for name in SYMBOLS]


def test_a_decision_that_is_stored_while_the_audit_runs_is_left_to_the_next(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BTCUSDT's candles are read first; a minute later ETHUSDT's newest vector is made of one that was not there."""
    last_ms = START_MS + MINUTES * 60_000
    newest = f"decision_time = fromUnixTimestamp64Milli({last_ms}, 'UTC')"
    store.command(f"CREATE TABLE later ENGINE = Memory AS SELECT * FROM signals WHERE {newest}")
    store.command(f"DELETE FROM signals WHERE {newest}")
    read = audit._history

    def reads(store: Store, engine_id: str, symbol: str, to_ms: int) -> audit._History:
        history = read(store, engine_id, symbol, last_ms - 1 if symbol == "BTCUSDT" else to_ms)
        if symbol == "BTCUSDT":
            store.command("INSERT INTO signals SELECT * FROM later")
        return history

    monkeypatch.setattr(audit, "_history", reads)
    for report in audit.run(store, config, [], 0, 1 << 42):
        assert (report.compared, report.differing, report.unreachable) == (LIVE - 1, 0, 0) and not report.failed
    monkeypatch.setattr(audit, "_history", read)
    for report in audit.run(store, config, [], 0, 1 << 42):
        assert (report.compared, report.differing) == (LIVE, 0)


def test_two_runs_of_a_symbol_share_its_rows(store: Store, config: Config) -> None:
    for table in ("signals", "bars_seen"):
        columns = ", ".join(
            x[0] for x in store.rows(f"SELECT name FROM system.columns WHERE table = '{table}' AND name != 'run_id'")
        )
        store.command(f"INSERT INTO {table} (run_id, {columns}) SELECT 'run2', {columns} FROM {table}")
    reports = audit.run(store, config, [], 0, 1 << 42)
    assert [(report.symbol, report.run_id) for report in reports] == [(s, r) for s in SYMBOLS for r in ("run1", "run2")]
    assert audits(store) == [(name, "all", "vector_hash", 2 * LIVE, 0) for name in SYMBOLS]


def test_a_range_and_a_symbol_are_respected(store: Store, config: Config) -> None:
    (report,) = audit.run(store, config, ["ETHUSDT"], LIVE_MS + 60_000, LIVE_MS + 11 * 60_000)
    assert (report.symbol, report.compared) == ("ETHUSDT", 10)
    assert audit.run(store, config, [], 0, LIVE_MS) == []


def test_a_planted_candle_and_a_planted_feature_are_found(store: Store, config: Config) -> None:
    planted_ms = LIVE_MS + 20 * 60_000
    candle = market_data.generated_bars(MINUTES, 2, 3_000.0)[MINUTES - LIVE + 20 : MINUTES - LIVE + 21]
    candle["close"] *= 1.0001
    writer.insert_bars(store, "ETHUSDT", 0, candle, "rest")
    rsi = store.rows("SELECT seq, rsi FROM features_1m WHERE symbol = 'ETHUSDT' ORDER BY close_time LIMIT 1 OFFSET 50")[
        0
    ]
    others = ", ".join(x if x != "rsi" else f"{float(np.nextafter(rsi[1], 0))!r}" for x in NAMES)
    store.command(
        f"INSERT INTO features_1m (engine_id, run_id, seq, time, symbol, close_time, schema_hash, {', '.join(NAMES)}) "
        f"SELECT engine_id, run_id, seq + 50000, time, symbol, close_time, schema_hash, {others} FROM features_1m "
        f"WHERE symbol = 'ETHUSDT' AND seq = {rsi[0]}"
    )
    btc, eth = audit.run(store, config, [], 0, 1 << 42)
    assert not btc.failed and eth.failed
    assert eth.candles_differing == {"1m": [planted_ms]}
    assert list(eth.columns) == ["rsi_1m"]
    assert (eth.columns["rsi_1m"].differing, eth.columns["rsi_1m"].max_ulp) == (1, 1.0)
    assert eth.differing == 0  # the vectors themselves came from the bars as seen
    assert ("ETHUSDT", "1m", "rsi", LIVE, 1) in audits(store)
    assert ("ETHUSDT", "1m", "candle", LIVE + 10, 1) in audits(store)


def test_a_planted_candle_of_the_history_changes_the_vectors(store: Store, config: Config) -> None:
    at = MINUTES - LIVE - 30
    candle = market_data.generated_bars(MINUTES, 2, 3_000.0)[at : at + 1]
    candle["close"] *= 1.0001
    writer.insert_bars(store, "ETHUSDT", 0, candle, "rest")
    btc, eth = audit.run(store, config, [], 0, 1 << 42)
    assert not btc.failed
    assert eth.differing == LIVE and eth.differing_ms[0] == LIVE_MS + 60_000


def test_missing_first_bars_are_said_not_passed_over(store: Store, config: Config) -> None:
    store.command(f"ALTER TABLE candles_1m DELETE WHERE symbol = 'ETHUSDT' AND open_time < {LIVE_MS / 1000 - 6_000}")
    shutil.rmtree(config.data_dir / "bars")
    (report,) = audit.run(store, config, ["ETHUSDT"], 0, 1 << 42)
    assert (report.compared, report.unreachable) == (0, LIVE)
    assert "expected the first bar of the fold" in report.detail


def test_history_that_only_the_engines_files_have_is_stored_first(store: Store, config: Config) -> None:
    before = store.scalar("SELECT count() FROM candles_15m")
    store.command("TRUNCATE TABLE candles_15m")
    store.command("ALTER TABLE candles_1h DELETE WHERE symbol = 'BTCUSDT'")
    store.command("TRUNCATE TABLE open_interest")
    for report in audit.run(store, config, [], 0, 1 << 42):
        assert (report.compared, report.unreachable, report.failed) == (LIVE, 0, False)
    assert store.scalar("SELECT count() FROM candles_15m") == before
    assert history.adopt(store, config) == 0


def test_the_metric_is_the_newest_audit(store: Store, config: Config) -> None:
    assert store.rows(NEWEST_AUDIT)[0][2] == 0
    audit.run(store, config, [], 0, 1 << 42)
    assert [int(x) for x in store.rows(NEWEST_AUDIT)[0]] == [2 * LIVE, 0, 2]


def test_a_failing_symbol_is_halted_on_request(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from control.cli import audit as group
    from control.cli import local

    bad, good = audit.AuditReport("ETHUSDT", "main", "1", 10, 3), audit.AuditReport("BTCUSDT", "main", "1", 10, 0)
    sent: list[tuple] = []
    monkeypatch.setattr(audit, "run", lambda *_: [bad, good])
    monkeypatch.setattr(local, "send", lambda _, verb, args: sent.append((verb, args)))
    monkeypatch.setattr(group, "settings", lambda: config)
    with pytest.raises(typer.Exit):
        group.audit(halt=True, json=True)
    assert sent == [("halt_symbol", {"symbol": "ETHUSDT", "reason": "audit"})]


def test_the_command_line(config: Config, tmp_path: Path) -> None:
    with connect("embedded", config.data_dir) as opened:
        record_a_run(opened, config.data_dir)
    from control.cli.app import Settings, app, load_groups

    load_groups()
    old = Settings.data_dir, Settings.file
    try:
        answer = CliRunner().invoke(app, ["--data-dir", str(tmp_path), "audit", "--symbol", "ETHUSDT", "--json"])
        assert answer.exit_code == 0, answer.output
        document = json.loads(answer.stdout)
        assert document["failed"] == [] and document["reports"][0]["compared"] == LIVE
        out = tmp_path / "eth.parquet"
        answer = CliRunner().invoke(
            app, ["--data-dir", str(tmp_path), "features", "--symbol", "ETHUSDT", "--out", str(out)]
        )
        assert answer.exit_code == 0, answer.output
    finally:
        Settings.data_dir, Settings.file = old
    import polars as pl

    frame = pl.read_parquet(out)
    assert frame.width == 133 and len(frame) == MINUTES and frame["rsi_1m"].is_finite().sum() > 3_900
