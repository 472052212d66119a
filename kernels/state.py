"""Layout of one feature state: float64[STATE_SIZE] per symbol and timeframe, flat, so that states map and copy.

A ring of capacity N occupies 2 N slots and every value is written twice, at `count mod N` and N further on: the
newest W values always lie contiguous and in time order, whatever the ring's phase, so a statistic over them is a
function of the window alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# scalars
COUNT = 0  # bars stepped since the state's first bar
OPEN_MS = 1  # open time of the newest stepped bar (exact in float64)
FIRST_MS = 2  # open time of the first bar
PREV_HIGH = 3
PREV_LOW = 4
PREV_CLOSE = 5
PREV_TYPICAL = 6
ATR = 7
DM_PLUS = 8
DM_MINUS = 9
DM_RANGE = 10
ADX = 11
RSI_GAIN = 12
RSI_LOSS = 13
FAST_K1 = 14  # fast %K one and two bars ago
FAST_K2 = 15
SLOW_K1 = 16
SLOW_K2 = 17
EMA20 = 18
EMA50 = 19
EMA12 = 20
EMA26 = 21
EMA9 = 22
BTC_EMA50 = 23
BTC_EMA200 = 24
SCALARS = 32

# rings
LONG, MEDIUM, SHORT = 64, 32, 16  # capacities: windows up to 61, 20 and 15 bars
CLOSE = SCALARS
LOG_RET = CLOSE + 2 * LONG
BTC_LOG_RET = LOG_RET + 2 * LONG
RSI = BTC_LOG_RET + 2 * LONG
VOLUME = RSI + 2 * LONG
QUOTE = VOLUME + 2 * LONG
LN_CLOSE = QUOTE + 2 * LONG
LN_RANGE_SQ = LN_CLOSE + 2 * MEDIUM
TYPICAL = LN_RANGE_SQ + 2 * MEDIUM
TRADES = TYPICAL + 2 * MEDIUM
HIGH = TRADES + 2 * MEDIUM
LOW = HIGH + 2 * SHORT
FLOW_UP = LOW + 2 * SHORT
FLOW_DOWN = FLOW_UP + 2 * SHORT
TAKER_NET = FLOW_DOWN + 2 * SHORT
STATE_SIZE = TAKER_NET + 2 * SHORT
STATE_BYTES = STATE_SIZE * 8


def new_state(count: int | None = None) -> npt.NDArray[np.float64]:
    """Return an empty state float64[STATE_SIZE], or `count` of them as float64[count, STATE_SIZE].

    Rings start as NaN: a window that is not full yet yields NaN by itself.
    """
    states = np.full((1 if count is None else count, STATE_SIZE), np.nan)
    states[:, :SCALARS] = 0.0
    return states[0] if count is None else states
