"""Simulated fills against a slow twin that walks a book of equal levels one spread apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.fills import fill


def walk(
    side: int, qty: float, limit: float, bid: float, ask: float, level: float, pieces: int = 4_000
) -> tuple[float, float]:
    """Buy or sell piece by piece: the first level at the touch, then prices worsening by one spread per level."""
    touch, spread = (ask, ask - bid) if side > 0 else (bid, ask - bid)
    got = paid = 0.0
    piece = qty / pieces
    for i in range(pieces):
        depth = max((i + 0.5) * piece / level - 1.0, 0.0)
        price = touch + side * depth * spread
        if limit > 0.0 and side * (price - limit) > 0.0:
            break
        got, paid = got + piece, paid + piece * price
    return got, (paid / got if got else 0.0)


@given(st.sampled_from([1, -1]), st.floats(0.1, 50.0), st.floats(0.5, 10.0), st.floats(0.01, 0.5), st.floats(-1.0, 3.0))
def test_market_and_limit_against_the_walk(side: int, qty: float, level: float, spread: float, room: float) -> None:
    bid, ask = 100.0 - spread / 2, 100.0 + spread / 2
    touch = ask if side > 0 else bid
    for limit in (0.0, touch + side * room * spread):
        expected = walk(side, qty, limit, bid, ask, level)
        got, price = fill(side, qty, limit, bid, level, ask, level)
        if limit and side * (touch - limit) > 1e-9:
            assert got == 0.0
            continue
        assert got == pytest.approx(expected[0], rel=5e-3, abs=qty * 2e-3)
        if expected[0] > 0.05 * qty:
            assert price == pytest.approx(expected[1], abs=spread * 0.02 * (1 + qty / level))


def test_worked_values() -> None:
    assert fill(1, 2.0, 0.0, 99.0, 5.0, 101.0, 5.0) == (2.0, 101.0)
    # 10 at 101, then 10 more at prices rising linearly from 101 to 103: mean (101 + 102) / 2
    assert fill(1, 20.0, 0.0, 99.0, 10.0, 101.0, 10.0) == (20.0, 101.5)
    assert fill(-1, 2.0, 99.5, 99.0, 5.0, 101.0, 5.0) == (0.0, 0.0)  # the bid is below the limit
    assert fill(1, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0) == (0.0, 0.0)  # no book
