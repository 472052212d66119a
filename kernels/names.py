"""Names of at most 24 bytes as three words, and the table that finds one: open addressing, linear probes."""

from __future__ import annotations

import numba
import numpy as np

from kernels.addresses import array_at
from kernels.compile import kernel
from kernels.digits import eight

NAME_BYTES, NAME_WORDS = 24, 3
TABLE_SLOTS = 4_096  # four times the symbols that an engine may have, so that probes stay short
_ANY = 1 << 40  # the size of an array by address is not looked at
_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)


@kernel(forceinline=True)
def _mixed(a, b, c):
    h = a * np.uint64(0xFF51AFD7ED558CCD) ^ b * np.uint64(0xC4CEB9FE1A85EC53) ^ c * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ h >> np.uint64(32)) * np.uint64(0xFF51AFD7ED558CCD)
    return np.int64((h >> np.uint64(32)) % np.uint64(TABLE_SLOTS))


@kernel(numba.void(numba.int64[::1], numba.uint64[::1]))
def fill_table(table, names):
    """Fill table int64[TABLE_SLOTS] with the numbers of names uint64[n × NAME_WORDS]; −1 where none is."""
    table[:] = -1
    for number in range(len(names) // NAME_WORDS):
        slot = _mixed(names[3 * number], names[3 * number + 1], names[3 * number + 2])
        while table[slot] >= 0:
            slot = (slot + 1) % TABLE_SLOTS
        table[slot] = number


@kernel(forceinline=True)
def name_of(text_at, begin, end):
    """Return the words of the name text[begin:end], of 1 … NAME_BYTES bytes; so many must be there behind `begin`."""
    size = end - begin
    a = eight(text_at, begin) & _ONES >> np.uint64(64 - 8 * min(size, 8))
    if size <= 8:
        return a, np.uint64(0), np.uint64(0)
    b = eight(text_at, begin + 8) & _ONES >> np.uint64(64 - 8 * min(size - 8, 8))
    c = eight(text_at, begin + 16) & _ONES >> np.uint64(64 - 8 * (size - 16)) if size > 16 else np.uint64(0)
    return a, b, c


@kernel(forceinline=True)
def find(table_at, names_at, name_at):
    """Return the number of the name at an address, or −1."""
    table, names = array_at(table_at, _ANY, np.int64), array_at(names_at, _ANY, np.uint64)
    name = array_at(name_at, NAME_WORDS, np.uint64)
    slot = _mixed(name[0], name[1], name[2])
    while table[slot] >= 0:
        at = table[slot] * NAME_WORDS
        if names[at] == name[0] and names[at + 1] == name[1] and names[at + 2] == name[2]:
            return table[slot]
        slot = (slot + 1) % TABLE_SLOTS
    return -1
