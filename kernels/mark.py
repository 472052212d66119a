"""A mark price in one call: its journal record, what decisions and funding will read of it, the guard of a position."""

from __future__ import annotations

import numba
import numpy as np

from kernels import journal
from kernels.addresses import array_at
from kernels.compile import kernel
from kernels.decision import MARK_MS, MARKS, NEXT_MS, POSITIONS, RATES, SYMBOLS
from kernels.records import Kind
from kernels.stops import POSITION, check

_MARK, _SLOTS = int(Kind.MARK), journal.slots_of(Kind.MARK)
_EVENT, _PRICE = journal.word_of(Kind.MARK, "event_ms"), journal.word_of(Kind.MARK, "price")
_RATE, _NEXT = journal.word_of(Kind.MARK, "funding_rate"), journal.word_of(Kind.MARK, "next_funding_ms")


@kernel(
    numba.int64(
        numba.int64[::1], numba.int64, numba.float64, numba.float64, numba.int64, numba.int64, numba.int64, numba.int64,
        numba.uint64[::1], numba.int64, numba.uint64, numba.int64,
    ),
    nogil=False,
)  # fmt: skip
def take_mark(table, symbol, price, rate, next_ms, event_ms, recv_ns, now_ms, words, at, seq, slot):
    """Take a mark price and check the position in `slot` (−1: none); return why it must be closed: a Reason, or 0.

    table: see `kernels.decision.decide`. rate: NaN without funding; event_ms, next_ms: of the frame; recv_ns:
    monotonic; the MARK record goes to word `at` of the journal with `seq` (at < 0: dropped).
    """
    if at >= 0:
        journal.head(words, at, _MARK, _SLOTS, recv_ns, now_ms)
        words[at + _EVENT] = np.uint64(event_ms)
        words.view(np.float64)[at + _PRICE] = price
        words[at + _RATE] = np.uint64(symbol) << np.uint64(32)
        words.view(np.float32)[2 * (at + _RATE)] = rate
        words[at + _NEXT] = np.uint64(next_ms)
        journal.seal(words, at, _SLOTS * journal.WORDS_PER_SLOT, seq)
    size = table[SYMBOLS]
    array_at(table[MARKS], size, np.float64)[symbol] = price
    array_at(table[MARK_MS], size, np.int64)[symbol] = event_ms
    array_at(table[RATES], size, np.float64)[symbol] = rate
    array_at(table[NEXT_MS], size, np.int64)[symbol] = next_ms
    if slot < 0:
        return 0
    return check(array_at(table[POSITIONS], slot + 1, POSITION), slot, price, now_ms)
