"""Before the engine's start: what the store holds goes into its bar files, so that REST has only the rest to bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import Config
from engine.errors import DataError
from engine.exchange.rest import LONGEST_FUNDING_MS
from engine.market.helper import FUNDING_DAYS
from engine.market.rings import BarFile, bar_path
from engine.market.samples import read_samples
from kernels.records import BAR, TIMEFRAME_MS, TIMEFRAMES
from store import queries
from store.client import Store

SYMBOLS_PER_QUERY = 100  # some 200,000 candles: 20 MB and half a second
RATES_NEEDED = 90  # the longest window of funding_z; with fewer stored, REST brings them
DAY_MS, MINUTE_MS = 86_400_000, 60_000


def seed(store: Store, config: Config) -> dict[str, int]:
    """Complete the bar files and funding files of the configured symbols from the store.

    Bars that a file holds stay as they were seen. Only whole candles in an unbroken run to the newest stored one are
    taken. No engine may be running on the data folder. Returns bars and rates written.
    """
    market = config.market
    written = {"bars": 0, "rates": 0}
    for timeframe in range(len(TIMEFRAMES)):
        for first in range(0, len(market.symbols), SYMBOLS_PER_QUERY):
            some = market.symbols[first : first + SYMBOLS_PER_QUERY]
            sizes = {s: market.btc_ring_bars if s == market.btc_symbol else market.ring_bars for s in some}
            found = queries.newest_bars(store, some, timeframe, max(sizes.values()))
            for symbol, bars in found.items():
                written["bars"] += _fill(config, symbol, timeframe, sizes[symbol], bars)
    for symbol in market.symbols:
        written["rates"] += _fill_funding(store, config, symbol)
    return written


def _fill(config: Config, symbol: str, timeframe: int, capacity: int, stored: npt.NDArray[Any]) -> int:
    """Join the stored candles with the file's own and write them; returns how many the file did not have."""
    path = bar_path(config.data_dir / "bars", symbol, timeframe)
    kept = np.zeros(0, BAR)
    if path.exists():
        try:
            file = BarFile.open(path)
        except DataError:
            return 0  # the helper sets a damaged file aside
        if (file.capacity, file.timeframe, file.symbol) != (capacity, timeframe, symbol):
            file.close()
            return 0
        kept = file.ordered()
        file.close()
    whole = stored[~(np.isnan(stored["taker_volume"]) | np.isnan(stored["quote_volume"]))]
    fresh = whole[~np.isin(whole["open_ms"], kept["open_ms"])]
    joined = np.sort(np.concatenate([kept, fresh]), order="open_ms")
    breaks = np.flatnonzero(np.diff(joined["open_ms"]) != TIMEFRAME_MS[timeframe])
    joined = joined[breaks[-1] + 1 if len(breaks) else 0 :][-capacity:]
    added = int(np.isin(joined["open_ms"], fresh["open_ms"]).sum())
    if not added or (len(kept) and len(joined) < len(kept)):
        return 0
    file = BarFile.open(path) if path.exists() else BarFile.create(path, symbol, timeframe, capacity)
    file.rewrite(joined)
    file.close()
    return added


def _fill_funding(store: Store, config: Config, symbol: str) -> int:
    path = config.data_dir / "samples" / f"{symbol}.funding"
    try:
        kept = read_samples(path)
    except DataError:
        kept = read_samples(path.with_name("absent"))
    newest = int(kept["stamp_ms"][-1]) if len(kept) else 0
    stored = queries.funding(store, symbol)
    if len(stored) < RATES_NEEDED or int(stored["stamp_ms"][-1]) <= newest // MINUTE_MS * MINUTE_MS:
        return 0
    rates = stored[stored["stamp_ms"] >= stored["stamp_ms"][-1] - FUNDING_DAYS * DAY_MS]
    holes = np.flatnonzero(np.diff(rates["stamp_ms"]) > LONGEST_FUNDING_MS + MINUTE_MS)
    rates = rates[holes[-1] + 1 if len(holes) else 0 :]
    if len(rates) < RATES_NEEDED:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.write_bytes(rates.tobytes())
    partial.replace(path)
    return len(rates)
