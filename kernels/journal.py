"""The journal's bytes: segment layout, checksum, sealing a record, scanning a segment. Pure: no file is touched here.

A segment is one 4,096-byte header and then records at 64-byte slots. `seq` counts from 1 within a run, over all its
segments, without holes. A writer fills a record's body first and its `seq` last, so a reader that sees the expected
`seq` and a fitting checksum has a whole record, and everything else is "not there (yet)".
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import config as numba_config
from numba.extending import intrinsic

from kernels.compile import kernel
from kernels.records import RECORDS, SLOT_BYTES, SLOTS, Kind

MAGIC = b"TAJRNL01"
SEGMENT_HEADER_BYTES = 4_096
SEGMENT_HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("layout", "<u8"),
        ("engine_id", "S16"),
        ("run_id", "<u8"),
        ("number", "<u8"),
        ("first_seq", "<u8"),
        ("bytes", "<u8"),
        ("created_ms", "<i8"),
    ]
)

WORDS_PER_SLOT = SLOT_BYTES // 8
KIND_ROLL = 31
NO_BAR, NO_BOOK, NO_SIGNAL = 1, 2, 4  # records of a closed bar that a full disk leaves no room for, bits

# scan's verdicts
CAUGHT_UP = 0  # the next record is not there (yet)
TORN = 1  # the next record has the right seq and a wrong checksum
ROLLED = 2  # the segment is finished, the next one has a number one higher
OUT_FULL = 3  # more records follow; call again
BAD = 4  # another seq than the expected one, or an impossible size


@kernel("uint32(uint64[::1], int64, int64, uint64)")
def checksum(words, at, count, seq):
    """Return the 32-bit checksum of a record of `count` words at word `at`, as if its seq were `seq` and check 0."""
    mixed = (np.uint64(0x9E3779B97F4A7C15) ^ seq) * np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(32)
    mixed = (mixed ^ (words[at + 1] & np.uint64(0xFFFFFFFF00000000))) * np.uint64(0xFF51AFD7ED558CCD)
    mixed ^= mixed >> np.uint64(32)
    for i in range(at + 2, at + count):
        mixed = (mixed ^ words[i]) * np.uint64(0xFF51AFD7ED558CCD)
        mixed ^= mixed >> np.uint64(32)
    return np.uint32(mixed & np.uint64(0xFFFFFFFF))


if numba_config.DISABLE_JIT:  # the interpreter keeps the order of stores by itself

    def stores_done():
        pass

else:

    @intrinsic
    def stores_done(typing_context):
        """Keep the compiler from moving a later store before an earlier one; on x86 this costs no instruction."""

        def generate(context, builder, signature, arguments):
            builder.fence("release")
            return context.get_dummy_value()

        return types.void(), generate


@kernel("void(uint64[::1], int64, int64, uint64)", nogil=False)
def seal(words, at, count, seq):
    """Write checksum, then seq, of the record of `count` words whose body stands at word `at` with seq and check 0."""
    check = checksum(words, at, count, seq)
    words[at + 1] = (words[at + 1] & np.uint64(0xFFFFFFFF00000000)) | np.uint64(check)
    stores_done()
    words[at] = seq


@kernel()
def head(words, at, kind, slots, mono_ns, time_ms):
    """Write the head of a record at word `at`, its seq and check still 0."""
    words[at] = np.uint64(0)
    words[at + 1] = (np.uint64(kind) << np.uint64(32)) | (np.uint64(slots) << np.uint64(48))
    words[at + 2] = np.uint64(mono_ns)
    words[at + 3] = np.uint64(time_ms)


def word_of(kind: Kind, name: str) -> int:
    """Return the word of a record in which a field begins: kernels that write records take their offsets from here."""
    fields = RECORDS[kind].fields
    assert fields is not None
    return int(fields[name][1]) // 8


def slots_of(kind: Kind) -> int:
    """Return how many slots a record of this kind takes."""
    return SLOTS[kind]


@kernel("UniTuple(int64, 4)(uint64[::1], int64, uint64, int64[::1], uint16[::1])")
def scan(words, slot, expected_seq, offsets, kinds):
    """Find whole records from `slot` on.

    words: uint64 view of a whole segment file; slot: first slot after the header is SEGMENT_HEADER_BYTES // SLOT_BYTES;
    offsets, kinds: out, byte offset and kind of each record found. Returns (count, next slot, next seq, verdict).
    """
    found = 0
    total_slots = len(words) // WORDS_PER_SLOT
    seq = expected_seq
    while True:
        if slot >= total_slots:
            return found, slot, np.int64(seq), CAUGHT_UP
        at = slot * WORDS_PER_SLOT
        if words[at] == 0:
            return found, slot, np.int64(seq), CAUGHT_UP
        size = np.int64(words[at + 1] >> np.uint64(48))
        if words[at] != seq or size == 0 or slot + size > total_slots:
            return found, slot, np.int64(seq), BAD
        if checksum(words, at, size * WORDS_PER_SLOT, seq) != np.uint32(words[at + 1] & np.uint64(0xFFFFFFFF)):
            return found, slot, np.int64(seq), TORN
        if found == len(offsets):
            return found, slot, np.int64(seq), OUT_FULL
        kind = np.uint16((words[at + 1] >> np.uint64(32)) & np.uint64(0xFFFF))
        offsets[found] = slot * SLOT_BYTES
        kinds[found] = kind
        found += 1
        slot += size
        seq += np.uint64(1)
        if kind == KIND_ROLL:
            return found, slot, np.int64(seq), ROLLED
