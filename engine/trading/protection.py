"""The stop on the exchange: one per position, placed at the first sign of a fill, confirmed within two seconds or out.

One slot per symbol holds at most one STOP_MARKET algo order with closePosition on the mark price. It is never replaced
while its state is open to doubt; −4130 tells that one exists. A slot is free again only when its order is terminal,
so a new entry never inherits an old stop. Holds no socket and reads no clock.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.exchange.replies import TOO_MANY, Outcome, Reply
from engine.exchange.requests import STOP, TAKE_PROFIT, Call, Request, protective_stop
from engine.exchange.steps import Step
from engine.exchange.user_data import AlgoUpdate
from engine.exchange.venue import REST, Sender
from kernels.records import Reason

DEADLINE_MS = 2_000
NOT_SEEN_YET = frozenset({-4509, -4129})  # the algo service has not seen the fill
EXISTS = frozenset({-4130, -4116})
BEYOND = frozenset({-2021, -4142})
TRIGGERING = -4117
NO_SUCH = frozenset({-2011, -2013})
RETRY_MS = (20, 50, 100, 200)
ANSWER_WAIT_MS = 500  # no answer for this long: asked anew by another route; −4116, −4130 tell of a lost "yes"
SILENT_LANES = 2  # so many requests in a row without an answer: REST
SLOW_RETRY_MS = 1_000  # after the deadline, while the exit works
TRIGGERED_WAIT_MS = 300  # a finished stop must have closed the position by then
EXPIRE_WAIT_MS = 2_000  # flat for this long and the stop still open: cancel it
GAP_ATR, GAP_TICKS = 0.15, 5
LIVE_STATES = frozenset({"NEW"})
DEAD_STATES = frozenset({"CANCELED", "EXPIRED", "REJECTED"})


class Stage(enum.Enum):
    """PLACING: not confirmed. STANDING: confirmed. TRIGGERED. LOST: it ended while we hold. CLEARING: we are flat."""

    PLACING = 0
    STANDING = 1
    TRIGGERED = 2
    LOST = 3
    CLEARING = 4


TRIGGERED = Stage.TRIGGERED  # looking an enum's member up costs a call on the hot path


def protect_level(side: int, sl_price: float, atr_15m: float, tick: Step) -> str:
    """Return the trigger: max(0.15 × ATR15m, 5 ticks) beyond the local stop, on the tick, away from the market."""
    gap = max(GAP_ATR * atr_15m, GAP_TICKS * tick.size)
    return tick.floor(sl_price - gap) if side > 0 else tick.ceil(sl_price + gap)


def take_level(side: int, tp_price: float, atr_15m: float, tick: Step) -> str:
    """Return the trigger of a take profit on the exchange: as far beyond the local one as the stop is."""
    return protect_level(-side, tp_price, atr_15m, tick)


@dataclass(slots=True)
class Slot:
    """The protective order of one position."""

    position_id: int
    symbol: int
    side: int
    trigger: str
    name: str
    deadline_ms: int
    naked_since_ms: int  # 0: protected
    stage: Stage = Stage.PLACING
    next_ms: int = 0
    attempts: int = 0
    waiting: bool = False  # a request's answer is outstanding
    asked_ms: int = 0
    question: int = 0  # the newest request; answers to earlier ones come too late
    silent: int = 0  # requests in a row that nobody answered
    naked_ms: int = 0
    algo_id: int = 0
    child_id: int = 0
    ended: bool = False  # the exchange said that the algo order is over
    expired: bool = False  # ... because there was no position any more: a source for "flat"
    flat_ms: int = 0
    stage_ms: int = 0
    exit_asked: bool = False
    presumed: bool = False  # armed without a sign of a fill: the entry's fate is open and cannot be asked for


@dataclass
class Protection:
    """See the module. exit_now(position_id, reason, now_ms) closes a position; alarm(kind, symbol, text) tells a
    person; changed(slot, now_ms) is told when a position gained or lost its protection; mine(name) says whether an
    order was made by this system, in whatever run. kind: a stop must stand or the position is left; a take profit is
    an addition that may be missing. refused(symbol, code, now_ms): what else the code may mean.
    """

    symbols: list[str]
    sender: Sender
    exit_now: Callable[[int, Reason, int], None]
    alarm: Callable[[str, int, str], None] = lambda kind, symbol, text: None
    changed: Callable[[Slot, int], None] = lambda slot, now_ms: None
    mine: Callable[[str], bool] = lambda name: True
    kind: str = STOP
    refused: Callable[[int, int, int], object] = lambda symbol, code, now_ms: None
    slots: dict[int, Slot] = field(default_factory=dict)
    _now_ms: int = 0

    # --- questions ---

    def says_flat(self, symbol: int) -> bool:
        """Whether the exchange took the symbol's stop away because the position is gone, or none ever stood."""
        slot = self.slots.get(symbol)
        return slot is None or slot.expired

    def may_enter(self, symbol: int) -> bool:
        """Whether no algo order of an earlier position may still stand."""
        return symbol not in self.slots

    def standing(self, symbol: int) -> bool:
        """Whether the symbol's stop is confirmed on the exchange."""
        slot = self.slots.get(symbol)
        return slot is not None and slot.stage is Stage.STANDING

    def triggering(self, symbol: int) -> bool:
        """Whether the symbol's stop has been seen triggering."""
        slot = self.slots.get(symbol)
        return slot is not None and slot.stage is TRIGGERED

    def owns(self, symbol: int, order_id: int, client_id: str, original_type: str, side: int) -> bool:
        """Whether an order event is the child of this symbol's stop (it may come before the ALGO_UPDATE)."""
        slot = self.slots.get(symbol)
        if slot is None or side != -slot.side:
            return False
        return order_id == slot.child_id or client_id == slot.name or original_type == self.kind

    def naked_total_ms(self, position_id: int, until_ms: int) -> int:
        """Return how long the position has been without a confirmed stop; a stop that ended later was not missed."""
        slot = self._of(position_id)
        if slot is None:
            return 0
        return slot.naked_ms + (max(0, until_ms - slot.naked_since_ms) if slot.naked_since_ms else 0)

    def _of(self, position_id: int) -> Slot | None:
        return next((slot for slot in self.slots.values() if slot.position_id == position_id), None)

    # --- in ---

    def arm(
        self, position_id: int, symbol: int, side: int, trigger: str, name: str, now_ms: int, presumed: bool = False
    ) -> None:
        """Place the stop of a position whose first fill has just become known. A second call changes nothing.

        presumed: nobody knows whether there is a position, and questions are held back; an order is not. The exchange
        accepts the stop only if there is one, so trying is harmless. The two seconds begin with the first sign.
        """
        self._now_ms = now_ms
        slot = self.slots.get(symbol)
        if slot is not None:
            if slot.position_id != position_id and not presumed:
                self.alarm("stop_slot_taken", symbol, f"{slot.name} still stands where {name} is needed")
                self.exit_now(position_id, Reason.UNPROTECTED, now_ms)
            elif slot.presumed and not presumed:
                slot.presumed, slot.deadline_ms = False, now_ms + DEADLINE_MS
                slot.next_ms = min(slot.next_ms, now_ms)
            return
        slot = Slot(position_id, symbol, side, trigger, name, now_ms + DEADLINE_MS, now_ms, presumed=presumed)
        self.slots[symbol] = slot
        self._place(slot, now_ms)

    def adopt(
        self, position_id: int, symbol: int, side: int, trigger: str, name: str, algo_id: int, now_ms: int
    ) -> None:
        """Take over a stop that was found standing on the exchange at a restart."""
        slot = Slot(position_id, symbol, side, trigger, name, now_ms, 0, Stage.STANDING, algo_id=algo_id)
        self.slots[symbol] = slot
        self.changed(slot, now_ms)

    def on_algo(self, update: AlgoUpdate, now_ms: int) -> bool:
        """Take an ALGO_UPDATE; False when it is of none of our slots."""
        self._now_ms = now_ms
        slot = next((s for s in self.slots.values() if s.name == update.client_algo_id), None)
        if slot is None:
            return False
        slot.algo_id = update.algo_id
        slot.child_id = update.order_id or slot.child_id
        self._state(slot, update.status, now_ms, update.fault)
        return True

    def position_closed(self, position_id: int, now_ms: int) -> None:
        """The position is flat: wait for the stop to expire by itself."""
        self._now_ms = now_ms
        slot = self._of(position_id)
        if slot is None:
            return
        self._clothed(slot, now_ms)
        slot.flat_ms = now_ms
        finished = slot.ended or (slot.stage in (Stage.PLACING, Stage.LOST) and not slot.waiting and not slot.algo_id)
        if finished:
            del self.slots[slot.symbol]
            return
        slot.stage, slot.stage_ms, slot.next_ms = Stage.CLEARING, now_ms, now_ms + EXPIRE_WAIT_MS

    def advance(self, now_ms: int) -> None:
        """Let time pass: retries, the two-second deadline, the end of a triggered stop, the clearing of an old one."""
        self._now_ms = now_ms
        for slot in list(self.slots.values()):
            if slot.waiting and now_ms >= slot.asked_ms + ANSWER_WAIT_MS:
                slot.waiting, slot.question, slot.next_ms = False, slot.question + 1, now_ms
                slot.silent += 1
            if slot.stage is Stage.CLEARING:
                self._clear(slot, now_ms)
            elif slot.stage is Stage.TRIGGERED:
                if now_ms >= slot.stage_ms + TRIGGERED_WAIT_MS:
                    self._exit(slot, Reason.EXCHANGE_STOP, now_ms, "the stop triggered and left a remainder")
            elif slot.stage in (Stage.PLACING, Stage.LOST):
                if now_ms >= slot.deadline_ms:
                    self._exit(slot, Reason.UNPROTECTED, now_ms, "no confirmed stop in time")
                if now_ms >= slot.next_ms and not slot.waiting:
                    self._place(slot, now_ms)

    def verify(self, symbol: int) -> None:
        """Ask what became of a stop that is believed to stand; its end may have been told while nobody listened."""
        slot = self.slots.get(symbol)
        if slot is not None and slot.stage is Stage.STANDING and not slot.waiting:
            request = Request(Call.ALGO_QUERY, {"clientAlgoId": slot.name})
            self._ask(slot, request, self._verified, self._now_ms)

    def _verified(self, slot: Slot, reply: Reply, now_ms: int) -> None:
        if reply.ok and isinstance(reply.result, dict):
            self._state(slot, str(reply.result.get("algoStatus", "")), now_ms, "")

    def lost(self, symbol: int, now_ms: int) -> None:
        """A sweep did not find the stop that should stand: place it again."""
        slot = self.slots.get(symbol)
        if slot is not None and slot.stage is Stage.STANDING:
            self._gone(slot, now_ms, "not among the open algo orders")

    # --- out ---

    def _place(self, slot: Slot, now_ms: int) -> None:
        slot.attempts += 1
        slot.ended, slot.stage = False, Stage.PLACING
        request = protective_stop(self.symbols[slot.symbol], slot.side, slot.trigger, slot.name, self.kind)
        self._ask(slot, request, self._placed, now_ms)

    def _ask(self, slot: Slot, request: Request, then: Callable[[Slot, Reply, int], None], now_ms: int) -> None:
        slot.question += 1
        number = slot.question

        def done(reply: Reply) -> None:
            if slot.question != number:
                return
            slot.waiting, slot.silent = False, 0
            if self.slots.get(slot.symbol) is slot:
                then(slot, reply, self._now_ms)

        slot.waiting, slot.asked_ms = True, now_ms
        if not self.sender.send(request, done, REST if slot.silent >= SILENT_LANES else (slot.attempts + 1) % 2):
            slot.waiting = False
            slot.next_ms = now_ms + RETRY_MS[-1]

    def _placed(self, slot: Slot, reply: Reply, now_ms: int) -> None:
        pause_ms = RETRY_MS[min(slot.attempts, len(RETRY_MS)) - 1]
        quick = now_ms < slot.deadline_ms and reply.code not in TOO_MANY and not slot.presumed
        slot.next_ms = now_ms + (pause_ms if quick else SLOW_RETRY_MS)
        if reply.ok and isinstance(reply.result, dict):
            slot.algo_id = int(reply.result.get("algoId") or slot.algo_id)
            self._state(slot, str(reply.result.get("algoStatus", "NEW")), now_ms, "")
        elif reply.code in EXISTS:
            self._look(slot, now_ms)
        elif slot.stage is Stage.CLEARING:
            if reply.outcome is not Outcome.UNKNOWN:
                del self.slots[slot.symbol]  # refused and flat: nothing stands
        elif reply.code in BEYOND:
            self._exit(slot, Reason.UNPROTECTED, now_ms, f"code {reply.code}: the price is beyond the stop already")
        elif reply.code == TRIGGERING:
            slot.stage, slot.stage_ms = Stage.TRIGGERED, now_ms
        elif reply.code not in NOT_SEEN_YET:
            self.alarm("stop_refused", slot.symbol, f"code {reply.code}: {reply.message}; the local guard stands")
            self.refused(slot.symbol, reply.code, now_ms)

    def _look(self, slot: Slot, now_ms: int) -> None:
        """A stop of this kind exists: find out whether it is ours at this level."""
        request = Request(Call.OPEN_ALGOS, {"symbol": self.symbols[slot.symbol]})
        self._ask(slot, request, self._looked, now_ms)

    def _looked(self, slot: Slot, reply: Reply, now_ms: int) -> None:
        if not reply.ok or not isinstance(reply.result, list):
            slot.next_ms = now_ms + RETRY_MS[-1]
            if reply.outcome is Outcome.NOT_DONE:  # questions are held back, orders not: ours goes and comes anew
                gone = Request(Call.ALGO_CANCEL, {"clientAlgoId": slot.name})
                self.sender.send(gone, lambda reply: None)
            return
        side = "SELL" if slot.side > 0 else "BUY"
        others = []
        for row in reply.result:
            if not _closes(row) or row.get("side") != side or row.get("orderType") != self.kind:
                continue
            same = float(row.get("triggerPrice") or 0) == float(slot.trigger)
            if same and self.mine(str(row.get("clientAlgoId"))):
                slot.algo_id, slot.name = int(row["algoId"]), str(row["clientAlgoId"])
                self._state(slot, str(row.get("algoStatus", "NEW")), now_ms, "")
                return
            others.append(int(row["algoId"]))
        slot.next_ms = now_ms + RETRY_MS[0]  # place again once the strangers are cancelled
        for algo_id in others:
            self.alarm("foreign_stop_cancelled", slot.symbol, f"algo order {algo_id} stood in the way")
            self.sender.send(Request(Call.ALGO_CANCEL, {"algoId": algo_id}), lambda reply: None)

    def _state(self, slot: Slot, status: str, now_ms: int, fault: str) -> None:
        if status in DEAD_STATES:
            slot.ended, slot.expired = True, status == "EXPIRED"
            if slot.stage is Stage.CLEARING:
                del self.slots[slot.symbol]
            elif slot.stage is Stage.TRIGGERED:
                self._exit(slot, Reason.EXCHANGE_STOP, now_ms, f"the triggered stop was {status}: {fault}")
            elif slot.stage is not Stage.LOST:
                self._gone(slot, now_ms, f"{status} {fault}".strip())
        elif status == "FINISHED":
            slot.ended = True
            if slot.stage is Stage.CLEARING:
                del self.slots[slot.symbol]
            elif slot.stage is not Stage.TRIGGERED:
                slot.stage, slot.stage_ms = Stage.TRIGGERED, now_ms
        elif slot.stage is Stage.CLEARING:
            return
        elif status in ("TRIGGERING", "TRIGGERED"):
            if slot.stage is not Stage.TRIGGERED:
                slot.stage, slot.stage_ms = Stage.TRIGGERED, now_ms
        elif status in LIVE_STATES and slot.stage in (Stage.PLACING, Stage.LOST) and not slot.ended:
            slot.stage, slot.stage_ms, slot.expired = Stage.STANDING, now_ms, False
            self._clothed(slot, now_ms)
            self.changed(slot, now_ms)

    def _gone(self, slot: Slot, now_ms: int, why: str) -> None:
        """The stop ended while we hold, it seems; our own exit's fill may be on its way, so look again soon."""
        slot.stage, slot.stage_ms, slot.algo_id = Stage.LOST, now_ms, 0
        slot.next_ms = now_ms + TRIGGERED_WAIT_MS
        if not slot.naked_since_ms:  # what was never confirmed keeps its deadline
            slot.naked_since_ms, slot.deadline_ms, slot.exit_asked = now_ms, now_ms + DEADLINE_MS, False
        self.alarm("stop_gone", slot.symbol, why)
        self.changed(slot, now_ms)

    def _clothed(self, slot: Slot, now_ms: int) -> None:
        if slot.naked_since_ms:
            slot.naked_ms += now_ms - slot.naked_since_ms
            slot.naked_since_ms = 0

    def _exit(self, slot: Slot, reason: Reason, now_ms: int, why: str) -> None:
        if slot.exit_asked or slot.presumed or self.kind == TAKE_PROFIT:
            return
        slot.exit_asked = True
        self.alarm("stop_exit", slot.symbol, why)
        self.exit_now(slot.position_id, reason, now_ms)

    def _clear(self, slot: Slot, now_ms: int) -> None:
        if now_ms < slot.next_ms or slot.waiting:
            return
        slot.next_ms = now_ms + EXPIRE_WAIT_MS
        self._ask(slot, Request(Call.ALGO_CANCEL, {"clientAlgoId": slot.name}), self._cancelled, now_ms)

    def _cancelled(self, slot: Slot, reply: Reply, now_ms: int) -> None:
        if reply.ok:
            del self.slots[slot.symbol]
        elif reply.code in NO_SUCH:
            self._ask(slot, Request(Call.ALGO_QUERY, {"clientAlgoId": slot.name}), self._queried, now_ms)

    def _queried(self, slot: Slot, reply: Reply, now_ms: int) -> None:
        if reply.ok and isinstance(reply.result, dict):
            self._state(slot, str(reply.result.get("algoStatus", "")), now_ms, "")
        elif reply.code in NO_SUCH:
            del self.slots[slot.symbol]  # neither cancellable nor known: it does not exist


def _closes(row: dict[str, Any]) -> bool:
    return str(row.get("closePosition", "")).lower() == "true"
