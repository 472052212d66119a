"""The journal's writer: the engine's only way out for facts. Segments are allocated and prefaulted one ahead.

What is promised: nothing is lost when a process dies (the pages belong to the kernel); on power loss at most the last
flush interval of orders, fills, positions and commands, which are also appended to a small durable file.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError
from kernels import journal as layout
from kernels.compile import entry_point
from kernels.journal import NO_BAR, NO_BOOK, NO_SIGNAL
from kernels.records import HEAD, RECORDS, SLOT_BYTES, SLOTS, Kind, layout_hash

FIRST_SLOT = layout.SEGMENT_HEADER_BYTES // SLOT_BYTES
WORDS_PER_SLOT = layout.WORDS_PER_SLOT
MADV_POPULATE_WRITE = 23
LEAST_FIRST_BYTES = 256 << 10
DURABLE = frozenset({Kind.ORDER, Kind.FILL, Kind.POSITION, Kind.TRADE, Kind.COMMAND, Kind.ACCOUNT, Kind.SESSION})
EXPENDABLE = frozenset(  # not written while the disk is full
    {Kind.MARK, Kind.BOOK, Kind.LATENCY, Kind.FEATURES, Kind.INPUT, Kind.TICK, Kind.REQUEST}
)
DURABLE_BUFFER_BYTES = 4 << 20  # a flush that does not come back for this long is an alarm, not a reason to grow
RESERVE_SLOTS = 8_192  # of a segment when no next one can be allocated: room for exits
TOGETHER_SLOTS = 256  # more than one event of an order leaves behind
BAR_RUN = ((Kind.BAR, NO_BAR), (Kind.BOOK, NO_BOOK), (Kind.SIGNAL, NO_SIGNAL))  # what a closed bar leaves behind
BAR_SLOTS = sum(SLOTS[kind] for kind, _ in BAR_RUN)


def _run(dropping: int, count: int) -> tuple[tuple[Kind, ...], int]:
    kinds = tuple(kind for kind, bit in BAR_RUN[:count] if not dropping & bit)
    return kinds, sum(SLOTS[kind] for kind in kinds)


BAR_RUNS = [[_run(dropping, count) for count in range(len(BAR_RUN) + 1)] for dropping in range(8)]


def struct_format(dtype: np.dtype) -> str:
    """Return the struct format of a packed little-endian record dtype."""
    codes = {
        "u1": "B",
        "u2": "H",
        "u4": "I",
        "u8": "Q",
        "i1": "b",
        "i2": "h",
        "i4": "i",
        "i8": "q",
        "f4": "f",
        "f8": "d",
    }
    out = ["<"]
    for sub, *_ in (dtype.fields or {}).values():
        base = sub.base
        count = int(np.prod(sub.shape)) if sub.shape else 1
        if base.kind in "SV":
            out.append(f"{base.itemsize}s")
        else:
            out.append(codes[base.str[1:]] * count)
    return "".join(out)


@dataclass
class _Segment:
    number: int
    path: Path
    mapped: mmap.mmap
    words: npt.NDArray[np.uint64]

    @property
    def size(self) -> int:
        return len(self.mapped)


def new_run_id(folder: Path) -> int:
    """Return a run id above every earlier one of this folder; it is on disk before any client order id contains it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run_id"
    previous = int(path.read_text()) if path.exists() else 0
    run_id = max(previous + 1, int(time.time()))
    partial = folder / "run_id.new"
    with open(partial, "w") as file:
        file.write(str(run_id))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    return run_id


class Writer:
    """Appends records; single-threaded. The helper thread only allocates, prefaults and syncs (all without the GIL).

    preamble: called at the start of each segment with this writer; it writes the snapshot, instruments and
    configuration that make the segment readable by itself.

    words: uint64 view of the present segment, for kernels that build their record in place.
    """

    words: npt.NDArray[np.uint64]
    _mapped: Any  # the same memory as bytes

    def __init__(
        self, folder: Path, engine_id: str, run_id: int, segment_bytes: int, preamble: Callable[[Writer], None]
    ) -> None:
        if segment_bytes % 4_096 or segment_bytes < 64 << 10:
            raise ValueError(f"segment_bytes: expected a multiple of 4096, at least 65536; got {segment_bytes}")
        self.folder, self.engine_id, self.run_id = folder, engine_id, run_id
        self.seq = 0
        self.full = False  # the disk is full: entries are refused, expendable records dropped
        self.dropped = 0
        self.dropping = self._known = 0  # NO_… bits: what `place_bar` has no room for, or knows to be written
        self.counts = {kind: 0 for kind in Kind}
        self._aside_counts = dict(self.counts)
        self._segment_bytes = segment_bytes
        self._preamble = preamble
        self._formats = {
            kind: (struct.Struct(struct_format(dtype)), SLOTS[kind], kind in DURABLE, kind in EXPENDABLE)
            for kind, dtype in RECORDS.items()
        }
        self._seal = entry_point(layout.seal)
        self._helper = ThreadPoolExecutor(1, "journal")
        folder.mkdir(parents=True, exist_ok=True)
        self._durable_fd = os.open(
            folder / f"{engine_id}-{run_id}.durable", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600
        )
        self._durable = bytearray()
        self._flushing: Future[int] | None = None
        self._next: Future[_Segment] | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._slot = self._end_slot = self._last_slot = FIRST_SLOT
        self._open(self._allocate(1, first_size(folder, segment_bytes)))

    # --- records ---

    def write(self, kind: Kind, mono_ns: int, time_ms: int, *fields: Any) -> int:
        """Append one record and return its seq (0: dropped because the disk is full).

        fields: the values after the head, in the dtype's order; byte strings for S fields; arrays flattened.
        """
        packer, slots, durable, expendable = self._formats[kind]
        if self._slot + slots >= self._end_slot and not self._roll(expendable):
            self.dropped += 1
            return 0
        if self.full and expendable:
            self.dropped += 1
            return 0
        seq = self.seq + 1
        offset = self._slot * SLOT_BYTES
        packer.pack_into(self._mapped, offset, 0, 0, kind, slots, mono_ns, time_ms, *fields)
        self._seal(self.words, offset // 8, slots * layout.WORDS_PER_SLOT, seq)
        self._slot += slots
        self.seq = seq
        self.counts[kind] += 1
        if durable and len(self._durable) < DURABLE_BUFFER_BYTES:
            self._durable += self._mapped[offset : offset + slots * SLOT_BYTES]
        return seq

    def together(self) -> None:
        """Begin the next segment now if what one event of an order leaves behind might not fit into this one.

        Else a snapshot would hold half of it: a position that is closed and not gone, an order that ended and is open.
        """
        if self._slot + TOGETHER_SLOTS >= self._end_slot:
            self._roll(True)

    def place(self, kind: Kind) -> int:
        """Return the word of `words` at which a kernel may build a record of `kind`; −1: it must be dropped.

        The kernel seals it with `seq` + 1; `placed` then counts it. Nothing else may be written in between.
        """
        _, slots, _, expendable = self._formats[kind]
        if self._slot + slots >= self._end_slot and not self._roll(expendable):
            self.dropped += 1
            return -1
        if self.full and expendable:
            self.dropped += 1
            return -1
        return self._slot * WORDS_PER_SLOT

    def placed(self, kind: Kind) -> int:
        """Take the record that a kernel has built at `place` and return its seq. Not for durable kinds."""
        slots = self._formats[kind][1]
        self._slot += slots
        self.seq += 1
        self.counts[kind] += 1
        return self.seq

    def place_bar(self, known: int = 0) -> int:
        """Return the word at which a kernel may build the BAR, BOOK and SIGNAL records of a closed bar in a row.

        `self.dropping` (NO_… bits) says which of them it must leave out; `placed_bar` counts those that were built.
        known: NO_BAR for a bar that was journalled when it arrived.
        """
        self._known = known
        if self._slot + BAR_SLOTS >= self._end_slot and not self._roll(False):
            self.dropping = NO_BAR | NO_BOOK | NO_SIGNAL
        else:
            self.dropping = known | NO_BOOK if self.full else known
        return self._slot * WORDS_PER_SLOT

    def placed_bar(self, count: int) -> int:
        """Take the first `count` of the records that a kernel has built at `place_bar`; return the last one's seq."""
        kinds, slots = BAR_RUNS[self.dropping][count]
        self._slot += slots
        self.seq += len(kinds)
        self.dropped += count - len(kinds) - self._known
        for kind in kinds:
            self.counts[kind] += 1
        return self.seq

    # --- rehearsals (engine.rehearsal) ---

    def touch(self) -> None:
        """Write what is there already where the next records go: a page that was written out faults at a write."""
        at = self._slot * WORDS_PER_SLOT
        self.words[at : at + BAR_SLOTS * WORDS_PER_SLOT] = self.words[at : at + BAR_SLOTS * WORDS_PER_SLOT]

    def aside(self, words: npt.NDArray[np.uint64]) -> tuple[Any, ...]:
        """Build records in `words`, where nobody reads them, until `back` is told what this returns."""
        kept = self.words, self._mapped, self._durable, self._slot, self._end_slot, self.seq, self.counts
        self.words, self._mapped = words, words.view(np.uint8).data
        self._slot, self._end_slot = 0, len(words) // WORDS_PER_SLOT
        self._durable, self.counts = bytearray(), self._aside_counts
        return kept

    def back(self, kept: tuple[Any, ...]) -> None:
        """Go on where `aside` was called."""
        self.words, self._mapped, self._durable, self._slot, self._end_slot, self.seq, self.counts = kept

    def flush(self) -> Future[int] | None:
        """Hand the durable bytes to the helper; called every flush interval. Never blocks."""
        if not self._durable or (self._flushing is not None and not self._flushing.done()):
            return self._flushing
        payload, self._durable = bytes(self._durable), bytearray()
        self._flushing = self._helper.submit(_append_and_sync, self._durable_fd, payload)
        return self._flushing

    def close(self) -> None:
        """Sync what is durable and stop the helper. The segment stays as it is: a reader needs no goodbye."""
        if self._flushing is not None:
            self._flushing.result()
        self.flush()
        self._helper.shutdown(wait=True)
        os.close(self._durable_fd)

    # --- segments ---

    def retry_allocation(self) -> None:
        """Called each second while `full`: try again to allocate the next segment."""
        if self.full and (self._next is None or self._next.done()):
            self._next = self._helper.submit(self._allocate, self._number + 1, self._segment_bytes)
            self._next.add_done_callback(self._allocated)

    def _allocated(self, future: Future[_Segment]) -> None:
        self.full = future.exception() is not None

    def _roll(self, expendable: bool) -> bool:
        """Move to the next segment; False when there is none and this record must not use the reserve."""
        ready = self._next is not None and (self._next.done() or not self.full)
        segment = None
        if ready and self._next is not None and self._next.exception() is None:
            segment = self._next.result()  # waits only if a whole segment was filled faster than one was allocated
        if segment is None:
            self.full = True
            if expendable or self._end_slot == self._last_slot:
                return False
            self._end_slot = self._last_slot  # the reserve: for records that matter
            return True
        self._write_roll(segment.number)
        self._open(segment)
        return True

    def _write_roll(self, number: int) -> None:
        offset = self._slot * SLOT_BYTES
        now = time.monotonic_ns()
        self._formats[Kind.ROLL][0].pack_into(self._mapped, offset, 0, 0, Kind.ROLL, 1, now, 0, number)
        self.seq += 1
        self.counts[Kind.ROLL] += 1
        self._seal(self.words, offset // 8, layout.WORDS_PER_SLOT, self.seq)

    def _open(self, segment: _Segment) -> None:
        header = np.zeros(1, layout.SEGMENT_HEADER)
        created_ms = time.time_ns() // 1_000_000
        header[0] = (
            layout.MAGIC, layout_hash(), self.engine_id.encode(), self.run_id, segment.number, self.seq + 1,
            segment.size, created_ms,
        )  # fmt: skip
        segment.mapped[: header.nbytes] = header.tobytes()
        segment.path.with_suffix(".new").rename(segment.path)
        self._number, self._mapped, self.words = segment.number, segment.mapped, segment.words
        self._slot = FIRST_SLOT
        self._last_slot = segment.size // SLOT_BYTES - 1  # one slot is kept for ROLL
        reserve = min(RESERVE_SLOTS, self._last_slot // 4)
        self._end_slot = self._last_slot - reserve
        self._next = self._helper.submit(self._allocate, self._number + 1, self._segment_bytes)
        self._next.add_done_callback(self._allocated)
        self._preamble(self)

    def _allocate(self, number: int, size: int) -> _Segment:
        """Allocate (a clean ENOSPC here instead of SIGBUS later), map and prefault segment `number`."""
        path = self.folder / f"{self.engine_id}-{self.run_id}-{number:06d}.seg"
        partial = path.with_suffix(".new")
        fd = os.open(partial, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            mapped = mmap.mmap(fd, size)
        except OSError:
            os.unlink(partial)
            raise
        finally:
            os.close(fd)
        words = np.frombuffer(mapped, np.uint64)
        self._libc.madvise(ctypes.c_void_p(words.ctypes.data), ctypes.c_size_t(size), MADV_POPULATE_WRITE)
        return _Segment(number, path, mapped, words)


def first_size(folder: Path, wanted: int) -> int:
    """Return the size of a run's first segment: `wanted`, or half of what a nearly full disk has left.

    A start must not fail for want of a large file: positions wait for their guards. The other half is for the rest of
    the start; the next segment cannot be had then, so entries stay closed until there is room.
    """
    disk = os.statvfs(folder)
    half = disk.f_bavail * disk.f_frsize // 2
    return min(wanted, max(LEAST_FIRST_BYTES, half // 4_096 * 4_096))


def _append_and_sync(fd: int, payload: bytes) -> int:
    view = memoryview(payload)
    while view:
        view = view[os.write(fd, view) :]
    os.fdatasync(fd)
    return len(payload)


# --- reading (restart and replay; the store has its own follower over the same kernel) ---


@dataclass(frozen=True)
class SegmentFile:
    path: Path
    engine_id: str
    run_id: int
    number: int
    first_seq: int


def segments(folder: Path, engine_id: str) -> list[SegmentFile]:
    """Return this engine's readable segments, by run and number. A segment of another layout is refused by name."""
    found = []
    for path in sorted(folder.glob(f"{engine_id}-*.seg")):
        with open(path, "rb") as file:
            head = np.frombuffer(
                file.read(layout.SEGMENT_HEADER.itemsize).ljust(layout.SEGMENT_HEADER.itemsize, b"\0"),
                layout.SEGMENT_HEADER,
            )[0]
        if head["magic"] != layout.MAGIC or int(head["layout"]) != layout_hash():
            raise DataError(
                f"{path}: written with another record layout; expected {layout_hash():016x}, "
                f"got {int(head['layout']):016x}. Let the release that wrote it drain it first, or move it away"
            )
        found.append(SegmentFile(path, engine_id, int(head["run_id"]), int(head["number"]), int(head["first_seq"])))
    return sorted(found, key=lambda segment: (segment.run_id, segment.number))


def read_records(segment: SegmentFile, wanted: frozenset[Kind] | None = None) -> list[tuple[Kind, np.void]]:
    """Return the whole records of one segment, in order, as (kind, record); of the kinds `wanted` (None: all).

    Most records are mark prices: a restart that asks for the others reads a full segment in a fraction of the time.
    """
    raw = np.fromfile(segment.path, np.uint8)
    words = raw.view(np.uint64)
    offsets, kinds = np.empty(65_536, np.int64), np.empty(65_536, np.uint16)
    slot, seq = FIRST_SLOT, segment.first_seq
    out: list[tuple[Kind, np.void]] = []
    while True:
        count, slot, seq, verdict = layout.scan(words, slot, np.uint64(seq), offsets, kinds)
        chosen = np.arange(count) if wanted is None else np.flatnonzero(np.isin(kinds[:count], list(wanted)))
        for i in chosen.tolist():
            kind = Kind(int(kinds[i]))
            start = int(offsets[i])
            out.append((kind, raw[start : start + RECORDS[kind].itemsize].view(RECORDS[kind])[0]))
        if verdict != layout.OUT_FULL:
            return out


def read_kind(segment: SegmentFile, kind: Kind) -> npt.NDArray[Any]:
    """Return all records of one kind in a segment as an array of its dtype, in order: the fast way to many of them."""
    raw = np.fromfile(segment.path, np.uint8)
    words, grid = raw.view(np.uint64), raw.reshape(-1, SLOT_BYTES)
    offsets, kinds = np.empty(65_536, np.int64), np.empty(65_536, np.uint16)
    dtype, slots = RECORDS[kind], SLOTS[kind]
    slot, seq, verdict, parts = FIRST_SLOT, segment.first_seq, layout.OUT_FULL, []
    while verdict == layout.OUT_FULL:
        count, slot, seq, verdict = layout.scan(words, slot, np.uint64(seq), offsets, kinds)
        first = offsets[:count][kinds[:count] == kind] // SLOT_BYTES
        taken = grid[first[:, None] + np.arange(slots)].reshape(len(first), slots * SLOT_BYTES)
        parts.append(np.ascontiguousarray(taken[:, : dtype.itemsize]).view(dtype)[:, 0])
    return np.concatenate(parts)


def read_durable(path: Path) -> list[tuple[Kind, np.void]]:
    """Return the whole records of a durable file; a torn last one (power loss) ends the list."""
    raw = np.fromfile(path, np.uint8)
    out: list[tuple[Kind, np.void]] = []
    at = 0
    while at + HEAD.itemsize <= len(raw):
        head = raw[at : at + HEAD.itemsize].view(HEAD)[0]
        size = int(head["slots"]) * SLOT_BYTES
        if not size or at + size > len(raw):
            break
        words = raw[at : at + size].view(np.uint64)
        if layout.checksum(words, 0, size // 8, head["seq"]) != head["check"]:
            break
        kind = Kind(int(head["kind"]))
        out.append((kind, raw[at : at + RECORDS[kind].itemsize].view(RECORDS[kind])[0]))
        at += size
    return out
