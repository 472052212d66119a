"""The correlation cap: what moves together may not be held beyond its limit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rig import SYMBOLS, Rig

from engine.config import load
from engine.trading.correlation import LEAST, WINDOW, correlation
from kernels.decide import BIT

GENERATOR = np.random.default_rng(5)
COMMON = np.cumsum(GENERATOR.normal(0.0, 1e-3, WINDOW))


def series(share: float) -> np.ndarray:
    """Closes whose returns share a part of one common movement."""
    return 100.0 * np.exp(share * COMMON + (1.0 - abs(share)) * np.cumsum(GENERATOR.normal(0.0, 1e-3, WINDOW)))


def test_it_is_the_correlation_of_log_returns() -> None:
    one, other = series(0.6), series(0.6)
    expected = np.corrcoef(np.diff(np.log(one)), np.diff(np.log(other)))[0, 1]
    assert correlation(one, other) == pytest.approx(expected, rel=1e-12)
    gappy = other.copy()
    gappy[: WINDOW - LEAST] = np.nan
    assert np.isnan(correlation(one, gappy))


@pytest.mark.parametrize(
    ("share", "side", "refused"), [(0.95, 1, True), (0.0, 1, False), (0.95, -1, False), (-0.95, -1, True)]
)
def test_an_entry_that_moves_with_what_is_held_is_refused(
    tmp_path: Path, share: float, side: int, refused: bool
) -> None:
    settings = load(
        market={"symbols": SYMBOLS}, costs={"latency_ms": 0.0}, journal={"segment_mib": 1},
        risk={"correlation": 0.8, "max_correlated_usdt": 9_000.0},
    )  # fmt: skip
    rig = Rig(tmp_path, settings)
    closes = [series(0.95), series(share), series(0.0)]
    asked: list[int] = []

    def give(symbol: int, open_ms: int, count: int) -> np.ndarray:
        asked.append(open_ms)
        return closes[symbol][-count:]

    rig.core.closes = give
    rig.open_long(0)
    assert rig.desk.positions.count == 1, "nothing was held: the first entry is not looked at"
    assert asked == []
    if side < 0:
        rig.model.answer[:2] = rig.model.answer[1::-1]
    rig.open_long(1)
    assert bool(int(rig.core.last_signals[1]["gates"]) & BIT["correlation"]) is refused
    assert rig.desk.positions.count == (1 if refused else 2)
    assert set(asked) == {rig.now_ms - rig.now_ms % 60_000 - 120_000}
