"""What an answer means for an order: done, refused, not processed, or unknown. One table, read by every caller."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any


class Outcome(enum.Enum):
    """OK: done. REFUSED: the exchange said no. NOT_DONE: surely not processed (throttled, limit, clock). UNKNOWN."""

    OK = 0
    REFUSED = 1
    NOT_DONE = 2
    UNKNOWN = 3


UNKNOWN_CODES = frozenset({-1000, -1001, -1006, -1007, -4116})  # −4116: an order of this id is open: ask for it
NOT_DONE_CODES = frozenset({-1003, -1008, -1015, -1021, -5028})
TOO_MANY = frozenset({-1003, -1015})  # for the address, for the account
BANNED_UNTIL = re.compile(r"banned until (\d{13})\b")
NO_SUCH_ORDER = -2013
REDUCE_ONLY_REFUSED = -2022
PRICE_BAND = -4131
REDUCE_ONLY_RESTRICTIONS = frozenset({-4087, -4105, -4106, -4107, -4189, -4400, -4401})
HALTING_RESTRICTIONS = frozenset({-4088, -4192})
KEY_FAULTS = frozenset({-2014, -2015})


@dataclass(slots=True)
class Reply:
    """An answer. status 0 with `lost`: nobody answered (time-out, dead socket); 0 without: nothing was ever sent."""

    status: int
    code: int = 0
    message: str = ""
    result: Any = None
    lost: bool = False
    retry_after_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the call did what was asked."""
        return self.outcome is Outcome.OK

    @property
    def outcome(self) -> Outcome:
        """Classify the answer, as the exchange documents it."""
        if self.lost:
            return Outcome.UNKNOWN
        if self.status == 200 and self.code == 0:
            return Outcome.OK
        if self.status == 0:
            return Outcome.NOT_DONE
        if self.status == 503 and ("Service Unavailable" in self.message or "Internal error; unable" in self.message):
            return Outcome.NOT_DONE
        if self.code in UNKNOWN_CODES or self.status == 408:
            return Outcome.UNKNOWN
        if self.code in NOT_DONE_CODES or self.status in (403, 418, 429):
            return Outcome.NOT_DONE
        if self.status >= 500:
            return Outcome.UNKNOWN
        return Outcome.REFUSED

    def banned_until_ms(self, now_ms: int) -> int:
        """Return until when the exchange banned this address (418), exchange ms; 0 when it did not."""
        if self.status != 418:
            return 0
        named = BANNED_UNTIL.search(self.message)
        return int(named.group(1)) if named else now_ms + int(self.retry_after_s * 1_000)


LOST = Reply(0, lost=True, message="no answer")
NOT_SENT = Reply(0, message="nothing was sent: no connection is ready")
