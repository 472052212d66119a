"""WebSocket `/api/live`: subscribe to topics, resume by sequence number, be dropped with notice when too slow."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Literal

import msgspec
from litestar import WebSocket, websocket
from litestar.exceptions import WebSocketDisconnect

from control.auth import Principal
from control.live import TOO_SLOW, Client
from control.services import Services

SEND_S = 10.0  # a client that takes nothing for this long is gone
RECHECK_S = 5.0  # a revoked token ends its connections within this time
MAX_MESSAGE = 4_096
REVOKED, BAD_MESSAGE, TOO_MANY = 4_401, 4_400, 4_429


class Subscribe(msgspec.Struct):
    """What a client sends: the topics it wants and, to resume, the last sequence number and epoch it saw."""

    op: Literal["subscribe"]
    topics: list[str] = []
    after: int | None = None
    epoch: str | None = None


_decode = msgspec.json.Decoder(Subscribe).decode


@websocket("/api/live")
async def live(socket: WebSocket[Any, Any, Any], services: Services) -> None:
    """Push messages {"seq", "topic", "time_ms", "data"} until the client leaves, is too slow, or its token dies."""
    await socket.accept()
    client = services.hub.join()
    if client is None:
        await socket.close(TOO_MANY, "too many live connections")
        return
    tasks = [
        asyncio.ensure_future(_send(socket, client)),
        asyncio.ensure_future(_receive(socket, services, client)),
        asyncio.ensure_future(_watch(services, client, socket.user)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        code, reason = next((task.result() for task in done if task.exception() is None), (1011, "error"))
    finally:
        services.hub.leave(client)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if code == TOO_SLOW:
        services.hub.dropped += 1
    if code:
        with contextlib.suppress(Exception):  # the other side may be gone: then nobody misses the notice
            await asyncio.wait_for(socket.close(code, reason), SEND_S)


async def _send(socket: WebSocket[Any, Any, Any], client: Client) -> tuple[int, str]:
    while True:
        message = await client.queue.get()
        try:
            await asyncio.wait_for(socket.send_data(message, mode="text"), SEND_S)
        except TimeoutError:
            return TOO_SLOW, "too slow: nothing was taken for 10 s"
        except (WebSocketDisconnect, RuntimeError, OSError):
            return 0, ""


async def _receive(socket: WebSocket[Any, Any, Any], services: Services, client: Client) -> tuple[int, str]:
    while True:
        try:
            text = await socket.receive_data(mode="text")
        except (WebSocketDisconnect, RuntimeError):
            return 0, ""
        if len(text) > MAX_MESSAGE:
            return BAD_MESSAGE, "message too long"
        try:
            wish = _decode(text)
        except (msgspec.DecodeError, UnicodeError):
            return BAD_MESSAGE, 'expected {"op": "subscribe", "topics": [...]}'
        answer = services.hub.subscribe(client, wish.topics, wish.after, wish.epoch)
        client.offer(msgspec.json.encode(answer))


async def _watch(services: Services, client: Client, principal: Principal) -> tuple[int, str]:
    """Return when the client must go: its queue ran over, or its token no longer counts."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.overflowed.wait(), RECHECK_S)
            return TOO_SLOW, f"too slow: more than {client.queue.maxsize} messages behind; resume with `after`"
        if services.gate.book.living(principal.token_id) is None:
            return REVOKED, "the token was revoked or has expired"


HANDLERS = [live]
