"""Journal records of one batch → the blocks of the tables that hold them. Pure: no store, no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.records import RECORDS, SLOT_BYTES, SLOTS, TIMEFRAMES, BarFlag, Kind
from store.native import Values
from store.schema import Table, by_kind
from store.writer import MINUTE_MS, bar_versions, record_block

SPLIT = frozenset({Kind.BAR, Kind.FEATURES})  # one table per timeframe


@dataclass(frozen=True)
class Block:
    """One insert: a table, the columns, a Native block and the seq of its first and last row."""

    table: str
    columns: list[str]
    data: bytes
    rows: int
    first_seq: int
    last_seq: int


class Rows:
    """Turns records into blocks. `tables` is `store.schema.tables()`."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables
        self._by_kind = by_kind(dict(tables))
        self.stored = frozenset(self._by_kind) | SPLIT

    def blocks(
        self,
        words: npt.NDArray[np.uint64],
        offsets: npt.NDArray[np.int64],
        kinds: npt.NDArray[np.uint16],
        run: tuple[str, str],
        symbols: list[str],
        after: Mapping[str, int],
        held: Mapping[str, npt.NDArray[np.uint64]],
    ) -> Iterator[Block]:
        """Yield one block per table that the records at `offsets` concern.

        words: a whole segment; run: (engine_id, run_id); symbols: names by index, extended by INSTRUMENT records;
        after: per table, the seq up to which it is already stored; held: per table, further seqs that are.
        """
        present = sorted({Kind(int(kind)) for kind in np.unique(kinds)} & self.stored)
        if Kind.INSTRUMENT in present:
            learn_symbols(gather(words, offsets[kinds == Kind.INSTRUMENT], Kind.INSTRUMENT), symbols)
        for kind in present:
            records = gather(words, offsets[kinds == kind], kind)
            for table, part, extra in self._targets(kind, records):
                fresh = part["seq"] > after.get(table.name, 0)
                if table.name in held:
                    fresh &= ~np.isin(part["seq"], held[table.name])
                if not fresh.all():
                    part = part[fresh]
                    extra = {
                        name: values[fresh] if isinstance(values, np.ndarray) else values
                        for name, values in extra.items()
                    }
                if len(part):
                    columns, data = record_block(table, part, run[0], run[1], symbols, extra)
                    yield Block(table.name, columns, data, len(part), int(part["seq"][0]), int(part["seq"][-1]))

    def _targets(self, kind: Kind, records: npt.NDArray) -> Iterator[tuple[Table, npt.NDArray, dict[str, Values]]]:
        if kind in SPLIT:
            stem = "candles" if kind == Kind.BAR else "features"
            for index, name in enumerate(TIMEFRAMES):
                part = records[records["timeframe"] == index]
                extra: dict[str, Values] = {}
                if kind == Kind.BAR:
                    extra = {"source": bar_sources(part), "version": bar_versions(part)}
                yield self._tables[f"{stem}_{name}"], part, extra
        if kind in self._by_kind:
            table = self._by_kind[kind]
            extra = {}
            if kind in (Kind.FUNDING, Kind.OPEN_INTEREST):
                extra = {"stamp_time": records["stamp_ms"] // MINUTE_MS * MINUTE_MS, "source": "engine"}
            yield table, records, extra


def gather(words: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64], kind: Kind) -> npt.NDArray:
    """Return a copy of the records of `kind` at byte `offsets`, as an array of its dtype."""
    dtype, slots = RECORDS[kind], SLOTS[kind]
    grid = words.view(np.uint8).reshape(-1, SLOT_BYTES)
    taken = grid[(offsets // SLOT_BYTES)[:, None] + np.arange(slots)].reshape(len(offsets), slots * SLOT_BYTES)
    return np.ascontiguousarray(taken[:, : dtype.itemsize]).view(dtype)[:, 0]


def learn_symbols(instruments: npt.NDArray, symbols: list[str]) -> None:
    """Set `symbols[index]` from INSTRUMENT records."""
    for index, name in zip(instruments["index"].tolist(), instruments["symbol"].tolist(), strict=True):
        if index >= len(symbols):
            symbols.extend([""] * (index + 1 - len(symbols)))
        symbols[index] = name.decode()


def bar_sources(bars: npt.NDArray) -> npt.NDArray[np.bytes_]:
    """Return where each bar came from, from its flags."""
    flags = bars["flags"]
    source = np.full(len(bars), b"ws", dtype="S8")
    for flag, name in (
        (BarFlag.FILE, b"file"),
        (BarFlag.REST, b"rest"),
        (BarFlag.BUILT, b"built"),
        (BarFlag.FILLED, b"filled"),
    ):
        source[(flags & np.uint32(flag)) != 0] = name
    return source
