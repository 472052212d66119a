"""The primitives: against exact sums, for any window, and the same bits whatever the ring's phase."""

from __future__ import annotations

import math
from fractions import Fraction

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import rolling
from kernels.compile import kernel
from kernels.state import LONG, VOLUME, new_state
from tests.conftest import long_run

_ROW = numba.float64[::1]


@kernel(numba.void(_ROW, _ROW), cache=False)
def ln_all(x, out):
    for k in range(len(x)):
        out[k] = rolling.ln(x[k])


@kernel(numba.void(_ROW, numba.int64, _ROW), cache=False)
def all_sums(w, size, out):
    out[0] = rolling.total(w, size)
    out[1] = rolling.shift(w, size)
    out[2] = rolling.square_sum(w, size, out[1])
    if size % 4 == 0:
        out[3] = rolling.deviation_sum(w, size, out[1])
        out[4] = rolling.product_sum(w, w, size, out[1], out[1])
    out[5] = rolling.highest(w, size)
    out[6] = rolling.lowest(w, size)


@kernel(numba.void(_ROW, _ROW, numba.int64, numba.int64, _ROW), cache=False)
def sums_through_a_ring(state, values, first, size, out):
    for k in range(len(values)):
        rolling.push(state, VOLUME, LONG, first + k, values[k])
    all_sums(rolling.window(state, VOLUME, LONG, first + len(values) - 1, size), size, out)


def ln_of(x: np.ndarray) -> np.ndarray:
    out = np.empty(len(x))
    ln_all(np.ascontiguousarray(x, float), out)
    return out


def test_ln_is_within_one_ulp() -> None:
    """Against the x87 logarithm in 64-bit mantissa precision."""
    assert np.finfo(np.longdouble).nmant >= 63
    random = np.random.default_rng(1)
    count = long_run(200_000, 20_000_000) // 4
    points = [
        np.exp(random.uniform(-700, 700, count)),
        1.0 + random.normal(0, 1e-3, count),
        1.0 + random.integers(-4_000, 4_000, count) * 2.0**-52,
        random.uniform(0.5, 2.0, count),
        np.array([5e-324, 2.0**-1030, np.nextafter(1, 0), np.nextafter(1, 2), math.sqrt(0.5), 2.0**1023, 1.7e308]),
    ]
    for x in points:
        exact = np.log(x.astype(np.longdouble))
        error = abs(ln_of(x).astype(np.longdouble) - exact) / np.spacing(abs(exact.astype(float))).astype(np.longdouble)
        assert float(error.max()) <= 1.0


def test_ln_outside_its_domain() -> None:
    values = ln_of(np.array([1.0, math.inf, 0.0, -0.0, -1.0, math.nan, -math.inf]))
    assert values[0] == 0.0 and not math.copysign(1, values[0]) < 0
    assert values[1] == math.inf
    assert np.isnan(values[2:]).all()


finite = st.floats(-1e12, 1e12).map(lambda x: 0.0 if abs(x) < 1e-12 else x)


@settings(max_examples=long_run(200, 5_000), deadline=None)
@given(st.lists(finite, min_size=1, max_size=64), st.integers(0, 10_000))
def test_sums_are_those_of_exact_arithmetic_in_every_phase(values: list[float], first: int) -> None:
    size, w = len(values), np.array(values)
    out, again = np.zeros(7), np.zeros(7)
    all_sums(w, size, out)
    exact = [Fraction(x) for x in values]
    centred = [x - exact[-1] for x in exact]
    mean = sum(centred) / size
    reach = max(abs(x) for x in exact) + max(abs(x) for x in centred)
    slack = 1e-14 * size * float(reach)
    assert abs(out[0] - float(sum(exact))) <= slack
    assert abs(out[1] - float(mean)) <= slack
    assert abs(out[2] - float(sum((x - mean) ** 2 for x in centred))) <= slack * float(reach) * 4
    if size % 4 == 0:
        assert abs(out[3] - float(sum(abs(x - mean) for x in centred))) <= slack * 4
        assert out[4] == out[2]
    assert (out[5], out[6]) == (max(values), min(values))
    state = new_state()
    noise = np.random.default_rng(first).normal(0, 1e6, 70)
    sums_through_a_ring(state, np.concatenate([noise, w]), first, size, again)
    assert np.array_equal(out.view(np.uint64), again.view(np.uint64))


@given(st.floats(1e-8, 1e8), st.integers(1, 64))
def test_a_flat_window_is_exactly_zero(value: float, size: int) -> None:
    out = np.zeros(7)
    all_sums(np.full(size, value), size, out)
    assert out[1] == out[2] == out[3] == out[4] == 0.0


@given(st.lists(finite, min_size=4, max_size=60), st.integers(0, 59))
def test_nan_anywhere_in_the_window_is_nan(values: list[float], at: int) -> None:
    values[at % len(values)] = math.nan
    out = np.zeros(7)
    all_sums(np.array(values), len(values), out)
    assert np.isnan(out[:3]).all()
