"""`connect`: the one door to ClickHouse, whoever owns it.

`embedded` means the store below the data folder: the first process to ask owns it and serves everybody else through
the front; the others find it in `store/owner.json`. When the owner goes, the next statement finds the new owner or
becomes it.
`clickhouse://user:password@host:port/database` (`clickhouses://` with TLS) means a server's HTTP port.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import urllib.error
import urllib.request
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from store import migrations, owner
from store.ddl import Layout, create_database
from store.errors import StoreError

if TYPE_CHECKING:
    import polars as pl

    from store.front import Front

DATABASE = "ta"
FIND_OWNER_S = 30.0  # a restarting owner opens its store within a few seconds
RETRY_S = 60.0  # how long a statement follows an owner that is restarting
MAX_IDLE_CLIENTS = 6
CLOSE_S = 20.0  # how long `close` waits for other threads' statements
SETTINGS: dict[str, Any] = {"final": 1}
SERVER_SETTINGS: dict[str, Any] = {"final": 1, "async_insert": 0}
T = TypeVar("T")


class _Source(Protocol):
    """Opens clickhouse-connect clients and says whether a failure may be waited out."""

    def open(self) -> Any: ...
    def passing(self, error: Exception) -> bool: ...
    def close(self) -> None: ...


class Store:
    """Statements on ClickHouse, safe to use from several threads. A client whose call failed is thrown away.

    Reads see each key once (`final=1`): an insert that is repeated because nobody knows its fate adds nothing to them.
    """

    def __init__(self, source: _Source, where: str) -> None:
        self.where = where
        self._source = source
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False
        self._patient = True
        self._busy = 0
        self._quiet = threading.Condition(self._lock)
        self._finalizer = weakref.finalize(self, _shut_down, self._idle, self._lock, source)

    def frame(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Return the result as a polars frame. Parameters are `{name:Type}` in the statement."""
        result = self._retry(
            lambda client: client.query_df_arrow(sql, parameters=_bind(parameters), dataframe_library="polars")
        )
        return result

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple]:
        """Return the result as tuples."""
        return self._retry(
            lambda client: [tuple(row) for row in client.query(sql, parameters=_bind(parameters)).result_rows]
        )

    def scalar(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the first value of the first row, or None."""
        found = self.rows(sql, parameters)
        return found[0][0] if found else None

    def raw(self, sql: str, form: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        """Return the result's bytes in format `form` (RowBinary, JSONEachRow, Parquet, …)."""
        return self._retry(lambda client: bytes(client.raw_query(sql, parameters=_bind(parameters), fmt=form)))

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a statement for its effect. It is not repeated after a broken connection."""
        with self._client() as client:
            return client.command(sql, parameters=_bind(parameters))

    def insert_block(self, table: str, columns: Sequence[str], block: bytes, token: str = "") -> None:
        """Insert one Native block as one insert. The same token twice stores it once.

        A repeat after a connection broke goes under a token of its own: ClickHouse writes a token down before the rows
        are in the table, and a server that was killed in between would take the repeat for a copy of what it lost.
        """
        named, attempts = token or uuid.uuid4().hex, itertools.count()

        def insert(client: Any) -> None:
            attempt = next(attempts)
            known = f"{named}:{uuid.uuid4().hex}" if attempt else named
            settings = {"insert_deduplication_token": known, "insert_deduplicate": 1}
            client.raw_insert(table, list(columns), block, settings=settings, fmt="Native")

        self._retry(insert)

    def hurry(self) -> None:
        """From now on no failure is waited out: this process is about to end."""
        self._patient = False

    def close(self) -> None:
        """Close every client, after statements that run in other threads; an owner gives up the store."""
        self._closed = True
        with self._lock:
            self._quiet.wait_for(lambda: self._busy == 0, CLOSE_S)
        self._finalizer()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _retry(self, call: Callable[[Any], T]) -> T:
        deadline = time.monotonic() + RETRY_S
        pause = 0.05
        while True:
            try:
                with self._client() as client:
                    return call(client)
            except StoreError:
                raise
            except Exception as error:
                waiting = self._patient and not self._closed and time.monotonic() < deadline
                if not waiting or not self._source.passing(error):
                    raise StoreError(f"{self.where}: {error}") from error
                self._forget()
                time.sleep(pause)
                pause = min(1.0, pause * 2)

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        if self._closed:
            raise StoreError(f"{self.where}: is closed")
        with self._lock:
            client = self._idle.pop() if self._idle else None
            self._busy += 1
        try:
            if client is None:
                client = self._source.open()
            try:
                yield client
            except BaseException:
                _quietly(client.close)
                raise
            with self._lock:
                keep = len(self._idle) < MAX_IDLE_CLIENTS and not self._closed
                if keep:
                    self._idle.append(client)
            if not keep:
                _quietly(client.close)
        finally:
            with self._lock:
                self._busy -= 1
                self._quiet.notify_all()

    def _forget(self) -> None:
        _close_all(self._idle, self._lock)


def _close_all(idle: list[Any], lock: threading.Lock) -> None:
    with lock:
        clients = idle.copy()
        idle.clear()
    for client in clients:
        _quietly(client.close)


def _shut_down(idle: list[Any], lock: threading.Lock, source: _Source) -> None:
    """Runs at `close`, or when the store is forgotten, or at exit: chdb crashes with handles still open."""
    _close_all(idle, lock)
    source.close()


class EmbeddedSource:
    """The store below a data folder: owned here, or reached through the owner's front."""

    def __init__(self, data_dir: Path, retention_days: int = 0) -> None:
        self._data_dir = data_dir
        self._layout = Layout(DATABASE, "", retention_days)
        self._lock = threading.Lock()
        self._held: int | None = None
        self._front: Front | None = None
        self._engine: Any = None

    @property
    def owns(self) -> bool:
        """Whether this process is the owner."""
        return self._held is not None

    @property
    def front_url(self) -> str:
        """Return where this owner serves; empty if it is not the owner."""
        return self._front.url if self._front else ""

    def open(self) -> Any:
        """Return a client, becoming the owner if there is none."""
        deadline = time.monotonic() + FIND_OWNER_S
        while True:
            with self._lock:
                if self._held is not None or self._become_owner():
                    return self._embedded_client()
            found = owner.read_owner(self._data_dir)
            if found and _answers(found.url):
                return self._remote_client(found.url)
            if time.monotonic() > deadline:
                who = f"process {found.pid}" if found else "another process"
                raise StoreError(
                    f"{self._data_dir / 'store'}: owned by {who}, not answering at {found.url if found else '?'}"
                    "; stop it or use another --data-dir"
                )
            time.sleep(0.05)

    def passing(self, error: Exception) -> bool:
        """A connection to a front that went away may be waited out; an answer with an error may not."""
        from clickhouse_connect.driver.exceptions import OperationalError

        return not self.owns and isinstance(error, OperationalError | OSError)

    def close(self) -> None:
        """Give up ownership."""
        with self._lock:
            if self._held is None:
                return
            owner.clear_owner(self._data_dir)
            if self._front:
                self._front.close()
            if self._engine:
                self._engine.close()
            os.close(self._held)
            self._held = self._front = self._engine = None

    def _become_owner(self) -> bool:
        held = owner.try_lock(self._data_dir)
        if held is None:
            return False
        from store.embedded import Embedded, EngineError
        from store.front import Front

        try:
            owner.clear_owner(self._data_dir)
            path = owner.folder(self._data_dir) / "db"
            try:
                self._engine = Embedded(path)
            except RuntimeError as error:
                raise StoreError(f"{path}: cannot open: {error}") from error
            try:
                migrations.migrate(_engine_door(self._engine), self._layout, _now_ms())
            except EngineError as error:
                raise StoreError(f"{path}: migration failed: {error}") from error
            tokens = owner.tokens(self._data_dir)
            self._front = Front(self._engine, tokens, DATABASE)
            owner.remember_port(self._data_dir, self._front.port)
            owner.write_owner(self._data_dir, owner.Owner(os.getpid(), self._front.url))
        except BaseException:
            if self._engine:
                self._engine.close()
            self._engine = None
            os.close(held)
            raise
        self._held = held
        return True

    def _embedded_client(self) -> Any:
        import clickhouse_connect

        return clickhouse_connect.get_client(
            interface="chdb", path=self._engine.path, database=DATABASE, settings=SETTINGS
        )

    def _remote_client(self, url: str) -> Any:
        parts = urlsplit(url)
        job = owner.tokens(self._data_dir).job
        return _http_client(parts.hostname or "127.0.0.1", parts.port or 0, "ta", job, DATABASE, False, SETTINGS)


class ServerSource:
    """A ClickHouse server. `?cluster=name` in the URL makes replicated and distributed tables on that cluster."""

    def __init__(self, url: str, retention_days: int = 0) -> None:
        parts = urlsplit(url)
        cluster = dict(parse_qsl(parts.query)).get("cluster", "")
        self._secure = parts.scheme in ("clickhouses", "https")
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (8443 if self._secure else 8123)
        self._user = unquote(parts.username or "default")
        self._password = unquote(parts.password or "")
        self.database = parts.path.strip("/") or DATABASE
        self._layout = Layout(self.database, cluster, retention_days)
        self._lock = threading.Lock()
        self._migrated = False
        self.where = f"{parts.scheme}://{self._host}:{self._port}/{self.database}"

    def open(self) -> Any:
        """Return a client; the first one brings the schema up to date."""
        with self._lock:
            if not self._migrated:
                with contextlib.closing(self._client("default", {})) as first:
                    first.command(create_database(self._layout))
                with contextlib.closing(self._client(self.database, {})) as second:
                    migrations.migrate(_client_door(second), self._layout, _now_ms())
                self._migrated = True
        return self._client(self.database, SERVER_SETTINGS)

    def _client(self, database: str, settings: dict[str, Any]) -> Any:
        return _http_client(self._host, self._port, self._user, self._password, database, self._secure, settings)

    def arguments(self) -> dict[str, Any]:
        """Return what clickhouse-connect needs to reach the server."""
        names = ("host", "port", "username", "password", "secure")
        return dict(zip(names, (self._host, self._port, self._user, self._password, self._secure), strict=True))

    def passing(self, error: Exception) -> bool:
        """A server that cannot be reached may come back."""
        from clickhouse_connect.driver.exceptions import OperationalError

        return isinstance(error, OperationalError | OSError)

    def close(self) -> None:
        """Nothing is held."""


def connect(url: str = "embedded", data_dir: Path | str = "var", *, retention_days: int = 0) -> Store:
    """Return the store at `url`. `data_dir` matters for `embedded` only.

    It opens at the first statement, which also brings the schema up to date.
    """
    if url == "embedded":
        path = Path(data_dir)
        return Store(EmbeddedSource(path, retention_days), f"store {path / 'store'}")
    if urlsplit(url).scheme in ("clickhouse", "clickhouses", "http", "https"):
        source = ServerSource(url, retention_days)
        return Store(source, source.where)
    raise StoreError(f"store.url: expected 'embedded' or clickhouse://user:password@host:port/database, got {url!r}")


def _http_client(host: str, port: int, user: str, password: str, database: str, secure: bool, settings: dict) -> Any:
    import clickhouse_connect

    return clickhouse_connect.get_client(
        host=host,
        port=port,
        username=user,
        password=password,
        database=database,
        secure=secure,
        settings=settings,
        compress=False,
        autogenerate_session_id=False,
        send_receive_timeout=600,
    )


def _engine_door(engine: Any) -> migrations.Door:
    import orjson

    def rows(sql: str) -> list[tuple]:
        return [tuple(orjson.loads(line)) for line in engine.query(sql, "JSONCompactEachRow").splitlines()]

    def insert(table: str, columns: list[str], block: bytes) -> None:
        names = ", ".join(f"`{name}`" for name in columns)
        engine.insert(f"INSERT INTO {table} ({names})", "Native", block, ("", False, ()), {})

    def command(sql: str) -> None:
        engine.query(sql, "TabSeparated", (DATABASE if "VIEW" in sql else "", False, ()))

    return migrations.Door(command, rows, insert)


def _client_door(client: Any) -> migrations.Door:
    return migrations.Door(
        client.command,
        lambda sql: [tuple(row) for row in client.query(sql).result_rows],
        lambda table, columns, block: client.raw_insert(table, columns, block, fmt="Native"),
    )


def _bind(parameters: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return dict(parameters) if parameters else None


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/ping", timeout=2) as reply:
            return bool(reply.read() == b"Ok.\n")
    except (OSError, urllib.error.URLError):
        return False


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _quietly(call: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        call()
