"""The rarer market-data endpoints: older and aggregated trades, ratios, basis, schedules."""

from __future__ import annotations

from typing import Any

from engine.simulator import path
from engine.simulator.errors import Refusal
from engine.simulator.instruments import decimal
from engine.simulator.params import Params
from engine.simulator.path import FIRST_ID, MINUTE_MS, TRADES, VOLUME
from engine.simulator.rest_market import MONTH_MS, PERIODS, symbol_of, symbols_of
from engine.simulator.tape import HOUR_MS, Tape

RATIOS = ("topLongShortAccountRatio", "topLongShortPositionRatio", "globalLongShortAccountRatio")


def trade_rows(tape: Tape, s: int, index: int) -> list[dict[str, Any]]:
    """Return the trades of one minute, spread evenly over it: ids, prices and quantities that add up to its candle."""
    market, item = tape.market, tape.market.instruments[s]
    row = tape.minutes(s, index, index)[:, 0].tolist()
    open_ms = market.first_ms + index * MINUTE_MS
    span = tape.now_ms - open_ms if index == tape.index else MINUTE_MS
    count = row[TRADES]
    found = []
    for k in range(count):
        qty = row[VOLUME] * (k + 1) // count - row[VOLUME] * k // count
        price = (
            row[path.OPEN] if k == 0 else row[path.CLOSE] if k == count - 1 else row[path.HIGH if k % 2 else path.LOW]
        )
        number = row[FIRST_ID] + k
        found.append({
            "id": number, "price": decimal(price, item.price_decimals), "qty": decimal(qty, item.qty_decimals),
            "quoteQty": decimal(price * qty, item.price_decimals + item.qty_decimals),
            "time": open_ms + span * k // count, "isBuyerMaker": bool(number % 2), "isRPITrade": False,
        })  # fmt: skip
    return found


def recent_trades(tape: Tape, params: Params) -> list[dict[str, Any]]:
    """Return the newest trades."""
    s = symbol_of(tape, params)
    return _newest(tape, s, params.integer("limit", 500, 1, 1_000))


def _newest(tape: Tape, s: int, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    index = tape.index
    while len(found) < limit and index >= int(tape.market.begin[s]):
        found = trade_rows(tape, s, index) + found
        index -= 1
    return found[-limit:]


def historical_trades(tape: Tape, params: Params) -> list[dict[str, Any]]:
    """Return trades from an id on, of the last month."""
    s = symbol_of(tape, params)
    limit = params.integer("limit", 100, 1, 500)
    if not params.has("fromId"):
        return _newest(tape, s, limit)
    number = params.integer("fromId", 0, 0, 2**62)
    ids = tape.market.bars[FIRST_ID, s, : tape.index + 1]
    first = max(int(tape.market.begin[s]), tape.index - MONTH_MS // MINUTE_MS)
    index = max(first, int(ids.searchsorted(number, side="right")) - 1)
    found: list[dict[str, Any]] = []
    while index <= tape.index and len(found) < limit:
        found += [row for row in trade_rows(tape, s, index) if row["id"] >= number]
        index += 1
    return found[:limit]


def aggregate_trades(tape: Tape, params: Params) -> list[dict[str, Any]]:
    """Return aggregated trades: here each trade is its own aggregate."""
    s = symbol_of(tape, params)
    limit = params.integer("limit", 500, 1, 1_000)
    start, end = params.time("startTime"), params.time("endTime")
    if start is not None and end is not None and end - start > HOUR_MS:
        raise Refusal(-4166, "Search window is restricted to recent 1 hour only.")
    if params.has("fromId"):
        found = historical_trades(tape, Params.of({**params.values, "limit": min(limit, 500)}))
    elif start is not None:
        market = tape.market
        first = max(int(market.begin[s]), market.minute_index(start), tape.index - 1_440)
        last = min(tape.index, market.minute_index(end if end is not None else start + HOUR_MS))
        found = []
        for index in range(first, last + 1):
            rows = trade_rows(tape, s, index)
            found += [row for row in rows if row["time"] >= start and (end is None or row["time"] <= end)]
            if len(found) >= limit:
                break
        found = found[:limit]
    else:
        found = _newest(tape, s, limit)
    return [
        {"a": row["id"], "p": row["price"], "q": row["qty"], "nq": row["qty"], "f": row["id"], "l": row["id"],
         "T": row["time"], "m": row["isBuyerMaker"]}
        for row in found
    ]  # fmt: skip


def _stamps(tape: Tape, params: Params) -> list[int]:
    period = PERIODS[params.choice("period", tuple(PERIODS))] * MINUTE_MS
    limit = params.integer("limit", 30, 1, 500)
    start, end = params.time("startTime"), params.time("endTime")
    oldest = max(tape.now_ms - MONTH_MS, tape.market.first_ms, start or 0)
    newest = (tape.now_ms if end is None else min(end, tape.now_ms)) // period * period
    stamps = list(range(-(-oldest // period) * period, newest + 1, period))
    return stamps[:limit] if start is not None else stamps[-limit:]


def ratio(tape: Tape, kind: str, params: Params) -> list[dict[str, Any]]:
    """Return one of the long/short ratios: seeded functions of time."""
    s = symbol_of(tape, params)
    salt, rows = 80 + RATIOS.index(kind), []
    for stamp in _stamps(tape, params):
        long = 0.5 + 0.15 * path.smooth(tape.market.keys[s], stamp, 12 * HOUR_MS, salt)
        shares = {"longAccount": f"{long:.4f}", "shortAccount": f"{1 - long:.4f}"}
        row = {"symbol": tape.market.symbols[s], "longShortRatio": f"{long / (1 - long):.4f}"}
        rows.append(row | shares | {"timestamp": stamp})
    return rows


def taker_ratio(tape: Tape, params: Params) -> list[dict[str, Any]]:
    """Return taker buy and sell volume, from the candles themselves."""
    s = symbol_of(tape, params)
    market, item = tape.market, tape.market.instruments[s]
    minutes, rows = PERIODS[params.choice("period", tuple(PERIODS))], []
    for stamp in _stamps(tape, params):
        last = market.minute_index(stamp)
        first = max(int(market.begin[s]), last - minutes)
        bought = int(market.bars[path.TAKER, s, first:last].sum())
        sold = int(market.bars[VOLUME, s, first:last].sum()) - bought
        volumes = {"buyVol": decimal(bought, item.qty_decimals), "sellVol": decimal(sold, item.qty_decimals)}
        rows.append({"buySellRatio": f"{bought / max(sold, 1):.4f}"} | volumes | {"timestamp": stamp})
    return rows


def basis(tape: Tape, params: Params) -> list[dict[str, Any]]:
    """Return the basis history of a pair's perpetual."""
    s = symbol_of(tape, params, "pair")
    params.choice("contractType", ("PERPETUAL", "CURRENT_QUARTER", "NEXT_QUARTER"))
    market, item, rows = tape.market, tape.market.instruments[s], []
    for stamp in _stamps(tape, params):
        index = min(tape.index, max(int(market.begin[s]), market.minute_index(stamp) - 1))
        price = int(market.bars[path.CLOSE, s, index]) / 10**item.price_decimals
        rate = path.basis(market.keys[s], stamp)
        rows.append({
            "indexPrice": f"{price:.8f}", "contractType": params.text("contractType"), "basisRate": f"{rate:.4f}",
            "futuresPrice": f"{price * (1 + rate):.8f}", "annualizedBasisRate": "", "basis": f"{price * rate:.8f}",
            "pair": item.symbol, "timestamp": stamp,
        })  # fmt: skip
    return rows


def adl_risk(tape: Tape, params: Params) -> Any:
    """Return symbolAdlRisk: low everywhere."""
    stamp = tape.now_ms // (30 * MINUTE_MS) * 30 * MINUTE_MS
    rows = [{"symbol": tape.market.symbols[s], "adlRisk": "low", "updateTime": stamp} for s in symbols_of(tape, params)]
    return rows[0] if params.has("symbol") else rows


def trading_schedule(tape: Tape) -> dict[str, Any]:
    """Return the sessions of TradFi underlyings: none are listed here."""
    return {"updateTime": tape.now_ms, "marketSchedules": {}}
