"""The database gone or frozen for an hour of market time: the journal holds, the tail catches up, each record once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import journal
from kernels.records import BarFlag, Kind
from store import agreement, owner
from store.client import connect
from store.tail import Tail
from tests.store.test_tail import T0, put, wait_until

HOUR_MINUTES = 60
SEGMENT = 4 << 20


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.client.RETRY_S", 0.2)
    monkeypatch.setattr("store.tail.BACKOFF_S", (0.05, 0.2))


class Database:
    """A server process that can be killed, frozen and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start()
        found = owner.read_owner(folder)
        assert found is not None
        self.url = f"clickhouse://any:{owner.tokens(folder).job}@{found.url.removeprefix('http://')}/elsewhere"

    def start(self) -> None:
        code = (
            "import sys, threading; from store.client import connect; store = connect('embedded', sys.argv[1]); "
            "store.scalar('SELECT 1'); print('up', flush=True); threading.Event().wait()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(self._folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None and self.process.stdout.readline().strip() == "up"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    served = Database(tmp_path / "database")
    yield served
    served.process.send_signal(signal.SIGCONT)
    served.kill()


class Market:
    """Journals what `symbols` symbols bring: a mark price a second and a bar a minute each, an order per minute."""

    def __init__(self, folder: Path, symbols: int, segment_bytes: int = SEGMENT) -> None:
        def preamble(writer: journal.Writer) -> None:
            for index in range(symbols):
                put(writer, Kind.INSTRUMENT, index=index, symbol=b"S%dUSDT" % index, tick_size=0.1)

        self.writer = journal.Writer(folder, "main", journal.new_run_id(folder), segment_bytes, preamble)
        self.symbols, self.minutes = symbols, 0

    def pass_minutes(self, count: int) -> None:
        for _ in range(count):
            start = T0 + self.minutes * 60_000
            for second in range(60):
                for symbol in range(self.symbols):
                    self.writer.write(Kind.MARK, 1, start + second * 1_000, symbol, 1.5, 1e-4, 0, 0, 6)
            bar = {"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "flags": BarFlag.WS, "open_ms": start}
            for symbol in range(self.symbols):
                put(self.writer, Kind.BAR, start + 60_000, symbol=symbol, timeframe=0, late_ms=150, **bar)
            put(self.writer, Kind.ORDER, start + 60_000, client_order_id=b"o%d" % self.minutes, qty=1)
            self.minutes += 1


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_an_hour_without_the_database(database: Database, tmp_path: Path, long_run, how: str) -> None:
    market = Market(tmp_path / "journal", long_run(8, 600))
    with connect(database.url, tmp_path) as store:
        tail = Tail(store, [tmp_path / "journal"], tmp_path / "tail", keep_segments=1, batch_records=8_192)
        stop = threading.Event()
        follower = threading.Thread(target=tail.run, args=(stop, 0.02))
        follower.start()
        market.pass_minutes(3)
        wait_until(lambda: bool(tail.status()) and tail.status()[0].seq == market.writer.seq, 60)
        stored_before = tail.rows
        if how == "gone":
            database.kill()
        else:
            database.process.send_signal(signal.SIGSTOP)
        market.pass_minutes(1)
        if how == "gone":
            wait_until(lambda: tail.error != "")
        market.pass_minutes(HOUR_MINUTES - 1)
        assert tail.rows == stored_before and tail.status()[0].seq < market.writer.seq
        assert not market.writer.full and market.writer.dropped == 0
        held = {segment.number for segment in journal.segments(tmp_path / "journal", "main")}
        assert held >= set(range(tail._runs["main", market.writer.run_id].number, max(held) + 1)), "deleted unread"
        wait_until(lambda: tail.status()[0].behind_s > 0.2)  # the lag that `ta doctor` and /metrics show
        if how == "gone":
            database.start()
        else:
            database.process.send_signal(signal.SIGCONT)
        market.pass_minutes(1)
        wait_until(lambda: tail.status()[0].seq == market.writer.seq and tail.error == "", long_run(60, 300))
        stop.set()
        follower.join(60)
        expected = {"orders": market.minutes, "bars_seen": market.minutes * market.symbols}
        for table, count in expected.items():
            found = store.rows(f"SELECT count(), uniqExact(run_id, seq) FROM `{table}` SETTINGS final = 0")
            assert found == [(count, count)], table
        assert store.scalar("SELECT count() FROM candles_1m") == market.minutes * market.symbols
        assert agreement.faults(store, tmp_path / "journal") == []


def test_a_stopping_process_does_not_wait_for_a_database_that_is_gone(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.client.RETRY_S", 600.0)
    market = Market(tmp_path / "journal", 1)
    store = connect(database.url, tmp_path)
    tail = Tail(store, [tmp_path / "journal"], tmp_path / "tail")
    assert store.scalar("SELECT 1") == 1
    database.kill()
    market.pass_minutes(1)
    stop = threading.Event()
    follower = threading.Thread(target=tail.run, args=(stop, 0.02))
    follower.start()
    stop.set()
    store.hurry()
    follower.join(60)
    assert not follower.is_alive()
    store.close()


@pytest.mark.parametrize("small_disk", ["96m"], indirect=True)
def test_a_full_disk_stops_entries_keeps_exits_and_everything_goes_on_when_there_is_room(small_disk: Path) -> None:
    market = Market(small_disk / "journal", 4, 256 << 10)
    writer, stop = market.writer, threading.Event()
    with connect("embedded", small_disk) as store:
        tail = Tail(store, [small_disk / "journal"], small_disk / "store" / "tail", keep_segments=1)
        market.pass_minutes(2)
        assert tail.drain()
        ballast = small_disk / "ballast"
        with open(ballast, "wb") as file:
            free = os.statvfs(small_disk)
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
        minutes = market.minutes
        while not writer.full:  # what the engine's gate `journal_full` and the alarm of control look at
            market.pass_minutes(1)
            assert market.minutes < minutes + 100
        exits = [put(writer, Kind.ORDER, T0, client_order_id=b"exit%d" % number, qty=1) for number in range(50)]
        assert all(exits) and writer.write(Kind.MARK, 1, T0, 0, 1.5, 1e-4, 0, 0, 6) == 0
        follower = threading.Thread(target=tail.run, args=(stop, 0.02))
        follower.start()
        wait_until(lambda: tail.error != "")
        assert "space" in tail.error, tail.error
        ballast.unlink()
        wait_until(lambda: tail.error == "" and tail.status()[0].seq >= exits[-1], 60)
        writer.retry_allocation()
        wait_until(lambda: not writer.full)
        market.pass_minutes(1)
        wait_until(lambda: tail.status()[0].seq == writer.seq)
        stop.set()
        follower.join(60)
        exit_orders = "countIf(client_order_id LIKE 'exit%')"
        found = store.rows(f"SELECT count(), uniqExact(seq), {exit_orders} FROM orders SETTINGS final = 0")
        assert found == [(market.minutes + 50, market.minutes + 50, 50)]
        assert store.scalar("SELECT count() FROM bars_seen") == market.minutes * 4
        assert agreement.faults(store, small_disk / "journal") == []
    writer.close()
