"""Record dtypes: aligned, of the promised sizes, and safe to map."""

import numpy as np
import pytest

from kernels.records import BAR, HEAD, INSTRUMENT, RECORDS, SAMPLE, SLOT_BYTES, SLOTS, Kind


@pytest.mark.parametrize("dtype", [BAR, INSTRUMENT, SAMPLE, HEAD, *RECORDS.values()])
def test_every_field_is_aligned(dtype: np.dtype) -> None:
    for name, (sub, offset, *_) in dtype.fields.items():
        unit = 1 if sub.kind in "SV" else sub.base.itemsize
        assert offset % unit == 0, name


def test_sizes_on_file() -> None:
    assert (BAR.itemsize, HEAD.itemsize, SAMPLE.itemsize) == (96, 32, 24)
    assert RECORDS[Kind.MARK].itemsize == SLOT_BYTES  # one per symbol and second: the most frequent record
    for kind, dtype in RECORDS.items():
        assert dtype.itemsize % 8 == 0
        assert SLOTS[kind] * SLOT_BYTES >= dtype.itemsize > (SLOTS[kind] - 1) * SLOT_BYTES
