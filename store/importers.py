"""Import: files through the quality gate into the store, whole or not at all; a repeat changes nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kernels.records import SAMPLE, TIMEFRAME_MS, TIMEFRAMES, BarFlag, GapKind
from kernels.settlements import settlement_hours
from store import formats, quality, queries, writer
from store.client import Store
from store.errors import ImportRefused
from store.formats import Series
from store.quality import Finding

USABLE_AFTER_MS = 300_000  # a sample stamped S may be used from S + 5 min: what live knows is what training may know
REFERENCE = "BTCUSDT"  # what a symbol is compared with while nothing of it is stored
TABLE_OF = {"mark": "mark_1m", "premium": "premium_index", "funding": "funding", "open_interest": "open_interest"}


@dataclass(frozen=True)
class Options:
    """What the user says about the files. `allow` names checks of `quality.OVERRIDES` to skip."""

    symbol: str = ""
    kind: str = ""
    zone: str = "UTC"
    allow: frozenset[str] = frozenset()
    force: bool = False  # also files that are stored already
    retention_days: int = 0  # of the store: older candles would be deleted again (0: none)


@dataclass
class Outcome:
    """What became of one series: `stored`, `unchanged` or `refused`."""

    path: str
    state: str
    table: str = ""
    symbol: str = ""
    rows: int = 0
    first_ms: int = 0
    last_ms: int = 0
    missing: int = 0  # candles absent between the first and the last
    seconds: float = 0.0
    error: str = ""
    notes: list[str] = field(default_factory=list)


def read_checked(path: Path, options: Options = Options()) -> Iterator[tuple[Series, list[Finding]]]:
    """Yield the series of one file that pass the gate, with what was found. Needs no store."""
    for series in formats.read(path, options.symbol, options.kind, options.zone):
        yield series, quality.check(series, options.allow)


def import_files(
    store: Store,
    paths: Iterable[Path],
    options: Options = Options(),
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Import every file; a refused one does not stop the others. `report` is called after each series."""
    outcomes = []
    for path in paths:
        for outcome in _import_file(store, path, options):
            report(outcome)
            outcomes.append(outcome)
    return outcomes


def _import_file(store: Store, path: Path, options: Options) -> Iterator[Outcome]:
    began = time.monotonic()
    try:
        accepted = []
        for series, findings in read_checked(path, options):  # the whole file, before any of it is stored
            if not options.force and _stored_before(store, series):
                accepted.append((series, findings, True))
                continue
            findings += _expiring(series, options.retention_days)
            if series.kind == "klines":
                findings += quality.compare(series, *_references(store, series), options.allow)
            accepted.append((series, findings, False))
    except ImportRefused as error:
        yield Outcome(str(path), "refused", error=str(error), seconds=time.monotonic() - began)
        return
    for series, findings, before in accepted:
        outcome = Outcome(series.path, "unchanged" if before else "stored", table_of(series), series.symbol)
        outcome.rows = len(series.times_ms)
        outcome.first_ms, outcome.last_ms = int(series.times_ms[0]), int(series.times_ms[-1])
        outcome.missing = sum(finding.count for finding in findings if finding.what == "gap")
        outcome.notes = _notes(findings)
        if not before:
            store_series(store, series)
            _record_gaps(store, series, findings)
            _record_import(store, series, outcome)
        outcome.seconds, began = time.monotonic() - began, time.monotonic()
        yield outcome


def table_of(series: Series) -> str:
    """Return the table of a series."""
    return TABLE_OF.get(series.kind) or f"candles_{TIMEFRAMES[series.timeframe]}"


def store_series(store: Store, series: Series) -> None:
    """Insert a checked series."""
    if series.kind == "klines":
        writer.insert_bars(store, series.symbol, series.timeframe, quality.to_bars(series, BarFlag.FILE), "file")
    elif series.kind == "mark":
        writer.insert_mark_bars(store, series.symbol, quality.to_bars(series, BarFlag.FILE), "file")
    elif series.kind == "premium":
        writer.insert_premium_bars(store, series.symbol, quality.to_bars(series, BarFlag.FILE), "file")
    elif series.kind == "funding":
        samples, hours = funding_samples(series)
        marks = series.columns.get("mark_price")
        writer.insert_funding(store, series.symbol, samples, "file", marks, hours)
    else:
        writer.insert_open_interest(store, series.symbol, samples_of(series, series.columns["open_interest"]), "file")


def samples_of(series: Series, values: npt.NDArray) -> npt.NDArray:
    """Return SAMPLE[n]: stamps floored to the minute, usable five minutes later."""
    samples = np.zeros(len(values), SAMPLE)
    samples["stamp_ms"] = series.times_ms // 60_000 * 60_000
    samples["usable_ms"] = samples["stamp_ms"] + USABLE_AFTER_MS
    samples["value"] = values
    return samples


def funding_samples(series: Series) -> tuple[npt.NDArray, npt.NDArray]:
    """Return (SAMPLE[n] of rates scaled to 8 h, the interval of each in hours)."""
    told = series.columns.get("interval_hours")
    hours = settlement_hours(series.times_ms, 8) if told is None else told.astype(np.int64)
    return samples_of(series, series.columns["rate"] * 8 / hours), hours


def _references(store: Store, series: Series) -> tuple[npt.NDArray, npt.NDArray]:
    """Return the stored candles around the file's range: of its symbol, and of the reference symbol."""
    margin = (quality.MAX_SHIFT_HOURS + 1) * 3_600_000
    # a day's worth from the middle and both ends would do; the newest 30 days bound the cost of a long file
    last = int(series.times_ms[-1])
    first = max(int(series.times_ms[0]), last - 30 * quality.DAY_MS)
    own = queries.bars(store, series.symbol, series.timeframe, first - margin, last + margin)
    before_ms = int(series.times_ms[0]) - TIMEFRAME_MS[series.timeframe]
    if before_ms < first - margin:
        before = queries.bars(store, series.symbol, series.timeframe, before_ms, before_ms + 1)
        own = np.concatenate([before, own])
    enough = len(own) >= quality.MIN_OVERLAP or series.symbol == REFERENCE
    other = own[:0] if enough else queries.bars(store, REFERENCE, series.timeframe, first - margin, last + margin)
    return own, other


def _stored_before(store: Store, series: Series) -> bool:
    """Whether the file was stored and its rows are still there: they may have been deleted, by hand or by age."""
    table, times = table_of(series), series.times_ms // 60_000 * 60_000
    known = {"digest": series.sha256, "table": table, "symbol": series.symbol}
    where = "table = {table:String} AND symbol = {symbol:String}"
    if not store.scalar(f"SELECT count() FROM imports WHERE sha256 = {{digest:String}} AND {where}", known):
        return False
    column = "stamp_time" if series.kind in ("funding", "open_interest") else "open_time"
    there = store.scalar(
        f"SELECT count() FROM `{table}` WHERE symbol = {{symbol:String}} "
        f"AND {column} BETWEEN fromUnixTimestamp64Milli({{first:Int64}}, 'UTC') "
        "AND fromUnixTimestamp64Milli({last:Int64}, 'UTC')",
        {"symbol": series.symbol, "first": int(times[0]), "last": int(times[-1])},
    )
    return int(there) >= len(times)


def _expiring(series: Series, retention_days: int) -> list[Finding]:
    """Refuse candles that the store's retention would delete again; return how many of the others it will."""
    if not retention_days or table_of(series) in ("funding", "open_interest"):
        return []
    oldest_ms = time.time_ns() // 1_000_000 - retention_days * quality.DAY_MS
    old = int((series.times_ms < oldest_ms).sum())
    if old == len(series.times_ms):
        raise ImportRefused(
            series.path,
            f"every candle is older than store.retention_days = {retention_days}: they would be deleted",
            remedy="set store.retention_days to 0, or to more days than you train on",
        )
    first, last = int(series.times_ms[0]), int(series.times_ms[-1])
    return [Finding("expiring", first, last, old)] if old else []


def _notes(findings: list[Finding]) -> list[str]:
    gaps = [finding for finding in findings if finding.what == "gap"]
    said = {
        "repeated rows": "repeated rows dropped",
        "differs": "closes differ from those stored",
        "expiring": "candles are older than store.retention_days and will be deleted",
    }
    notes = [f"{finding.count} {said[finding.what]}" for finding in findings if finding.what != "gap"]
    if gaps:
        longest = max(gaps, key=lambda gap: gap.count)
        notes.append(
            f"{len(gaps)} gaps, {sum(gap.count for gap in gaps)} candles; the longest {longest.count} from "
            f"{np.datetime64(longest.from_ms, 'ms')}"
        )
    return notes


def _record_gaps(store: Store, series: Series, findings: list[Finding]) -> None:
    gaps = [finding for finding in findings if finding.what == "gap"]
    if not gaps or series.kind != "klines":
        return
    name = f"{series.symbol}:{series.timeframe}"
    keys = [hashlib.blake2b(f"{name}:{gap.from_ms}:{gap.to_ms}".encode(), digest_size=8).digest() for gap in gaps]
    now = np.full(len(gaps), time.time_ns() // 1_000_000)
    writer.insert_columns(
        store,
        "data_gaps",
        {
            "run_id": "import",
            "seq": np.array([int.from_bytes(key, "little") for key in keys], np.uint64),
            "time": now,
            "symbol": series.symbol,
            "timeframe": np.full(len(gaps), series.timeframe),
            "gap_kind": np.full(len(gaps), int(GapKind.MISSING)),
            "source": np.full(len(gaps), int(BarFlag.FILE)),
            "from_time": np.array([gap.from_ms for gap in gaps]),
            "to_time": np.array([gap.to_ms for gap in gaps]) - TIMEFRAME_MS[series.timeframe],  # the last one absent
            "bars": np.array([gap.count for gap in gaps]),
            "detail": f"absent in {Path(series.path).name}",
        },
    )


def _record_import(store: Store, series: Series, outcome: Outcome) -> None:
    now = time.time_ns() // 1_000_000
    step = TIMEFRAME_MS[series.timeframe] if series.kind in ("klines", "mark", "premium") else 0
    row = {
        "path": series.path,
        "table": outcome.table,
        "symbol": series.symbol,
        "sha256": series.sha256,
        "rows": outcome.rows,
        "first_time": outcome.first_ms,
        "last_time": outcome.last_ms + step,
        "notes": "; ".join(outcome.notes),
        "time": now,
        "version": now,
    }
    writer.insert_row(store, "imports", row)
