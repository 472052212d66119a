"""The kill ladder: pause entries, reduce-only, cancel own entries, flatten; each step with the time until it held.

It never cancels by symbol (`allOpenOrders`): that would take the child of a triggered stop away from a position.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.log import get_logger
from engine.trading.desk import Desk
from engine.trading.orders import Order
from kernels.records import Reason, RunState

log = get_logger(__name__)


class Step(enum.IntEnum):
    """How far to go; each includes the ones before."""

    PAUSE = 1
    REDUCE_ONLY = 2
    CANCEL = 3
    FLATTEN = 4


@dataclass
class KillLadder:
    """`begin` once, then `advance` with time; `took_ms` fills as the steps come to hold.

    cancel(order, now_ms): ask the exchange to cancel one of our orders. In shadow mode nothing rests, so there is none;
    and what filled after the command is closed by commands of its own (`strays`), which a replay repeats.
    """

    desk: Desk
    cancel: Callable[[Order, int], None] | None
    took_ms: dict[Step, int] = field(default_factory=dict)
    _until: Step = Step.PAUSE
    _begun_ms: int = 0
    _running: bool = False

    def begin(self, until: Step, now_ms: int) -> None:
        """Start; a second call can only go further."""
        if self._running and until <= self._until:
            return
        self._until = max(until, self._until) if self._running else until
        if not self._running:
            self.took_ms, self._begun_ms = {}, now_ms
        self._running = True
        account = self.desk.account
        least = RunState.STOPPED if until is Step.PAUSE else RunState.REDUCE_ONLY
        if account.run_state == RunState.RUNNING or account.run_state < least:
            account.run_state = int(least)
        self.desk.write_account(now_ms)
        if until >= Step.CANCEL and self.cancel is not None:
            for order in list(self.desk.orders.values()):
                if not order.reduce_only:
                    self.cancel(order, now_ms)
        if until is Step.FLATTEN:
            self._flatten(now_ms)
        self.advance(now_ms)

    @staticmethod
    def step(until: str) -> Step:
        """Return a step by its name. Raises ValueError for one that does not exist."""
        if until.upper() not in Step.__members__:
            names = ", ".join(step.name.lower() for step in Step)
            raise ValueError(f"until: expected one of {names}; got {until!r}")
        return Step[until.upper()]

    def report(self) -> dict[str, Any]:
        """Return how far the newest kill was to go, whether that holds, and the ms after which each step did."""
        return {
            "until": self._until.name.lower() if self._begun_ms else None,
            "begun_ms": self._begun_ms or None,
            "running": self._running,
            "took_ms": {step.name.lower(): ms for step, ms in self.took_ms.items()},
        }

    def strays(self) -> list[int]:
        """Return the symbols of positions that a flatten has not begun to close: entries that filled behind it."""
        if not self._running or self._until is not Step.FLATTEN:
            return []
        desk = self.desk
        rows = desk.positions.rows[: desk.positions.count]
        return [int(row["symbol"]) for row in rows if int(row["position_id"]) not in desk.exits]

    def _flatten(self, now_ms: int) -> None:
        for slot in range(self.desk.positions.count - 1, -1, -1):
            self.desk.exit(slot, Reason.FLATTEN, now_ms)

    def advance(self, now_ms: int) -> None:
        """Look which steps hold now; keep flattening until nothing is left."""
        if not self._running:
            return
        desk, state = self.desk, self.desk.account.run_state
        holds = {
            Step.PAUSE: state != RunState.RUNNING,
            Step.REDUCE_ONLY: state in (RunState.REDUCE_ONLY, RunState.HALTED),
            Step.CANCEL: all(order.reduce_only for order in desk.orders.values()),
            Step.FLATTEN: not desk.positions.count and not desk.orders,
        }
        if self._until is Step.FLATTEN and self.cancel is not None:
            self._flatten(now_ms)
        for step in Step:
            if step > self._until or (step not in self.took_ms and not holds[step]):
                break
            if step not in self.took_ms:
                self.took_ms[step] = now_ms - self._begun_ms
                log.info("kill_step", step=step.name.lower(), took_ms=self.took_ms[step])
        self._running = self._until not in self.took_ms
