"""Answers of read requests: made once for all who ask the same within a moment, and renewed behind their backs.

A page of candles asked for by two hundred tabs is one statement, one encoding and one hash. An answer that is young is
given as it is; one a little older is given too, while its successor is made; only what nobody has asked for lately is
waited for. So the database's time is not the caller's time, and the number of statements does not grow with the load.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from litestar import MediaType, Request, Response

KEPT = 1_024  # answers
KEPT_BYTES = 64 << 20

Make = Callable[[], Awaitable[Any]]
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Life:
    """How old an answer may be: `fresh_s` without a thought, `stale_s` while the next one is being made."""

    fresh_s: float
    stale_s: float


SNAPSHOT = Life(0.1, 0.1)  # as old as the copy of the engine's snapshot may be
RECENT = Life(0.5, 1.5)  # what the tail has stored: it stores once a second
ASKED = Life(1.0, 2.0)  # what the engine is asked for: seldom, its loop has better things to do
SLOW = Life(30.0, 600.0)  # what searches every candle there is


@dataclass(frozen=True, slots=True)
class Answer:
    """An encoded body and its ETag."""

    body: bytes
    etag: str
    made_s: float


@dataclass
class _Kept:
    answer: Answer | None = None
    making: asyncio.Task[Answer] | None = field(default=None, repr=False)


class Answers:
    """The answers of one process; lives on the event loop."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0

    async def get(self, key: str, life: Life, make: Make) -> Answer:
        """Return an answer not older than `life.stale_s`. Raises what `make` raises when there is none."""
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept()
        self._kept.move_to_end(key)
        if kept.answer is not None:
            age_s = self._clock_s() - kept.answer.made_s
            if age_s < life.stale_s:
                if age_s >= life.fresh_s:
                    self._renew(key, kept, make)
                return kept.answer
        return await asyncio.shield(self._renew(key, kept, make))

    def forget(self, *beginnings: str) -> None:
        """Drop the answers whose path begins so, or all: something was changed, and who hears of it wants to see it."""
        for key in [key for key in self._kept if not beginnings or key.startswith(beginnings)]:
            gone = self._kept.pop(key)
            self._bytes -= 0 if gone.answer is None else len(gone.answer.body)

    def _renew(self, key: str, kept: _Kept, make: Make) -> asyncio.Task[Answer]:
        if kept.making is None or kept.making.done():
            kept.making = asyncio.ensure_future(self._make(key, kept, make))
            kept.making.add_done_callback(_retrieve)
        return kept.making

    async def _make(self, key: str, kept: _Kept, make: Make) -> Answer:
        begun_s = self._clock_s()
        made = await make()
        body = made if isinstance(made, bytes) else _encode(made)
        etag = '"' + hashlib.blake2b(body, digest_size=12).hexdigest() + '"'
        before = 0 if kept.answer is None else len(kept.answer.body)
        kept.answer = Answer(body, etag, begun_s)
        if self._kept.get(key) is kept:  # else it was forgotten meanwhile: only who waits for it gets it
            self._bytes += len(body) - before
        while self._kept and (len(self._kept) > KEPT or self._bytes > KEPT_BYTES):
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= 0 if oldest.answer is None else len(oldest.answer.body)
        return kept.answer


def _retrieve(task: asyncio.Task[Answer]) -> None:
    if not task.cancelled():
        task.exception()  # told to whoever waited; a renewal that failed leaves the old answer until it is too old


async def answered(request: Request[Any, Any, Any], answers: Answers, make: Make, life: Life = RECENT) -> Any:
    """Answer a read with the kept body of its path and query, an ETag, or 304 when the caller has this content.

    `make` may depend on path and query alone: what it returns is given to every caller who may read.
    """
    key = f"{request.scope['path']}?{request.scope['query_string'].decode('latin-1')}"
    answer = await answers.get(key, life, make)
    headers = {"ETag": answer.etag, "Cache-Control": "private, no-cache"}
    if answer.etag in request.headers.get("if-none-match", ""):
        return Response(None, status_code=304, headers=headers)
    return Response(answer.body, headers=headers, media_type=MediaType.JSON)
