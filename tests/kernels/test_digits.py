"""The numbers of four texts at a time, against Python's own conversion."""

from __future__ import annotations

import re

import numba
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.compile import kernel
from kernels.digits import MAX_DIGITS, read_four
from tests.conftest import long_run

DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")  # JSON's, without an exponent
PADDING = "7" * 16  # digits that are none of the text's


@kernel(numba.uint64(numba.int64, numba.int64[::1], numba.int64, numba.int64))
def read(text_at, spans, wholes_at, doubles_at):
    """Read one group of four."""
    return read_four(text_at, spans[0], spans[1], spans[2], spans[3], wholes_at, doubles_at)


def is_read(text: str) -> bool:
    """Return whether a text is a decimal that takes one exact division, and no −0."""
    digits = text.replace(".", "").lstrip("-")
    exact = DECIMAL.fullmatch(text) is not None and len(text) <= MAX_DIGITS and int(digits) <= 2**53
    return exact and not (text.startswith("-") and int(digits) == 0)


def decimal(mantissa: int, places: int) -> str:
    return f"{mantissa // 10**places}.{mantissa % 10**places:0{places}d}"


TEXTS = st.one_of(
    st.builds(decimal, st.integers(0, 2**53 + 9), st.integers(1, 15)),
    st.builds(decimal, st.integers(2**53 - 9, 2**53 + 9), st.integers(1, 15)),
    st.builds(lambda mantissa, places: "-" + decimal(mantissa, places), st.integers(0, 10**10), st.integers(1, 9)),
    st.integers(-(10**17), 10**17).map(str),
    st.floats(0.0, 1e15).map(repr),
    st.text("0123456789.-", max_size=18),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=18),
)


@settings(max_examples=long_run(1_000, 20_000), deadline=None)
@given(st.lists(TEXTS, min_size=4, max_size=4))
@example(["9007199254740992", "-0", "0.1", "1"])
@example(["900719925.474099", "9007199254740993", "0", "-0.0"])
@example(["", "-", ".", "-1.5"])
@example(["00", "01.5", "1.", ".5"])
def test_each_of_four_is_python_s_number_or_refused(texts: list[str]) -> None:
    joined, spans = PADDING, []
    for text in texts:
        spans.append(len(joined) | (len(joined) + len(text)) << 32)
        joined += text + PADDING
    payload = np.frombuffer(joined.encode(), np.uint8)
    wholes, doubles = np.zeros(4, np.int64), np.zeros(4)
    wrong = int(read(payload.ctypes.data, np.array(spans), wholes.ctypes.data, doubles.ctypes.data))
    refused = [bool(wrong >> (16 * k + 15) & 1) for k in range(4)]
    expected = [not is_read(text) for text in texts]
    if all(refused) and any(expected):
        return  # one that is too long, or too exact, costs the other three their numbers
    assert refused == expected
    for k, text in enumerate(texts):
        if not refused[k]:
            assert doubles[k].tobytes() == np.float64(float(text)).tobytes()
            assert wholes[k] == int(text.replace(".", ""))


def test_a_text_before_the_sixteenth_byte_is_refused() -> None:
    payload = np.frombuffer(b"1,2,3,4,5,6,7,8,9,10,11", np.uint8)
    spans = np.array([0 | 1 << 32, *([18 | 20 << 32] * 3)])
    out = np.zeros(8)
    assert read(payload.ctypes.data, spans, out.ctypes.data, out.ctypes.data + 32) == 0x8000800080008000
