"""SQL for request handlers: always in a worker thread, bounded in number, waiting room and time."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import orjson
import structlog

from control.problems import ApiError

THREADS = 3  # two cores, and reads of tens of milliseconds
WAITING = 64  # more than this many unanswered reads means overload: say so at once
TIMEOUT_S = 10.0
SHARE_S = 0.25  # callers of the same statement within this time get one answer: many pages, one read
SHARED = 256  # answers kept for that

logger = structlog.get_logger("control.reader")
Rows = list[dict[str, Any]]


class Reader(Protocol):
    """What handlers need of the database."""

    async def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> Rows:
        """Return the rows of a SELECT as dictionaries by column name, not to be changed; NaN is None."""
        ...


class RawStore(Protocol):
    """What this module needs of `store.client.Store`."""

    def raw(self, sql: str, form: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        """Return the bytes of the result in a ClickHouse format."""
        ...


class StoreReader:
    """Reads through `store.client`, which is safe to use from several threads."""

    def __init__(self, store: RawStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="reader")
        self._waiting = 0
        self._recent: OrderedDict[tuple[str, bytes], tuple[float, asyncio.Future[Rows]]] = OrderedDict()

    async def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> Rows:
        """Run a SELECT; raises ApiError 503 when the store is overloaded, slow or not reachable."""
        job = self._job(sql, parameters)
        try:
            return await asyncio.wait_for(asyncio.shield(job), TIMEOUT_S)
        except TimeoutError:
            raise ApiError(503, "store-slow", f"the store did not answer within {TIMEOUT_S:g} s") from None
        except Exception as error:
            logger.error("store read failed", sql=sql, error=str(error))
            raise ApiError(503, "store-unavailable", "the store could not answer; the log has the cause") from error

    def _job(self, sql: str, parameters: dict[str, Any] | None) -> asyncio.Future[Rows]:
        """Return a read of this statement that runs or has just ended without a fault, or begin one."""
        key, now = (sql, orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS)), time.monotonic()
        kept = self._recent.get(key)
        if kept is not None and now - kept[0] < SHARE_S and not (kept[1].done() and kept[1].exception()):
            return kept[1]
        if self._waiting >= WAITING:
            raise ApiError(503, "store-busy", f"{WAITING} reads are waiting already", headers={"Retry-After": "1"})
        self._waiting += 1
        job = asyncio.get_running_loop().run_in_executor(self._pool, self._run, sql, parameters)
        job.add_done_callback(self._done)
        self._recent[key] = (now, job)
        self._recent.move_to_end(key)
        while len(self._recent) > SHARED or now - next(iter(self._recent.values()))[0] > SHARE_S:
            self._recent.popitem(last=False)
        return job

    def close(self) -> None:
        """Stop the worker threads after their present reads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _done(self, job: asyncio.Future[Rows]) -> None:
        self._waiting -= 1
        if not job.cancelled():
            job.exception()  # retrieved, so that a late fault of an abandoned read is not reported as lost

    def _run(self, sql: str, parameters: dict[str, Any] | None) -> Rows:
        lines = self._store.raw(sql, "JSONEachRow", parameters).splitlines()
        return [orjson.loads(line) for line in lines]
