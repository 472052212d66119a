"""Do the journal and the store agree? Counted by record kind and table, over the segments that are still there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels import journal
from kernels.records import SLOT_BYTES, Kind, layout_hash
from store.client import Store
from store.schema import by_kind, tables

FIRST_SLOT = journal.SEGMENT_HEADER_BYTES // SLOT_BYTES


@dataclass(frozen=True)
class Agreement:
    """One table of one run: rows by the journal and by the store, from the oldest kept record on."""

    engine_id: str
    run_id: str
    table: str
    journal_rows: int
    store_rows: int


def journal_counts(folder: Path) -> dict[tuple[str, str], tuple[int, dict[Kind, int]]]:
    """Return per (engine_id, run_id): the first seq still in a segment, and whole records per kind from there on."""
    found: dict[tuple[str, str], tuple[int, dict[Kind, int]]] = {}
    offsets, kinds = np.empty(65_536, np.int64), np.empty(65_536, np.uint16)
    heads = []
    for path in sorted(folder.glob("*.seg")):
        words = np.fromfile(path, np.uint64)
        if len(words) * 8 < journal.SEGMENT_HEADER_BYTES:
            continue
        head = words[: journal.SEGMENT_HEADER_BYTES // 8].view(np.uint8)[: journal.SEGMENT_HEADER.itemsize]
        header = head.view(journal.SEGMENT_HEADER)[0]
        if bytes(header["magic"]) == journal.MAGIC and int(header["layout"]) == layout_hash():
            heads.append((bytes(header["engine_id"]).decode(), int(header["run_id"]), int(header["first_seq"]), words))
    for engine_id, run_id, seq, words in sorted(heads, key=lambda item: item[:3]):
        first, counts = found.setdefault((engine_id, str(run_id)), (seq, {}))
        slot, verdict = FIRST_SLOT, journal.OUT_FULL
        while verdict == journal.OUT_FULL:
            count, slot, seq, verdict = journal.scan(words, slot, np.uint64(seq), offsets, kinds)
            for kind, number in zip(*np.unique(kinds[:count], return_counts=True), strict=True):
                counts[Kind(int(kind))] = counts.get(Kind(int(kind)), 0) + int(number)
        found[engine_id, str(run_id)] = (first, counts)
    return found


def compare(store: Store, folder: Path) -> list[Agreement]:
    """Return the rows of every table that the journal in `folder` fills, by the journal and by the store."""
    out = []
    tables_by_kind = by_kind(tables())
    for (engine_id, run_id), (first, counts) in journal_counts(folder).items():
        wanted = {table.name: counts.get(kind, 0) for kind, table in tables_by_kind.items() if kind != Kind.INSTRUMENT}
        which = "engine_id = {engine:String} AND run_id = {run:String} AND seq >= {first:UInt64}"
        # a sample that repeats (a restart reads it again) is one row of its symbol and stamp, so it may be fewer
        parts = [f"SELECT '{name}' AS name, count() AS rows FROM `{name}` WHERE {which}" for name in wanted]
        rows = store.rows(" UNION ALL ".join(parts), {"engine": engine_id, "run": run_id, "first": first})
        stored = {str(name): int(number) for name, number in rows}
        out += [Agreement(engine_id, run_id, name, number, stored[name]) for name, number in sorted(wanted.items())]
    return out


def faults(store: Store, folder: Path) -> list[str]:
    """Return one line per table in which the store has not exactly what the journal has. Empty: they agree."""
    replaced = {"funding", "open_interest"}  # keyed by symbol and stamp: a sample that came again is one row
    return [
        f"{item.table} of run {item.run_id}: the journal has {item.journal_rows} records, the store {item.store_rows}"
        for item in compare(store, folder)
        if item.journal_rows != item.store_rows and not (item.table in replaced and item.store_rows < item.journal_rows)
    ]
