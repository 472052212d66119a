"""The embedded engine (chdb) as its owner sees it: handles, statement by statement, thrown away after any error."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CLOSE_S = 15.0  # how long `close` waits for statements that run, after it has cancelled them
MAX_IDLE = 12  # handles kept open per engine; each is small, opening one takes about 8 ms
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
Preset = tuple[str, bool, tuple[tuple[str, str], ...]]  # database, read-only, settings


class EngineError(Exception):
    """A statement failed. `code` is ClickHouse's number, 0 if it gave none."""

    def __init__(self, message: str) -> None:
        found = re.search(r"Code: (\d+)", message)
        self.code = int(found.group(1)) if found else 0
        super().__init__(message[message.find("Code: ") :].strip() if found else message)


class Embedded:
    """Handles to the engine at one path. chdb allows one path per process and one process per path.

    Calls release the GIL, so threads run side by side; a handle serves one call at a time. A handle whose call failed
    is closed: remains of a failed query come out in front of the next read on it.
    """

    def __init__(self, path: Path) -> None:
        import chdb

        self._connect = chdb.connect
        self.path = os.path.realpath(path)
        for stale in Path(self.path).glob("*.insert"):  # left by an owner that was killed
            stale.unlink()
        self._anchor = self._connect(self.path)  # holds the engine open while no other handle is
        self._idle: OrderedDict[int, tuple[Preset, Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._quiet = threading.Condition(self._lock)
        self._busy = 0
        self._closing = False

    def query(
        self, sql: str, form: str, preset: Preset = ("", False, ()), parameters: Mapping[str, str] | None = None
    ) -> bytes:
        """Run one statement and return its output in format `form` (unless the statement names one)."""
        with self._handle(preset) as handle:
            return handle.query(sql, form, params=dict(parameters or {})).bytes() or b""

    def insert(
        self, head: str, form: str, data: bytes | memoryview, preset: Preset, settings: Mapping[str, str]
    ) -> None:
        """Insert `data`; `head` is the statement up to, not including, its FORMAT clause."""
        with tempfile.NamedTemporaryFile(suffix=".insert", dir=self.path, delete=True) as file:
            file.write(data)
            file.flush()
            clause = ", ".join(f"{check_name(name)} = {quote(value)}" for name, value in settings.items())
            sql = f"{head} FROM INFILE {quote(file.name)}{' SETTINGS ' + clause if clause else ''} FORMAT {form}"
            self.query(sql, "TabSeparated", preset)

    @contextlib.contextmanager
    def _handle(self, preset: Preset) -> Iterator[Any]:
        with self._lock:
            if self._closing:
                raise EngineError("Code: 236. DB::Exception: the store is being closed. (ABORTED)")
            self._busy += 1
        try:
            handle = self._take(preset)
            try:
                yield handle
            except BaseException as error:
                with contextlib.suppress(Exception):
                    handle.close()
                if isinstance(error, EngineError) or not isinstance(error, Exception):
                    raise
                raise EngineError(str(error)) from error
            self._give(preset, handle)
        finally:
            with self._lock:
                self._busy -= 1
                self._quiet.notify_all()

    def _take(self, preset: Preset) -> Any:
        with self._lock:
            for key, (kept, handle) in reversed(self._idle.items()):
                if kept == preset:
                    del self._idle[key]
                    return handle
        return self._open(preset)

    def _give(self, preset: Preset, handle: Any) -> None:
        surplus = None
        with self._lock:
            self._idle[id(handle)] = (preset, handle)
            if len(self._idle) > MAX_IDLE:
                surplus = self._idle.popitem(last=False)[1][1]
        if surplus is not None:
            surplus.close()

    def _open(self, preset: Preset) -> Any:
        database, readonly, settings = preset
        handle = self._connect(self.path)
        try:
            if database:
                handle.query(f"USE `{check_name(database)}`", "TabSeparated")
            for name, value in settings:
                handle.query(f"SET {check_name(name)} = {quote(value)}", "TabSeparated")
            if readonly:
                handle.query("SET readonly = 1", "TabSeparated")
        except Exception as error:
            handle.close()
            raise EngineError(str(error)) from error
        return handle

    def close(self) -> None:
        """Cancel what runs, wait for it to end, close every handle; the engine stops and the path is free.

        chdb ends the process with a fault when handles are closed under a statement, or left open at exit.
        """
        with self._lock:
            self._closing = True
            busy = self._busy
        if busy:
            with contextlib.suppress(Exception):
                self._anchor.query("KILL QUERY WHERE query_id != queryID() ASYNC", "Null")
        with self._lock:
            self._quiet.wait_for(lambda: self._busy == 0, CLOSE_S)
            handles = [handle for _, handle in self._idle.values()]
            self._idle.clear()
        for handle in [*handles, self._anchor]:
            with contextlib.suppress(Exception):
                handle.close()


def quote(value: str) -> str:
    """Return a string literal."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def check_name(name: str) -> str:
    """Return `name` if it is an identifier."""
    if not _NAME.match(name):
        raise EngineError(f"Code: 36. DB::Exception: not an identifier: {name!r}")
    return name
