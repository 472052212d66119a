"""A compiled function as a builtin: what it reads of its arguments, and what it refuses."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from kernels.addresses import array_at
from kernels.direct import argument, as_number, builtin, data_of, misused, number_of, text_of


@builtin
def total(self, arguments, count):
    """Return text size + last byte + number + sum of the first two words."""
    if count != 3:
        return misused()
    text_at, size = text_of(argument(arguments, 0))
    words = array_at(data_of(argument(arguments, 2)), 2, np.int64)
    last = array_at(text_at + size - 1, 1, np.uint8)[0]
    return as_number(size + last + number_of(argument(arguments, 1)) + words[0] + words[1])


@pytest.mark.parametrize("number", [0, -1, 7, 2**40, -(2**62)])
def test_the_arguments_are_what_was_given(number: int) -> None:
    words = np.array([5, 1_000, 9])
    assert total(b"some text", number, words) == 9 + ord("t") + number + 1_005
    assert total(b"x" * 5_000, number, words[1:]) == 5_000 + ord("x") + number + 1_009


def test_it_has_a_name_and_lives_as_long_as_it_is_held() -> None:
    gc.collect()
    assert total.__name__ == "total" and "sum of the first two words" in total.__doc__
    assert sum(total(b"a", 1, np.array([k, k])) for k in range(1_000)) == 99_000 + 999_000


def test_a_wrong_number_of_arguments_is_refused() -> None:
    for arguments in ((), (b"",), (b"a", 1, np.arange(2), 4)):
        with pytest.raises(TypeError):
            total(*arguments)
    with pytest.raises(TypeError):
        total(b"a", 1, words=np.arange(2))
