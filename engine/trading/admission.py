"""Whether live trading may enter a symbol: the account's settings, the listing, brackets, order budget, liquidation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import LiveConfig
from engine.exchange.filters import why_untradable
from engine.exchange.replies import HALTING_RESTRICTIONS, REDUCE_ONLY_RESTRICTIONS
from engine.exchange.steps import Step
from engine.trading.brackets import Brackets
from engine.trading.desk import Desk
from engine.trading.live import LiveGateway
from engine.trading.margin import liquidation_price, maintenance_usdt, stop_is_before_liquidation
from engine.trading.orders import Order
from engine.trading.protection import protect_level
from engine.trading.tasks import Tasks
from kernels.decide import BIT
from kernels.records import RunState

PASSING = frozenset({-1021, -1008, -1015, -1003})  # refusals that say nothing about the symbol


@dataclass
class Admission:
    """untraded: symbols that rest because of the account's settings; unlisted: because of the listing; with the reason.
    closed: why all of them rest as long as this engine runs ("": they do not).

    instruments, marks: the core's. Restrictions that the exchange imposes end in the account's run state.
    """

    settings: LiveConfig
    instruments: npt.NDArray[Any]
    marks: npt.NDArray[np.float64]
    desk: Desk
    gateway: LiveGateway
    brackets: Brackets
    alarm: Tasks
    room: bool = True  # whether the order budget had room for an entry when the decision under way began
    untraded: dict[int, str] = field(default_factory=dict)
    unlisted: dict[int, str] = field(default_factory=dict)
    closed: str = ""
    maintenance_usdt: float = 0.0  # of every open position, as of the last `advance`

    def __post_init__(self) -> None:
        for symbol, row in enumerate(self.instruments):
            if why := why_untradable(row, self.settings.tradfi):
                self.unlisted[symbol] = why

    @property
    def resting(self) -> dict[int, str]:
        """Every symbol that rests, with the reason."""
        everywhere = dict.fromkeys(range(len(self.instruments)), self.closed) if self.closed else {}
        return {**everywhere, **self.unlisted, **self.untraded}

    def gates(self, symbol: int, side: int, qty: float, sl_price: float, atr_15m: float, now_ms: int) -> int:
        """Refuse entries without order budget, in resting symbols, or whose stop is too near ruin."""
        gates = 0
        if not self.room:
            gates |= BIT["rate_budget"]
        if self.closed or symbol in self.untraded or symbol in self.unlisted:
            gates |= BIT["symbol_halted"]
        tiers = self.brackets.tiers.get(symbol)
        if tiers and side and qty > 0.0 and sl_price > 0.0:
            trigger = float(protect_level(side, sl_price, atr_15m, self.gateway.steps[symbol][0]))
            mark = float(self.marks[symbol])
            margin_usdt, others_usdt = self.desk.account.equity_usdt, self.maintenance_usdt
            if self.settings.margin_type == "ISOLATED":  # the position stands on its own margin alone
                margin_usdt, others_usdt = qty * mark / min(self.settings.leverage, tiers[0].leverage), 0.0
            liquidation = liquidation_price(side, qty, mark, tiers, margin_usdt, others_usdt)
            if not stop_is_before_liquidation(side, trigger, liquidation):
                gates |= BIT["liquidation"]
        return gates

    def advance(self) -> None:
        """Add up the maintenance margin that the open positions bind: what is left of the equity is an entry's."""
        rows, tiers = self.desk.positions.rows, self.brackets.tiers
        self.maintenance_usdt = sum(
            maintenance_usdt(tiers[symbol], float(rows[slot]["qty"]) * float(self.marks[symbol]))
            for slot in range(self.desk.positions.count)
            if (symbol := int(rows[slot]["symbol"])) in tiers
        )

    def halt(self, symbol: int, why: str, now_ms: int) -> None:
        """Let a symbol rest until a person allows it again."""
        self.desk.halt_symbol(symbol, self.gateway.symbols[symbol], why, now_ms)

    def relist(self, symbol: int) -> None:
        """Take a changed listing: price and quantity steps, and whether the symbol may be entered at all."""
        row = self.instruments[symbol]
        self.gateway.steps[symbol] = Step.of(row)
        self.unlisted.pop(symbol, None)
        if why := why_untradable(row, self.settings.tradfi):
            self.unlisted[symbol] = why
        self.alarm("listing_changed", symbol, why or f"tick {row['tick_size']}, step {row['step_size']}")

    def refused(self, order: Order, code: int, now_ms: int) -> None:
        """Learn from a refused order: what the exchange imposed, or that the symbol needs a person."""
        if self.imposed(order.symbol, code, now_ms, order.detail):
            return
        if order.reduce_only or order.state.name != "REJECTED" or code in PASSING:
            return
        self.halt(order.symbol, f"code {code}", now_ms)  # refused for a reason of its own: a person must look
        self.alarm("exchange_restriction", order.symbol, f"code {code}: {order.detail}")
        self.desk.write_account(now_ms)

    def imposed(self, symbol: int, code: int, now_ms: int, detail: str = "a stop was refused") -> bool:
        """Take a refusal that restricts the account, whatever was refused; False when the code does not."""
        account = self.desk.account
        if code in HALTING_RESTRICTIONS:
            account.run_state = int(RunState.HALTED)
        elif code in REDUCE_ONLY_RESTRICTIONS:
            account.run_state = max(account.run_state, int(RunState.REDUCE_ONLY))
        else:
            return False
        self.alarm("exchange_restriction", symbol, f"code {code}: {detail}")
        self.desk.write_account(now_ms)
        return True
