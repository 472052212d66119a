"""What a job writes for the workers of a cluster, as Parquet in a folder that they see; they never open the store.

<symbol>.<part>.parquet     a History: bars, bars_15m, bars_1h, mark, funding, settled, open_interest, gaps
<symbol>.vectors.parquet    what a worker made of it: close_ms and the 132 columns
<symbol>.long.parquet       its labels, and short
rows.parquet                the joined training matrix with targets
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backtest.history import History
from engine.model.dataset import Dataset
from engine.model.labels import Labels
from engine.model.prepare import Vectors
from kernels.records import BAR, LABEL, SAMPLE
from kernels.schema import FEATURES, TARGETS

Array = npt.NDArray[Any]

ROWS = "rows.parquet"
TARGET_NAMES = [f"target_{name}" for name in TARGETS]
BARS = ("bars", "bars_15m", "bars_1h", "mark")
SAMPLES = ("funding", "settled", "open_interest")


def _write(path: Path, columns: dict[str, Array]) -> None:
    import polars as pl

    pl.DataFrame(columns).write_parquet(path, compression="zstd", compression_level=1)


def save_records(path: Path, records: Array) -> None:
    """Write a structured array, a column per field."""
    _write(path, {name: np.ascontiguousarray(records[name]) for name in records.dtype.names or ()})


def load_records(path: Path, dtype: np.dtype[Any]) -> Array:
    """Read a structured array back, bit for bit."""
    import polars as pl

    frame = pl.read_parquet(path)
    records = np.zeros(len(frame), dtype)
    for name in dtype.names or ():
        records[name] = frame[name].to_numpy()
    return records


def save_history(history: History, folder: Path) -> None:
    """Write one symbol's stored past. A part that is None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in (*BARS, *SAMPLES):
        records = getattr(history, part)
        if records is not None:
            save_records(folder / f"{history.symbol}.{part}.parquet", records)
    gaps = {"from_ms": history.gaps[:, 0], "to_ms": history.gaps[:, 1]}
    _write(folder / f"{history.symbol}.gaps.parquet", {name: np.ascontiguousarray(ms) for name, ms in gaps.items()})


def load_history(folder: Path, symbol: str) -> History:
    """Read one symbol's stored past."""
    import polars as pl

    found: dict[str, Any] = {}
    for part in (*BARS, *SAMPLES):
        path = folder / f"{symbol}.{part}.parquet"
        if path.is_file():
            found[part] = load_records(path, BAR if part in BARS else SAMPLE)
    gaps = pl.read_parquet(folder / f"{symbol}.gaps.parquet")
    found["gaps"] = np.column_stack([gaps["from_ms"].to_numpy(), gaps["to_ms"].to_numpy()]).astype(np.int64)
    return History(symbol, **found)


def save_prepared(folder: Path, vectors: Vectors, labels: Labels) -> None:
    """Write what a worker made of a symbol."""
    columns = {name: np.ascontiguousarray(vectors.values[:, index]) for index, name in enumerate(FEATURES)}
    _write(folder / f"{vectors.symbol}.vectors.parquet", {"close_ms": vectors.close_ms} | columns)
    save_records(folder / f"{vectors.symbol}.long.parquet", labels.long)
    save_records(folder / f"{vectors.symbol}.short.parquet", labels.short)
    (folder / f"{vectors.symbol}.counts.json").write_text(json.dumps(labels.counts))


def load_prepared(folder: Path, symbol: str) -> tuple[Vectors, Labels]:
    """Read what a worker made of a symbol."""
    import polars as pl

    frame = pl.read_parquet(folder / f"{symbol}.vectors.parquet")
    values = np.ascontiguousarray(frame.select(FEATURES).to_numpy(), np.float64)
    long, short = (load_records(folder / f"{symbol}.{side}.parquet", LABEL) for side in ("long", "short"))
    counts = json.loads((folder / f"{symbol}.counts.json").read_text())
    return Vectors(symbol, frame["close_ms"].to_numpy(), values), Labels(long, short, counts)


def save_rows(data: Dataset, folder: Path) -> Path:
    """Write the training rows; weights are left out, every reader computes those of its own rows."""
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {name: data.x[:, index] for index, name in enumerate(FEATURES)}
    columns |= {name: data.targets[:, index] for index, name in enumerate(TARGET_NAMES)}
    columns |= {"reach": data.reach, "time_ms": data.time_ms, "symbol": data.symbol}
    _write(folder / ROWS, columns)
    return folder / ROWS


def load_rows(folder: Path, symbols: tuple[str, ...], horizon_minutes: int) -> Dataset:
    """Read the training rows back, bit for bit, without weights."""
    import polars as pl

    frame = pl.read_parquet(folder / ROWS)
    empty = np.empty((len(frame), 0))
    return Dataset(
        np.ascontiguousarray(frame.select(FEATURES).to_numpy(), np.float32),
        np.ascontiguousarray(frame.select(TARGET_NAMES).to_numpy(), np.float64),
        empty,
        empty,
        frame["reach"].to_numpy(),
        frame["time_ms"].to_numpy(),
        frame["symbol"].to_numpy(),
        symbols,
        horizon_minutes,
    )
