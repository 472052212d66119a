"""The journal: whole records only, in order, over segments; a full disk closes entries and keeps room for exits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine import journal
from engine.errors import DataError
from kernels import journal as layout
from kernels.records import RECORDS, SLOT_BYTES, Kind

MIN_SEGMENT = 64 << 10


def write_mark(writer: journal.Writer, price: float) -> int:
    return writer.write(Kind.MARK, 1, 2, 3, price, 0.0001, 5, 0, 6)


def write_order(writer: journal.Writer, name: bytes) -> int:
    return writer.write(Kind.ORDER, 1, 2, name, 7, 3, 1, 2, 1, 0, 0, 1.5, 2.5, 0.0, 0.0, 9, 0, 0, b"why")


def open_writer(folder: Path, preamble=lambda writer: None, size: int = MIN_SEGMENT) -> journal.Writer:
    return journal.Writer(folder, "main", journal.new_run_id(folder), size, preamble)


def all_records(folder: Path) -> list:
    return [item for segment in journal.segments(folder, "main") for item in journal.read_records(segment)]


def test_records_come_back_equal_and_in_order_over_many_segments(tmp_path: Path) -> None:
    writer = open_writer(tmp_path, lambda w: w.write(Kind.CONFIG, 0, 0, b"hash", b"1", 0, 0))
    for i in range(3_000):
        assert write_mark(writer, 100.0 + i) > 0
        if i % 10 == 0:
            write_order(writer, b"order-%d" % i)
    writer.close()
    records = all_records(tmp_path)
    assert len(journal.segments(tmp_path, "main")) > 3
    assert [int(r["seq"]) for _, r in records] == list(range(1, writer.seq + 1))
    marks = [float(r["price"]) for kind, r in records if kind is Kind.MARK]
    assert marks == [100.0 + i for i in range(3_000)]
    orders = [bytes(r["client_order_id"]) for kind, r in records if kind is Kind.ORDER]
    assert orders == [b"order-%d" % i for i in range(0, 3_000, 10)]
    firsts = [journal.read_records(s)[0][0] for s in journal.segments(tmp_path, "main")]
    assert set(firsts) == {Kind.CONFIG}  # each segment can be read by itself


def test_struct_formats_agree_with_the_dtypes() -> None:
    import struct

    for dtype in RECORDS.values():
        assert struct.calcsize(journal.struct_format(dtype)) == dtype.itemsize


@pytest.mark.parametrize("byte", range(0, 64, 7))
def test_a_flipped_byte_ends_the_scan_before_the_record(tmp_path: Path, byte: int) -> None:
    writer = open_writer(tmp_path)
    for price in (1.0, 2.0, 3.0):
        write_mark(writer, price)
    writer.close()
    (segment,) = journal.segments(tmp_path, "main")
    raw = np.fromfile(segment.path, np.uint8)
    raw[layout.SEGMENT_HEADER_BYTES + SLOT_BYTES + byte] ^= 0x40
    raw.tofile(segment.path)
    assert [float(r["price"]) for _, r in journal.read_records(segment)] == [1.0]


def test_another_layout_is_refused_by_name(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    writer.close()
    (segment,) = journal.segments(tmp_path, "main")
    raw = np.fromfile(segment.path, np.uint8)
    raw[8] ^= 1
    raw.tofile(segment.path)
    with pytest.raises(DataError, match="another record layout"):
        journal.segments(tmp_path, "main")


def test_durable_file_holds_orders_and_stops_at_a_torn_end(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    write_mark(writer, 1.0)
    write_order(writer, b"a")
    writer.flush().result(10)
    write_order(writer, b"b")
    writer.close()
    (path,) = tmp_path.glob("*.durable")
    assert [bytes(r["client_order_id"]) for _, r in journal.read_durable(path)] == [b"a", b"b"]
    path.write_bytes(path.read_bytes()[:-40])
    assert [bytes(r["client_order_id"]) for _, r in journal.read_durable(path)] == [b"a"]


def test_run_ids_only_rise(tmp_path: Path) -> None:
    first = journal.new_run_id(tmp_path)
    (tmp_path / "run_id").write_text(str(first + 1_000_000))
    assert journal.new_run_id(tmp_path) == first + 1_000_001


KILLED = """
import sys
from pathlib import Path
from engine import journal
from kernels.records import Kind
folder = Path(sys.argv[1])
writer = journal.Writer(folder, "main", journal.new_run_id(folder), 65536, lambda w: None)
i = 0
while True:
    seq = writer.write(Kind.MARK, 1, 2, 3, float(i), 0.0, 5, 0, 6)
    i += 1
    if i % 1000 == 0:
        print(seq, flush=True)
"""


def test_nothing_acknowledged_is_lost_at_kill_9(tmp_path: Path, long_run) -> None:
    for round_ in range(long_run(2, 20)):
        folder = tmp_path / str(round_)
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
        acknowledged = 0
        for _ in range(20 + round_):
            acknowledged = int(process.stdout.readline())
        process.kill()
        process.wait()
        tail = process.stdout.read().split()
        acknowledged = int(tail[-1]) if tail else acknowledged
        records = all_records(folder)
        assert [int(r["seq"]) for _, r in records] == list(range(1, len(records) + 1))
        assert len(records) >= acknowledged
        prices = [float(r["price"]) for kind, r in records if kind is Kind.MARK]
        assert prices == [float(i) for i in range(len(prices))]


def test_the_first_segment_takes_half_of_what_a_nearly_full_disk_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [0]
    monkeypatch.setattr(journal.os, "statvfs", lambda folder: SimpleNamespace(f_bavail=free[0], f_frsize=4_096))
    for blocks, size in ((32_768, 64 << 20), (32_766, (64 << 20) - 4_096), (1_001, 500 * 4_096), (0, 256 << 10)):
        free[0] = blocks
        assert journal.first_size(tmp_path, 64 << 20) == size
    assert journal.first_size(tmp_path, 128 << 10) == 128 << 10, "never more than a whole one"


@pytest.mark.parametrize("small_disk", ["512k"], indirect=True)
def test_full_disk_closes_entries_and_keeps_room_for_exits(small_disk: Path) -> None:
    writer = open_writer(small_disk, size=128 << 10)
    deadline = time.monotonic() + 30
    while not writer.full:
        assert time.monotonic() < deadline
        write_mark(writer, 1.0)
    exits = 0
    while write_order(writer, b"exit-%d" % exits):
        exits += 1
        assert write_mark(writer, 1.0) == 0  # expendable records leave the reserve alone
    assert exits > 100
    assert writer.dropped > 0
    for old in journal.segments(small_disk, "main")[:-1]:
        old.path.unlink()  # the tail has passed them
    writer.retry_allocation()
    while writer.full:
        assert time.monotonic() < deadline
    assert write_order(writer, b"again") > 0
    writer.close()
