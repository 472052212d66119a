"""A recorded run as replay sees it: a cursor over its records, and a journal that compares instead of writing."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.core import CHANGED
from engine.errors import DataError
from engine.journal import read_records, segments, struct_format
from engine.scratch import SCRATCH_WORDS, Scratch
from kernels.records import HEAD, RECORDS, Kind, Mode

PREAMBLE = frozenset({Kind.ROLL, Kind.CONFIG, Kind.INSTRUMENT, Kind.SNAPSHOT})
HEAD_NAMES = frozenset(HEAD.names or ())
UNCOMPARED: dict[Kind, tuple[str, ...]] = {
    Kind.BAR: ("late_ms", "arrived_ms"),  # of another reading of the clock, and an echo of the input anyway
    Kind.SIGNAL: ("frame_ns", "decide_ns"),  # how long this machine took
    Kind.TWIN: ("entry_compute_ns", "entry_network_ns", "exit_compute_ns", "exit_network_ns"),  # so here
}
STAGES: dict[Kind, str] = {
    Kind.BAR: "input", Kind.MARK: "input", Kind.FUNDING: "input", Kind.OPEN_INTEREST: "input", Kind.TIMER: "timer",
    Kind.BOOK: "book", Kind.GAP: "bars", Kind.FEATURES: "features", Kind.SIGNAL: "decision", Kind.ORDER: "orders",
    Kind.FILL: "shadow fill", Kind.POSITION: "position", Kind.TRADE: "trade", Kind.ACCOUNT: "account",
    Kind.SESSION: "session", Kind.COMMAND: "command", Kind.MODEL: "model", Kind.SNAPSHOT: "state",
    Kind.INSTRUMENT: "listing", Kind.INPUT: "input", Kind.TICK: "timer", Kind.REQUEST: "request to the exchange",
    Kind.GATEWAY: "answer", Kind.TWIN: "shadow twin",
}  # fmt: skip
SIGNAL_STAGES = {
    "vector_hash": "features", "atr_15m": "features", "close": "features", "predictions": "forest", "side": "decide",
    "gates": "decide and risk gates", "qty": "risk", "tp_price": "risk", "sl_price": "risk", "model_id": "model",
    "mark_price": "input", "bid": "book", "ask": "book",
}  # fmt: skip

CAUSE: dict[Kind, str] = {Kind.SIGNAL: "vector_hash"}  # looked at first: where it differs, the others follow from it


@dataclass(frozen=True)
class Difference:
    """The first thing that a replay did not repeat."""

    seq: int
    time_ms: int
    kind: str
    stage: str
    field: str
    recorded: str
    replayed: str
    input_seq: int
    input: str

    def __str__(self) -> str:
        return (
            f"seq {self.seq} at {self.time_ms}: {self.kind}.{self.field} ({self.stage}): recorded {self.recorded}, "
            f"replayed {self.replayed}; after input {self.input} (seq {self.input_seq})"
        )


class Differs(Exception):
    """Raised where the replay departs from the record."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


def of_preamble(found: tuple[Kind, np.void]) -> bool:
    """Whether a record belongs to the beginning of a segment; a changed listing in its midst is an input."""
    kind, record = found
    return kind in PREAMBLE and not (kind is Kind.INSTRUMENT and int(record["spare3"]) == CHANGED)


class Ended(Exception):
    """The record ends here: a run that was killed stops in the middle of its last input."""


class Recording:
    """The records of one run, segment by segment, with a look-ahead."""

    def __init__(self, folder: Path, engine_id: str, run_id: int) -> None:
        self.engine_id, self.run_id = engine_id, run_id
        self._segments = [s for s in segments(folder, engine_id) if s.run_id == run_id]
        if not self._segments:
            raise DataError(f"{folder}: no journal of run {run_id} (engine {engine_id})")
        if self._segments[0].number != 1:
            raise DataError(
                f"{folder}: run {run_id} is not complete: its first {self._segments[0].number - 1} segments are gone "
                "(journal.keep_segments says how many are kept once they are stored)"
            )
        self._buffer: list[tuple[Kind, np.void]] = []
        self._at = 0
        self.input = "start of the run"
        self.input_seq = 0
        self._load()
        self.opening = list(self._buffer)

    def _load(self) -> bool:
        if not self._segments:
            return False
        self._buffer = self._buffer[self._at :] + read_records(self._segments.pop(0))
        self._at = 0
        return True

    def peek(self, ahead: int = 0) -> tuple[Kind, np.void] | None:
        """Return the record `ahead` of the cursor, or None behind the last one."""
        while self._at + ahead >= len(self._buffer):
            if not self._load():
                return None
        return self._buffer[self._at + ahead]

    def skip(self) -> None:
        """Move on by one record."""
        self._at += 1

    def place(self, ahead: int = 0) -> int:
        """Return how far the next record is that belongs to no preamble (or the one `ahead` of it)."""
        at = 0
        while True:
            found = self.peek(at)
            if found is None:
                return at
            if not of_preamble(found):
                if not ahead:
                    return at
                ahead -= 1
            at += 1

    def next(self, ahead: int = 0) -> tuple[Kind, np.void] | None:
        """Return the next record that is no part of a preamble (or the one `ahead` of it)."""
        return self.peek(self.place(ahead))

    def time_ms(self) -> int:
        """Return the time of the record that comes next: the clock's reading that it was written with."""
        found = self.next()
        if found is None:
            raise Ended
        return int(found[1]["time_ms"])

    def note_input(self) -> None:
        """Remember the next record as the input that everything up to the following input comes from."""
        found = self.next()
        assert found is not None
        kind, record = found
        names = [n for n in record.dtype.names or () if n not in HEAD_NAMES and not n.startswith("spare")][:6]
        if kind is Kind.INPUT:
            names = ["number", "source", "payload"]
        self.input_seq = int(record["seq"])
        self.input = f"{kind.name}(" + ", ".join(f"{n}={_shown(record[n])}" for n in names) + ")"

    def difference(self, kind: Kind, record: np.void, field: str, recorded: str, replayed: str) -> Differs:
        """Return the exception that names what differs, where, and after which input."""
        stage = SIGNAL_STAGES.get(field, STAGES.get(kind, "")) if kind is Kind.SIGNAL else STAGES.get(kind, "")
        if kind is Kind.FILL and int(record["mode"]) == Mode.LIVE:
            stage = "fill"
        return Differs(
            Difference(
                int(record["seq"]), int(record["time_ms"]), kind.name, stage, field, recorded, replayed,
                self.input_seq, self.input,
            )
        )  # fmt: skip


def _shown(value: Any) -> str:
    if isinstance(value, bytes | np.bytes_):
        return repr(bytes(value).decode(errors="replace"))
    if isinstance(value, np.void) and value.dtype.names is None:
        return value.tobytes().rstrip(b"\0").decode(errors="replace")
    if isinstance(value, np.floating | float):
        return repr(float(value))
    return str(value)


class Comparator(Scratch):
    """Stands where the journal's writer stands: each record that would be written must be the next recorded one."""

    def __init__(self, recording: Recording) -> None:  # the writer's files are not opened
        self.recording = recording
        self.engine_id, self.run_id = recording.engine_id, recording.run_id
        self.seq = 0
        self.full = False
        self.dropped = self.dropping = 0
        self.counts = {kind: 0 for kind in Kind}
        self.compared = 0
        self.snapshots = 0
        self.state: Any = None  # () -> bytes: what a snapshot of this moment would hold
        self.words = np.zeros(SCRATCH_WORDS, np.uint64)
        self._structs = {kind: struct.Struct(struct_format(dtype)) for kind, dtype in RECORDS.items()}
        self._spans = {
            kind: [
                (int(dtype.fields[name][1]), dtype.fields[name][0].itemsize)  # type: ignore[index]
                for name in ("seq", "check", "kind", "slots", "mono_ns", *UNCOMPARED.get(kind, ()))
            ]
            for kind, dtype in RECORDS.items()
        }

    def write(self, kind: Kind, mono_ns: int, time_ms: int, *fields: Any) -> int:
        """Compare one record with the recorded one and return its seq. Raises Differs, or Ended behind the last."""
        return self._compare(kind, bytearray(self._structs[kind].pack(0, 0, kind, 0, 0, time_ms, *fields)))

    def placed(self, kind: Kind) -> int:
        """Compare the record that a kernel has built."""
        return self._compare(kind, bytearray(self.words.tobytes()[: RECORDS[kind].itemsize]))

    def _compare(self, kind: Kind, made: bytearray) -> int:
        self.pass_preamble()
        found = self.recording.peek()
        if found is None:
            raise Ended
        recorded_kind, record = found
        if recorded_kind is not kind:
            raise self.recording.difference(recorded_kind, record, "kind", recorded_kind.name, f"a {kind.name} record")
        self.recording.skip()
        expected = record.tobytes()
        for start, size in self._spans[kind]:
            made[start : start + size] = expected[start : start + size]
        if made != expected:
            self._explain(kind, record, bytes(made))
        self.seq = int(record["seq"])
        self.counts[kind] += 1
        self.compared += 1
        return self.seq

    def _explain(self, kind: Kind, record: np.void, made: bytes) -> None:
        replayed, names = np.frombuffer(made, record.dtype)[0], record.dtype.names or ()
        for name in sorted(names, key=lambda name: name != CAUSE.get(kind)):
            if record[name].tobytes() != replayed[name].tobytes():
                raise self.recording.difference(kind, record, name, _shown(record[name]), _shown(replayed[name]))

    def place(self, kind: Kind) -> int:
        """Pass the beginning of a segment before a kernel changes the state that its snapshot holds; see Scratch."""
        self.pass_preamble()
        return super().place(kind)

    def place_bar(self, known: int = 0) -> int:
        """Do the same for the records of a closed bar."""
        self.pass_preamble()
        return super().place_bar(known)

    def together(self) -> None:
        """Pass the beginning of a segment, where the run began one so that the next records stand in it together."""
        self.pass_preamble()

    def take(self) -> None:
        """Step over the next record: an input that has been read."""
        self.pass_preamble()
        found = self.recording.peek()
        if found is None:
            raise Ended
        self.recording.skip()
        self.seq = int(found[1]["seq"])
        self.counts[found[0]] += 1

    def pass_preamble(self) -> None:
        """Step over the beginning of a segment; its snapshot must hold this very state."""
        parts: list[bytes] = []
        while True:
            found = self.recording.peek()
            if found is None or not of_preamble(found):
                return
            kind, record = found
            self.recording.skip()
            self.seq = int(record["seq"])
            if kind is Kind.SNAPSHOT:
                parts.append(record["payload"].tobytes()[: int(record["bytes"])])
                if int(record["part"]) + 1 == int(record["parts"]):
                    self._compare_state(record, b"".join(parts))

    def _compare_state(self, record: np.void, payload: bytes) -> None:
        if self.state is None:
            return  # the run begins: its state was read from this very snapshot
        recorded, replayed = orjson.loads(payload), orjson.loads(self.state())
        self.snapshots += 1
        for name in recorded:
            if name != "model_path" and recorded[name] != replayed.get(name):
                raise self.recording.difference(
                    Kind.SNAPSHOT, record, name, str(recorded[name])[:300], str(replayed.get(name))[:300]
                )

    def flush(self) -> None:
        """Nothing is written."""

    def close(self) -> None:
        """Nothing is open."""
