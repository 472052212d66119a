"""exchangeInfo as a table of INSTRUMENT records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError, ExchangeError
from kernels.records import INSTRUMENT

DEFAULT_FUNDING_HOURS = 8
BRACKETS_NAME = "brackets.json"  # in the data folder: what a live engine read with its key
_TRADFI_PERPETUAL = "TRADIFI_PERPETUAL"
_PERPETUAL = ("PERPETUAL", _TRADFI_PERPETUAL)
TRADFI = 1  # bit of an INSTRUMENT's `spare`: a perpetual on a traditional asset


def instruments(info: Any, funding_hours: dict[str, int] | None = None) -> npt.NDArray[Any]:
    """Turn an exchangeInfo reply into INSTRUMENT[n], sorted by symbol.

    A filter that the exchange does not send leaves its field at 0, which means "no rule". Symbols longer than the
    record's 24 bytes of UTF-8 are left out: they could not be named in a journal. `funding_hours` holds the adjusted
    intervals of fundingInfo; all others fund every 8 hours. Maintenance rate is the exchange's `maintMarginPercent`
    of the first bracket until brackets are read with a key. Raises ExchangeError when the reply is no exchangeInfo.
    """
    hours = funding_hours or {}
    try:
        symbols = [entry for entry in info["symbols"] if len(entry["symbol"].encode()) <= 24]
        table = np.zeros(len(symbols), INSTRUMENT)
        for row, entry in zip(table, symbols, strict=True):
            _fill(row, entry)
            row["funding_hours"] = hours.get(entry["symbol"], DEFAULT_FUNDING_HOURS)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ExchangeError(200, 0, f"exchangeInfo: unexpected shape: {error!r}") from error
    return table[np.argsort(table["symbol"])]


def _fill(row: Any, entry: dict[str, Any]) -> None:
    filters = {item["filterType"]: item for item in entry["filters"]}
    price, lot = filters.get("PRICE_FILTER", {}), filters.get("LOT_SIZE", {})
    market, notional = filters.get("MARKET_LOT_SIZE", {}), filters.get("MIN_NOTIONAL", {})
    percent = filters.get("PERCENT_PRICE", {})
    row["symbol"] = entry["symbol"].encode()
    row["tick_size"] = float(price.get("tickSize", 0))
    row["step_size"] = float(lot.get("stepSize", 0))
    row["min_qty"], row["max_qty"] = float(lot.get("minQty", 0)), float(lot.get("maxQty", 0))
    row["market_step_size"] = float(market.get("stepSize", lot.get("stepSize", 0)))
    row["market_max_qty"] = float(market.get("maxQty", lot.get("maxQty", 0)))
    row["min_notional_usdt"] = float(notional.get("notional", 0))
    row["percent_price_up"] = float(percent.get("multiplierUp", 0))
    row["percent_price_down"] = float(percent.get("multiplierDown", 0))
    row["market_take_bound"] = float(entry.get("marketTakeBound", 0))
    row["maintenance_rate"] = float(entry.get("maintMarginPercent", 0)) / 100.0
    required = float(entry.get("requiredMarginPercent", 0))
    row["max_leverage"] = 100.0 / required if required > 0 else 0.0
    row["onboard_ms"] = int(entry.get("onboardDate", 0))
    row["delivery_ms"] = int(entry.get("deliveryDate", 0))
    row["trading"] = entry.get("status") == "TRADING"
    settled_in_quote = entry.get("marginAsset") == entry.get("quoteAsset")
    row["perpetual"] = entry.get("contractType") in _PERPETUAL and settled_in_quote
    row["spare"] = TRADFI if entry.get("contractType") == _TRADFI_PERPETUAL else 0


def weight_limit(info: Any) -> int | None:
    """Return the request weight per minute that exchangeInfo states, if it does."""
    for limit in info.get("rateLimits", []) if isinstance(info, dict) else []:
        if limit.get("rateLimitType") == "REQUEST_WEIGHT" and limit.get("interval") == "MINUTE":
            return int(limit["limit"]) // int(limit.get("intervalNum", 1))
    return None


def tradable(table: npt.NDArray[Any], quote: str = "USDT", tradfi: bool = False) -> list[str]:
    """Return the symbols of trading perpetuals in a quote currency; those on traditional assets only if asked."""
    chosen = table[(table["trading"] == 1) & (table["perpetual"] == 1)]
    if not tradfi:
        chosen = chosen[chosen["spare"] & TRADFI == 0]
    names = [bytes(name).decode() for name in chosen["symbol"]]
    return [name for name in names if name.endswith(quote)]


def why_untradable(row: Any, tradfi: bool) -> str:
    """Return why an INSTRUMENT row must not be entered, or ""."""
    if not row["trading"]:
        return "the exchange does not list it as trading"
    if row["spare"] & TRADFI and not tradfi:
        return "a perpetual on a traditional asset, and live.tradfi is off"
    if not row["perpetual"]:
        return "no perpetual settled in its quote asset"
    return "" if bytes(row["symbol"]).endswith(b"USDT") else "not quoted in USDT"


def save(path: Path, table: npt.NDArray[Any]) -> None:
    """Write an instrument table so that a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.write_bytes(table.tobytes())
    partial.replace(path)


def load(path: Path) -> npt.NDArray[Any]:
    """Read an instrument table. Raises DataError where its size does not fit."""
    raw = path.read_bytes()
    if len(raw) % INSTRUMENT.itemsize:
        raise DataError(f"{path}: expected a multiple of {INSTRUMENT.itemsize} bytes, got {len(raw)}")
    return np.frombuffer(raw, INSTRUMENT).copy()
