"""One owner per folder, everybody else through its front, and a client that forgets nothing of a failed query."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from store import migrations, owner
from store.client import Store, connect
from store.ddl import Layout
from store.errors import StoreError
from store.schema import tables

CHILD = """
import sys
from store.client import connect
with connect("embedded", sys.argv[1]) as store:
    print(store.scalar(sys.argv[2]))
"""


def in_another_process(data_dir: Path, sql: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(data_dir), sql], capture_output=True, text=True, timeout=60, check=True
    )
    return run.stdout.strip()


def test_every_table_of_the_contract_exists(store: Store) -> None:
    named = (
        "instruments candles_1m candles_15m candles_1h mark_1m premium_index funding open_interest features_1m "
        "features_15m features_1h labels_long_1m labels_short_1m signals orders fills positions trades models "
        "training_jobs data_gaps latency audits commands sessions"
    )
    present = {row[0] for row in store.rows("SHOW TABLES")}
    assert set(named.split()) <= present
    for name in ["signals", "orders", "fills", "positions", "trades", "sessions", "latency", "commands", "data_gaps"]:
        assert [column.name for column in tables()[name].columns[:3]] == ["engine_id", "run_id", "seq"]


def test_another_process_reads_through_the_front_while_we_own(store: Store, tmp_path: Path) -> None:
    store.command("INSERT INTO funding (symbol, rate) VALUES ('BTCUSDT', 0.25)")
    assert in_another_process(tmp_path, "SELECT rate FROM funding") == "0.25"


def test_a_command_owns_the_store_when_nobody_does_and_leaves_it_free(tmp_path: Path) -> None:
    assert in_another_process(tmp_path, "SELECT 1") == "1"
    assert owner.read_owner(tmp_path) is None
    with connect("embedded", tmp_path) as ours:
        assert ours.scalar("SELECT 2") == 2
        found = owner.read_owner(tmp_path)
        assert found is not None and found.pid == os.getpid()


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    code = CHILD.replace(
        "print(store.scalar(sys.argv[2]))", "store.scalar('SELECT 1'); print('up', flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline().strip() == "up"
    child.kill()
    child.wait()
    assert owner.read_owner(tmp_path) is not None  # the announcement is stale, the lock is gone
    with connect("embedded", tmp_path) as ours:
        assert ours.scalar("SELECT 3") == 3


def test_a_failed_query_leaves_nothing_in_front_of_the_next(store: Store) -> None:
    for _ in range(6):
        with pytest.raises(StoreError):
            store.rows("SELECT throwIf(number = 150000), number FROM numbers(200000)")
        assert store.rows("SELECT 7") == [(7,)]


def test_reads_see_the_newest_version_of_a_row_only(store: Store) -> None:
    for version, close in ((2, 20.0), (1, 10.0)):
        store.command(f"INSERT INTO candles_1m (symbol, close, version) VALUES ('X', {close}, {version})")
    assert store.rows("SELECT close FROM candles_1m") == [(20.0,)]


def test_the_same_token_stores_once(store: Store) -> None:
    from store import native

    block = native.block({"symbol": ("String", "X"), "seq": ("UInt64", [1])}, 1)
    for _ in range(3):
        store.insert_block("bars_seen", ["symbol", "seq"], block, "token")
    assert store.scalar("SELECT count() FROM bars_seen SETTINGS final = 0") == 1


def test_tokens_are_kept_and_private(store: Store, tmp_path: Path) -> None:
    store.scalar("SELECT 1")
    path = tmp_path / "store" / "front.json"
    assert path.stat().st_mode & 0o077 == 0
    kept = json.loads(path.read_text())
    assert owner.tokens(tmp_path).job == kept["job"] != kept["read"]


def test_a_new_column_is_added_and_recorded(tmp_path: Path) -> None:
    with connect("embedded", tmp_path) as first:
        first.command("ALTER TABLE trades DROP COLUMN net_usdt")
        first.command("ALTER TABLE trades MODIFY COLUMN mode Enum8('shadow' = 0)")
        first.command("TRUNCATE TABLE schema_migrations")
    with connect("embedded", tmp_path) as second:
        kinds = dict(second.rows("SELECT name, type FROM system.columns WHERE database = 'ta' AND table = 'trades'"))
        assert kinds["net_usdt"] == "Float64" and "'live' = 1" in kinds["mode"]
        recorded = [row[0] for row in second.rows("SELECT statement FROM schema_migrations ORDER BY step")]
        assert any("ADD COLUMN IF NOT EXISTS `net_usdt`" in line for line in recorded)


def test_retention_sets_and_removes_the_ttl(tmp_path: Path) -> None:
    def ttl() -> bool:
        return " TTL " in str(store.scalar("SELECT create_table_query FROM system.tables WHERE name = 'latency'"))

    with connect("embedded", tmp_path, retention_days=30) as store:
        assert ttl()
        kept = store.scalar("SELECT create_table_query FROM system.tables WHERE name = 'trades'")
        assert " TTL " not in str(kept)  # what was traded is never deleted
    with connect("embedded", tmp_path) as store:
        assert not ttl()
    with connect("embedded", tmp_path, retention_days=7) as store:
        assert ttl()


@pytest.mark.parametrize("cluster", ["", "main"])
def test_the_whole_schema_parses(store: Store, cluster: str) -> None:
    statements = migrations.render(Layout("ta", cluster, 30))
    for statement in statements:
        store.rows("EXPLAIN AST " + statement)
    text = "\n".join(statements)
    if cluster:
        assert text.count("ENGINE = Distributed('main'") == text.count("ENGINE = ReplicatedReplacingMergeTree(") > 25
        assert text.count("ON CLUSTER 'main'") == len(statements)


def test_a_closed_store_does_not_open_again(tmp_path: Path) -> None:
    store = connect("embedded", tmp_path)
    store.scalar("SELECT 1")
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.scalar("SELECT 1")
    assert owner.read_owner(tmp_path) is None


def test_an_unknown_url_is_refused() -> None:
    with pytest.raises(StoreError, match="expected 'embedded' or clickhouse://"):
        connect("mysql://x")


def test_a_process_that_forgets_to_close_ends_cleanly(tmp_path: Path) -> None:
    code = (
        "import sys; from store.client import connect\n"
        "store = connect('embedded', sys.argv[1]); print(store.scalar('SELECT 1'))"
    )
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
        assert (run.returncode, run.stdout) == (0, "1\n"), run.stderr


BUSY_OWNER = """
import http.client, sys, threading, time, urllib.request, urllib.parse
from pathlib import Path
from store import owner
from store.client import connect
from store.errors import StoreError
data_dir = Path(sys.argv[1])
store = connect("embedded", data_dir)
store.scalar("SELECT 1")
url = owner.read_owner(data_dir).url
said = []  # a line that two threads print at once is none
slow = "SELECT sum(sleepEachRow(0.5)) FROM numbers(80)"

def over_the_front():
    query = urllib.parse.urlencode({"query": slow, "password": owner.tokens(data_dir).read, "max_block_size": 1})
    try:
        urllib.request.urlopen(f"{url}/?{query}").read()
    except (OSError, http.client.HTTPException):
        said.append("dropped")

def here():
    try:
        store.scalar(slow.replace("80", "4"))
        said.append("finished")
    except StoreError:
        said.append("refused")

running = "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow%' AND query NOT LIKE '%processes%'"
until, threads = time.monotonic() + 60, []
for works, count in (((over_the_front, over_the_front), 2), ((here,), 3)):  # the short one when the long ones run
    threads += [threading.Thread(target=work) for work in works]
    for thread in threads[-len(works):]:
        thread.start()
    while (seen := int(store.scalar(running))) < count and time.monotonic() < until:
        time.sleep(0.01)
print("running", seen, flush=True)
began = time.monotonic()
store.close()
for thread in threads:
    thread.join()
print(*said, sep="\\n")
print("closed", time.monotonic() - began < 30, flush=True)
for handler in threading.enumerate()[1:]:  # what the front ran in the engine has ended too
    handler.join(30)
print("left", threading.active_count() - 1, flush=True)
"""


def test_an_owner_that_closes_under_running_statements_ends_cleanly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUSY_OWNER, str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    said = sorted(done.stdout.split("\n"))
    assert said == ["", "closed True", "dropped", "dropped", "finished", "left 0", "running 3"], done.stdout
    with connect("embedded", tmp_path) as after:
        assert after.scalar("SELECT 1") == 1
