"""Fill `labels_long_1m` and `labels_short_1m` for a range of decision times, symbols in parallel."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from control.jobs.inputs import SymbolInputs, choose_symbols, label_settings, read_symbol, settled_rates
from engine.config import Config
from engine.model.dataset import average_uniqueness
from engine.model.labels import Labels, label
from kernels.records import Reason
from kernels.schema import INDEX
from store import queries, writer
from store.client import Store

Array = npt.NDArray[Any]

WORKERS = 2  # kernels release the GIL; the store answers one statement at a time anyway


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What one symbol got: rows per side, exits by reason over both sides, and why minutes were left out."""

    symbol: str
    rows_long: int
    rows_short: int
    on_mark: int
    exits: dict[str, int]
    counts: dict[str, int]


def label_symbol(store: Store, config: Config, inputs: SymbolInputs, to_ms: int) -> Labels:
    """Label every minute of a symbol's history whose path ends before `to_ms`."""
    atr = np.ascontiguousarray(inputs.vectors[:, INDEX["atr_15m"]])
    mark = queries.mark_bars(store, inputs.symbol, 0, to_ms)
    rates = settled_rates(store, inputs.symbol, to_ms)
    return label(inputs.bars, atr, mark, rates, settings=label_settings(config))


def run(
    store: Store,
    config: Config,
    symbols: list[str],
    from_ms: int,
    to_ms: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[LabelReport]:
    """Label the decision times [from_ms, to_ms) of `symbols` (empty: those configured) and store the rows.

    Paths never look at bars that close after `to_ms`. Raises DataError when there is nothing to label.
    """
    chosen = choose_symbols(store, config, symbols)
    version = time.time_ns() // 1_000_000
    done = 0

    def one(symbol: str) -> LabelReport:
        nonlocal done
        inputs = read_symbol(store, config, symbol, to_ms)
        found = label_symbol(store, config, inputs, to_ms)
        report = _store(store, config, symbol, found, from_ms, version)
        done += 1
        if progress is not None:
            progress(symbol, done, len(chosen))
        return report

    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(one, chosen))


def _store(store: Store, config: Config, symbol: str, found: Labels, from_ms: int, version: int) -> LabelReport:
    exits = {reason.name.lower(): 0 for reason in (Reason.TP, Reason.SL, Reason.TIME)}
    rows = {}
    for side, labels in (("long", found.long), ("short", found.short)):
        uniqueness = average_uniqueness(labels["time_ms"], labels["hold_minutes"])
        inside = labels["time_ms"] >= from_ms
        kept = labels[inside]
        writer.insert_labels(
            store, side, symbol, kept, version, config_hash=config.hash(), uniqueness=uniqueness[inside]
        )
        rows[side] = kept
        for name in exits:
            exits[name] += int((kept["reason"] == Reason[name.upper()]).sum())
    on_mark = int(rows["long"]["on_mark"].sum())
    return LabelReport(symbol, len(rows["long"]), len(rows["short"]), on_mark, exits, found.counts)
