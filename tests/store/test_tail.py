"""Every record of the journal is in its table exactly once: over segments, runs, refusals, and kill -9."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import journal
from kernels.records import RECORDS, SLOT_BYTES, BarFlag, Kind, Mode, OrderState, Reason, Side
from store import agreement, queries
from store.client import Store, connect
from store.errors import StoreError
from store.schema import tables
from store.tail import Tail

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
T0 = 1_750_000_020_000
SEGMENT = 256 << 10


def put(writer: journal.Writer, kind: Kind, time_ms: int = T0, **values: Any) -> int:
    record = np.zeros(1, RECORDS[kind])[0]
    for name, value in values.items():
        record[name] = value
    fields: list[Any] = []
    for name in (RECORDS[kind].names or ())[6:]:
        fields += record[name].tolist() if record[name].shape else [record[name].item()]
    return writer.write(kind, 1, time_ms, *fields)


def preamble(writer: journal.Writer) -> None:
    for index, name in enumerate(SYMBOLS):
        put(writer, Kind.INSTRUMENT, index=index, symbol=name.encode(), tick_size=0.1)


def put_minute(writer: journal.Writer, minute: int) -> dict[str, list[int]]:
    """Write what one minute brings; return the seqs per table."""
    now = T0 + 60_000 * (minute + 1)
    seqs: dict[str, list[int]] = {"bars_seen": [], "signals": [], "orders": [], "trades": [], "latency": []}
    for symbol in range(len(SYMBOLS)):
        bar = {
            "open_ms": now - 60_000,
            "open": 1.0,
            "high": 2.0,
            "low": 0.5,
            "close": 1.5 + minute,
            "flags": BarFlag.WS,
        }
        seqs["bars_seen"].append(put(writer, Kind.BAR, now, symbol=symbol, timeframe=0, late_ms=150, **bar))
        for second in range(3):
            put(writer, Kind.MARK, now + second, symbol=symbol, price=1.5)
            put(writer, Kind.BOOK, now + second, symbol=symbol, bid=1.4, ask=1.6)
        seqs["signals"].append(put(writer, Kind.SIGNAL, now, symbol=symbol, side=1, predictions=np.arange(8), gates=5))
    seqs["orders"].append(put(writer, Kind.ORDER, now, client_order_id=b"o%d" % minute, state=OrderState.FILLED, qty=1))
    seqs["trades"].append(
        put(writer, Kind.TRADE, now, reason=Reason.TP, side=Side.LONG, net_usdt=minute, closed_ms=now)
    )
    seqs["latency"].append(put(writer, Kind.LATENCY, now, stage=7, count=3, p99_ns=1000))
    return seqs


def open_writer(data_dir: Path, engine_id: str = "main", run_id: int = 0, size: int = SEGMENT) -> journal.Writer:
    folder = data_dir / "journal"
    return journal.Writer(folder, engine_id, run_id or journal.new_run_id(folder), size, preamble)


def open_tail(store: Store, data_dir: Path, **more: Any) -> Tail:
    return Tail(store, [data_dir / "journal"], data_dir / "store" / "tail", **more)


def stored(store: Store, table: str, run_id: int, final: int = 0) -> list[int]:
    sql = f"SELECT seq FROM {table} WHERE run_id = '{run_id}' ORDER BY seq SETTINGS final = {final}"
    return [int(row[0]) for row in store.rows(sql)]


def merge(into: dict[str, list[int]], more: dict[str, list[int]]) -> None:
    for name, seqs in more.items():
        into.setdefault(name, []).extend(seqs)


def test_records_arrive_with_names_and_enumerations(store: Store, tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    put_minute(writer, 0)
    put(writer, Kind.FUNDING, symbol=1, stamp_ms=T0 + 7, usable_ms=T0 + 300_007, value=1e-4, interval_hours=8)
    put(writer, Kind.OPEN_INTEREST, symbol=2, stamp_ms=T0 + 3, usable_ms=T0 + 300_000, value=5e6)
    put(writer, Kind.FEATURES, symbol=1, timeframe=2, close_ms=T0, values=np.arange(44.0), schema_hash=9)
    put(writer, Kind.COMMAND, command_id=b"c1", verb=b"start", actor=b"ta")
    put(writer, Kind.POSITION, symbol=0, event=1, reason=Reason.ENTRY, side=-1, qty=2.0)
    put(writer, Kind.TWIN, position_id=1, symbol=0, event=1, reason=Reason.ENTRY, side=-1, qty=2.0)
    put(writer, Kind.SESSION, session_id=4, mode=Mode.SHADOW, actor=b"ta")
    put(writer, Kind.ACCOUNT, equity_usdt=10_000.0, run_state=2)
    put(writer, Kind.GAP, symbol=1, timeframe=0, from_ms=T0, to_ms=T0 + 60_000, bars=1, detail=b"ws")
    put(writer, Kind.MODEL, model_id=b"m1")
    put(writer, Kind.CONFIG, config_hash=b"abc", mode=0)
    put(writer, Kind.FILL, client_order_id=b"o1", side=1, qty=1.0, price=2.0)
    assert open_tail(store, tmp_path).drain()

    counted = queries.counts(store)
    for table in tables().values():
        if table.kind and not table.name.startswith("features_") and table.name != "instruments":
            assert counted[table.name] >= 1, table.name
    assert counted["features_1h"] == counted["instruments"] - 2 == 1
    assert [row for row in store.rows("SELECT symbol, close, source FROM candles_1m ORDER BY symbol")] == [
        (name, 1.5, "ws") for name in SYMBOLS
    ]
    assert store.rows("SELECT symbol, rsi, ret_1 FROM features_1h") == [("ETHUSDT", 23.0, 0.0)]
    assert store.rows("SELECT toString(reason), toString(side), toString(mode) FROM trades") == [
        ("tp", "long", "shadow")
    ]
    assert store.rows("SELECT toString(stage), p99_ns FROM latency") == [("frame_to_decision", 1000)]
    assert store.rows("SELECT er_long, e_hold_short FROM signals LIMIT 1") == [(0.0, 7.0)]
    assert queries.funding(store, "ETHUSDT")["stamp_ms"].tolist() == [T0 // 60_000 * 60_000]
    seen = queries.bars_seen(store, "BTCUSDT", 0, "main", str(writer.run_id))
    assert seen["close"].tolist() == [1.5]


def test_many_segments_small_batches_and_a_live_writer(store: Store, tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    expected: dict[str, list[int]] = {}
    tail = open_tail(store, tmp_path, batch_records=397)
    for minute in range(200):
        merge(expected, put_minute(writer, minute))
        if minute % 40 == 0:
            tail.step()
    assert tail.drain()
    assert len(journal.segments(tmp_path / "journal", "main")) > 2
    for name, seqs in expected.items():
        assert stored(store, name, writer.run_id) == seqs
    assert tail.status()[0].seq == writer.seq
    assert queries.counts(store)["candles_1m"] == 600


def test_a_new_tail_goes_on_where_the_old_one_stopped(store: Store, tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    expected = put_minute(writer, 0)
    open_tail(store, tmp_path).drain()
    for path in (tmp_path / "store" / "tail").iterdir():
        path.unlink()  # without the range on disk, max(seq) of the tables is the position
    merge(expected, put_minute(writer, 1))
    tail = open_tail(store, tmp_path)
    tail.drain()
    assert tail.rows == sum(len(put) // 2 for put in expected.values()) + len(expected["signals"]) // 2  # candles too
    for name, seqs in expected.items():
        assert stored(store, name, writer.run_id) == seqs


class Refusing:
    """A store that takes the first `good` inserts, then refuses, as one that went away in the middle of a batch."""

    def __init__(self, store: Store, good: int) -> None:
        self._store, self.good = store, good
        self.where, self.rows = store.where, store.rows
        self.tokens: list[str] = []

    def insert_block(self, table: str, columns: list[str], block: bytes, token: str = "") -> None:
        if self.good <= 0:
            raise StoreError("down")
        self.good -= 1
        self.tokens.append(token)
        self._store.insert_block(table, columns, block, token)


def test_a_refused_batch_is_repeated_with_its_range_though_the_journal_grew(store: Store, tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    expected = put_minute(writer, 0)
    refusing = Refusing(store, 2)
    tail = open_tail(refusing, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        tail.step()
    merge(expected, put_minute(writer, 1))
    for again in (tail, open_tail(refusing, tmp_path)):  # type: ignore[arg-type]
        refusing.good = 2
        with pytest.raises(StoreError):
            again.step()
    refusing.good = 1_000
    assert open_tail(refusing, tmp_path).drain()  # type: ignore[arg-type]
    for name, seqs in expected.items():
        assert stored(store, name, writer.run_id) == seqs


@pytest.mark.parametrize("table", ["candles_1m", "bars_seen", "signals"])
def test_a_token_that_outlived_its_rows_keeps_nothing_out(store: Store, tmp_path: Path, table: str) -> None:
    """ClickHouse writes a token down before the rows are in the table: a kill in between leaves it without them."""
    writer = open_writer(tmp_path)
    expected = put_minute(writer, 0)
    assert open_tail(store, tmp_path).drain()
    store.command(f"ALTER TABLE {table} DELETE WHERE symbol = 'ETHUSDT' SETTINGS mutations_sync = 2")
    assert store.scalar(f"SELECT count() FROM {table}") == 2
    merge(expected, put_minute(writer, 1))
    assert open_tail(store, tmp_path).drain()  # as after the kill: the range on disk is gone through again
    for name, seqs in expected.items():
        assert stored(store, name, writer.run_id) == seqs, name
    assert store.rows("SELECT symbol, count() FROM candles_1m GROUP BY symbol ORDER BY symbol") == [
        (name, 2) for name in SYMBOLS
    ]


def test_run_waits_for_a_store_that_is_down(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.tail.BACKOFF_S", (0.01, 0.02))
    writer = open_writer(tmp_path)
    expected = put_minute(writer, 0)
    refusing = Refusing(store, 0)
    tail = open_tail(refusing, tmp_path)  # type: ignore[arg-type]
    stop = threading.Event()
    thread = threading.Thread(target=tail.run, args=(stop, 0.01))
    thread.start()
    wait_until(lambda: tail.error == "down")
    refusing.good = 1_000
    wait_until(lambda: tail.error == "" and tail.rows >= 10)
    stop.set()
    thread.join(60)
    for name, seqs in expected.items():
        assert stored(store, name, writer.run_id) == seqs


def test_runs_and_engines_are_told_apart_and_passed_segments_deleted(store: Store, tmp_path: Path) -> None:
    seqs = {}
    for engine_id, run_id in (("main", 100), ("main", 101), ("other", 100)):
        writer = open_writer(tmp_path, engine_id, run_id)
        for minute in range(120):
            merged = seqs.setdefault((engine_id, run_id), {})
            merge(merged, put_minute(writer, minute))
        writer.close()
    before = len(list((tmp_path / "journal").glob("*.seg")))
    tail = open_tail(store, tmp_path, keep_segments=1)
    assert tail.drain()
    for (engine_id, run_id), expected in seqs.items():
        sql = f"SELECT seq FROM trades WHERE engine_id = '{engine_id}' AND run_id = '{run_id}' ORDER BY seq"
        assert [row[0] for row in store.rows(sql)] == expected["trades"]
    left = sorted(path.name for path in (tmp_path / "journal").glob("*.seg"))
    assert before > 5 and len(left) == 2  # the newest of each engine
    assert left[0].startswith("main-101-") and left[1].startswith("other-100-")
    assert not (tmp_path / "journal" / "main-100.durable").exists()
    assert open_tail(store, tmp_path).drain()


def test_a_torn_record_ends_the_scan_and_is_never_accepted(store: Store, tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    good = put_minute(writer, 0)
    last = put(writer, Kind.TRADE, net_usdt=5.0)
    segment = journal.segments(tmp_path / "journal", "main")[0]
    raw = bytearray(segment.path.read_bytes())
    offset = next(at for at in range(4_096, len(raw), SLOT_BYTES) if int.from_bytes(raw[at : at + 8], "little") == last)
    raw[offset + 100] ^= 0xFF
    segment.path.write_bytes(raw)
    tail = open_tail(store, tmp_path)
    assert tail.drain()
    assert stored(store, "trades", writer.run_id) == good["trades"]
    assert "torn record" in tail.status()[0].fault
    newer = open_writer(tmp_path, run_id=writer.run_id + 1)
    more = put_minute(newer, 1)
    assert tail.drain()
    assert tail.status()[0].done
    assert stored(store, "trades", newer.run_id) == more["trades"]


def test_a_segment_that_ended_before_the_next_one_was_there(store: Store, tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    expected: dict[str, list[int]] = {}
    while len(journal.segments(tmp_path / "journal", "main")) < 2:
        merge(expected, put_minute(writer, len(expected.get("trades", []))))
    second = journal.segments(tmp_path / "journal", "main")[1].path
    hidden = second.rename(
        second.with_suffix(".hidden")
    )  # as between the end of one segment and the rename of the next
    tail = open_tail(store, tmp_path)
    assert tail.drain() and tail.drain()
    hidden.rename(second)
    assert tail.drain()
    for name, seqs in expected.items():
        assert stored(store, name, writer.run_id) == seqs


def test_a_segment_of_another_layout_is_named_and_kept(store: Store, tmp_path: Path) -> None:
    writer = open_writer(tmp_path, run_id=5)
    put_minute(writer, 0)
    path = journal.segments(tmp_path / "journal", "main")[0].path
    raw = bytearray(path.read_bytes())
    raw[8] ^= 0xFF
    path.write_bytes(raw)
    tail = open_tail(store, tmp_path, keep_segments=1)
    assert tail.drain()
    assert "another record layout" in tail.status()[0].fault and path.exists()


TAIL_PROCESS = """
import sys
from pathlib import Path
from store.client import connect
from store.tail import Tail
data_dir = Path(sys.argv[1])
tail = Tail(connect("embedded", data_dir), [data_dir / "journal"], data_dir / "store" / "tail", batch_records=500)
while True:
    tail.step()
    if tail.rows:
        print(tail.rows, flush=True)
"""


def test_kill_9_under_load_loses_nothing_and_doubles_nothing(tmp_path: Path, long_run) -> None:
    rng = random.Random(7)
    writer = open_writer(tmp_path)
    expected: dict[str, list[int]] = {}
    minute = inserted = 0
    for life in range(long_run(3, 50)):
        child = subprocess.Popen([sys.executable, "-c", TAIL_PROCESS, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        spare = rng.uniform(0, 0.4)  # most lives end this long after their first insert, every fourth before it
        until = time.monotonic() + (rng.uniform(0.2, 2.0) if life % 4 == 3 else 60)
        while time.monotonic() < until:
            merge(expected, put_minute(writer, minute))
            minute += 1
            if until - time.monotonic() > 2 and child.stdout.read(1):
                inserted += 1
                until = time.monotonic() + spare
            threading.Event().wait(0.02)
        child.kill()
        child.wait()
    writer.close()
    assert inserted >= long_run(3, 35)
    with connect("embedded", tmp_path) as store:
        before = len(stored(store, "signals", writer.run_id))
        assert open_tail(store, tmp_path).drain(300)
        assert 0 < before <= len(expected["signals"])
        for name, seqs in expected.items():
            assert stored(store, name, writer.run_id, final=0) == seqs, name
        candles = store.rows(
            "SELECT symbol, count(), uniqExact(open_time) FROM candles_1m GROUP BY symbol ORDER BY symbol"
        )
        assert candles == [(name, minute, minute) for name in SYMBOLS]
        assert agreement.faults(store, tmp_path / "journal") == []


def wait_until(condition, deadline_s: float = 60.0) -> None:
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "condition not reached"
        threading.Event().wait(0.01)


def test_agreement_counts_what_is_missing(store: Store, tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    for minute in range(300):
        put_minute(writer, minute)
    put(writer, Kind.FUNDING, symbol=1, stamp_ms=T0, value=1e-4)
    assert len(agreement.faults(store, tmp_path / "journal")) >= 5
    open_tail(store, tmp_path).drain()
    assert agreement.faults(store, tmp_path / "journal") == []
    counted = {item.table: item.journal_rows for item in agreement.compare(store, tmp_path / "journal")}
    assert (counted["bars_seen"], counted["trades"], counted["funding"], counted["fills"]) == (900, 300, 1, 0)
    store.command("ALTER TABLE trades DELETE WHERE net_usdt = 7", None)
    wait_until(lambda: store.scalar("SELECT count() FROM trades") == 299)
    (fault,) = agreement.faults(store, tmp_path / "journal")
    assert fault.endswith("the journal has 300 records, the store 299")
