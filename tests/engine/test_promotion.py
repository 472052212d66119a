"""A real bundle is swapped into a running engine between two frames; a broken one changes nothing."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.model.bundle import write_bundle
from engine.model.compiled import build_and_select
from engine.model.train import describe, train
from kernels.records import Kind
from kernels.schema import SCHEMA_HASH
from tests.engine.recorded import Day, Market
from tests.model_rig import NOW_MS, SMALL, Trained, make_trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def day(tmp_path: Path) -> Day:
    day = Day(tmp_path / "day", Market(6))
    day.operator.open_model = day.operator._open_warm  # what an engine has; a Day stubs it
    return day


def promote(day: Day, bundle: Path, number: int = 0) -> dict[str, object]:
    args = {"bundle_path": str(bundle)}
    return asyncio.run(day.operator.handle("promote", "test", args, f"promotion-{bundle}-{number}"))


def test_a_promotion_swaps_the_model_between_two_minutes(day: Day, trained: Trained) -> None:
    day.pass_minute(0)
    answer = promote(day, trained.bundle)
    assert answer["model_id"] == trained.bundle.name
    day.pass_minute(1)
    assert day.core.predictor is day.operator.predictor
    written = day.core.predictor
    assert written is not None
    assert (written.model_id, written.schema_hash) == (trained.bundle.name, SCHEMA_HASH)
    assert written.backend in ("vbmi", "lockstep")


def test_a_broken_bundle_is_refused_and_the_running_model_stays(day: Day, trained: Trained, tmp_path: Path) -> None:
    promote(day, trained.bundle)
    serving = day.core.predictor
    broken = shutil.copytree(trained.bundle, tmp_path / "broken")
    (broken / "forest.bin").write_bytes((broken / "forest.bin").read_bytes()[:-64])
    with pytest.raises(ValueError, match=r"forest\.bin: expected \d+ bytes, got \d+: truncated"):
        promote(day, broken)
    assert day.core.predictor is serving
    assert day.operator.status()["model_id"] == trained.bundle.name


def choose(day: Day, name: str) -> dict[str, object]:
    return asyncio.run(day.operator.handle("predictor", "test", {"predictor": name}, f"predictor-{name}"))


def test_a_predictor_is_chosen_while_the_engine_runs(day: Day, trained: Trained, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("tl2cgen needs gcc, and there is none")
    boosters = train(trained.data, settings=replace(SMALL, rounds=2))
    bundle = write_bundle(tmp_path / "bundles", boosters, trained.data, describe(SMALL, 2), NOW_MS)
    with pytest.raises(ValueError, match="expected one of auto, packed, walk, tl2cgen, got 'onnx'"):
        choose(day, "onnx")
    promote(day, bundle)
    with pytest.raises(ValueError, match="predictor tl2cgen: its libraries are not built"):
        choose(day, "tl2cgen")
    assert build_and_select(bundle, tmp_path) == "no engine runs"
    day.pass_minute(0)
    packed = day.operator.status()["backend"]
    for minute, (name, backend) in enumerate((("tl2cgen", "tl2cgen"), ("walk", "walk"), ("packed", packed)), 1):
        status = choose(day, name)
        assert (status["backend"], status["predictor"], status["model_id"]) == (backend, name, bundle.name)
        day.pass_minute(minute)
    assert day.operator.previous_path != str(bundle)  # another predictor is not another model: rollback still works
    assert day.journal.counts[Kind.MODEL] == 5  # the day's first model, the promotion, and each choice
