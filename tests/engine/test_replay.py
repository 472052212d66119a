"""Replay: what a shadow run recorded comes out again, bit for bit; what does not is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from engine import journal
from engine.errors import DataError
from engine.replay import Report, replay, runs
from engine.start import Start, start_path
from kernels.records import Kind
from tests.conftest import long_run
from tests.engine.recorded import Day, Market, PickyModel, altered, records

MINUTES = long_run(130, 1_440)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    recorded = Day(tmp_path_factory.mktemp("day"), Market(MINUTES))
    recorded.play(MINUTES)
    return recorded


def replayed(day: Day, model: type[PickyModel] = PickyModel) -> Report:
    return replay(day.folder / "journal", "main", day.journal.run_id, lambda model_id, backend: model(model_id))


COMPARED = (
    Kind.SIGNAL, Kind.ORDER, Kind.FILL, Kind.POSITION, Kind.TRADE, Kind.ACCOUNT, Kind.BAR, Kind.MARK, Kind.BOOK,
    Kind.TIMER, Kind.COMMAND, Kind.MODEL, Kind.SESSION, Kind.OPEN_INTEREST, Kind.FEATURES,
)  # fmt: skip


def test_recorded_day_replays_without_a_difference(day: Day) -> None:
    report = replayed(day)
    assert report.difference is None, str(report.difference)
    assert report.complete
    written = day.journal.counts
    for kind in COMPARED:
        assert report.records[kind.name.lower()] == written[kind] > 0, kind.name
    assert written[Kind.TRADE] >= 20
    assert report.records["instrument"] >= 1, "a filter that changed is an input"
    assert report.snapshots >= 1  # the state was compared at each new segment


def test_other_predictions_are_named_at_the_first_decision(day: Day) -> None:
    class Shifted(PickyModel):
        def predict_into(self, row: np.ndarray, out: np.ndarray) -> None:
            super().predict_into(row, out)
            out[5] = np.nextafter(out[5], 1.0)

    report = replayed(day, Shifted)
    assert report.difference is not None
    assert (report.difference.kind, report.difference.stage) == ("SIGNAL", "forest")
    assert report.difference.field == "predictions"
    assert report.difference.input.startswith("BAR(")
    first = next(r for kind, r in records(day) if kind is Kind.SIGNAL)
    assert report.difference.seq == first["seq"]


@pytest.mark.parametrize(
    ("kind", "field", "value", "blamed", "stage"),
    [
        (Kind.FILL, "price", 1.0, "FILL", "shadow fill"),
        (Kind.TRADE, "net_usdt", 7.0, "TRADE", "trade"),
        (Kind.BAR, "close", None, "SIGNAL", "features"),
        (Kind.BOOK, "bid", 1.0, "SIGNAL", ""),
    ],
)
def test_altered_record_is_found_and_blamed_on_its_stage(
    day: Day, tmp_path: Path, kind: Kind, field: str, value: float | None, blamed: str, stage: str
) -> None:
    bar = next(r for k, r in records(day) if k is Kind.BAR)
    seq = altered(day, tmp_path, kind, field, float(bar["close"]) * (1 + 1e-12) if value is None else value)
    report = replay(tmp_path / "journal", "main", day.journal.run_id, lambda model_id, backend: PickyModel(model_id))
    assert report.difference is not None
    assert report.difference.kind == blamed
    assert stage in report.difference.stage
    assert report.difference.seq >= seq


def test_killed_run_replays_up_to_its_last_record(day: Day, tmp_path: Path) -> None:
    shutil.copytree(day.folder / "journal", tmp_path / "journal")
    orders: list[np.void] = []
    for last in reversed(journal.segments(tmp_path / "journal", "main")):
        if orders := [r for k, r in journal.read_records(last) if k is Kind.ORDER]:
            break
        last.path.unlink()  # a long day's end may have brought no order: the run died before it
    raw = np.fromfile(last.path, np.uint8)
    cut = raw.tobytes().index(orders[len(orders) // 2].tobytes())
    raw[cut:] = 0  # died between a decision and its order
    raw.tofile(last.path)
    report = replay(tmp_path / "journal", "main", day.journal.run_id, lambda model_id, backend: PickyModel(model_id))
    assert report.difference is None and report.complete
    assert report.records["order"] < day.journal.counts[Kind.ORDER]


def test_run_without_its_start_is_refused_by_name(day: Day, tmp_path: Path) -> None:
    shutil.copytree(day.folder / "journal", tmp_path / "journal")
    start_path(tmp_path / "journal", "main", day.journal.run_id).unlink()
    with pytest.raises(DataError, match="start is not there"):
        replay(tmp_path / "journal", "main", day.journal.run_id, lambda model_id, backend: PickyModel(model_id))
    assert runs(tmp_path / "journal", "main") == [day.journal.run_id]


def test_start_ignores_this_environment(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TA_RISK__MAX_POSITIONS", "1")
    kept = Start(start_path(day.folder / "journal", "main", day.journal.run_id))
    assert kept.config.hash() == day.config.hash()


def test_run_that_began_with_restored_positions_replays(tmp_path: Path) -> None:
    market = Market(40)
    first = Day(tmp_path, market)
    first.command("start")
    for minute in range(25):
        first.pass_minute(minute)
    first.journal.close()
    shutil.rmtree(tmp_path / "bars")
    second = Day(tmp_path, market)
    assert second.core.desk.positions.count == first.core.desk.positions.count > 0
    second.core.check_all()
    second.play(40)
    for recorded in (first, second):
        report = replayed(recorded)
        assert report.difference is None and report.complete, str(report.difference)
