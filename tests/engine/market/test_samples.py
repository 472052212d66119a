"""Sample files: sorted, first version kept, bounded, and whole again after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import DataError
from engine.market.samples import CAPACITY, FUNDING, OPEN_INTEREST, SPARE, SampleFile


def test_samples_are_sorted_and_the_first_version_of_a_minute_stays(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "A.samples")
    assert file.newest_stamp(OPEN_INTEREST) == -1
    assert file.insert(OPEN_INTEREST, 600_000, 900_000, 2.0)
    assert file.insert(OPEN_INTEREST, 300_020, 600_000, 1.0)
    assert not file.insert(OPEN_INTEREST, 300_999, 999_999, 7.0)
    file.insert(FUNDING, 120_000, 420_000, 1e-4)
    file.close()
    again = SampleFile(tmp_path / "A.samples")
    assert again.held(OPEN_INTEREST).tolist() == [(300_020, 600_000, 1.0), (600_000, 900_000, 2.0)]
    assert list(again.newest_ms) == [600_000, 120_000]
    again.close()


@pytest.mark.parametrize("kind", [OPEN_INTEREST, FUNDING])
def test_the_newest_are_kept_when_it_is_full(tmp_path: Path, kind: int) -> None:
    file = SampleFile(tmp_path / "A.samples")
    for k in range(2 * CAPACITY[kind]):
        assert file.insert(kind, 300_000 * k, 300_000 * (k + 1), float(k))
        assert CAPACITY[kind] - SPARE[kind] < file.counts[kind] or k < CAPACITY[kind]
    held = file.held(kind)
    assert held["value"][-1] == 2 * CAPACITY[kind] - 1
    assert np.array_equal(np.diff(held["value"]), np.ones(len(held) - 1))
    assert len(held) <= CAPACITY[kind]
    file.close()


def test_a_kill_in_the_middle_of_an_insertion_is_mended(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "A.samples")
    for k in range(5):
        file.insert(OPEN_INTEREST, 300_000 * k, 300_000 * (k + 1), float(k))
    series = file.series[OPEN_INTEREST]
    series[3:6] = series[2:5].copy()  # shifted, but neither written nor counted
    del series
    file.close()
    again = SampleFile(tmp_path / "A.samples")
    assert again.held(OPEN_INTEREST)["value"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert again.insert(OPEN_INTEREST, 1_200_000, 1_500_000, 4.0)
    again.close()


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "A.samples").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="expected a sample file of"):
        SampleFile(tmp_path / "A.samples")
