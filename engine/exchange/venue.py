"""Which way a request leaves: the preferred warm lane, else the other, else REST. Handed over once, never twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from engine.exchange.order_budget import OrderBudget
from engine.exchange.replies import NOT_SENT, TOO_MANY, Outcome, Reply
from engine.exchange.requests import Request
from engine.exchange.ws_api import Done, Lane
from engine.log import get_logger

if TYPE_CHECKING:
    from engine.exchange.private_rest import PrivateRest

log = get_logger(__name__)

REST = -1
BAN_LEAST_MS, BAN_MOST_MS = 1_000, 3 * 86_400_000
RATE_PAUSE_MS = 10_000  # entries rest this long after a refusal for rate, when the exchange names no time


class Sender(Protocol):
    """What the order side asks of a transport. `route` is a lane's number or REST."""

    def send(self, request: Request, done: Done, route: int = 0) -> str:
        """Hand a request to exactly one transport; return its name, "" when none took it (`done` is not called)."""
        ...


class Venue:
    """Two lanes and REST behind one door. Calls without a WS API name always go over REST.

    fenced(): somebody took over this key; nothing may leave any more. Asked before every request, since an engine that
    stood still learns of it by nothing else. What was stamped before a standstill is too old for recvWindow after it.
    While this address is banned nothing leaves by any route: it would be refused, and make the ban longer.
    """

    def __init__(
        self,
        lanes: list[Lane],
        rest: PrivateRest,
        budget: OrderBudget,
        now_ms: Callable[[], int],
        fenced: Callable[[], bool] = lambda: False,
    ) -> None:
        self.lanes, self.rest, self.budget = lanes, rest, budget
        self._now_ms, self._fenced = now_ms, fenced
        self._banned_until_ms = 0

    def send(self, request: Request, done: Done, route: int = 0) -> str:
        """See Sender. An order that a lane took is never handed to another transport, whatever becomes of it."""
        now_ms = self._now_ms()
        if self._fenced() or now_ms < self._banned_until_ms:
            return ""
        method = request.call.method
        taken = self._hand_over(request, self._watch(done, method.orders > 0), route if method.ws else REST)
        if method.orders:  # whether taken or not, and after the send: an order does not wait for its count
            self.budget.count(now_ms, method.orders)
        return taken

    def _hand_over(self, request: Request, done: Done, route: int) -> str:
        if route != REST:
            count = len(self.lanes)
            for offset in range(count):
                lane = self.lanes[(route + offset) % count]
                if lane.ready and lane.send(request, done):
                    return f"ws{lane.number}"
        return "rest" if self.rest.send(request, done) else ""

    def _watch(self, done: Done, is_order: bool) -> Done:
        def watched(reply: Reply) -> None:
            if reply.status == 418:
                now_ms = self._now_ms()
                until_ms = max(reply.banned_until_ms(now_ms), now_ms + BAN_LEAST_MS)
                self._banned_until_ms = min(until_ms, now_ms + BAN_MOST_MS)
                log.error("address_banned", seconds=(self._banned_until_ms - now_ms) / 1_000)
            refused = reply.outcome is Outcome.NOT_DONE and reply is not NOT_SENT
            if is_order and refused and (reply.code in TOO_MANY or not reply.code):
                pause_ms = int(reply.retry_after_s * 1_000) or RATE_PAUSE_MS
                self.budget.ban(self._now_ms() + pause_ms)
            done(reply)

        return watched
