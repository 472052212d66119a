"""24-hour statistics, best book and mark as the exchange prints them, for REST and for the slower streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.simulator import path
from engine.simulator.instruments import decimal
from engine.simulator.path import CLOSE, FIRST_ID, HIGH, LOW, MINUTE_MS, OPEN, QUOTE, TRADES, VOLUME
from engine.simulator.tape import Tape

DAY_MINUTES = 1_440


def _day(tape: Tape, s: int) -> tuple[list[int], int]:
    """Return (columns of the last 24 h, open time)."""
    first = max(int(tape.market.begin[s]), tape.index - DAY_MINUTES + 1)
    rows = tape.minutes(s, first, tape.index)
    total = np.empty((path.COLUMNS, 1), np.int64)
    path.aggregate(rows, np.zeros(1, np.int64), total)
    return total[:, 0].tolist(), tape.market.first_ms + first * MINUTE_MS


def rest_ticker(tape: Tape, s: int) -> dict[str, Any]:
    """Return a row of /fapi/v1/ticker/24hr."""
    row, open_ms = _day(tape, s)
    item = tape.market.instruments[s]
    places, lots = item.price_decimals, item.qty_decimals
    change = row[CLOSE] - row[OPEN]
    average = row[QUOTE] // row[VOLUME] if row[VOLUME] else row[CLOSE]
    return {
        "symbol": item.symbol,
        "priceChange": decimal(change, places),
        "priceChangePercent": f"{100 * change / row[OPEN]:.3f}",
        "weightedAvgPrice": decimal(average, places),
        "lastPrice": decimal(row[CLOSE], places),
        "lastQty": decimal(max(1, row[VOLUME] // max(1, row[TRADES])), lots),
        "openPrice": decimal(row[OPEN], places),
        "highPrice": decimal(row[HIGH], places),
        "lowPrice": decimal(row[LOW], places),
        "volume": decimal(row[VOLUME], lots),
        "quoteVolume": decimal(row[QUOTE], places + lots),
        "openTime": open_ms,
        "closeTime": tape.now_ms,
        "firstId": row[FIRST_ID],
        "lastId": row[FIRST_ID] + row[TRADES] - 1,
        "count": row[TRADES],
    }


def stream_ticker(tape: Tape, s: int) -> dict[str, Any]:
    """Return a 24hrTicker payload."""
    row = rest_ticker(tape, s)
    names = {
        "p": "priceChange", "P": "priceChangePercent", "w": "weightedAvgPrice", "c": "lastPrice", "Q": "lastQty",
        "o": "openPrice", "h": "highPrice", "l": "lowPrice", "v": "volume", "q": "quoteVolume", "O": "openTime",
        "C": "closeTime", "F": "firstId", "L": "lastId", "n": "count",
    }  # fmt: skip
    head = {"e": "24hrTicker", "E": tape.now_ms, "s": row["symbol"], "ps": row["symbol"]}
    return head | {short: row[name] for short, name in names.items()} | {"st": 1}


def stream_mini_ticker(tape: Tape, s: int) -> dict[str, Any]:
    """Return a 24hrMiniTicker payload."""
    row = stream_ticker(tape, s)
    kept = {key: row[key] for key in ("s", "ps", "c", "o", "h", "l", "v", "q", "st")}
    return {"e": "24hrMiniTicker", "E": tape.now_ms} | kept


def stream_book(tape: Tape, s: int) -> dict[str, Any]:
    """Return a bookTicker payload."""
    bid, bid_qty, ask, ask_qty, update_id = tape.best(s)
    item = tape.market.instruments[s]
    places, lots = item.price_decimals, item.qty_decimals
    head = {"e": "bookTicker", "u": update_id, "E": tape.now_ms, "T": tape.now_ms, "s": item.symbol, "ps": item.symbol}
    sides = {"b": decimal(bid, places), "B": decimal(bid_qty, lots), "a": decimal(ask, places)}
    return head | sides | {"A": decimal(ask_qty, lots), "st": 1}


def stream_mark(tape: Tape, s: int) -> dict[str, Any]:
    """Return a markPriceUpdate payload, as of the last full second: what the symbol's own stream showed."""
    row = premium_index(tape, s)
    mark = row["markPrice"]
    head = {"e": "markPriceUpdate", "E": tape.now_ms // 1_000 * 1_000, "s": row["symbol"], "p": mark, "ap": mark}
    tail = {"P": row["estimatedSettlePrice"], "i": row["indexPrice"], "r": row["lastFundingRate"]}
    return head | tail | {"T": row["nextFundingTime"], "st": 1}


def premium_index(tape: Tape, s: int) -> dict[str, Any]:
    """Return a row of /fapi/v1/premiumIndex, as of the last full second."""
    second_ms = max(tape.open_ms, tape.now_ms // 1_000 * 1_000)
    mark = int(tape.run[3, s, (second_ms - tape.open_ms) // path.SLOT_MS])
    index = int(np.rint(mark / (1.0 + path.basis(tape.market.keys[s], second_ms))))
    rate, settle_ms = tape.funding[s].tolist()
    return {
        "symbol": tape.market.symbols[s],
        "markPrice": decimal(mark, 8),
        "indexPrice": decimal(index, 8),
        "estimatedSettlePrice": decimal(index, 8),
        "lastFundingRate": decimal(rate, 8),
        "interestRate": "0.00010000",
        "nextFundingTime": settle_ms,
        "time": second_ms,
    }
