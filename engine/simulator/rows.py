"""Kline rows of REST replies as bytes, without a JSON library."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.simulator.instruments import Instrument
from engine.simulator.jit import compiled
from engine.simulator.path import CLOSE, HIGH, LOW, OPEN, QUOTE, TAKER, TAKER_QUOTE, TRADES, VOLUME
from engine.simulator.render import put, put_decimal, put_int

ROW_BYTES = 320
_QUOTE_COMMA_QUOTE = np.frombuffer(b'","', np.uint8).copy()
_COMMA_QUOTE = np.frombuffer(b',"', np.uint8).copy()
_QUOTE_COMMA = np.frombuffer(b'",', np.uint8).copy()
_TAIL = np.frombuffer(b'","0"]', np.uint8).copy()
_EMPTY_TAIL = np.frombuffer(b',"0","0","0"]', np.uint8).copy()
_ZERO = np.frombuffer(b'","0",', np.uint8).copy()
_ZERO_COMMA = np.frombuffer(b',"0",', np.uint8).copy()


@compiled
def _candles(columns: Any, spans: Any, places: Any, lots: Any, out: Any) -> Any:
    at = np.int64(0)
    out[at] = 91
    at += 1
    for j in range(columns.shape[1]):
        if j:
            out[at] = 44
            at += 1
        out[at] = 91
        at = put(out, put_int(out, at + 1, spans[0, j]), _COMMA_QUOTE)
        for column in (OPEN, HIGH, LOW, CLOSE):
            at = put(out, put_decimal(out, at, columns[column, j], places), _QUOTE_COMMA_QUOTE)
        at = put(out, put_decimal(out, at, columns[VOLUME, j], lots), _QUOTE_COMMA)
        at = put(out, put_int(out, at, spans[1, j] - 1), _COMMA_QUOTE)
        at = put(out, put_decimal(out, at, columns[QUOTE, j], places + lots), _QUOTE_COMMA)
        at = put(out, put_int(out, at, columns[TRADES, j]), _COMMA_QUOTE)
        at = put(out, put_decimal(out, at, columns[TAKER, j], lots), _QUOTE_COMMA_QUOTE)
        at = put(out, put_decimal(out, at, columns[TAKER_QUOTE, j], places + lots), _TAIL)
    out[at] = 93
    return at + 1


@compiled
def _mark_candles(columns: Any, spans: Any, samples: Any, out: Any) -> Any:
    at = np.int64(0)
    out[at] = 91
    at += 1
    for j in range(columns.shape[1]):
        if j:
            out[at] = 44
            at += 1
        out[at] = 91
        at = put(out, put_int(out, at + 1, spans[0, j]), _COMMA_QUOTE)
        for column in range(3):
            at = put(out, put_decimal(out, at, columns[column, j], 8), _QUOTE_COMMA_QUOTE)
        at = put(out, put_decimal(out, at, columns[3, j], 8), _ZERO)
        at = put(out, put_int(out, at, spans[1, j] - 1), _ZERO_COMMA)
        at = put(out, put_int(out, at, samples[j]), _EMPTY_TAIL)
    out[at] = 93
    return at + 1


def candles(columns: npt.NDArray[np.int64], spans: npt.NDArray[np.int64], item: Instrument) -> bytes:
    """Return the JSON of candles int64[COLUMNS, n]; spans int64[2, n]: open and next open in ms."""
    out = np.empty(ROW_BYTES * columns.shape[1] + 2, np.uint8)
    return out[: _candles(columns, spans, item.price_decimals, item.qty_decimals, out)].tobytes()


def mark_candles(columns: npt.NDArray[np.int64], spans: npt.NDArray[np.int64], samples: Any) -> bytes:
    """Return the JSON of mark, index or premium candles: int64[4, n] of 10^-8; samples int64[n]: ticks in each."""
    out = np.empty(ROW_BYTES * columns.shape[1] + 2, np.uint8)
    return out[: _mark_candles(columns, spans, samples, out)].tobytes()
