"""Commands to the engine: idempotent by key, confirmed in two steps where it matters, acknowledged or pending."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from control.auth import Principal, now_ms
from control.door import EngineDoor
from control.problems import ApiError
from control.shapes import CommandDone

MAX_REMEMBERED = 4_096  # idempotency keys kept, newest first
MAX_CONFIRMATIONS = 256
CONFIRM_MS = 60_000

logger = structlog.get_logger("control.commands")


class StillRunning(Exception):
    """What an action raises when it goes on after its answer; `result` says where to look."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("still running")
        self.result = result


@dataclass(frozen=True, slots=True)
class Command:
    """One request to change something: the verb of the engine's socket and its arguments."""

    verb: str
    args: dict[str, Any]
    action: Callable[[str], Awaitable[dict[str, Any]]] | None = field(default=None, compare=False)
    """What carries it out instead of the engine's socket; takes the command id, raises ApiError for a refusal or
    StillRunning."""

    def digest(self, principal: Principal) -> str:
        """Return a hash over who asks for what."""
        text = json.dumps([principal.token_id, self.verb, self.args], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class _Remembered:
    digest: str
    outcome: asyncio.Future[CommandDone]


class Commands:
    """Sends commands for request handlers. One per process."""

    def __init__(self, engine: EngineDoor, clock_ms: Callable[[], int] = now_ms) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """How often each verb was done, pending, refused or not delivered."""
        self._engine = engine
        self._clock_ms = clock_ms
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._confirmations: OrderedDict[str, tuple[str, int]] = OrderedDict()

    async def run(
        self,
        principal: Principal,
        command: Command,
        *,
        key: str | None = None,
        confirm: str | None = None,
        warning: str | None = None,
    ) -> CommandDone:
        """Send a command and return its outcome; the same key and request answer the same outcome again.

        With a `warning` the command is done in two steps: without a valid `confirm` code nothing is sent. Raises
        ApiError: 428 with the code that confirms exactly this request, 422 for a key used with another request, 503
        without an engine, 409 for a refusal.
        """
        digest = command.digest(principal)
        command_id = secrets.token_hex(16)
        if key is not None:
            command_id = hashlib.sha256(f"{principal.token_id}:{key}".encode()).hexdigest()[:32]
            known = self._remembered.get(command_id)
            if known is not None:
                if known.digest != digest:
                    raise ApiError(422, "idempotency-key-reused", "this Idempotency-Key was used with another request")
                return await asyncio.shield(known.outcome)
        if warning is not None:
            self._confirm(digest, confirm, warning)
        outcome = asyncio.ensure_future(self._send(principal, command, command_id))
        self._remembered[command_id] = _Remembered(digest, outcome)
        outcome.add_done_callback(lambda done: self._settle(command_id, done))
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return await asyncio.shield(outcome)

    def _confirm(self, digest: str, given: str | None, warning: str) -> None:
        """Let a confirmed request pass. A code belongs to one token, verb and arguments, works once and for 60 s."""
        now = self._clock_ms()
        if given is not None:
            kept = self._confirmations.get(given)
            if kept is None or kept[0] != digest or kept[1] < now:
                raise ApiError(409, "confirmation-invalid", "the code is unknown, used, expired or of another request")
            del self._confirmations[given]
            return
        code, expires_ms = secrets.token_urlsafe(12), now + CONFIRM_MS
        self._confirmations[code] = (digest, expires_ms)
        while len(self._confirmations) > MAX_CONFIRMATIONS:
            self._confirmations.popitem(last=False)
        raise ApiError(428, "confirmation-required", warning, confirm=code, expires_ms=expires_ms)

    def _settle(self, command_id: str, done: asyncio.Future[CommandDone]) -> None:
        """Forget what may be tried again: refusals, no engine; keep what was or may have been carried out."""
        if done.cancelled() or done.exception() is not None:
            self._remembered.pop(command_id, None)

    async def _send(self, principal: Principal, command: Command, command_id: str) -> CommandDone:
        log = logger.bind(verb=command.verb, actor=principal.actor, command_id=command_id)
        if command.action is not None:
            try:
                result = await command.action(command_id)
            except ApiError:
                self.outcomes[command.verb, "refused"] += 1
                raise
            except StillRunning as running:
                self.outcomes[command.verb, "pending"] += 1
                log.info("command goes on", **running.result)
                return CommandDone(id=command_id, verb=command.verb, state="pending", result=running.result)
            self.outcomes[command.verb, "done"] += 1
            log.info("command done")
            return CommandDone(id=command_id, verb=command.verb, state="done", result=result)
        try:
            answer = await self._engine.command(command.verb, principal.actor, command.args, command_id)
        except TimeoutError:
            self.outcomes[command.verb, "pending"] += 1
            log.warning("command not acknowledged yet")
            return CommandDone(id=command_id, verb=command.verb, state="pending")
        except ConnectionError as error:
            self.outcomes[command.verb, "undelivered"] += 1
            log.warning("command not delivered", error=str(error))
            raise ApiError(503, "engine-unreachable", "no engine answers; nothing was changed") from error
        if not answer.get("ok"):
            self.outcomes[command.verb, "refused"] += 1
            log.warning("command refused", error=answer.get("error"))
            raise ApiError(409, "refused", str(answer.get("error") or "refused"), command_id=command_id)
        self.outcomes[command.verb, "done"] += 1
        log.info("command done")
        return CommandDone(id=command_id, verb=command.verb, state="done", result=answer.get("result"))
