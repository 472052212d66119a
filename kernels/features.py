"""The 44 features of a bar: one step, its fold over history, and the 132-feature vector.

`step_bar` is the definition. The live call (`step`), the call for a whole minute close (`step_many`) and the batch
(`fold`, `fold_vectors`) run it and nothing else, so they agree bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from kernels.bars import StepCode, build_bars, check_bar, check_order, checked
from kernels.compile import kernel
from kernels.momentum import step_macd, step_rsi, step_stochastic, step_typical
from kernels.price import step_price
from kernels.records import BAR, FEATURE_COUNT, FEATURES_PER_TIMEFRAME, SAMPLE, TIMEFRAME_MS
from kernels.rolling import ln
from kernels.schema import FUNDING_RATES
from kernels.state import (
    COUNT,
    FIRST_MS,
    OPEN_MS,
    PREV_CLOSE,
    PREV_HIGH,
    PREV_LOW,
    SCALARS,
    STATE_SIZE,
    new_state,
)
from kernels.structure import due_count, funding_score, open_interest_change, step_market, step_regime
from kernels.trend import step_averages, step_direction
from kernels.vector import assemble, spread, vector_hash
from kernels.volatility import step_volatility
from kernels.volume import step_volume

__all__ = ["StepCode", "build_bars", "fold", "fold_vectors", "new_state", "vector_hash"]

WIDTH = FEATURES_PER_TIMEFRAME
MARKET_WIDTH = 3  # of BTCUSDT's bar: log_ret, ret_60, regime
_MARKET_CLOSES = 61
_MARKET_STATE = SCALARS + _MARKET_CLOSES  # BTCUSDT alone, light: scalars as in kernels.state, then a ring of closes


_BAR = nb.from_dtype(BAR)
_SAMPLE = nb.from_dtype(SAMPLE)
_ROW = nb.float64[::1]
_ROWS = nb.float64[:, ::1]
_BARS = nb.types.Array(_BAR, 1, "C")
_SAMPLES = nb.types.Array(_SAMPLE, 1, "C")

_OK, _RESTARTED, _NO_BTC = int(StepCode.OK), int(StepCode.RESTARTED), int(StepCode.NO_BTC)
_DUPLICATE, _OUT_OF_ORDER, _GAP = int(StepCode.DUPLICATE), int(StepCode.OUT_OF_ORDER), int(StepCode.GAP)
_MINUTE_MS, _QUARTER_MS, _HOUR_MS = TIMEFRAME_MS
_K1, _K15, _K60 = FUNDING_RATES


@kernel()
def reset_state(state):
    """Make a state as new."""
    state[:SCALARS] = 0.0
    state[SCALARS:] = math.nan


@kernel()
def step_bar(state, bar, btc_log_ret, btc_ret_60, btc_regime, is_btc, row):
    """Step all families with a bar that passed its checks and write row[0:44]; 38 and 39 become NaN here.

    The last two are as-of samples: `as_of` writes them when the samples due at the bar's close have arrived.
    """
    i = np.int64(state[COUNT])
    h, low, c = bar["high"], bar["low"], bar["close"]
    previous = state[PREV_CLOSE]
    true_range = max(h - low, max(abs(h - previous), abs(low - previous)))
    regime = step_regime(state, i, c) if is_btc else btc_regime

    log_ret = step_price(state, i, bar["open"], h, low, c, row)
    shift60, sum60 = step_volatility(state, i, true_range, h, low, c, log_ret, row)
    step_direction(state, i, true_range, h, low, row)
    step_averages(state, i, c, row)
    step_rsi(state, i, c, row)
    step_stochastic(state, i, h, low, c, row)
    step_macd(state, i, c, row)
    step_typical(state, i, h, low, c, bar["volume"], row)
    step_volume(state, i, c, bar["volume"], bar["quote_volume"], bar["taker_volume"], bar["trades"], row)
    row[38] = math.nan
    row[39] = math.nan
    step_market(state, i, row[3], shift60, sum60, btc_log_ret, btc_ret_60, regime, is_btc, row)

    if i == 0:
        state[FIRST_MS] = bar["open_ms"]
    state[PREV_HIGH] = h
    state[PREV_LOW] = low
    state[PREV_CLOSE] = c
    state[OPEN_MS] = bar["open_ms"]
    state[COUNT] = i + 1


@kernel(nb.int64(_ROWS, nb.int64, _BARS, nb.int64, _ROW, nb.boolean, nb.int64, _ROWS), lanes=True)
def step(states, s, bars, at, market, is_btc, step_ms, rows):
    """Step states[s] with bars[at] and write its features into rows[s].

    states float64[symbols, STATE_SIZE]; market float64[3] = BTCUSDT's log_ret, ret_60 and regime of the same close
    (ignored for BTCUSDT itself); rows float64[symbols, 44]. Returns a StepCode; on any other than OK the state and the
    row are untouched.
    """
    bar = bars[at]
    state = states[s]
    code = check_bar(bar, step_ms)
    if code == _OK:
        code = check_order(state, bar["open_ms"], step_ms)
    if code == _OK:
        step_bar(state, bar, market[0], market[1], market[2], is_btc, rows[s])
    return code


@kernel(nb.int64(_ROWS, _BARS, nb.int64[::1], nb.int64, _ROW, nb.int64, _ROWS, nb.uint8[::1]), lanes=True)
def step_many(states, bars, which, count, market, step_ms, rows, codes):
    """Step states[which[k]] with bars[which[k]], k < count, all of one close time; none of them is BTCUSDT's.

    states float64[symbols, STATE_SIZE], bars BAR[symbols] (staged), rows float64[symbols, 44], codes uint8[symbols].
    Returns how many were stepped; codes[symbol] says what became of each.
    """
    stepped = 0
    for k in range(count):
        s = which[k]
        bar = bars[s]
        state = states[s]
        code = check_bar(bar, step_ms)
        if code == _OK:
            code = check_order(state, bar["open_ms"], step_ms)
        if code == _OK:
            step_bar(state, bar, market[0], market[1], market[2], False, rows[s])
            stepped += 1
        codes[s] = code
    return stepped


@kernel(nb.void(_BARS, nb.int64, _ROWS))
def fold_market(bars, step_ms, market):
    """Write BTCUSDT's (log_ret, ret_60, regime) for each of its bars: what `step` gives, without the other features."""
    state = np.zeros(_MARKET_STATE)
    ring = state[SCALARS:]
    for k in range(len(bars)):
        bar = bars[k]
        market[k, :] = math.nan
        if check_bar(bar, step_ms) != _OK:
            continue
        order = check_order(state, bar["open_ms"], step_ms)
        if order in (_DUPLICATE, _OUT_OF_ORDER):
            continue
        if order == _GAP:
            state[:] = 0.0
        i = np.int64(state[COUNT])
        c = bar["close"]
        if i > 0:
            market[k, 0] = ln(c / state[PREV_CLOSE])
        if i >= 60:
            market[k, 1] = c / ring[(i + 1) % _MARKET_CLOSES] - 1.0
        market[k, 2] = step_regime(state, i, c)
        ring[i % _MARKET_CLOSES] = c
        state[PREV_CLOSE] = c
        state[OPEN_MS] = bar["open_ms"]
        state[COUNT] = i + 1


@kernel(nb.int64(_ROW, _BARS, _BARS, _ROWS, nb.boolean, nb.int64, _ROWS, nb.uint8[::1]), lanes=True)
def fold_bars(state, bars, btc_bars, market, is_btc, step_ms, rows, codes):
    """Fold `step_bar` over bars (time order), matching each with BTCUSDT's bar of the same open time.

    rows float64[n, ≥ 44] gets columns 0…43, NaN for a bar that did not step. A hole, in the bars or in their BTCUSDT
    counterparts, restarts the state. Returns the number of bars stepped.
    """
    stepped = 0
    j = 0
    row = np.empty(WIDTH)
    nothing = math.nan
    for k in range(len(bars)):
        bar = bars[k]
        open_ms = bar["open_ms"]
        row = rows[k, :WIDTH]
        code = check_bar(bar, step_ms)
        if code == _OK:
            code = check_order(state, open_ms, step_ms)
        if code in (_OK, _GAP) and not is_btc:
            while j < len(btc_bars) and btc_bars[j]["open_ms"] < open_ms:
                j += 1
            if j >= len(btc_bars) or btc_bars[j]["open_ms"] != open_ms:
                code = _NO_BTC
        if code == _GAP:
            reset_state(state)
            code = _RESTARTED
        codes[k] = code
        if code > _RESTARTED:
            row[:] = math.nan
            continue
        if is_btc:
            step_bar(state, bar, nothing, nothing, nothing, True, row)
        else:
            step_bar(state, bar, market[j, 0], market[j, 1], market[j, 2], False, row)
        stepped += 1
    return stepped


@kernel(nb.void(_ROW, nb.int64, nb.int64, _SAMPLES, nb.int64, _SAMPLES, nb.int64))
def as_of(row, timeframe, close_ms, open_interest, open_interest_count, funding, funding_count):
    """Write oi_change and funding_z as of close_ms into row[38] and row[39].

    Samples are sorted by stamp; the first `…_count` of the arrays are filled.
    """
    step_ms = _MINUTE_MS if timeframe == 0 else (_QUARTER_MS if timeframe == 1 else _HOUR_MS)
    size = _K1 if timeframe == 0 else (_K15 if timeframe == 1 else _K60)
    then = close_ms - 15 * step_ms
    due_now = due_count(open_interest, open_interest_count, 0, close_ms)
    due_then = due_count(open_interest, open_interest_count, 0, then)
    row[38] = open_interest_change(open_interest, due_now, due_then, close_ms, then)
    row[39] = funding_score(funding, due_count(funding, funding_count, 0, close_ms), close_ms, size)


@kernel(nb.void(_BARS, nb.int64, _SAMPLES, _SAMPLES, _ROWS, nb.uint8[::1]))
def fold_as_of(bars, timeframe, open_interest, funding, rows, codes):
    """Write columns 38 and 39 of every stepped row: `as_of` with the searches carried along."""
    step_ms = _MINUTE_MS if timeframe == 0 else (_QUARTER_MS if timeframe == 1 else _HOUR_MS)
    size = _K1 if timeframe == 0 else (_K15 if timeframe == 1 else _K60)
    now_hint, then_hint, funding_hint = 0, 0, 0
    for k in range(len(bars)):
        if codes[k] > _RESTARTED:
            continue
        close_ms = bars[k]["open_ms"] + step_ms
        then = close_ms - 15 * step_ms
        now_hint = due_count(open_interest, len(open_interest), now_hint, close_ms)
        then_hint = due_count(open_interest, len(open_interest), then_hint, then)
        funding_hint = due_count(funding, len(funding), funding_hint, close_ms)
        rows[k, 38] = open_interest_change(open_interest, now_hint, then_hint, close_ms, then)
        rows[k, 39] = funding_score(funding, funding_hint, close_ms, size)


@kernel(
    nb.uint64(_ROWS, _ROWS, _ROWS, nb.int64, nb.int64, _SAMPLES, nb.int64, _SAMPLES, nb.int64, _ROWS),
)
def complete(rows_1m, rows_15m, rows_1h, s, decision_ms, open_interest, oi_count, funding, funding_count, vectors):
    """Write the as-of columns of symbol s's three rows and its vector of decision_ms; return the vector's hash.

    rows_… float64[symbols, 44] of the bars that closed last at decision_ms; vectors float64[symbols, 132].
    """
    hour = decision_ms - decision_ms % _HOUR_MS
    quarter = decision_ms - decision_ms % _QUARTER_MS
    as_of(rows_1m[s], 0, decision_ms, open_interest, oi_count, funding, funding_count)
    as_of(rows_15m[s], 1, quarter, open_interest, oi_count, funding, funding_count)
    as_of(rows_1h[s], 2, hour, open_interest, oi_count, funding, funding_count)
    assemble(rows_1m[s], rows_15m[s], rows_1h[s], vectors[s])
    return vector_hash(vectors[s])


# --- the batch doors ---

_Bars = npt.NDArray[Any]
_Samples = npt.NDArray[Any]


def market_of(btc_bars: _Bars, timeframe: int) -> npt.NDArray[np.float64]:
    """Return float64[n, 3]: BTCUSDT's log_ret, ret_60 and regime for each of its bars."""
    bars = checked(btc_bars, BAR, "btc_bars")
    market = np.empty((len(bars), MARKET_WIDTH))
    fold_market(bars, TIMEFRAME_MS[timeframe], market)
    return market


def fold(
    bars: _Bars,
    timeframe: int,
    btc_bars: _Bars | None = None,
    open_interest: _Samples | None = None,
    funding: _Samples | None = None,
    state: npt.NDArray[np.float64] | None = None,
    rows: npt.NDArray[np.float64] | None = None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Fold one timeframe's 44 features over bars in time order.

    Parameters: bars BAR[n]; btc_bars BAR[m], or None when `bars` are BTCUSDT's own; open_interest and funding SAMPLE[],
    sorted by stamp; state float64[STATE_SIZE] to continue from (stepped in place; default: a new one); rows
    float64[n, ≥ 44] to write into (default: new). Returns (rows, codes uint8[n] of StepCode).
    """
    bars = checked(bars, BAR, "bars")
    is_btc = btc_bars is None
    btc = checked(btc_bars, BAR, "btc_bars")
    market = np.empty((0, MARKET_WIDTH)) if is_btc else market_of(btc, timeframe)
    state = new_state() if state is None else state
    rows = np.empty((len(bars), WIDTH)) if rows is None else rows
    if state.shape != (STATE_SIZE,) or rows.shape[0] != len(bars) or rows.shape[1] < WIDTH:
        raise TypeError(f"state {state.shape} or rows {rows.shape} do not fit {len(bars)} bars")
    codes = np.empty(len(bars), np.uint8)
    fold_bars(state, bars, btc, market, is_btc, TIMEFRAME_MS[timeframe], rows, codes)
    oi = checked(open_interest, SAMPLE, "open_interest")
    fold_as_of(bars, timeframe, oi, checked(funding, SAMPLE, "funding"), rows, codes)
    return rows, codes


def fold_vectors(
    bars_1m: _Bars,
    bars_15m: _Bars | None,
    bars_1h: _Bars | None,
    btc_1m: _Bars | None,
    btc_15m: _Bars | None,
    btc_1h: _Bars | None,
    open_interest: _Samples | None = None,
    funding: _Samples | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return (close_ms int64[n], vectors float64[n, 132]), a row per 1m bar, from the history of a symbol.

    Bars are BAR arrays in time order; 15m and 1h ones may be None and are then built from the 1m bars. All three
    btc_* None: the symbol is BTCUSDT itself; otherwise btc_1m is needed. Samples are SAMPLE arrays sorted by stamp. A
    bar that cannot be stepped (see StepCode) leaves NaN; a hole restarts the fold behind it.
    """
    is_btc = btc_1m is None
    if is_btc and (btc_15m is not None or btc_1h is not None):
        raise TypeError("btc_1m: expected BTCUSDT's 1m bars beside its larger ones, got None")
    vectors = np.empty((len(bars_1m), FEATURE_COUNT))
    fold(bars_1m, 0, btc_1m, open_interest, funding, rows=vectors)
    opens, larger = [], []
    for timeframe, bars, market in ((1, bars_15m, btc_15m), (2, bars_1h, btc_1h)):
        if bars is None:
            bars = build_bars(bars_1m, timeframe)
        if market is None and btc_1m is not None:
            market = build_bars(btc_1m, timeframe)
        larger.append(fold(bars, timeframe, market, open_interest, funding)[0])
        opens.append(np.ascontiguousarray(bars["open_ms"]))
    open_ms = np.ascontiguousarray(bars_1m["open_ms"])
    spread(open_ms, opens[0], larger[0], opens[1], larger[1], vectors)
    return open_ms + _MINUTE_MS, vectors
