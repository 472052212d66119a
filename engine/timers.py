"""What happens by time rather than by a frame and may change a decision: each is journalled before its effect."""

from __future__ import annotations

import enum


class Timer(enum.IntEnum):
    """`timer` of a TIMER record."""

    SHADOW_FILL = 1  # an order's latency has passed: it meets the BOOK recorded just before
    SAMPLES = 2  # vectors whose samples did not arrive by the deadline are completed, flagged
    ACCOUNT = 3  # the account is revalued and journalled
    CHECK_ALL = 4  # every position is checked against the newest marks, after a start or a stall
    MARKET = 5  # the feature states are folded: bars and samples count from here on
    EXIT = 6  # a person exits the symbol's position: an exit that has to wait leaves no other trace of its moment


class Hold(enum.IntFlag):
    """`spare` of a BOOK record, `hold` of a TICK: what the core was told from outside, then and there."""

    GAP = 1  # the symbol's bars are under repair
    CLOCK = 2  # the exchange's time is not known well enough
    FULL = 4  # the journal cannot grow
    AUDIT = 8  # the symbol failed the feature audit
    RATE = 16  # live: the order budget, which other processes share, has no room for an entry
    STALL = 32  # live: the loop stood still
    TWIN = 64  # the book was looked at for a shadow twin, not for a decision
