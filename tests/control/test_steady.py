"""Memory stays flat and nothing is lost over 20 minutes: 20 symbols at 100 ×, 600 symbols at 1 × (long runs only)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import steady


@pytest.mark.timeout(3_600)
@pytest.mark.skipif(not os.environ.get("TA_TEST_LONG"), reason="runs 20 minutes; set TA_TEST_LONG=1")
@pytest.mark.parametrize(("symbols", "speed"), [(20, 100.0), (600, 1.0)])
def test_twenty_minutes(tmp_path: Path, symbols: int, speed: float) -> None:
    report = steady.run(tmp_path, symbols, speed, 20.0)
    print(report)
    assert report["faults"] == []
    assert report["malformed"] == report["journal_dropped"] == 0


def test_growth_is_named_and_what_settles_is_flat() -> None:
    assert steady.grew([100.0] * 5 + [200.0] * 15) == ""
    assert steady.grew([100.0 + 0.1 * i for i in range(400)]) == "125.0 MiB became 134.9 MiB"
