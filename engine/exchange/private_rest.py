"""Private REST calls: signed at the last moment, never retried here; every answer, or its absence, is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from engine.exchange.budget import WeightBudget
from engine.exchange.replies import LOST, NOT_SENT, Outcome, Reply
from engine.exchange.requests import RECV_WINDOW_MS, Call, Request
from engine.exchange.signing import signed_query
from engine.exchange.ws_api import Credentials, Done

MAX_IN_FLIGHT = 100
KEPT_FOR_ORDERS = 30  # of them: questions leave these ways free, however many answers are late
REPEATS = 2


class PrivateRest:
    """Use `call` from coroutines and `send` from state machines. One instance per event loop.

    key_rights_url: base of the spot API, which alone serves /sapi. on_order_counts: told the order counts in headers.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        budget: WeightBudget,
        now_ms: Callable[[], int],
        key_rights_url: str = "",
        timeout_s: float = 3.0,
        on_order_counts: Callable[[int, int], None] = lambda ten_s, minute: None,
    ) -> None:
        self.calls = self.losses = 0
        self._base, self._spot = base_url.rstrip("/"), (key_rights_url or base_url).rstrip("/")
        self._credentials, self._budget, self._now_ms = credentials, budget, now_ms
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=2.0)
        self._on_order_counts = on_order_counts
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, request: Request, done: Done) -> bool:
        """Start a call; False when too many are in flight. `done` is called exactly once, never from inside."""
        if len(self._tasks) >= MAX_IN_FLIGHT - (0 if request.call.method.orders else KEPT_FOR_ORDERS):
            return False
        task = asyncio.get_running_loop().create_task(self._report(request, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _report(self, request: Request, done: Done) -> None:
        done(await self.call(request))

    async def call(self, request: Request, share: float | None = None) -> Reply:
        """Make one call and return its reply; LOST when nobody can say what became of it. share: not the call's own."""
        method = request.call.method
        if request.weight and self._budget.take(request.weight, method.share if share is None else share) > 0.0:
            return Reply(429, -1003, "held back here: the request weight of this minute is used up")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout, headers={"X-MBX-APIKEY": self._credentials.api_key}
            )
        base = self._spot if request.call is Call.KEY_RIGHTS else self._base
        self.calls += 1
        if method.signed:
            params = {**request.params, "recvWindow": RECV_WINDOW_MS, "timestamp": self._now_ms()}
            query = signed_query(params, self._credentials.signer)
        else:
            query = urlencode(request.params, quote_via=quote)
        url = URL(f"{base}{method.path}?{query}" if query else f"{base}{method.path}", encoded=True)
        try:
            async with self._session.request(method.verb, url) as answer:
                return self._read(answer, await answer.read())
        except aiohttp.ClientConnectorError:
            return NOT_SENT
        except (aiohttp.ClientError, TimeoutError, OSError):
            self.losses += 1
            return LOST

    async def ask(self, request: Request) -> Reply:
        """Make a call that may be repeated (a query, the listen key): up to three times while nobody can say.

        Starts and rescues ask so: they may use all of the minute's weight, or a busy collector would keep guards off.
        """
        reply = await self.call(request, 1.0)
        for _ in range(REPEATS):
            if reply.outcome is not Outcome.UNKNOWN:
                break
            reply = await self.call(request, 1.0)
        return reply

    def _read(self, answer: aiohttp.ClientResponse, body: bytes) -> Reply:
        headers = answer.headers
        used = headers.get("X-MBX-USED-WEIGHT-1M", "")
        if used.isdigit():
            self._budget.correct(int(used))
        ten_s, minute = headers.get("X-MBX-ORDER-COUNT-10S", ""), headers.get("X-MBX-ORDER-COUNT-1M", "")
        if ten_s.isdigit() and minute.isdigit():
            self._on_order_counts(int(ten_s), int(minute))
        wait = headers.get("Retry-After", "")
        retry_after_s = float(wait) if wait.isdigit() else 0.0
        if answer.status in (418, 429):
            self._budget.ban(retry_after_s or 10.0)
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError:
            text = body[:200].decode(errors="replace")
            return Reply(answer.status if answer.status != 200 else 500, 0, text, None, False, retry_after_s)
        if answer.status == 200:
            return Reply(200, 0, "", data)
        detail = data if isinstance(data, dict) else {}
        return Reply(answer.status, int(detail.get("code", 0)), str(detail.get("msg", "")), None, False, retry_after_s)

    async def close(self) -> None:
        """Drop what is in flight and close the session."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None
