"""ClickHouse's HTTP interface over the embedded engine, as far as its clients use it: on loopback, with a token.

Other processes (jobs, `ta sql`, a dashboard tool) speak to the owner through it with an unmodified clickhouse-connect.
The read token may only read and has limits; the job token may do everything. Not offered: sessions (temporary tables,
SET) and answers in an HTTP content encoding; answers in ClickHouse's own blocks are (`compress=1`).
"""

from __future__ import annotations

import hmac
import json
import re
import socket
import socketserver
import threading
import time
import uuid
from base64 import b64decode
from collections.abc import Callable
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from store import blocks
from store.embedded import Embedded, EngineError, Preset
from store.owner import Tokens

MAX_BODY_BYTES = 1 << 30
MAX_QUERIES = 8  # running at once; more wait
WAIT_S = 30.0
IDLE_S = 300.0  # a silent connection is closed
DEFAULTS = {"final": "1"}  # a key is one row for every reader
READ_LIMITS = {
    "max_execution_time": "60",
    "max_memory_usage": str(2 << 30),
    "max_result_bytes": str(512 << 20),
    "result_overflow_mode": "throw",
}
TRANSPORT = frozenset(
    {
        *("query", "database", "default_format", "user", "password", "session_id", "session_timeout", "session_check"),
        *("query_id", "quota_key", "compress", "decompress", "wait_end_of_query", "client_protocol_version", "role"),
        *("buffer_size", "send_progress_in_http_headers", "enable_http_compression", "readonly"),
        *("http_headers_progress_interval_ms", "cancel_http_readonly_queries_on_client_close"),
        "http_zlib_compression_level",
    }
)
_COMMENT = re.compile(rb"\s+|--[^\n]*\n?|/\*.*?\*/", re.DOTALL)
_INSERT = re.compile(rb"INSERT\s+INTO\s", re.IGNORECASE)
_DATA = re.compile(
    rb"(?P<head>INSERT\s+INTO\s.*?)(?:\s+SETTINGS\s+(?P<settings>[^;]*?))?"
    rb"\s+FORMAT\s+(?P<form>\w+)[ \t]*;?(?:\r?\n|\s|$)",
    re.IGNORECASE | re.DOTALL,
)
_ANSWERS = re.compile(rb"(SELECT|WITH|SHOW|DESC|DESCRIBE|EXISTS|EXPLAIN|CHECK|VALUES|\()\b|\(", re.IGNORECASE)
_OUTSIDE = re.compile(rb"'(?:\\.|[^'\\])*'|`[^`]*`|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_REFUSED = re.compile(rb"\bINTO\s+OUTFILE\b|\bpython\s*\(", re.IGNORECASE)
_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)


class HttpFault(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status, self.code = status, code
        super().__init__(message)


class Front:
    """Serves one engine until closed. `url` is where; threads are daemons and sit in calls that release the GIL."""

    def __init__(self, engine: Embedded, tokens: Tokens, database: str) -> None:
        self._server = _listen(engine, tokens, database)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="store-front", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting and drop open connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.drop_all()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], engine: Embedded, tokens: Tokens, database: str) -> None:
        self.engine, self.tokens, self.database = engine, tokens, database
        self.slots = threading.BoundedSemaphore(MAX_QUERIES)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def drop_all(self) -> None:
        with self._guard:
            held = list(self._open)
        for request in held:
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


def _listen(engine: Embedded, tokens: Tokens, database: str) -> _Server:
    if tokens.port:
        try:
            return _Server(("127.0.0.1", tokens.port), engine, tokens, database)
        except OSError:
            pass  # the remembered port is taken: any other will do
    return _Server(("127.0.0.1", 0), engine, tokens, database)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # answers come in two writes; without it each waits for an acknowledgement
    timeout = IDLE_S
    server: _Server

    def do_GET(self) -> None:
        self._serve(writable=False)

    def do_HEAD(self) -> None:
        self._answer(200, b"", {})

    def do_POST(self) -> None:
        self._serve(writable=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: statements may hold what the user keeps private."""

    def _serve(self, writable: bool) -> None:
        began = time.monotonic()
        try:
            body = self._body()
            parts = urlsplit(self.path)
            parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
            if parts.path in ("/ping", "/replicas_status") or (
                parts.path == "/" and not body and "query" not in parameters
            ):
                self._answer(200, b"Ok.\n", {})
                return
            level = self._authorise(parameters)
            if parameters.get("decompress") == "1":
                body = self._undo(blocks.decompress, body)
            body = self._form(parameters, body)
            sql = parameters.get("query", "").encode() + (b"\n" if parameters.get("query") and body else b"") + body
            output, form = self._run(sql, parameters, level == "job" and writable)
        except HttpFault as fault:
            self._fail(fault.status, fault.code, str(fault))
            return
        except EngineError as error:
            self._fail(
                404 if error.code in (60, 81) else 500 if error.code in (0, 1000) else 400, error.code, str(error)
            )
            return
        elapsed = str(int((time.monotonic() - began) * 1e9))
        headers = {
            "X-ClickHouse-Summary": json.dumps({"result_bytes": str(len(output)), "elapsed_ns": elapsed}),
            "X-ClickHouse-Query-Id": parameters.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": "UTC",
        }
        if form:
            headers["X-ClickHouse-Format"] = form
        self._answer(200, blocks.compress(output) if parameters.get("compress") == "1" else output, headers)

    def _authorise(self, parameters: dict[str, str]) -> str:
        given = self.headers.get("X-ClickHouse-Key") or parameters.get("password", "")
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            given = value.strip()
        elif kind.lower() == "basic":
            try:
                given = b64decode(value).decode().partition(":")[2]
            except ValueError:
                given = ""
        tokens = self.server.tokens
        if hmac.compare_digest(given.encode(), tokens.job.encode()):
            return "job"
        if hmac.compare_digest(given.encode(), tokens.read.encode()):
            return "read"
        raise HttpFault(
            403,
            516,
            "Code: 516. DB::Exception: Authentication failed: give the token as password. (AUTHENTICATION_FAILED)",
        )

    def _run(self, sql: bytes, parameters: dict[str, str], writable: bool) -> tuple[bytes, str]:
        settings = {
            name: value for name, value in parameters.items() if name not in TRANSPORT and not name.startswith("param_")
        }
        bound = {name[6:]: value for name, value in parameters.items() if name.startswith("param_")}
        database = parameters.get("database") or self.server.database
        start = _skip_comments(sql)
        if not writable and _REFUSED.search(_OUTSIDE.sub(b" ", sql)):
            raise HttpFault(403, 497, "Code: 497. DB::Exception: not allowed with the read token. (ACCESS_DENIED)")
        if not self.server.slots.acquire(timeout=WAIT_S):
            raise HttpFault(
                503, 202, "Code: 202. DB::Exception: Too many simultaneous queries. (TOO_MANY_SIMULTANEOUS_QUERIES)"
            )
        try:
            if writable and _INSERT.match(sql, start) and (data := _DATA.match(sql, start)):
                return self._insert(sql, data, (database, False, ()), settings)
            settings = {**DEFAULTS, **settings, **({} if writable else READ_LIMITS)}
            preset: Preset = (database, not writable, tuple(sorted(settings.items())))
            form = parameters.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated"
            output = self.server.engine.query(sql.decode(), form, preset, bound)
        finally:
            self.server.slots.release()
        if not _ANSWERS.match(sql, start):
            return output, ""
        named = _FORMAT.search(sql)
        return output, named.group(1).decode() if named else form

    def _insert(self, sql: bytes, data: re.Match[bytes], preset: Preset, settings: dict[str, str]) -> tuple[bytes, str]:
        inline = {}
        for item in (data["settings"] or b"").decode().split(","):
            name, _, value = item.partition("=")
            if name.strip():
                inline[name.strip()] = value.strip().strip("'")
        payload = memoryview(sql)[data.end() :]
        self.server.engine.insert(data["head"].decode(), data["form"].decode(), payload, preset, {**settings, **inline})
        return b"", ""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            raw = self._chunks()
        else:
            length = int(self.headers.get("Content-Length") or 0)
            if length > MAX_BODY_BYTES:
                self.close_connection = True
                raise HttpFault(413, 0, f"expected at most {MAX_BODY_BYTES} bytes, got {length}")
            raw = self.rfile.read(length)
        return self._undo(lambda data: decompress(data, self.headers.get("Content-Encoding", "")), raw)

    @staticmethod
    def _undo(unpack: Callable[[bytes], bytes], raw: bytes) -> bytes:
        try:
            return unpack(raw)
        except (ValueError, RuntimeError, OSError, EOFError) as error:
            raise HttpFault(400, 271, f"Code: 271. DB::Exception: cannot decompress the body: {error}") from error

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while size := int(self.rfile.readline(64).split(b";")[0] or b"0", 16):
            total += size
            if total > MAX_BODY_BYTES:
                self.close_connection = True
                raise HttpFault(413, 0, f"expected at most {MAX_BODY_BYTES} bytes")
            parts.append(self.rfile.read(size))
            self.rfile.readline(8)
        while self.rfile.readline(1024).strip():  # trailers
            pass
        return b"".join(parts)

    def _form(self, parameters: dict[str, str], body: bytes) -> bytes:
        kind = self.headers.get("Content-Type", "")
        if not kind.startswith("multipart/form-data"):
            return body
        message = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        for part in message.get_payload():
            name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
            value = part.get_payload(decode=True)  # type: ignore[union-attr]
            parameters[unquote(str(name))] = value.decode() if isinstance(value, bytes) else str(value)
        return b""

    def _fail(self, status: int, code: int, message: str) -> None:
        headers = {"X-ClickHouse-Exception-Code": str(code)} if code else {}
        self._answer(status, message.encode() + b"\n", headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("X-ClickHouse-Server-Display-Name", "ta")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def decompress(raw: bytes, encoding: str) -> bytes:
    """Undo a request's Content-Encoding. clickhouse-connect sends one frame per chunk, so frames are joined."""
    if encoding in ("", "identity"):
        return raw
    if encoding == "lz4":
        import lz4.frame

        parts = []
        while raw:
            frame = lz4.frame.LZ4FrameDecompressor()
            parts.append(frame.decompress(raw))
            if not frame.eof:
                raise ValueError("lz4 frame is cut off")
            raw = frame.unused_data or b""
        return b"".join(parts)
    if encoding == "zstd":
        import zstandard

        with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as reader:
            return bytes(reader.read())
    if encoding in ("gzip", "deflate"):
        import zlib

        return zlib.decompress(raw, 31 if encoding == "gzip" else 15)
    raise ValueError(f"unknown Content-Encoding {encoding!r}")


def _skip_comments(sql: bytes) -> int:
    position = 0
    while found := _COMMENT.match(sql, position):
        position = found.end()
    return position
