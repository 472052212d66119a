"""The doors of a running engine for other processes: a seqlocked snapshot to read, a Unix socket for commands.

Control and the command line use this module; neither side waits for the other: the snapshot is a plain mmap, and the
engine serves the socket from its own loop between two frames.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import socket
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from engine.errors import DataError
from kernels.records import POSITION_FIELDS, RECORDS, STATUS, SYMBOL_STATE, Kind, Stage, layout_hash

SNAPSHOT_NAME = "engine.snapshot"
SOCKET_NAME = "engine.sock"
LOCK_NAME = "engine.lock"
HEAD_BYTES = 64
MAGIC = b"TASNAP01"
SNAPSHOT_HEAD = np.dtype(
    [("magic", "S8"), ("layout", "<u8"), ("version", "<u8"), ("symbols", "<u8"), ("positions", "<u8")]
)
POSITION = np.dtype(POSITION_FIELDS)
SIGNAL = RECORDS[Kind.SIGNAL]
LATENCY = RECORDS[Kind.LATENCY]
OPEN_ORDER = np.dtype(
    [
        ("client_order_id", "S40"),  # empty: this row and all after it are unused
        ("position_id", "<u8"),
        ("symbol", "<u2"),
        ("side", "<i1"),
        ("reduce_only", "<u1"),
        ("reason", "<u4"),
        ("type", "S24"),
        ("state", "S16"),
        ("route", "S8"),  # the transport that took it; empty in shadow mode
        ("qty", "<f8"),  # NaN: the whole position
        ("price", "<f8"),  # limit or trigger; 0 at the market
        ("filled_qty", "<f8"),
        ("average_price", "<f8"),
        ("order_id", "<i8"),
        ("created_ms", "<i8"),  # 0: not known
    ]
)
CONNECTION = np.dtype(
    [
        ("name", "S16"),  # empty: this row and all after it are unused
        ("kind", "S16"),
        ("state", "S16"),
        ("streams", "<u4"),
        ("pending", "<u4"),  # requests without an answer yet
        ("frames", "<u8"),
        ("faults", "<u8"),
        ("reconnects", "<u8"),
        ("heard_ns", "<i8"),  # monotonic, of this machine; 0: never
    ]
)
CONNECTIONS = 32  # 1,000 symbols take five stream sets, four links each at most; two lanes, two private streams
ORDERS = 128  # open orders shown, the oldest first: entry, exit, stop and take profit of 32 symbols
STALE_NS = 2_000_000_000
COMMAND_BYTES = 64 << 10  # the longest command line


@dataclass
class SnapshotView:
    """The parts of a snapshot. Arrays of `Snapshot` are the mapping itself; those of `read_snapshot` are copies."""

    status: npt.NDArray[Any]  # STATUS[1]
    symbols: npt.NDArray[Any]  # SYMBOL_STATE[n]
    signals: npt.NDArray[Any]  # the newest SIGNAL record of each symbol; seq 0: none yet
    latency: npt.NDArray[Any]  # LATENCY record per Stage; count 0: nothing measured
    positions: npt.NDArray[Any]  # POSITION[capacity]; the first status.open_positions are open
    orders: npt.NDArray[Any]  # OPEN_ORDER[ORDERS]; those with a client order id are open
    connections: npt.NDArray[Any]  # CONNECTION[CONNECTIONS]; those with a name exist

    @property
    def alive(self) -> bool:
        """Whether the engine beat within the last two seconds."""
        return time.monotonic_ns() - int(self.status["heartbeat_ns"][0]) < STALE_NS


def _parts(symbols: int, positions: int) -> list[tuple[str, np.dtype, int]]:
    return [
        ("status", STATUS, 1),
        ("symbols", SYMBOL_STATE, symbols),
        ("signals", SIGNAL, symbols),
        ("latency", LATENCY, len(Stage)),
        ("positions", POSITION, positions),
        ("orders", OPEN_ORDER, ORDERS),
        ("connections", CONNECTION, CONNECTIONS),
    ]


def _view(buffer: Any, symbols: int, positions: int) -> SnapshotView:
    views, offset = {}, HEAD_BYTES
    for name, dtype, count in _parts(symbols, positions):
        views[name] = np.frombuffer(buffer, dtype, count, offset)
        offset += -(-dtype.itemsize * count // 64) * 64
    return SnapshotView(**views)


def _size(symbols: int, positions: int) -> int:
    return HEAD_BYTES + sum(-(-dtype.itemsize * count // 64) * 64 for _, dtype, count in _parts(symbols, positions))


def _layout() -> int:
    """Return the hash of everything that decides where a value stands: dtypes, and how many stages are measured."""
    parts = [(name, str(dtype.descr), dtype.itemsize, count) for name, dtype, count in _parts(1, 1)]
    return layout_hash() ^ zlib.crc32(repr(parts).encode())


class Snapshot:
    """The engine's side: write into `view` between `begin` and `end`."""

    def __init__(self, data_dir: Path, symbols: int, positions: int) -> None:
        size = _size(symbols, positions)
        path = data_dir / SNAPSHOT_NAME
        partial = path.with_suffix(".new")
        with open(partial, "wb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            self._mapped = mmap.mmap(file.fileno(), size)
        self._head = np.frombuffer(self._mapped, SNAPSHOT_HEAD, 1)
        self._head[0] = (MAGIC, _layout(), 0, symbols, positions)
        self._version = np.frombuffer(self._mapped, np.uint64, 1, 16)
        self.view = _view(self._mapped, symbols, positions)
        partial.rename(path)

    def begin(self) -> None:
        """Make the version odd: readers wait."""
        self._version[0] += np.uint64(1)

    def end(self) -> None:
        """Make the version even: readers may copy."""
        self._version[0] += np.uint64(1)


class SnapshotReader:
    """Another process's side. Keeps the mapping open and follows a restarted engine's new file."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / SNAPSHOT_NAME
        self._inode = -1
        self._mapped: mmap.mmap | None = None

    def read(self, attempts: int = 1_000) -> SnapshotView | None:
        """Return a consistent copy, or None while no engine has ever run here. Raises DataError on another layout."""
        if not self._map():
            return None
        assert self._mapped is not None
        version = np.frombuffer(self._mapped, np.uint64, 1, 16)
        head = np.frombuffer(self._mapped, SNAPSHOT_HEAD, 1)[0]
        if head["magic"] != MAGIC or int(head["layout"]) != _layout():
            raise DataError(f"{self._path}: written by an engine of another release; restart the engine")
        for _ in range(attempts):
            before = int(version[0])
            if before % 2 == 0:
                copy = bytes(self._mapped)
                if int(version[0]) == before:
                    return _view(copy, int(head["symbols"]), int(head["positions"]))
            time.sleep(0)  # the writer holds it for some 10 µs
        return None

    def _map(self) -> bool:
        try:
            inode = self._path.stat().st_ino
            if inode != self._inode:
                with open(self._path, "rb") as file:
                    self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._inode = inode
        except FileNotFoundError:
            return False
        return True


# --- commands ---

Handler = Callable[[str, str, dict[str, Any], str], Awaitable[dict[str, Any]]]
"""(verb, actor, arguments, command id) → result; raises ValueError with a message for a refused command."""


class CommandServer:
    """The engine's side of the socket: one JSON object per line in, one per line out."""

    def __init__(self, data_dir: Path, handler: Handler) -> None:
        self._path = data_dir / SOCKET_NAME
        self._handler = handler
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket file left by a dead engine is replaced."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), limit=COMMAND_BYTES)
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Stop listening and remove the socket file."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(orjson.dumps(await self._answer(line), default=str) + b"\n")
                await writer.drain()
        except (ConnectionError, asyncio.LimitOverrunError, ValueError):
            pass  # the client went away or sent an endless line: its loss alone
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = orjson.loads(line)
            verb, command_id = str(request["verb"]), str(request.get("id", ""))
            arguments = request.get("args") or {}
            result = await self._handler(verb, str(request.get("actor", "")), arguments, command_id)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            return {"id": None, "ok": False, "result": None, "error": f"not a command: {error}"}
        except ValueError as error:
            return {"id": command_id, "ok": False, "result": None, "error": str(error)}
        return {"id": command_id, "ok": True, "result": result, "error": None}


def holder(data_dir: Path) -> int:
    """Return the process id of the engine that holds the data folder (it may still be starting), 0 for none."""
    try:
        with open(data_dir / LOCK_NAME) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = (data_dir / LOCK_NAME).read_text().strip()
        return int(text) if text.isdigit() else 0
    except OSError:
        return 0
    return 0


def command(
    data_dir: Path, verb: str, *, actor: str, args: dict[str, Any] | None = None, command_id: str = "",
    timeout_s: float = 10.0,
) -> dict[str, Any]:  # fmt: skip
    """Send one command to the running engine and return its answer {"id", "ok", "result", "error"}.

    Raises ConnectionError when no engine listens, TimeoutError when it does not answer (the command may still be
    carried out: ask for the status before repeating it). Blocking: call it from a thread in an asyncio program.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(data_dir / SOCKET_NAME))
        except OSError as error:
            pid = holder(data_dir)
            why = (
                f"the engine (pid {pid}) is still starting" if pid else f"no engine runs on this data folder ({error})"
            )
            raise ConnectionError(f"{why}; nothing listens on {data_dir / SOCKET_NAME}") from error
        request = {"id": command_id, "verb": verb, "actor": actor, "args": args or {}}
        connection.sendall(orjson.dumps(request) + b"\n")
        with connection.makefile("rb") as stream:
            answer: dict[str, Any] = orjson.loads(stream.readline())
    return answer
