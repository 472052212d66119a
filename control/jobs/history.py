"""What the engine folded before it went live lies in its bar files; this keeps it in the store, where audits look."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import Config
from engine.errors import DataError
from engine.exchange.filters import BRACKETS_NAME
from engine.market.rings import BarFile, bar_path
from engine.market.samples import MINUTE_MS, read_held, sample_path
from kernels.records import BAR, TIMEFRAMES
from kernels.settlements import settlement_hours
from store import queries, writer
from store.client import Store
from store.native import Values

TIER = ("floor_usdt", "cap_usdt", "leverage", "rate", "deduction_usdt")


def adopt(store: Store, config: Config) -> int:
    """Insert what the engine's bar and sample files have and the store lacks; return the number of rows.

    Also bars that the store has without volumes. Stored complete candles stay as they are: the audit is to see where
    they differ; so do stored samples, of which the tail brought the time when they arrived.
    """
    inserted = 0
    for symbol in config.market.symbols:
        inserted += _adopt_samples(store, config, symbol)
        for timeframe in range(len(TIMEFRAMES)):
            bars = _read(config, symbol, timeframe)
            if not len(bars):
                continue
            stored = queries.bars(store, symbol, timeframe, int(bars["open_ms"][0]), int(bars["open_ms"][-1]) + 1)
            whole = stored[~_partial(stored)]
            new = bars[~np.isin(bars["open_ms"], whole["open_ms"])]
            known = np.isin(new["open_ms"], stored["open_ms"])
            new = new[~(known & _partial(new))]
            if len(new):
                inserted += writer.insert_bars(store, symbol, timeframe, new, "rest")
    return inserted


def _adopt_samples(store: Store, config: Config, symbol: str) -> int:
    held_interest, held_funding = read_held(sample_path(config.data_dir / "bars", symbol))
    open_interest = _missing(held_interest, queries.open_interest(store, symbol))
    funding = _missing(held_funding, queries.funding(store, symbol))
    if len(open_interest):
        writer.insert_open_interest(store, symbol, open_interest, "engine")
    if len(funding):
        hours = settlement_hours(held_funding["stamp_ms"], 8)[np.isin(held_funding["stamp_ms"], funding["stamp_ms"])]
        writer.insert_funding(store, symbol, funding, "engine", interval_hours=hours)
    return len(open_interest) + len(funding)


def _missing(held: npt.NDArray[Any], stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return held[~np.isin(held["stamp_ms"] // MINUTE_MS, stored["stamp_ms"] // MINUTE_MS)]


def adopt_brackets(store: Store, config: Config) -> int:
    """Store the leverage brackets that a live engine read at its start; unchanged ones are not stored again."""
    try:
        found = json.loads((config.data_dir / BRACKETS_NAME).read_text())
    except FileNotFoundError:
        return 0
    newest = "SELECT symbol, max(time) FROM brackets GROUP BY symbol"
    known: dict[str, set[tuple[Any, ...]]] = {}
    sql = f"SELECT symbol, {', '.join(TIER)} FROM brackets WHERE (symbol, time) IN ({newest})"
    for symbol, *values in store.rows(sql):
        known.setdefault(str(symbol), set()).add(tuple(values))
    changed = [
        (symbol, tier)
        for symbol, tiers in found["brackets"].items()
        if known.get(symbol) != {tuple(tier[name] for name in TIER) for tier in tiers}
        for tier in tiers
    ]
    if not changed:
        return 0
    times = np.full(len(changed), int(found["time_ms"]))
    columns: dict[str, Values] = {name: np.array([tier[name] for _, tier in changed]) for name in TIER}
    columns |= {"symbol": [symbol for symbol, _ in changed], "time": times, "version": times}
    return writer.insert_columns(store, "brackets", columns)


def _partial(bars: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.isnan(bars["taker_volume"]) | np.isnan(bars["quote_volume"])


def _read(config: Config, symbol: str, timeframe: int) -> npt.NDArray[Any]:
    """Return a bar file's bars in time order; the engine may be appending, so a slot being overwritten is left out."""
    path = bar_path(config.data_dir / "bars", symbol, timeframe)
    if not path.is_file():
        return np.zeros(0, BAR)
    try:
        file = BarFile.open(path)
    except DataError:
        return np.zeros(0, BAR)
    bars = file.ordered()
    file.close()
    if len(bars):
        bars = bars[1:] if bars["open_ms"][0] >= bars["open_ms"][-1] else bars
    return bars
