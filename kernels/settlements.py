"""How many hours each settled funding rate ran: intervals change, so its own history tells, not the listing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HOUR_MS = 3_600_000
INTERVALS_HOURS = (1, 2, 4, 8)


def settlement_hours(stamp_ms: npt.NDArray[np.int64], otherwise: int) -> npt.NDArray[np.int64]:
    """Return int64[n]: the interval that ended with each settlement, from the time since the one before.

    stamp_ms: int64[n] ascending, exchange time. The first one, and one behind a hole, has that of the next one whose
    own is known (at the end: of the last one); `otherwise` holds where none is.
    """
    apart = np.rint(np.diff(stamp_ms) / HOUR_MS).astype(np.int64)
    known = 1 + np.flatnonzero(np.isin(apart, INTERVALS_HOURS))
    if not len(known):
        return np.full(len(stamp_ms), otherwise, np.int64)
    at = np.searchsorted(known, np.arange(len(stamp_ms)))
    return apart[known[np.minimum(at, len(known) - 1)] - 1]
