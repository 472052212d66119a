"""Orders and the one table of their life. Only the exchange's word ends an order; a missing key changes nothing."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import lru_cache

from kernels.records import OrderState, Reason

S = OrderState


class OrderType(enum.IntEnum):
    MARKET = 0
    LIMIT_IOC = 1
    STOP_MARKET = 2


MARKET, LIMIT_IOC = OrderType.MARKET, OrderType.LIMIT_IOC  # looking a member up costs a call on the hot path


class Event(enum.IntEnum):
    """What can happen to an order."""

    SEND = 0
    ACKNOWLEDGE = 1
    PARTIAL_FILL = 2
    FILL = 3
    CANCEL = 4
    CANCELLED = 5
    REJECT = 6
    EXPIRE = 7
    LOSE = 8  # time-out, dead socket, "status unknown": nobody can say
    PROVE_ABSENT = 9  # the exchange denied it repeatedly after its time window had passed


TRANSITIONS: dict[tuple[OrderState, Event], OrderState] = {
    (S.INTENT, Event.SEND): S.SENT,
    (S.INTENT, Event.REJECT): S.REJECTED,  # refused locally before any byte was sent
    (S.INTENT, Event.LOSE): S.UNKNOWN,  # found in the journal after a crash: perhaps sent
    (S.SENT, Event.ACKNOWLEDGE): S.ACKNOWLEDGED,
    (S.SENT, Event.PARTIAL_FILL): S.PARTIALLY_FILLED,  # a fill may overtake the reply
    (S.SENT, Event.FILL): S.FILLED,
    (S.SENT, Event.REJECT): S.REJECTED,
    (S.SENT, Event.EXPIRE): S.EXPIRED,
    (S.SENT, Event.CANCELLED): S.CANCELLED,
    (S.SENT, Event.LOSE): S.UNKNOWN,
    (S.ACKNOWLEDGED, Event.ACKNOWLEDGE): S.ACKNOWLEDGED,
    (S.ACKNOWLEDGED, Event.PARTIAL_FILL): S.PARTIALLY_FILLED,
    (S.ACKNOWLEDGED, Event.FILL): S.FILLED,
    (S.ACKNOWLEDGED, Event.CANCEL): S.CANCEL_PENDING,
    (S.ACKNOWLEDGED, Event.CANCELLED): S.CANCELLED,
    (S.ACKNOWLEDGED, Event.EXPIRE): S.EXPIRED,
    (S.ACKNOWLEDGED, Event.REJECT): S.REJECTED,
    (S.ACKNOWLEDGED, Event.LOSE): S.UNKNOWN,
    (S.PARTIALLY_FILLED, Event.ACKNOWLEDGE): S.PARTIALLY_FILLED,
    (S.PARTIALLY_FILLED, Event.PARTIAL_FILL): S.PARTIALLY_FILLED,
    (S.PARTIALLY_FILLED, Event.FILL): S.FILLED,
    (S.PARTIALLY_FILLED, Event.CANCEL): S.CANCEL_PENDING,
    (S.PARTIALLY_FILLED, Event.CANCELLED): S.CANCELLED,
    (S.PARTIALLY_FILLED, Event.EXPIRE): S.EXPIRED,
    (S.PARTIALLY_FILLED, Event.LOSE): S.UNKNOWN,
    (S.CANCEL_PENDING, Event.PARTIAL_FILL): S.CANCEL_PENDING,
    (S.CANCEL_PENDING, Event.FILL): S.FILLED,
    (S.CANCEL_PENDING, Event.CANCELLED): S.CANCELLED,
    (S.CANCEL_PENDING, Event.EXPIRE): S.EXPIRED,
    (S.CANCEL_PENDING, Event.REJECT): S.ACKNOWLEDGED,  # the cancel was refused: the order still stands
    (S.CANCEL_PENDING, Event.LOSE): S.UNKNOWN,
    (S.UNKNOWN, Event.ACKNOWLEDGE): S.ACKNOWLEDGED,
    (S.UNKNOWN, Event.PARTIAL_FILL): S.PARTIALLY_FILLED,
    (S.UNKNOWN, Event.FILL): S.FILLED,
    (S.UNKNOWN, Event.CANCELLED): S.CANCELLED,
    (S.UNKNOWN, Event.EXPIRE): S.EXPIRED,
    (S.UNKNOWN, Event.REJECT): S.REJECTED,
    (S.UNKNOWN, Event.LOSE): S.UNKNOWN,
    (S.UNKNOWN, Event.PROVE_ABSENT): S.ABSENT,
}

TERMINAL = frozenset({S.FILLED, S.CANCELLED, S.REJECTED, S.EXPIRED, S.ABSENT})


@dataclass(slots=True)
class Order:
    """One order of ours. `side` is +1 to buy, −1 to sell; quantities in base units."""

    client_order_id: str
    position_id: int
    symbol: int
    side: int
    order_type: OrderType
    reduce_only: bool
    qty: float
    price: float
    reason: Reason
    created_ms: int
    state: OrderState = OrderState.INTENT
    filled_qty: float = 0.0
    average_price: float = 0.0
    order_id: int = 0
    code: int = 0
    detail: str = ""
    qty_text: str = ""  # the exchange's own digits, when it stated the quantity
    route: str = ""  # the transport that took it
    trade_ids: set[int] = field(default_factory=set)

    @property
    def terminal(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.state in TERMINAL

    def apply(self, event: Event) -> bool:
        """Move to the next state; False, and no change, for an event that this state does not know."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            return False
        self.state = following
        return True

    def add_fill(self, qty: float, price: float) -> None:
        """Account for one execution."""
        total = self.filled_qty + qty
        self.average_price = (self.average_price * self.filled_qty + price * qty) / total
        self.filled_qty = total


BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int) -> str:
    """Return `number` ≥ 0 in base 36."""
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = BASE36[digit] + digits
        if not number:
            return digits


_run_text = lru_cache(4)(base36)


def client_order_id(engine_id: str, run_id: int, seq: int, role: str) -> str:
    """Return the deterministic client order id of the order that belongs to journal seq `seq`.

    role: `e` entry, `x` exit, `p` protective stop; at most 36 characters of the exchange's alphabet.
    """
    return f"ta-{engine_id}-{_run_text(run_id)}-{base36(seq)}-{role}"


def is_ours(order_id: str, engine_id: str) -> bool:
    """Whether a client order id was made by this engine (in any run)."""
    return order_id.startswith(f"ta-{engine_id}-")
