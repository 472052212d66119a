"""Orders over the WebSocket API: warm, logged-on lanes, requests and answers matched by id, losses never hidden."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from engine.connections import Line
from engine.exchange.replies import LOST, Reply
from engine.exchange.requests import RECV_WINDOW_MS, Request
from engine.exchange.signing import Signer, Value, signed_params
from engine.log import get_logger

log = get_logger(__name__)

Done = Callable[[Reply], None]
TEXT = WSMsgType.TEXT  # looking an enum's member up costs a call on the hot path
MAX_PENDING = 1_000  # answers outstanding on one lane; more means that the exchange is not answering
ROTATE_AFTER_S = 23 * 3_600.0  # the exchange closes connections at 24 h
BACK_OFF_S = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
LOGON_TIMEOUT_S = 5.0
DRAIN_S = 5.0  # an old lane takes nothing new and waits this long for its answers before it is replaced


@dataclass(frozen=True)
class Credentials:
    """The key and its signer. `repr` shows neither."""

    api_key: str
    signer: Signer

    def __repr__(self) -> str:
        return "Credentials(…)"


def parse_reply(message: dict[str, Any]) -> Reply:
    """Return the Reply of one WS API answer."""
    status = int(message.get("status", 0))
    error = message.get("error") or {}
    return Reply(status, int(error.get("code", 0)), str(error.get("msg", "")), message.get("result"))


class Lane(WSListener):
    """One WS API connection that keeps itself alive. Not thread-safe: lives on the engine's loop.

    now_ms: exchange time, read at the last instruction before the signature. on_limits: told the `rateLimits` list of
    each answer. `ready` is true while the connection stands and, with a key that can, is logged on.
    """

    def __init__(
        self,
        number: int,
        url: str,
        credentials: Credentials,
        now_ms: Callable[[], int],
        on_limits: Callable[[list[dict[str, Any]]], None] = lambda limits: None,
    ) -> None:
        self.number, self.ready = number, False
        self.connects = self.sent = self.answers = self.faults = 0
        self._url, self._credentials, self._now_ms, self._on_limits = url, credentials, now_ms, on_limits
        self._transport: WSTransport | None = None
        self._pending: dict[int, Done] = {}
        self._id = 0
        self._logged_on = False
        self._task: asyncio.Task[None] | None = None

    def line(self) -> Line:
        """Return what the snapshot shows of this lane."""
        return Line(
            f"lane {self.number}", "ws_api", "live" if self.ready else "down", self.answers, self.faults,
            max(0, self.connects - 1), pending=len(self._pending),
        )  # fmt: skip

    # --- requests ---

    def send(self, request: Request, done: Done) -> bool:
        """Hand one request to the socket; False when the lane is not ready and nothing was sent.

        `done` is called exactly once: with the answer, or with LOST when the connection ends before it.
        """
        if not self.ready or len(self._pending) >= MAX_PENDING:
            return False
        return self._send(request.call.method.ws, dict(request.params), done, signed=not self._logged_on)

    def _send(self, method: str, params: dict[str, Value], done: Done, signed: bool) -> bool:
        transport = self._transport
        if transport is None or transport.is_disconnected:
            return False
        self._id += 1
        number = self._id
        params["recvWindow"] = RECV_WINDOW_MS
        if signed:
            params["apiKey"] = self._credentials.api_key
            params["timestamp"] = self._now_ms()
            params = signed_params(params, self._credentials.signer)
        else:
            params["timestamp"] = self._now_ms()
        self._pending[number] = done
        transport.send(TEXT, orjson.dumps({"id": number, "method": method, "params": params}))
        self.sent += 1
        return True

    # --- the connection ---

    def start(self) -> None:
        """Connect, and reconnect for ever until `close`."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"ws-api-{self.number}")

    async def close(self) -> None:
        """End the connection; what is pending is lost."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._drop()

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                transport, _ = await ws_connect(
                    lambda: self, self._url, enable_auto_pong=True, websocket_handshake_timeout=5,
                    enable_auto_ping=True, auto_ping_idle_timeout=10, auto_ping_reply_timeout=5,
                )  # fmt: skip
                self.connects += 1
                await self._log_on()
                attempt = 0
                self.ready = True
                await self._until_over(transport)
            except Exception as error:  # whatever it was: a connection that stays away is worse
                log.warning("ws_api_down", lane=self.number, error=f"{type(error).__name__}: {error}")
            self._drop()
            pause_s = BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)]
            attempt += 1
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))

    async def _until_over(self, transport: WSTransport) -> None:
        """Return when the connection ended, or when it is old and its answers have come in (the other lane stands)."""
        age_s = ROTATE_AFTER_S - 1_800.0 * self.number  # lanes rotate half an hour apart
        try:
            await asyncio.wait_for(transport.wait_disconnected(), age_s)
        except TimeoutError:
            self.ready = False
            await asyncio.sleep(DRAIN_S)
            transport.disconnect()

    async def _log_on(self) -> None:
        self._logged_on = False
        if not self._credentials.signer.session_logon:
            return
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def done(reply: Reply) -> None:
            if not answer.done():
                answer.set_result(reply)

        self._send("session.logon", {}, done, signed=True)
        reply = await asyncio.wait_for(answer, LOGON_TIMEOUT_S)
        if not reply.ok:
            raise OSError(f"session.logon: code {reply.code}: {reply.message}")
        self._logged_on = True

    def _drop(self) -> None:
        self.ready = self._logged_on = False
        if self._transport is not None:
            self._transport.disconnect()
            self._transport = None
        pending, self._pending = self._pending, {}
        for done in pending.values():
            done(LOST)

    # --- picows ---

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Match one answer to its request. The frame's buffer is copied; it dies with this call."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        if frame.msg_type != WSMsgType.TEXT:
            return
        try:
            message = orjson.loads(frame.get_payload_as_bytes())
            reply = parse_reply(message)
            number = message.get("id")
        except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
            self.faults += 1
            return
        if message.get("rateLimits"):
            self._on_limits(message["rateLimits"])
        done = self._pending.pop(number, None) if isinstance(number, int) else None
        if done is None:
            self.faults += 1
            log.warning("ws_api_unmatched", lane=self.number, status=reply.status, code=reply.code)
            if reply.status == 401:  # the key was invalidated: nothing sent here will be accepted
                self.ready = False
            return
        self.answers += 1
        done(reply)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Everything pending has an unknown fate now."""
        self._drop()
