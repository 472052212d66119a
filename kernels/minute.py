"""A closed bar, from its values to the decision that it completes, in one call: `closing` and `decision` in a row."""

from __future__ import annotations

import numba
import numpy as np

from kernels import closing
from kernels.addresses import array_at
from kernels.closing import BAR_WORDS, BRIEF, BRIEF_DTYPE, FIRST, IS_FILLED, VECTOR, VECTORS, close_bar
from kernels.compile import kernel
from kernels.decision import COUNTS, STANDING, SUMS, decide
from kernels.histogram import BUCKETS, STAGES, add
from kernels.journal import NO_BAR
from kernels.native import monotonic_ns
from kernels.records import BAR, FEATURE_COUNT, Stage

_TABLE = numba.int64[::1]
_STEP = int(Stage.STEP)
_READY = 4  # of the flags: the opposite of `closing.NOT_READY`; the three beside it are the same bits
_BITS = closing.LATE | closing.INPUT_LATE | closing.NOT_READY | IS_FILLED


@kernel(
    numba.int64(
        _TABLE, _TABLE, numba.int64, numba.int64, numba.int64, numba.int64, numba.int64, numba.boolean, numba.boolean,
        numba.int64, numba.uint64[::1], numba.int64, numba.uint64, numba.int64, *STANDING,
    ),
    lanes=True,
    nogil=False,
)  # fmt: skip
def take_bar(
    panel, core, symbol, timeframe, now_ms, late_ms, frame_ns, is_btc, simple, bar_at, words, at, seq, dropped, hold,
    flags, cooldown_until_ms, equity_usdt, day_start_equity_usdt, peak_equity_usdt, total_notional_usdt,
    open_positions, losing_streak, notional_cap_usdt, signs,
):  # fmt: skip
    """Take a closed bar and decide on the vector that it completes. Returns the code of `closing` or `decision`.

    panel, core: the tables of `closing.close_bar` and `decision.decide`; bar_at: the address of its BAR row, which is
    stamped with now_ms; frame_ns: monotonic arrival of its frame. BAR, BOOK and SIGNAL records go to word `at` of the
    journal and on, with `seq` and on, but for those of `dropped`; the rest is `decision.STANDING`.
    """
    begun_ns = monotonic_ns()
    bars = array_at(bar_at, 1, BAR)
    outcome = close_bar(
        panel, symbol, timeframe, now_ms, late_ms, frame_ns, begun_ns, is_btc, simple, bars, words,
        -1 if dropped & NO_BAR else at, seq,
    )  # fmt: skip
    counts, sums = array_at(core[COUNTS], (STAGES, BUCKETS), np.int64), array_at(core[SUMS], (STAGES, 3), np.int64)
    stepped_ns = monotonic_ns()
    add(counts, sums, _STEP, stepped_ns - begun_ns)
    if outcome != VECTOR:
        return outcome
    if not dropped & NO_BAR:
        at, seq = at + BAR_WORDS, seq + np.uint64(1)
    size = panel[closing.SYMBOLS]
    brief = array_at(panel[BRIEF], 1, BRIEF_DTYPE)[0]
    vector = array_at(panel[VECTORS], (size, FEATURE_COUNT), np.float64)[symbol]
    first_ms = array_at(panel[FIRST], (3, size), np.int64)
    return decide(
        core, vector, symbol, words, at, seq, dropped, now_ms, frame_ns, stepped_ns, brief.close_ms, brief.hash,
        brief.close, brief.atr_15m, first_ms[0, symbol], first_ms[1, symbol], first_ms[2, symbol], hold,
        flags & ~_BITS | brief.bits ^ _READY, cooldown_until_ms, equity_usdt, day_start_equity_usdt, peak_equity_usdt,
        total_notional_usdt, open_positions, losing_streak, notional_cap_usdt, signs,
    )  # fmt: skip
