"""The store behind `clickhouse://`, owners that die, and an engine killed in the middle of a record."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from engine import journal
from store import agreement, migrations, owner, queries, writer
from store.client import Store, connect
from store.ddl import Layout
from store.tail import Tail


@pytest.fixture
def url(store: Store, tmp_path: Path) -> str:
    """A ClickHouse server's address: TA_CLICKHOUSE_URL, or the front, which speaks as much of it as we use."""
    if given := os.environ.get("TA_CLICKHOUSE_URL"):
        return given
    store.scalar("SELECT 1")
    found = owner.read_owner(tmp_path)
    assert found is not None
    return f"clickhouse://any:{owner.tokens(tmp_path).job}@{found.url.removeprefix('http://')}/elsewhere"


def test_the_same_code_works_on_a_server(url: str, tmp_path: Path, make_bars) -> None:
    bars = make_bars(1_000)
    with connect(url, tmp_path) as server:
        server.command("TRUNCATE TABLE candles_1m")
        for _ in range(2):
            writer.insert_bars(server, "BTCUSDT", 0, bars, "rest")
        assert queries.bars(server, "BTCUSDT", 0).tobytes() == bars.tobytes()
        assert queries.counts(server)["candles_1m"] == 1_000
        assert server.frame("SELECT candles, missing FROM v_completeness").height == 2  # two days
        assert server.scalar("SELECT count() FROM schema_migrations") > 30
    with connect(url, tmp_path) as again:  # nothing left to migrate
        assert again.scalar("SELECT uniqExact(schema_hash) FROM schema_migrations") == 1


def test_a_server_migrates_what_it_lacks_like_the_embedded_store(url: str, tmp_path: Path) -> None:
    with connect(url, tmp_path) as server:
        server.command("ALTER TABLE fills DROP COLUMN fee_usdt")
        server.command("TRUNCATE TABLE schema_migrations")
    with connect(url, tmp_path) as server:
        assert server.scalar("SELECT count() FROM system.columns WHERE table = 'fills' AND name = 'fee_usdt'") >= 1


def test_the_cluster_of_the_url_shapes_the_schema() -> None:
    from store.client import ServerSource

    source = ServerSource("clickhouses://u:p%40ss@host/db?cluster=main")
    assert source.arguments() == {"host": "host", "port": 8443, "username": "u", "password": "p@ss", "secure": True}
    statements = "\n".join(migrations.render(Layout("db", "main", 30)))
    assert "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/db/trades', '{replica}', `seq`)" in statements


OWNER = """
import sys, threading
from store.client import connect
store = connect("embedded", sys.argv[1])
store.scalar("SELECT 1")
print("up", flush=True)
threading.Event().wait()
"""

COUNT = "print(store.scalar('SELECT count() FROM candles_1m'))"


def start_owner(folder: Path) -> subprocess.Popen:
    child = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline().strip() == "up"
    return child


def test_a_job_goes_on_when_the_owner_is_killed_and_the_next_owner_when_the_job_ends(tmp_path: Path, make_bars) -> None:
    child = start_owner(tmp_path)
    bars = make_bars(1_500)
    job = connect("embedded", tmp_path)
    stop = threading.Event()
    done: list[int] = []

    def work() -> None:
        for at in range(0, 1_500, 10):
            writer.insert_bars(job, "BTCUSDT", 0, bars[at : at + 10], "rest")
            done.append(at)
            if stop.wait(0.002):
                return

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: len(done) > 20)
    child.kill()
    child.wait()
    thread.join(60)
    found = owner.read_owner(tmp_path)
    assert len(done) == 150 and found is not None and found.pid == os.getpid()
    reader = subprocess.run(
        [sys.executable, "-c", OWNER.replace("threading.Event().wait()", COUNT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert reader.stdout.split() == ["up", "1500"]
    job.close()
    with connect("embedded", tmp_path) as after:
        assert queries.bars(after, "BTCUSDT", 0).tobytes() == bars.tobytes()
        assert after.scalar("SELECT count() FROM candles_1m") == 1_500


ENGINE = """
import sys, threading
from pathlib import Path
from engine import journal
from kernels.records import Kind
folder = Path(sys.argv[1])
pace = threading.Event()
head = lambda writer: writer.write(Kind.CONFIG, 1, 2, b"h", b"1", 0, 0)
writer = journal.Writer(folder, "main", journal.new_run_id(folder), 256 << 10, head)
order = (b"o", 7, 0, 1, 2, 1, 0, 0, 1.5, 2.5, 0.0, 0.0, 9, 0, 0, b"why")
while True:
    for i in range(50):
        writer.write(Kind.MARK, 1, 1_750_000_000_000 + i, 3, 1.5, 0.0001, 0, 0, 6)
        seq = writer.write(Kind.ORDER, 1, 1_750_000_000_000 + i, *order)
    print(seq, flush=True)
    pace.wait(0.002)
"""


def test_kill_9_of_the_engine_loses_no_acknowledged_record(store: Store, tmp_path: Path, long_run) -> None:
    rng = random.Random(3)
    folder = tmp_path / "journal"
    tail = Tail(store, [folder], tmp_path / "store" / "tail")
    acknowledged: dict[int, int] = {}
    for _ in range(long_run(4, 50)):
        child = subprocess.Popen([sys.executable, "-c", ENGINE, str(folder)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines = [child.stdout.readline()]
        until = time.monotonic() + rng.uniform(0.0, 0.15)
        while time.monotonic() < until:
            tail.step()
        child.kill()
        lines += child.stdout.read().split("\n")
        child.wait()
        run_id = max(segment.run_id for segment in journal.segments(folder, "main"))
        acknowledged[run_id] = max(int(line) for line in lines if line.strip())
    assert tail.drain(300)
    assert [status.fault for status in tail.status()] == [""] * len(tail.status())
    assert len(acknowledged) == long_run(4, 50)
    assert agreement.faults(store, folder) == []
    for run_id, seq in acknowledged.items():
        seqs = np.array(
            [row[0] for row in store.rows(f"SELECT seq FROM orders WHERE run_id = '{run_id}' ORDER BY seq")]
        )
        assert (
            seqs[-1] >= seq and (np.diff(seqs) <= 4).all()
        )  # an order each two records, but for segment heads and rolls
        assert store.scalar(f"SELECT count() FROM orders WHERE run_id = '{run_id}' SETTINGS final = 0") == len(seqs)
    assert all(status.done or status.run_id == max(acknowledged) for status in tail.status())


def wait_until(condition, deadline_s: float = 60.0) -> None:
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "condition not reached"
        threading.Event().wait(0.01)
