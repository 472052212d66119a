"""SQL for request handlers: always in a worker thread, bounded in number, waiting room and time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import orjson
import structlog

from control import priority
from control.problems import ApiError

THREADS = 3  # two cores, and reads of tens of milliseconds
WAITING = 64  # more than this many unanswered reads means overload: say so at once
TIMEOUT_S = 10.0

logger = structlog.get_logger("control.reader")
Rows = list[dict[str, Any]]


class Reader(Protocol):
    """What handlers need of the database."""

    async def lines(self, sql: str, parameters: dict[str, Any] | None = None) -> list[bytes]:
        """Return the rows of a SELECT, each a JSON object by column name; NaN is null."""
        ...

    async def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> Rows:
        """Return the rows of a SELECT as dictionaries by column name; NaN is None."""
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
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="reader", initializer=priority.for_database)
        self._waiting = 0

    async def lines(self, sql: str, parameters: dict[str, Any] | None = None) -> list[bytes]:
        """Run a SELECT; raises ApiError 503 when the store is overloaded, slow or not reachable."""
        if self._waiting >= WAITING:
            raise ApiError(503, "store-busy", f"{WAITING} reads are waiting already", headers={"Retry-After": "1"})
        self._waiting += 1
        job = asyncio.get_running_loop().run_in_executor(self._pool, self._run, sql, parameters)
        job.add_done_callback(self._done)
        try:
            return await asyncio.wait_for(asyncio.shield(job), TIMEOUT_S)
        except TimeoutError:
            raise ApiError(503, "store-slow", f"the store did not answer within {TIMEOUT_S:g} s") from None
        except Exception as error:
            logger.error("store read failed", sql=sql, error=str(error))
            raise ApiError(503, "store-unavailable", "the store could not answer; the log has the cause") from error

    async def rows(self, sql: str, parameters: dict[str, Any] | None = None) -> Rows:
        """Run a SELECT, as `lines`."""
        return [orjson.loads(line) for line in await self.lines(sql, parameters)]

    def close(self) -> None:
        """Stop the worker threads after their present reads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _done(self, job: asyncio.Future[list[bytes]]) -> None:
        self._waiting -= 1
        if not job.cancelled():
            job.exception()  # retrieved, so that a late fault of an abandoned read is not reported as lost

    def _run(self, sql: str, parameters: dict[str, Any] | None) -> list[bytes]:
        return self._store.raw(sql, "JSONEachRow", parameters).splitlines()
