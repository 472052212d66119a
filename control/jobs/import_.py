"""The import job: files to the store, or to bar files for the simulator, with progress and a summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from engine.market.rings import BarFile, bar_path
from kernels.records import BarFlag
from store import quality
from store.errors import ImportRefused
from store.formats import find_files
from store.importers import Options, Outcome, funding_samples, import_files, read_checked

if TYPE_CHECKING:
    from store.client import Store


def run_import(
    store: Store, paths: list[Path], options: Options, report: Callable[[int, int, Outcome], None]
) -> dict[str, Any]:
    """Import files and folders. `report(done, total, outcome)` follows along. Returns the summary."""
    files = [file for path in paths for file in find_files(path)]
    done = 0

    def count(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        report(min(done, len(files)), len(files), outcome)

    outcomes = import_files(store, files, options, count)
    rows: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.state == "stored":
            rows[outcome.table] = rows.get(outcome.table, 0) + outcome.rows
    return {
        "files": len(files),
        "rows": rows,
        **{state: sum(outcome.state == state for outcome in outcomes) for state in ("stored", "unchanged", "refused")},
        "missing": sum(outcome.missing for outcome in outcomes),
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 3),
        "outcomes": [vars(outcome) for outcome in outcomes],
    }


def write_bar_files(paths: list[Path], folder: Path, options: Options) -> dict[str, int]:
    """Write the klines of `paths` as bar files below `folder`, and funding rates beside them; no store is needed.

    Files of one symbol are joined; where they overlap they must agree on the prices. Funding becomes
    `<symbol>.funding` (SAMPLE). Returns rows per file written. Raises DataError.
    """
    bars: dict[tuple[str, int], npt.NDArray] = {}
    rates: dict[str, npt.NDArray] = {}
    try:
        for path in (file for given in paths for file in find_files(given)):
            for series, _ in read_checked(path, options):
                if series.kind == "klines":
                    key = (series.symbol, series.timeframe)
                    fresh = quality.to_bars(series, BarFlag.FILE)
                    bars[key] = _join(str(path), bars[key], fresh) if key in bars else fresh
                elif series.kind == "funding":
                    samples = [rates[series.symbol]] if series.symbol in rates else []
                    joined = np.concatenate([*samples, funding_samples(series)[0]])
                    rates[series.symbol] = joined[np.unique(joined["stamp_ms"], return_index=True)[1]]
    except ImportRefused as error:
        raise DataError(str(error)) from error
    written = {}
    for (symbol, timeframe), rows in sorted(bars.items()):
        path = bar_path(folder, symbol, timeframe)
        file = BarFile.create(path, symbol, timeframe, len(rows))
        file.rewrite(rows)
        file.close()
        written[path.name] = len(rows)
    for symbol, samples_of_symbol in sorted(rates.items()):
        samples_of_symbol.tofile(folder / f"{symbol}.funding")
        written[f"{symbol}.funding"] = len(samples_of_symbol)
    return written


def _join(path: str, first: npt.NDArray, second: npt.NDArray) -> npt.NDArray:
    both, mine, theirs = np.intersect1d(first["open_ms"], second["open_ms"], assume_unique=True, return_indices=True)
    differs = first["close"][mine] != second["close"][theirs]
    if differs.any():
        where = np.datetime64(int(both[int(np.argmax(differs))]), "ms")
        raise DataError(f"{path}: expected the closes of an earlier file of the symbol, got others from {where} on")
    fresh = second[~np.isin(second["open_ms"], first["open_ms"])]
    return np.sort(np.concatenate([first, fresh]), order="open_ms")
