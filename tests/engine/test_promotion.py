"""A real bundle is swapped into a running engine between two frames; a broken one changes nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core import Vector
from engine.model.building import build_and_select
from engine.model.bundle import write_bundle
from engine.model.opening import open_packed
from engine.model.packed import read_packed, write_packed
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
    day = Day(tmp_path / "day", Market(12))
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


def cut(bundle: Path) -> None:
    (bundle / "forest.bin").write_bytes((bundle / "forest.bin").read_bytes()[:-64])


def alter(bundle: Path) -> None:
    body = bytearray((bundle / "forest.bin").read_bytes())
    body[-1] ^= 1
    (bundle / "forest.bin").write_bytes(body)


def repack(bundle: Path, schema_hash: int = SCHEMA_HASH, **changed: np.ndarray) -> None:
    packed = read_packed(bundle / "forest.bin")
    arrays = {name: array.copy() for name, array in packed.arrays.items()} | changed
    write_packed(bundle / "forest.bin", arrays, schema_hash, packed.features)


def mispredict(bundle: Path) -> None:
    golden = read_packed(bundle / "forest.bin").arrays["golden_predictions"].copy()
    golden[30, 3] += 1e-9
    repack(bundle, golden_predictions=golden)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, r"forest\.bin: expected \d+ bytes, got \d+: truncated"),
        (alter, r"forest\.bin: .*altered"),
        (lambda bundle: repack(bundle, schema_hash=17), "made for feature schema 17"),
        (mispredict, "golden rows are predicted differently"),
        (
            lambda bundle: repack(bundle, targets=np.frombuffer(b"er_long", np.uint8)),
            "expected the targets er_long",
        ),
        (lambda bundle: (bundle / "forest.bin").unlink(), "forest.bin"),
    ],
)
def test_a_bad_bundle_is_refused_by_name_and_the_running_model_stays(
    day: Day, trained: Trained, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    promote(day, trained.bundle)
    serving = day.core.predictor
    broken = shutil.copytree(trained.bundle, tmp_path / "broken")
    spoil(broken)
    with pytest.raises(ValueError, match=message):
        promote(day, broken)
    assert day.core.predictor is serving
    assert day.operator.status()["model_id"] == trained.bundle.name
    day.pass_minute(0)


def test_frames_that_come_during_a_swap_are_decided_by_one_model_or_the_other(day: Day, trained: Trained) -> None:
    """Minutes pass while bundles are opened; every signal names a model and holds exactly that model's predictions."""
    second = day.folder / "second"
    shutil.copytree(trained.bundle, second)
    golden = read_packed(second / "forest.bin")
    rows, expected = golden.arrays["golden_rows"], golden.arrays["golden_predictions"] * 2.0
    doubled = {"leaves": golden.arrays["leaves"] * 2.0, "golden_rows": rows, "golden_predictions": expected}
    doubled["lock_leaves"] = golden.arrays["lock_leaves"] * 2.0
    repack(second, model_id=np.frombuffer(b"doubled", np.uint8), **doubled)
    models = {predictor.model_id: predictor for predictor in (open_packed(trained.bundle), open_packed(second))}
    assert len(models) == 2
    decided: list[tuple[str, np.ndarray, np.ndarray]] = []
    take_bar, on_vector = day.sink.take_bar, day.core.on_vector

    def note(symbol: int) -> None:
        signal, row = day.core.last_signals[symbol], day.sink.panel.vectors[symbol].astype(np.float32)
        decided.append((bytes(signal["model_id"]).decode(), signal["predictions"].copy(), row))

    def watch_bar(symbol: int, *bar: Any) -> None:
        signals = day.core.counters.signals - len(decided)
        take_bar(symbol, *bar)
        if day.core.counters.signals - len(decided) > signals:
            note(symbol)

    def watch_vector(vector: Vector, mono_ns: int) -> None:
        on_vector(vector, mono_ns)
        note(vector.symbol)

    day.sink.take_bar, day.core.on_vector = watch_bar, watch_vector  # type: ignore[method-assign]

    async def trade_on() -> None:
        minute = 0
        for number, bundle in enumerate((trained.bundle, second, trained.bundle)):
            args = {"bundle_path": str(bundle)}
            swap = asyncio.create_task(day.operator.handle("promote", "test", args, f"swap-{number}"))
            while not swap.done():  # at least one step of the opening between two minutes
                await asyncio.sleep(0)
                if minute < 6 and not swap.done():
                    day.pass_minute(minute, ticks=2)
                    minute += 1
            await swap
            day.pass_minute(minute, ticks=2)
            minute += 1

    before = day.core.counters.signals
    asyncio.run(trade_on())
    assert day.core.counters.signals - before == len(decided) >= 3 * 6
    served = [name for name, _, _ in decided]
    assert set(served) == {"picky", trained.bundle.name, "doubled"}
    changes = [name for at, name in enumerate(served) if at == 0 or served[at - 1] != name]
    assert changes[-3:] == [trained.bundle.name, "doubled", trained.bundle.name]
    for name, predictions, row in decided:
        if name in models:
            np.testing.assert_array_equal(predictions, models[name].predict_row(row))


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
