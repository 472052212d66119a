"""The door of live trading: whatever reaches the order side from outside is journalled here before its effect.

A replay hands the same inputs in again, at the same places among the market's, and compares what comes of them
(`engine/replay/live.py`). What is asked of the exchange is journalled as it left, without timestamp and signature: the
record follows the send, so it costs an order nothing. No record holds a key, a signature or a listen key.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from typing import Any

import orjson

from engine.exchange.replies import Reply
from engine.exchange.requests import Request
from engine.exchange.venue import Sender
from engine.exchange.ws_api import Done
from engine.journal import Writer
from kernels.records import RECORDS, Kind

PART_BYTES = RECORDS[Kind.INPUT]["payload"].itemsize
PARAMS_BYTES = RECORDS[Kind.REQUEST]["params"].itemsize


class Source(enum.IntEnum):
    """`source` of an INPUT record: what its payload is and who takes it."""

    STREAM = 1  # an event of the private stream that was not seen before, as it came
    REPLY = 2  # the answer to a request: `pack_reply`
    STREAM_CHANGED = 3  # a private stream was lost or stands again; no payload
    TAKEN_OVER = 4  # what the preflight read and a restart knew: `engine.trading.takeover.Found`
    CHECKED = 5  # the account's settings were looked at again: faults, resting symbols


class Door:
    """Implements Sender for the order side. `open` it with the journal before anything passes.

    now_ms: exchange time, for the records alone.
    """

    def __init__(self, sender: Sender, now_ms: Callable[[], int]) -> None:
        self._sender, self._now_ms = sender, now_ms
        self._journal: Writer | None = None
        self._number = 0

    def open(self, journal: Writer) -> None:
        """Journal what passes from now on."""
        self._journal = journal

    def take(self, source: Source, payload: bytes, now_ms: int, number: int = 0) -> None:
        """Journal an input; its effect follows the call."""
        write_input(self._writer, source, payload, now_ms, number)

    def tick(self, hold: int, now_ms: int) -> None:
        """Journal that the order side lets time pass."""
        self._writer.write(Kind.TICK, time.monotonic_ns(), now_ms, hold, 0)

    def send(self, request: Request, done: Done, route: int = 0) -> str:
        """See Sender. The answer is journalled before `done` is told."""
        self._number += 1
        number = self._number

        def answered(reply: Reply) -> None:
            self.take(Source.REPLY, pack_reply(reply), self._now_ms(), number)
            done(reply)

        taken = self._sender.send(request, answered, route)
        write_request(self._writer, number, request, taken, route, self._now_ms())
        return taken

    @property
    def _writer(self) -> Writer:
        if self._journal is None:
            raise RuntimeError("the door is used before its journal is open")
        return self._journal


def write_input(journal: Writer, source: Source, payload: bytes, now_ms: int, number: int) -> None:
    """Write an input as INPUT records, one after another."""
    mono_ns, parts = time.monotonic_ns(), -(-len(payload) // PART_BYTES) or 1
    for part in range(parts):
        piece = payload[part * PART_BYTES : (part + 1) * PART_BYTES]
        journal.write(Kind.INPUT, mono_ns, now_ms, number, int(source), part, parts, len(piece), piece)


def write_request(journal: Writer, number: int, request: Request, taken: str, route: int, now_ms: int) -> None:
    """Write a request as it left: its parameters in their order, without what the transport adds."""
    params = orjson.dumps(request.params)
    journal.write(
        Kind.REQUEST, time.monotonic_ns(), now_ms, number, request.call.name.encode(), taken.encode(), route,
        len(params), 0, params[:PARAMS_BYTES],
    )  # fmt: skip


def pack_reply(reply: Reply) -> bytes:
    """Return a reply as JSON; `read_reply` gives the same reply back, digit for digit."""
    return orjson.dumps([reply.status, reply.code, reply.message, reply.result, reply.lost, reply.retry_after_s])


def read_reply(payload: bytes) -> Reply:
    """Return the reply of `pack_reply`."""
    status, code, message, result, lost, retry_after_s = orjson.loads(payload)
    return Reply(status, code, message, result, lost, retry_after_s)


def without_key(payload: bytes) -> bytes:
    """Return a private frame without the listen key, which may stand in a wrapper's name and in one event."""
    if b'"stream"' not in payload and b"listenKey" not in payload:
        return payload
    message: dict[str, Any] = orjson.loads(payload)
    message = message.get("data", message)
    message.pop("listenKey", None)
    return orjson.dumps(message)
