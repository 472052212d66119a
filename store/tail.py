"""The tail: follows the engines' journals into ClickHouse, each record once, whatever dies in between.

One batch is a range of sequence numbers within one segment. The range is written to disk before the first insert; one
insert is one table and one block, with a token made of engine, run, table and range. After a crash the same range is
gone through again: the store is asked which of its records it has and gets the others, under tokens of their own, for
ClickHouse writes a token down before the rows are in the table, and a kill in between leaves it without them. Where no
range is on disk, the position is `max(seq)` of each table. A record that is not whole (yet) ends the scan; a segment is
deleted only when it is passed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kernels import journal
from kernels.records import SLOT_BYTES, layout_hash
from store.client import Store
from store.errors import StoreError
from store.rows import Rows
from store.schema import tables

FIRST_SLOT = journal.SEGMENT_HEADER_BYTES // SLOT_BYTES
BATCH_RECORDS = 65_536
KEEP_SEGMENTS = 16  # of each engine, for replay and restart, though they are stored
FLUSH_S = 1.0  # how long records may gather before they are inserted
BACKOFF_S = (1.0, 30.0)  # first and longest pause after the store refused


@dataclass(frozen=True)
class Segment:
    """One readable segment file."""

    path: Path
    engine_id: str
    run_id: int
    number: int
    first_seq: int


@dataclass
class RunStatus:
    """Where the tail is with one run. `behind_s`: how long ago it had read everything; `fault`: why it cannot go on."""

    engine_id: str
    run_id: int
    seq: int = 0
    rows: int = 0
    behind_s: float = 0.0
    done: bool = False
    fault: str = ""


@dataclass
class _Run:
    status: RunStatus
    folder: Path
    state_path: Path
    number: int = 0
    slot: int = FIRST_SLOT
    next_seq: int = 0
    until_seq: int = 0  # the end of a range that was begun before a crash; 0: none
    symbols: list[str] = field(default_factory=list)
    after: dict[str, int] = field(default_factory=dict)
    words: npt.NDArray[np.uint64] | None = None
    caught_up_at: float = 0.0
    rolled: bool = False  # the segment is read to its end; the next one had not been there yet
    stuck: bool = False  # nothing but another release or an operator can help

    @property
    def names(self) -> tuple[str, str]:
        return self.status.engine_id, str(self.status.run_id)


class Tail:
    """Follows every run in the given journal folders. One thread calls `run` (or `step`, `drain`); others `status`."""

    def __init__(
        self,
        store: Store,
        journals: list[Path],
        state_dir: Path,
        *,
        keep_segments: int = KEEP_SEGMENTS,
        batch_records: int = BATCH_RECORDS,
    ) -> None:
        self._store, self._journals, self._state_dir = store, journals, state_dir
        self._keep = max(1, keep_segments)
        self._rows = Rows(tables())
        self._runs: dict[tuple[str, int], _Run] = {}
        self._headers: dict[Path, Segment | None] = {}
        self._offsets = np.empty(batch_records, np.int64)
        self._kinds = np.empty(batch_records, np.uint16)
        self._place = hashlib.blake2b(store.where.encode(), digest_size=8).hexdigest()
        self._boot = _boot_id()
        self.records = 0
        self.rows = 0
        self.error = ""  # the store's last refusal; empty once an insert worked again
        state_dir.mkdir(parents=True, exist_ok=True)

    def run(self, stop: threading.Event, flush_s: float = FLUSH_S) -> None:
        """Follow until `stop` is set. A store that is down or full is waited for; the journal holds meanwhile."""
        pause = BACKOFF_S[0]
        while not stop.is_set():
            try:
                more = self.step()
                pause = BACKOFF_S[0]
            except (StoreError, OSError) as error:  # OSError: the disk is full, and so the range cannot be fixed
                self.error = str(error)
                stop.wait(pause)
                pause = min(BACKOFF_S[1], pause * 2)
                continue
            if not more:
                stop.wait(flush_s)

    def drain(self, deadline_s: float = 60.0) -> bool:
        """Store everything that is in the journals now. Returns whether that was reached in time."""
        until = time.monotonic() + deadline_s
        while self.step():
            if time.monotonic() > until:
                return False
        return True

    def step(self) -> bool:
        """Store at most one batch of each run. Returns whether more is waiting. Raises StoreError."""
        segments = self._discover()
        more = False
        for key in sorted(self._runs):
            run = self._runs[key]
            if not run.status.done and not run.stuck:
                more |= self._advance(run, segments[key], _newer(key, segments))
        self._delete(segments)
        return more

    def status(self) -> list[RunStatus]:
        """Return a copy of where the tail is, per run, oldest first."""
        now = time.monotonic()
        out = []
        for key in sorted(dict(self._runs)):
            run = self._runs[key]
            status = RunStatus(**vars(run.status))
            status.behind_s = 0.0 if status.done else now - run.caught_up_at
            out.append(status)
        return out

    # --- finding runs ---

    def _discover(self) -> dict[tuple[str, int], list[Segment]]:
        found: dict[tuple[str, int], list[Segment]] = {}
        paths = [path for folder in self._journals for path in folder.glob("*.seg")]
        self._headers = {path: self._headers.get(path) or self._read_header(path) for path in paths}
        for segment in self._headers.values():
            if segment:
                found.setdefault((segment.engine_id, segment.run_id), []).append(segment)
        for key, listed in found.items():
            listed.sort(key=lambda segment: segment.number)
            if key not in self._runs:
                self._runs[key] = self._begin(key, listed)
        for key in set(self._runs) - set(found):
            del self._runs[key]
        return found

    def _read_header(self, path: Path) -> Segment | None:
        try:
            with open(path, "rb") as file:
                raw = file.read(journal.SEGMENT_HEADER.itemsize)
        except FileNotFoundError:
            return None
        if len(raw) < journal.SEGMENT_HEADER.itemsize:
            return None
        head = np.frombuffer(raw, journal.SEGMENT_HEADER)[0]
        key = (bytes(head["engine_id"]).decode(errors="replace"), int(head["run_id"]))
        if bytes(head["magic"]) != journal.MAGIC or int(head["layout"]) != layout_hash():
            fault = (
                f"{path}: written with another record layout; let the release that wrote it drain it, or move it away"
            )
            run = self._runs.setdefault(key, _Run(RunStatus(*key), path.parent, self._state(key)))
            run.status.fault, run.stuck = fault, True
        return Segment(path, *key, int(head["number"]), int(head["first_seq"]))

    def _state(self, key: tuple[str, int]) -> Path:
        return self._state_dir / f"{key[0]}-{key[1]}.json"

    def _begin(self, key: tuple[str, int], listed: list[Segment]) -> _Run:
        run = _Run(RunStatus(*key), listed[0].path.parent, self._state(key), caught_up_at=time.monotonic())
        state = _load(run.state_path)
        known = state.get("place") == self._place
        if known:
            run.symbols = list(state.get("symbols", []))
        numbers = {segment.number: segment for segment in listed}
        if known and state.get("boot") == self._boot:
            run.status.done = bool(state.get("done"))
            if int(state["segment"]) in numbers:
                run.number, run.slot = int(state["segment"]), int(state["slot"])
                run.next_seq, run.until_seq = int(state["first"]), int(state["last"])
                return run
            later = [segment for segment in listed if segment.number > int(state["segment"])]
            start = later[0] if later else listed[-1]
        else:
            # no range on disk, or the machine went down since: everything still in the journal is looked at again
            start = listed[0]
            if not known:
                run.after = self._stored(key)
        run.number, run.slot, run.next_seq = start.number, FIRST_SLOT, start.first_seq
        return run

    def _stored(self, key: tuple[str, int]) -> dict[str, int]:
        """Return the largest seq of this run in every table that the journal fills."""
        which = "engine_id = {engine:String} AND run_id = {run:String}"
        parts = [f"SELECT '{name}' AS name, max(seq) AS last FROM `{name}` WHERE {which}" for name in _numbered()]
        found = self._store.rows(" UNION ALL ".join(parts), {"engine": key[0], "run": str(key[1])})
        return {str(name): int(last) for name, last in found}

    def _held(self, run: _Run, last: int) -> dict[str, npt.NDArray[np.uint64]]:
        """Return which seqs from the run's next one to `last` each of those tables holds."""
        which = (
            "engine_id = {engine:String} AND run_id = {run:String} AND seq >= {first:UInt64} AND seq <= {last:UInt64}"
        )
        parts = [f"SELECT '{name}' AS name, groupArray(seq) AS got FROM `{name}` WHERE {which}" for name in _numbered()]
        asked = {"engine": run.names[0], "run": run.names[1], "first": run.next_seq, "last": last}
        found = self._store.rows(" UNION ALL ".join(parts), asked)
        return {str(name): np.array(seqs, np.uint64) for name, seqs in found}

    # --- one batch ---

    def _advance(self, run: _Run, listed: list[Segment], superseded: bool) -> bool:
        if run.rolled and not self._next_segment(run, listed):
            return self._caught_up(run, superseded)
        words = self._words(run, listed)
        if words is None:
            return False
        limit = len(self._offsets)
        if run.until_seq:
            limit = min(limit, run.until_seq - run.next_seq + 1)
        offsets, kinds = self._offsets[:limit], self._kinds[:limit]
        count, slot, seq, verdict = journal.scan(words, run.slot, np.uint64(run.next_seq), offsets, kinds)
        if count:
            self._store_range(run, words, offsets[:count], kinds[:count], int(seq) - 1)
        run.slot, run.next_seq, run.until_seq = int(slot), int(seq), 0
        run.status.seq = run.next_seq - 1
        self.records += int(count)
        if verdict == journal.OUT_FULL:
            return True
        run.status.fault = ""
        if verdict == journal.ROLLED:
            run.rolled = True
            return self._next_segment(run, listed) or self._caught_up(run, superseded)
        if verdict in (journal.TORN, journal.BAD):
            what = "a torn record" if verdict == journal.TORN else "a record that does not belong there"
            run.status.fault = (
                f"{run.folder}: run {run.names[1]}: {what} at seq {run.next_seq}; nothing after it is read"
            )
        return self._caught_up(run, superseded)

    def _caught_up(self, run: _Run, superseded: bool) -> bool:
        run.caught_up_at = time.monotonic()
        if superseded and not run.stuck:
            run.status.done = True
            self._save(run, run.next_seq, run.next_seq - 1)
            run.words = None
        return False

    def _store_range(
        self, run: _Run, words: npt.NDArray[np.uint64], offsets: npt.NDArray, kinds: npt.NDArray, last: int
    ) -> None:
        if not np.isin(kinds, [int(kind) for kind in self._rows.stored]).any():
            return
        first, again = run.next_seq, bool(run.until_seq)
        held = self._held(run, last) if again else {}
        self._save(run, first, last)
        run.until_seq = last  # should an insert fail, the next call takes exactly this range again
        for block in self._rows.blocks(words, offsets, kinds, run.names, run.symbols, run.after, held):
            token = f"{run.names[0]}:{run.names[1]}:{block.table}:{first}-{last}"
            token += f":{uuid.uuid4().hex}" if again else ""
            self._store.insert_block(block.table, block.columns, block.data, token)
            run.status.rows += block.rows
            self.rows += block.rows
        self.error = ""

    def _next_segment(self, run: _Run, listed: list[Segment]) -> bool:
        later = [segment for segment in listed if segment.number > run.number]
        if not later:
            return False
        if later[0].first_seq != run.next_seq:
            run.status.fault = f"{later[0].path}: expected to begin with seq {run.next_seq}, got {later[0].first_seq}"
            run.stuck = True
            return False
        run.number, run.slot, run.words, run.rolled = later[0].number, FIRST_SLOT, None, False
        return True

    def _words(self, run: _Run, listed: list[Segment]) -> npt.NDArray[np.uint64] | None:
        if run.words is None:
            path = next((segment.path for segment in listed if segment.number == run.number), None)
            if path is None:
                return None
            with open(path, "rb") as file:
                # private but writable, as the kernel takes writable arrays; never written, so it stays the file's
                mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            run.words = np.frombuffer(mapped, np.uint64)
        return run.words

    def _save(self, run: _Run, first: int, last: int) -> None:
        state = {
            "segment": run.number,
            "slot": run.slot,
            "first": first,
            "last": last,
            "done": run.status.done,
            "symbols": run.symbols,
            "place": self._place,
            "boot": self._boot,
        }
        partial = run.state_path.with_suffix(".new")
        partial.write_text(json.dumps(state))
        partial.replace(run.state_path)

    # --- deleting ---

    def _delete(self, segments: dict[tuple[str, int], list[Segment]]) -> None:
        for engine_id in {key[0] for key in segments}:
            ordered = [segment for key in sorted(segments) if key[0] == engine_id for segment in segments[key]]
            for segment in ordered[: -self._keep]:
                run = self._runs.get((segment.engine_id, segment.run_id))
                if run and not run.stuck and (run.status.done or segment.number < run.number):
                    segment.path.unlink(missing_ok=True)
                    if segment is segments[(segment.engine_id, segment.run_id)][-1]:
                        self._forget(run)

    def _forget(self, run: _Run) -> None:
        """Remove what is left of a run whose last segment was deleted."""
        run.state_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (run.folder / f"{run.names[0]}-{run.names[1]}.durable").unlink()


def _numbered() -> list[str]:
    """Return the tables that the journal fills and that keep its sequence numbers."""
    return [name for name, table in tables().items() if "seq" in table.by_name]


def _newer(key: tuple[str, int], segments: dict[tuple[str, int], list[Segment]]) -> bool:
    return any(engine_id == key[0] and run_id > key[1] for engine_id, run_id in segments)


def _load(path: Path) -> dict:
    try:
        state = json.loads(path.read_text())
        return state if {"segment", "slot", "first", "last"} <= set(state) else {}
    except (OSError, ValueError):
        return {}


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
