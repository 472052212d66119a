"""Block compression against chdb's own files, and over the front as JDBC drivers and Grafana's plugin use it."""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from store import blocks, owner
from store.client import Store


def test_blocks_that_chdb_wrote_are_read_and_ours_carry_its_checksum(store: Store, tmp_path: Path) -> None:
    """The oracle: the column files of a part are sequences of these blocks."""
    values = list(range(50_000))
    for codec in ("LZ4", "ZSTD(1)", "NONE"):
        name = f"scratch_{codec[:4].lower()}"
        store.command(
            f"CREATE TABLE {name} (n UInt32 CODEC({codec})) ENGINE = MergeTree ORDER BY tuple() "
            "SETTINGS min_bytes_for_wide_part = 0"
        )
        store.command(f"INSERT INTO {name} SELECT number FROM numbers({len(values)})")
        folder = Path(str(store.scalar(f"SELECT path FROM system.parts WHERE table = '{name}' AND active")))
        raw = (folder / "n.bin").read_bytes()
        plain = blocks.decompress(raw)
        assert [int.from_bytes(plain[i : i + 4], "little") for i in range(0, len(plain), 4)] == values
        again = blocks.compress(plain)
        assert blocks.decompress(again) == plain
        store.command(f"DROP TABLE {name}")


@pytest.mark.parametrize("size", [0, 1, 100, blocks.BLOCK_BYTES, 2 * blocks.BLOCK_BYTES + 7])
def test_round_trips(size: int) -> None:
    data = os.urandom(size // 2) + bytes(size - size // 2)
    assert blocks.decompress(blocks.compress(data)) == data


def test_what_is_damaged_is_refused() -> None:
    good = blocks.compress(b"some data" * 100)
    for raw in (good[:-1], good[:10], good + b"x", bytes([good[0] ^ 1]) + good[1:], good[:40] + b"\xff" + good[41:]):
        with pytest.raises(ValueError):
            blocks.decompress(raw)
    head = blocks._HEAD.pack(0x77, 9, 1)
    with pytest.raises(ValueError, match="unknown compression method 0x77"):
        blocks.decompress(blocks.checksum(head) + head)


def ask(store: Store, folder: Path, sql: str, body: bytes | None = None, token: str = "read", **options: str) -> bytes:
    store.scalar("SELECT 1")
    found, tokens = owner.read_owner(folder), owner.tokens(folder)
    assert found is not None
    options |= {"query": sql, "password": tokens.read if token == "read" else tokens.job, "user": "default"}
    request = urllib.request.Request(f"{found.url}/?{urllib.parse.urlencode(options)}", data=body)
    with urllib.request.urlopen(request) as reply:
        return bytes(reply.read())


def test_answers_and_inserts_in_blocks(store: Store, tmp_path: Path) -> None:
    sql = "SELECT number, toString(number) FROM numbers(100000) FORMAT TSV"
    plain = ask(store, tmp_path, sql)
    packed = ask(store, tmp_path, sql, compress="1")
    assert blocks.decompress(packed) == plain and len(packed) < len(plain)
    store.command("CREATE TABLE scratch (n UInt64, t String) ENGINE = MergeTree ORDER BY n")
    ask(store, tmp_path, "INSERT INTO scratch FORMAT TSV", blocks.compress(plain), "job", decompress="1")
    assert store.rows("SELECT count(), sum(n) FROM scratch") == [(100_000, 4_999_950_000)]
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(store, tmp_path, "INSERT INTO scratch FORMAT TSV", b"plain", "job", decompress="1")
    assert refused.value.code == 400
    with pytest.raises(urllib.error.HTTPError) as failed:  # an error is readable text, compressed or not
        ask(store, tmp_path, "SELECT no_such_function()", compress="1")
    assert b"UNKNOWN_FUNCTION" in failed.value.read()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT displayName(), version(), revision(), timezone()",
        "SELECT currentUser() AS user, timezone() AS timezone, version() AS version LIMIT 1",
        "SELECT name, database FROM system.tables WHERE database NOT IN ('system') ORDER BY name",
        "SELECT name, type, comment FROM system.columns WHERE database = 'ta' AND table = 'candles_1m'",
        "SHOW DATABASES",
        "SHOW TABLES FROM ta LIKE '%candles%'",
        "DESCRIBE TABLE ta.candles_1m",
        "SELECT name, value, changed FROM system.settings WHERE name IN ('max_threads', 'readonly')",
        "SELECT toUnixTimestamp(toStartOfInterval(open_time, INTERVAL 60 second)) * 1000 AS t, avg(close) AS close "
        "FROM candles_1m WHERE open_time >= toDateTime64(1750000000.0, 3) GROUP BY t ORDER BY t",
        "SELECT timezone()",
        "SELECT * FROM system.functions LIMIT 5",
        "EXPLAIN SYNTAX SELECT 1",
    ],
)
def test_what_database_tools_ask_first_is_answered(store: Store, tmp_path: Path, sql: str) -> None:
    for form in ("Native", "RowBinaryWithNamesAndTypes", "JSON"):
        plain = ask(store, tmp_path, sql, default_format=form, database="ta")
        packed = ask(store, tmp_path, sql, default_format=form, compress="1", database="ta")
        assert bool(blocks.decompress(packed)) == bool(plain)
        assert plain or ("FROM candles_1m" in sql and form == "Native")  # no rows are no Native block
