"""Runs that die before any one of their journal records: the next one completes what they left, each thing once.

What is gone through: the deaths of each life in `crash_lives.py`, with the exchange's events of that moment heard by
the next run while it starts or by nobody; a run that dies while it takes over, and the one after it; a segment that
ends anywhere, and a death just behind that; REST that lags behind the streams. The long count goes through all first
deaths and through thousands of the others, the short one through a sample of each.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from crash_lives import (
    LIVES,
    Death,
    by_hand,
    lived,
    lost,
    parts,
    pieces,
    slices,
    stop_and_exit,
    stop_unheard,
    two_routes,
)
from live_rig import LiveRig

from engine.journal import TOGETHER_SLOTS
from tests.conftest import long_run

Life = Callable[[LiveRig], None]
STARTS = 45  # records of a start that takes over orders, until their fate is known
PREAMBLE = 5  # records at the head of a segment
SLOTS_PER_RECORD = 4
FOUND: list[tuple[Life, tuple[Death, ...]]] = [
    (pieces, (Death(24), Death(35))), (pieces, (Death(43), Death(14))), (slices, (Death(47), Death(41))),
    (two_routes, (Death(48), Death(16))), (stop_unheard, (Death(33), Death(40))), (lost, (Death(33), Death(12))),
    (slices, (Death(0, 136),)), (by_hand, (Death(0, 34),)), (parts, (Death(1, 219),)),
    (stop_and_exit, (Death(0, 152),)),
]  # fmt: skip


def lengths(folder: Path) -> dict[Life, int]:
    """Return how many records each life takes."""
    return {life: lived(folder / life.__name__, life) for life in LIVES}


def go_through(folder: Path, seed: int, count: int, draw: Callable[[random.Random, int], tuple[Death, ...]]) -> None:
    """Let lives drawn at random die as `draw(chance, records of the life)` says."""
    chance, known = random.Random(seed), lengths(folder)
    for number in range(count):
        life, heard, lag_ms = chance.choice(LIVES), chance.random() < 0.5, chance.choice((0, 0, 0, 5_000))
        deaths, answers_first = draw(chance, known[life]), chance.random() < 0.5
        try:
            lived(folder / str(number), life, deaths, heard, lag_ms, answers_first)
        except BaseException as error:
            error.add_note(f"{life.__name__}, {deaths}, {heard=}, {lag_ms=}, {answers_first=}")
            raise


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("life", LIVES)
def test_death_before_any_record_is_mended_by_the_next_run(tmp_path: Path, life: Life, heard: bool) -> None:
    records = lived(tmp_path / "whole", life)
    assert records > 40
    for at in range(1 + 3 * heard, records + 2, long_run(23, 1)):
        lived(tmp_path / str(at), life, (Death(at),), heard)


@pytest.mark.parametrize(("life", "deaths"), FOUND)
def test_death_that_left_something_half_done_or_done_twice(tmp_path: Path, life: Life, deaths: tuple[Death]) -> None:
    lived(tmp_path, life, deaths)


@pytest.mark.timeout(3_600)
def test_death_while_taking_over_is_mended_by_the_run_after(tmp_path: Path) -> None:
    def twice(chance: random.Random, records: int) -> tuple[Death, ...]:
        again = [Death(chance.randint(1, STARTS)) for _ in range(chance.randint(1, 2))]
        return Death(chance.randint(PREAMBLE, records + 1)), *again

    go_through(tmp_path, 1, long_run(8, 2_000), twice)


@pytest.mark.timeout(3_600)
def test_death_behind_a_new_segment_is_mended_whatever_the_old_one_ended_with(tmp_path: Path) -> None:
    def rolled(chance: random.Random, records: int) -> tuple[Death, ...]:
        behind = chance.choice((-5, 0, 0, 1, 1, 1, 2, 3))
        if chance.random() < 0.7:
            return (Death(behind, TOGETHER_SLOTS + chance.randint(1, SLOTS_PER_RECORD * records)),)
        return Death(chance.randint(PREAMBLE, records + 1)), Death(behind, chance.randint(1, TOGETHER_SLOTS))

    go_through(tmp_path, 2, long_run(8, 2_000), rolled)
