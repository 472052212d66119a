"""An unmodified clickhouse-connect, sync and async, against the front; the same suite against a real server.

With TA_CLICKHOUSE_URL set, the suite runs against that server as well.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import clickhouse_connect
import numpy as np
import polars as pl
import pytest

from store import owner
from store.client import ServerSource, Store

UTC = dt.UTC
SERVERS = ["front", *(["server"] if os.environ.get("TA_CLICKHOUSE_URL") else [])]


@pytest.fixture
def address(store: Store, tmp_path: Path) -> dict:
    store.scalar("SELECT 1")
    found = owner.read_owner(tmp_path)
    assert found is not None
    tokens = owner.tokens(tmp_path)
    return {"host": "127.0.0.1", "port": int(found.url.rpartition(":")[2]), "job": tokens.job, "read": tokens.read}


@pytest.fixture(params=SERVERS)
def target(request: pytest.FixtureRequest, address: dict) -> dict:
    if request.param == "front":
        return {"host": address["host"], "port": address["port"], "username": "u", "password": address["job"]}
    source = ServerSource(os.environ["TA_CLICKHOUSE_URL"])
    source.open().close()  # migrates
    return source.arguments()


@pytest.fixture(params=[False, True, "lz4", "zstd", "gzip"])
def client(request: pytest.FixtureRequest, target: dict) -> Iterator:
    made = clickhouse_connect.get_client(**target, database="ta", compress=request.param)
    made.command("DROP TABLE IF EXISTS scratch")
    made.command(
        "CREATE TABLE scratch (id UInt32, at DateTime64(3, 'UTC'), name LowCardinality(String), price Float64, "
        "note Nullable(String), list Array(Float64)) ENGINE = MergeTree ORDER BY id"
    )
    yield made
    made.command("DROP TABLE scratch")
    made.close()


def test_rows_of_every_type_round_trip(client) -> None:
    now = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    rows = [
        [i, now, f"n{i % 3}", i / 7, None if i % 2 else "it's \\ \t ok", [float(i)] * (i % 4)] for i in range(5_000)
    ]
    client.insert("scratch", rows, column_names=["id", "at", "name", "price", "note", "list"])
    result = client.query("SELECT * FROM scratch ORDER BY id", column_formats={"at": "native"})
    assert [list(row) for row in result.result_rows] == [
        [row[0], row[1] if result.result_rows[0][1].tzinfo else row[1].replace(tzinfo=None), *row[2:]] for row in rows
    ]


def test_frames_arrow_and_numpy(client) -> None:
    frame = pl.DataFrame(
        {"id": np.arange(100_000, dtype=np.uint32), "price": np.random.default_rng(1).normal(size=100_000)}
    )
    client.insert_df_arrow("scratch", frame)
    back = client.query_df_arrow("SELECT id, price FROM scratch ORDER BY id", dataframe_library="polars")
    assert back.equals(frame)
    assert (client.query_np("SELECT price FROM scratch ORDER BY id")[:, 0] == frame["price"].to_numpy()).all()
    with client.query_row_block_stream("SELECT id FROM scratch") as blocks:
        assert sum(len(block) for block in blocks) == 100_000


def test_parameters_settings_and_commands(client) -> None:
    values = {"text": "a'b\\c\td", "when": dt.datetime(2025, 5, 4, 3, 2, 1, tzinfo=UTC), "list": [1, 2, 3], "x": 0.1}
    row = client.query(
        "SELECT {text:String}, toUnixTimestamp({when:DateTime('UTC')}), {list:Array(UInt8)}, {x:Float64}",
        parameters=values,
    ).result_rows[0]
    assert row == (values["text"], int(values["when"].timestamp()), [1, 2, 3], 0.1)
    assert client.command("SELECT getSetting('max_block_size')", settings={"max_block_size": 4321}) == 4321
    assert client.command("SELECT count() FROM scratch") == 0
    assert client.query("SELECT 1 AS a LIMIT 0").column_names == ("a",)
    assert client.ping()
    long = {"text": "x" * 100_000}  # too long for an address: sent as a form
    assert client.query("SELECT length({text:String})", parameters=long).result_rows == [(100_000,)]


def test_errors_carry_the_code_and_the_next_query_works(client) -> None:
    for _ in range(3):
        with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError) as caught:
            client.query("SELECT throwIf(number = 99999) FROM numbers(200000)")
        assert caught.value.code == 395
        assert client.query("SELECT 5").result_rows == [(5,)]
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError):
        client.query("SELECT * FROM no_such_table")


async def test_the_async_client(target: dict) -> None:
    client = await clickhouse_connect.get_async_client(**target, database="ta")
    try:
        await client.command("DROP TABLE IF EXISTS scratch_async")
        await client.command("CREATE TABLE scratch_async (id UInt32, name String) ENGINE = MergeTree ORDER BY id")
        await client.insert("scratch_async", [[i, str(i)] for i in range(1_000)], column_names=["id", "name"])
        result = await client.query(
            "SELECT sum(id), any(name) FROM scratch_async WHERE id = {id:UInt32}", parameters={"id": 7}
        )
        assert result.result_rows == [(7, "7")]
        await client.command("DROP TABLE scratch_async")
    finally:
        await client.close()


# --- what only the front promises ---


def reader(address: dict, **more):
    return clickhouse_connect.get_client(
        host=address["host"], port=address["port"], username="any", password=address["read"], database="ta", **more
    )


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO trades (seq) VALUES (1)",
        "DROP TABLE trades",
        "CREATE TABLE t (a Int8) ENGINE = Memory",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT * FROM file('/etc/hostname', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT * FROM /* x */ PyThOn (os)",
        "SELECT 1 INTO -- x\n OUTFILE '/tmp/no.csv'",
        "SELECT 1 /* ' */ INTO OUTFILE '/tmp/no.csv'",
        "SYSTEM SHUTDOWN",
        "TRUNCATE TABLE trades",
    ],
)
def test_the_read_token_cannot_write_or_reach_outside(address: dict, statement: str) -> None:
    client = reader(address)
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError):
        client.command(statement)
    assert not Path("/tmp/no.csv").exists()
    assert client.query("SELECT 'INTO OUTFILE python(x)'").result_rows == [("INTO OUTFILE python(x)",)]


def test_the_read_token_has_limits_that_a_client_cannot_lift(address: dict) -> None:
    base = f"http://{address['host']}:{address['port']}/?password={address['read']}&max_execution_time=0&max_threads=3"

    def setting(name: str) -> bytes:
        return urllib.request.urlopen(base + f"&query=SELECT+getSetting('{name}')").read()

    assert (setting("max_execution_time"), setting("max_threads"), setting("final")) == (b"60\n", b"3\n", b"true\n")


def test_reads_with_get_and_wrong_tokens(address: dict) -> None:
    base = f"http://{address['host']}:{address['port']}/"
    assert urllib.request.urlopen(base + "ping").read() == b"Ok.\n"
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(base + "?query=SELECT+1")
    assert refused.value.code == 403 and refused.value.headers["X-ClickHouse-Exception-Code"] == "516"
    good = urllib.request.urlopen(base + f"?query=SELECT+1&password={address['read']}")
    assert good.read() == b"1\n" and good.headers["X-ClickHouse-Format"] == "TabSeparated"
    with pytest.raises(HTTPError):  # GET never writes, whatever the token
        urllib.request.urlopen(base + f"?query=DROP+TABLE+trades&password={address['job']}")


def test_nonsense_on_the_socket_harms_nobody(address: dict) -> None:
    for payload in (b"\x00\xff" * 100, b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"GET /\r\n\r\n",
                    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):  # fmt: skip
        with socket.create_connection((address["host"], address["port"]), timeout=5) as raw:
            raw.sendall(payload)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
    assert reader(address).query("SELECT 1").result_rows == [(1,)]


def test_a_request_with_a_broken_body_is_answered(address: dict) -> None:
    request = urllib.request.Request(
        f"http://{address['host']}:{address['port']}/?password={address['job']}",
        data=b"not lz4",
        headers={"Content-Encoding": "lz4"},
    )
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 400
