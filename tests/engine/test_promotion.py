"""A real bundle is swapped into a running engine between two frames; a broken one changes nothing."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from kernels.schema import SCHEMA_HASH
from tests.engine.recorded import Day, Market
from tests.model_rig import Trained, make_trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def day(tmp_path: Path) -> Day:
    day = Day(tmp_path / "day", Market(4))
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
