"""Structure family: open interest and funding as-of, BTCUSDT as the market (rows 38–43)."""

from __future__ import annotations

import math

from kernels.compile import kernel
from kernels.rolling import ema, product_sum, push, shift, square_sum, window
from kernels.state import BTC_EMA50, BTC_EMA200, BTC_LOG_RET, LOG_RET, LONG
from kernels.trend import side_of

MINUTE_MS = 60_000
DELAY_MS = 300_000  # a sample stamped S may be used from S + 300 s
OPEN_INTEREST_MAX_AGE_MS = 900_000
FUNDING_INTERVAL_MS = 28_800_000  # the longest interval


@kernel()
def step_regime(state, i, c):
    """Step BTCUSDT's EMA50 and EMA200 and return the regime: +1, −1 or 0, NaN before bar 199."""
    fast = ema(state, BTC_EMA50, i, 50, c)
    slow = ema(state, BTC_EMA200, i, 200, c)
    return side_of(c, fast, slow)


@kernel()
def step_market(state, i, ret_60, shift60, sum60, btc_log_ret, btc_ret_60, regime, is_btc, row):
    """Write rows 40–43; LOG_RET already holds this bar, (shift60, sum60) are its mean shift and Σ² over 60 bars."""
    row[40] = regime
    if is_btc:
        row[41] = 1.0 if sum60 > 0.0 else math.nan
        row[42] = row[41]
        row[43] = ret_60 - ret_60
        return
    push(state, BTC_LOG_RET, LONG, i, btc_log_ret)
    own = window(state, LOG_RET, LONG, i, 60)
    btc = window(state, BTC_LOG_RET, LONG, i, 60)
    btc_shift = shift(btc, 60)
    btc_sum = square_sum(btc, 60, btc_shift)
    both = product_sum(own, btc, 60, shift60, btc_shift)
    row[41] = both / (math.sqrt(sum60) * math.sqrt(btc_sum)) if sum60 != 0.0 and btc_sum != 0.0 else math.nan
    row[42] = both / btc_sum if btc_sum != 0.0 else math.nan
    row[43] = ret_60 - btc_ret_60


@kernel()
def floor_minute(ms):
    """Return a time floored to the minute; every sample time is, before any comparison."""
    return ms - ms % MINUTE_MS


@kernel()
def due_count(samples, count, hint, t):
    """Return how many of samples[0:count] (by stamp) have a stamp at least 300 s before t.

    `hint` is any earlier answer for the same array and an earlier t, or 0; it only shortens the search.
    """
    if hint == 0 and count > 8:
        low, high = 0, count
        while low < high:
            middle = (low + high) >> 1
            if floor_minute(samples[middle]["stamp_ms"]) + DELAY_MS <= t:
                low = middle + 1
            else:
                high = middle
        return low
    while hint < count and floor_minute(samples[hint]["stamp_ms"]) + DELAY_MS <= t:
        hint += 1
    return hint


@kernel()
def newest_usable(samples, due, t):
    """Return the index of the newest sample among samples[0:due] that is usable at t, or −1."""
    k = due - 1
    while k >= 0 and samples[k]["usable_ms"] > t:
        k -= 1
    return k


@kernel()
def open_interest_at(samples, due, t):
    """Return OI(t): the newest usable sample not older than 15 minutes, else NaN."""
    k = newest_usable(samples, due, t)
    if k < 0 or t - floor_minute(samples[k]["stamp_ms"]) > OPEN_INTEREST_MAX_AGE_MS:
        return math.nan
    return samples[k]["value"]


@kernel()
def open_interest_change(samples, due_now, due_then, t, then):
    """Return OI(t) / OI(then) − 1."""
    before = open_interest_at(samples, due_then, then)
    return open_interest_at(samples, due_now, t) / before - 1.0 if before != 0.0 else math.nan


@kernel()
def funding_score(samples, due, t, size):
    """Return (newest − mean) / population std of the last `size` usable rates at t.

    0 if they are all equal; NaN with fewer, or if the newest is older than two intervals: the interval is the distance
    of the two newest stamps, 8 hours at most.
    """
    first = newest_usable(samples, due, t)
    second = newest_usable(samples, first, t)
    if second < 0:
        return math.nan
    stamp = floor_minute(samples[first]["stamp_ms"])
    interval = min(stamp - floor_minute(samples[second]["stamp_ms"]), FUNDING_INTERVAL_MS)
    if t - stamp > 2 * interval:
        return math.nan
    newest = samples[first]["value"]
    found = 0
    k = first
    low = high = newest
    sum_shift = 0.0
    while k >= 0 and found < size:
        value = samples[k]["value"]
        if math.isnan(value):
            return math.nan
        sum_shift += value - newest
        low = min(low, value)
        high = max(high, value)
        found += 1
        k = newest_usable(samples, k, t)
    if found < size:
        return math.nan
    if low == high:
        return 0.0
    mean_shift = sum_shift / size
    squares = 0.0
    k = first
    for _ in range(size):
        centred = (samples[k]["value"] - newest) - mean_shift
        squares += centred * centred
        k = newest_usable(samples, k, t)
    return -mean_shift / math.sqrt(squares / size)
