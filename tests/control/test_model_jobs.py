"""From stored candles to a promoted model: label, train, register, promote, roll back, on a store of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import engine.model
from control.jobs import label as label_job
from control.jobs import models as models_job
from control.jobs import train as train_job
from control.jobs.inputs import label_settings, read_symbol
from engine.config import Config, load
from engine.errors import DataError
from engine.link import CommandServer
from engine.model.prepare import label_history
from engine.model.train import TrainSettings
from kernels.records import BAR, BarFlag, GapKind
from kernels.schema import TARGETS
from store import queries, writer
from store.client import Store, connect

MINUTE_MS = 60_000
START_MS = 1_700_000_040_000 // 3_600_000 * 3_600_000
MINUTES = 20_500  # 341 hours: BTCUSDT's EMA200 of hourly bars is defined after 200
SETTINGS = TrainSettings(rounds=3, leaves=7, threads=1, min_sum_hessian_in_leaf=0.5)


def candles(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    bars = np.zeros(MINUTES, BAR)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, MINUTES)))
    bars["open_ms"] = START_MS + MINUTE_MS * np.arange(MINUTES)
    bars["close"], bars["open"] = close, np.concatenate([[100.0], close[:-1]])
    bars["high"] = np.maximum(bars["open"], close) * 1.0003
    bars["low"] = np.minimum(bars["open"], close) * 0.9997
    bars["volume"] = rng.lognormal(0, 1, MINUTES)
    bars["quote_volume"], bars["taker_volume"] = bars["volume"] * close, bars["volume"] / 2
    bars["trades"] = 10.0
    return bars


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("jobs")
    return load(None, data_dir=folder, market={"symbols": ["BTCUSDT", "ETHUSDT"]}, model={"compile": False})


@pytest.fixture(scope="module")
def store(config: Config):
    with connect("embedded", config.data_dir) as opened:
        for seed, symbol in enumerate(("BTCUSDT", "ETHUSDT")):
            writer.insert_bars(opened, symbol, 0, candles(seed), "file")
        yield opened


def train_request(to_ms: int = 1 << 42) -> train_job.TrainRequest:
    return train_job.TrainRequest([], 0, to_ms, SETTINGS, "test")


def train_once(store: Store, config: Config, said: list[str]) -> train_job.TrainResult:
    return train_job.run(store, config, train_request(), lambda *_: None, said.append)


def test_training_without_labels_says_what_to_do(store: Store, config: Config) -> None:
    with pytest.raises(DataError, match="run `ta label` first"):
        train_once(store, config, [])
    state, error = store.rows("SELECT state, error FROM training_jobs")[0]
    assert (state, "ta label" in error) == ("failed", True)


def test_labels_of_both_sides_are_stored_once(store: Store, config: Config) -> None:
    reports = label_job.run(store, config, [], 0, 1 << 42)
    label_job.run(store, config, ["ETHUSDT"], 0, 1 << 42)  # a second run replaces, it does not add
    for report in reports:
        for side in ("long", "short"):
            rows = queries.labels(store, side, report.symbol)
            assert len(rows) == report.rows_long == MINUTES - 360 - report.counts["no_atr"]
        assert report.unfunded == report.rows_long  # no funding rate is stored
    mean = store.scalar("SELECT avg(uniqueness) FROM labels_long_1m")
    assert 0 < mean < 1


def test_labelling_a_part_takes_no_label_of_the_rest(store: Store, config: Config) -> None:
    """The last six hours before `to` cannot be judged without what follows: what an earlier run knew of them stays."""
    before = queries.labels(store, "long", "ETHUSDT")
    label_job.run(store, config, ["ETHUSDT"], START_MS, START_MS + 16_000 * MINUTE_MS)
    np.testing.assert_array_equal(queries.labels(store, "long", "ETHUSDT"), before)


def test_labels_of_other_barriers_or_other_candles_are_not_trained_on(store: Store, config: Config) -> None:
    """The manifest states the configured barriers and costs: the labels must be theirs, and of the stored candles."""
    other = load(
        None, data_dir=config.data_dir, market={"symbols": ["BTCUSDT", "ETHUSDT"]}, barriers={"tp_atr": 2.5},
        model={"compile": False},
    )  # fmt: skip
    with pytest.raises(DataError, match=r"other barriers or costs.*run `ta label` again"):
        train_job.read_dataset(store, other, train_request(), config.data_dir, lambda *_: None)
    was = candles(1)[9_000:9_001]
    corrected = was.copy()
    corrected["close"] *= 1.0001
    corrected["flags"], corrected["arrived_ms"] = BarFlag.REVISION, 1
    writer.insert_bars(store, "ETHUSDT", 0, corrected, "rest")
    try:
        with pytest.raises(DataError, match=r"ETHUSDT: 1 stored long labels.*other candles.*run `ta label` again"):
            train_job.read_dataset(store, config, train_request(), config.data_dir, lambda *_: None)
    finally:
        was["flags"], was["arrived_ms"] = BarFlag.REVISION, 2
        writer.insert_bars(store, "ETHUSDT", 0, was, "rest")


def test_no_label_crosses_a_gap_that_was_recorded(store: Store, config: Config) -> None:
    absent_ms = START_MS + 15_000 * MINUTE_MS
    gap = {"run_id": "r", "seq": np.array([1], np.uint64), "time": np.array([absent_ms]), "symbol": "ETHUSDT"}
    gap |= {"timeframe": np.array([0]), "gap_kind": np.array([int(GapKind.FILLED)]), "bars": np.array([2])}
    times = {"from_time": np.array([absent_ms]), "to_time": np.array([absent_ms + MINUTE_MS])}
    writer.insert_columns(store, "data_gaps", gap | times)
    try:
        own, vectors = read_symbol(store, config, "ETHUSDT", 1 << 42)
        assert own.gaps.tolist() == [[absent_ms, absent_ms + 2 * MINUTE_MS]]
        found = label_history(own, vectors, label_settings(config)).long["time_ms"]
        label_job.run(store, config, ["ETHUSDT"], 0, 1 << 42)
        np.testing.assert_array_equal(queries.labels(store, "long", "ETHUSDT")["time_ms"], found)  # the old ones went
    finally:
        store.command("TRUNCATE TABLE data_gaps")
        label_job.run(store, config, ["ETHUSDT"], 0, 1 << 42)
    reaching = (found >= absent_ms - 359 * MINUTE_MS) & (found < absent_ms + 2 * MINUTE_MS)
    assert not reaching.any()
    assert absent_ms - 360 * MINUTE_MS in found and absent_ms + 3 * MINUTE_MS in found


def test_nothing_after_the_range_is_learned_from(store: Store, config: Config) -> None:
    to_ms = START_MS + 13_000 * MINUTE_MS
    data = train_job.read_dataset(store, config, train_request(to_ms), config.data_dir / "x", lambda *_: None)
    assert data.time_ms[-1] + 360 * MINUTE_MS == to_ms


def test_a_model_is_trained_promoted_replaced_and_brought_back(store: Store, config: Config) -> None:
    said: list[str] = []
    first = train_once(store, config, said)
    assert any(text.startswith("too little data") for text in said)
    assert any("rows have no funding rate stored: their net returns leave it out" in text for text in said)
    predictions = engine.model.load(first.bundle_path).predict(np.zeros((2, 132), np.float32))
    assert predictions.shape == (2, len(TARGETS))
    second = train_once(store, config, said)
    with pytest.raises(DataError, match="insufficient evidence"):
        models_job.promote(store, config, first.model_id, "test")
    with pytest.raises(DataError, match="needs a reason"):
        models_job.promote(store, config, first.model_id, "test", force=True)
    done = models_job.promote(store, config, first.model_id, "test", force=True, reason="demo")
    assert done.engine.startswith("no engine runs")
    models_job.promote(store, config, second.model_id, "test", force=True, reason="newer")
    back = models_job.rollback(store, config, "test", "worse")
    assert back.model_id == first.model_id
    states = dict(store.rows("SELECT model_id, state FROM models"))
    assert states == {first.model_id: "production", second.model_id: "retired"}
    assert dict(store.rows("SELECT state, count() FROM training_jobs GROUP BY state")) == {"failed": 1, "done": 2}
    with pytest.raises(DataError, match="nothing to roll back to"):
        models_job.rollback(store, config, "test")


def test_a_training_that_died_goes_on_where_it_was_although_candles_came(store: Store, config: Config) -> None:
    class Died(BaseException):
        pass

    def die(what: str, done: int, total: int) -> None:
        if what == TARGETS[4]:
            raise Died

    with pytest.raises(Died):
        train_job.run(store, config, train_request(), die, lambda _: None)
    (job_id,) = store.rows("SELECT job_id FROM training_jobs WHERE state = 'failed' AND error = ''")[0]
    later = candles(7)[-30:]
    later["open_ms"] += 30 * MINUTE_MS
    writer.insert_bars(store, "BTCUSDT", 0, later, "file")
    try:
        label_job.run(store, config, ["BTCUSDT"], 0, 1 << 42)
        seen: list[str] = []
        resumed = train_job.interrupted(config, job_id)
        assert resumed.to_ms == START_MS + MINUTES * MINUTE_MS and resumed.settings == SETTINGS
        done = train_job.run(store, config, resumed, lambda what, *_: seen.append(what), lambda _: None, job_id)
    finally:
        store.command(f"DELETE FROM candles_1m WHERE open_time >= fromUnixTimestamp64Milli({resumed.to_ms})")
    assert not {TARGETS[0], TARGETS[3]} & set(seen) and TARGETS[4] in seen
    row = store.rows(f"SELECT state, model_id FROM training_jobs WHERE job_id = '{job_id}'")
    assert row == [("done", done.model_id)]
    assert not list((config.data_dir / "work" / "checkpoints").glob("*/*"))
    with pytest.raises(DataError, match=r"expected one that did not finish \(there are: none\)"):
        train_job.interrupted(config, job_id)


def test_the_gate_trades_the_unseen_days_and_a_second_look_needs_force(
    store: Store, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate of the first days is backtested on the rest; what came of it is recorded, and not repeated."""
    from engine.model import gate as rule

    eager = config.decision.model_copy(update={"min_er": -1.0, "max_tail": 1.0, "max_mae_atr": 100.0})
    apart = config.model.model_copy(update={"registry_url": f"file://{tmp_path}"})  # no production model there
    trading = config.model_copy(update={"decision": eager, "model": apart})
    registry = models_job.open_registry(trading)

    def train_until(minute: int) -> str:
        request = train_request(START_MS + minute * MINUTE_MS)
        return train_job.run(store, trading, request, lambda *_: None, lambda _: None).model_id

    early = train_until(14_000)
    with pytest.raises(DataError, match=r"insufficient evidence: \d days and \d+ trades unseen by both models"):
        models_job.promote(store, trading, early, "test")
    (evidence,) = [event.evidence for event in registry.events() if event.model_id == early and event.evidence]
    seen_until = models_job.read_manifest(registry.path(early))["labels_to_ms"]
    assert evidence["from_ms"] >= seen_until + 24 * 60 * MINUTE_MS and evidence["trades"] > 0
    monkeypatch.setattr(rule, "MIN_DAYS", 2)
    monkeypatch.setattr(rule, "MIN_TRADES", 1)
    with pytest.raises(DataError, match="not better: net "):  # a random walk, and costs
        models_job.promote(store, trading, early, "test")
    with pytest.raises(DataError, match="already tried: this bundle was refused before"):
        models_job.promote(store, trading, early, "test")
    again = train_until(13_900)
    with pytest.raises(DataError, match=f"the gate has already compared a model \\({early}\\) on these days"):
        models_job.promote(store, trading, again, "test")
    done = models_job.promote(store, trading, again, "test", force=True, reason="known to lose")
    (event,) = [event for event in registry.events() if event.model_id == again and event.action == "production"]
    assert done.forced and (event.forced, event.reason) == (True, "known to lose")


def test_a_model_that_was_compared_with_another_one_than_serves_now_is_not_promoted(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate's backtest takes minutes; what an operator does meanwhile must stand, and be the newest event."""
    from control.jobs import gate
    from engine.model.gate import Verdict

    registry = models_job.open_registry(config)
    newest, older = (registry.entries()[i].model_id for i in (0, 1))
    models_job.promote(store, config, older, "test", force=True, reason="to begin with")
    models_job.promote(store, config, newest, "test", force=True, reason="to begin with")
    passed = Verdict("pass", "net +1", 1, 2, 30, 500, 1.0, 0.0, 0.5)

    def examine(*_: object) -> Verdict:
        models_job.rollback(store, config, "operator", "it loses")
        return passed

    monkeypatch.setattr(gate, "examine", examine)
    with pytest.raises(DataError, match="the production model changed while it was compared"):
        models_job.promote(store, config, newest, "test")
    production = registry.production()
    assert production is not None and production.model_id == older


def test_training_on_a_cluster_labels_folds_and_trains_what_the_local_run_does(store: Store, config: Config) -> None:
    """Two real workers, which see a folder and no store: the same rows in the label tables, the same model texts."""
    from dask import distributed

    labels = (
        "SELECT cityHash64(groupArray(tuple(* EXCEPT version))) FROM (SELECT * FROM labels_{}_1m ORDER BY symbol, time)"
    )
    label_job.run(store, config, [], 0, 1 << 42)  # other tests of this file have changed the candles since
    here = train_job.run(store, config, replace(train_request(), folds=1), lambda *_: None, lambda _: None)
    before = [store.scalar(labels.format(side)) for side in ("long", "short")]
    for side in ("long", "short"):
        store.command(f"TRUNCATE TABLE labels_{side}_1m")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, worker_dashboard_address=None
    ) as scheduler:
        request = replace(train_request(), folds=1, cluster=scheduler.scheduler_address)
        there = train_job.run(store, config, request, lambda *_: None, lambda _: None)
    assert [store.scalar(labels.format(side)) for side in ("long", "short")] == before
    assert there.rows == here.rows and there.independent_labels == here.independent_labels
    for target in TARGETS:
        texts = [(Path(found.bundle_path) / f"{target}.txt").read_bytes() for found in (here, there)]
        assert texts[0] == texts[1]
    metrics = [models_job.read_manifest(Path(found.bundle_path))["metrics"] for found in (here, there)]
    assert metrics[0] == metrics[1] and len(metrics[0]["policy"]["per_day"]) >= 1
    assert not list((config.data_dir / "work").glob("train-*")), "the extract is removed"


def test_a_cluster_that_does_not_answer_is_named(store: Store, config: Config) -> None:
    with pytest.raises(DataError, match=r"cluster tcp://127\.0\.0\.1:9: expected a Dask scheduler"):
        train_job.run(store, config, replace(train_request(), cluster="tcp://127.0.0.1:9"), lambda *_: None, print)


def test_a_promotion_builds_the_compiled_library_in_the_background(
    store: Store, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("tl2cgen needs gcc, and there is none")
    monkeypatch.setattr(models_job, "LOWEST", 0)  # a machine busy with other tests would leave it nothing
    registry = models_job.open_registry(config)
    newest = registry.entries()[0].model_id
    compiling = config.model_copy(update={"model": config.model.model_copy(update={"compile": True})})
    models_job.promote(store, compiling, newest, "test", force=True, reason="build")
    models_job.rollback(store, config, "test")
    built, deadline = registry.path(newest) / "compiled", time.monotonic() + 120
    while not built.is_dir():
        assert time.monotonic() < deadline, (config.data_dir / "logs" / "tl2cgen.log").read_text()
        time.sleep(0.1)
    assert engine.model.load(built.parent, "tl2cgen").backend == "tl2cgen"


def test_the_running_engine_is_told_and_its_refusal_changes_nothing(config: Config) -> None:
    registry = models_job.open_registry(config)
    heard: list[tuple[str, dict]] = []

    async def handler(verb: str, actor: str, args: dict, command_id: str) -> dict:
        heard.append((verb, args))
        if len(heard) > 1:
            raise ValueError("another swap is under way")
        return {}

    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        server = CommandServer(config.data_dir, handler)
        await server.start()
        ready.set()
        await asyncio.to_thread(stop.wait, 30)
        await server.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        newest, oldest = (registry.entries()[i].model_id for i in (0, 1))
        done = models_job.promote(None, config, newest, "test", force=True, reason="swap")
        assert done.engine == "swapped"
        verb, args = heard[0]
        assert (verb, args["model_id"]) == ("promote", newest)
        assert json.loads((Path(args["bundle_path"]) / "manifest.json").read_text())["model_id"] == newest
        with pytest.raises(DataError, match="another swap is under way"):
            models_job.promote(None, config, oldest, "test", force=True, reason="swap")
        production = registry.production()
        assert production is not None and production.model_id == newest
    finally:
        stop.set()
        thread.join()
