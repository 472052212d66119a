"""What the engine folded before it went live lies in its bar files; this keeps it in the store, where audits look."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import Config
from engine.errors import DataError
from engine.market.rings import BarFile, bar_path
from kernels.records import BAR, TIMEFRAMES
from store import queries, writer
from store.client import Store


def adopt(store: Store, config: Config) -> int:
    """Insert the bars of the bar files that the store lacks, or has without volumes; return their number.

    Stored complete candles stay as they are: the audit is to see where they differ.
    """
    inserted = 0
    for symbol in config.market.symbols:
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
