"""Live trading put together: what an event of the exchange means for orders, stops and positions. Holds no socket.

`LiveTrading` is what the desk tells (Observer), what the private stream feeds, and what the ticker advances. Everything
it wants from the exchange leaves through the Sender. Exits ask `terms.py`, entries pass `admission.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import LiveConfig
from engine.exchange.order_budget import OrderBudget
from engine.exchange.replies import Reply
from engine.exchange.requests import TAKE_PROFIT, Call, Request
from engine.exchange.user_data import (
    AccountUpdate,
    AlgoUpdate,
    ConfigUpdate,
    KeyExpired,
    MarginCall,
    Once,
    OrderUpdate,
    TradeLite,
    UserEvent,
    decode,
)
from engine.exchange.venue import Sender
from engine.log import get_logger
from engine.timers import Hold
from engine.trading.admission import Admission
from engine.trading.blind import BlindGuard
from engine.trading.brackets import Brackets
from engine.trading.desk import Desk
from engine.trading.fees import FeePrices
from engine.trading.foreign import Foreign
from engine.trading.gateway import OrderEvent
from engine.trading.income import IncomeCheck
from engine.trading.kill import KillLadder
from engine.trading.live import LiveGateway
from engine.trading.orders import Order, client_order_id, is_ours
from engine.trading.preflight import CANARY
from engine.trading.protection import Protection, Slot, Stage, protect_level, take_level
from engine.trading.reconcile import Reconciler
from engine.trading.stall import Stall
from engine.trading.sweeps import Sweeps
from engine.trading.tasks import Tasks
from engine.trading.terms import LiveTerms
from engine.trading.wallet import Wallet
from kernels.decide import BIT
from kernels.records import Reason

log = get_logger(__name__)

RENEW_EVERY_MS = 10_000
RATE, STALL = int(Hold.RATE), int(Hold.STALL)
OrderEvents = OrderUpdate | TradeLite | AlgoUpdate


class LiveTrading:
    """See the module. marks, mark_ms belong to the core; feed_mark(symbol, price, time_ms) gives it a polled price."""

    def __init__(
        self,
        settings: LiveConfig,
        symbols: list[str],
        instruments: npt.NDArray[Any],
        marks: npt.NDArray[np.float64],
        mark_ms: list[int] | memoryview,
        desk: Desk,
        gateway: LiveGateway,
        sender: Sender,
        budget: OrderBudget,
        names: tuple[str, int],
        feed_mark: Callable[[int, float, int], None],
    ) -> None:
        self.settings, self.symbols = settings, symbols
        self.mark_ms, self.polled_ms = mark_ms, [0] * len(symbols)
        self.desk, self.gateway, self.sender = desk, gateway, sender
        self.alarm = Tasks()
        self.on_key_expired: Callable[[], None] = lambda: None
        self.on_config: Callable[[ConfigUpdate], None] = lambda update: None
        # what comes from outside and is no answer: journalled before its effect, in a replay the recorded
        self.note_payload: Callable[[bytes, int], None] = lambda payload, now_ms: None
        self.note_tick: Callable[[int, int], None] = lambda hold, now_ms: None
        self.stood_still: Callable[[], bool] = Stall()
        self.room: Callable[[int], bool] = budget.room_for_entry
        self.violations = self.malformed = 0
        self.active = False  # true once what stood on the exchange at start has been taken over
        self.inherited: frozenset[int] = frozenset()  # positions whose stop an earlier run began to look after
        self._names, self._feed_mark = names, feed_mark
        self._index = {name: i for i, name in enumerate(symbols)}
        self._once = Once()
        self._early: list[tuple[bytes, OrderEvents]] = []
        self._now_ms = 0
        self._renew_due_ms = 0
        self.protection = Protection(
            symbols, sender, self.exit_position, self.alarm, self._protection_changed,
            lambda name: is_ours(name, names[0]),
        )  # fmt: skip
        self.takes = Protection(
            symbols, sender, self.exit_position, self.alarm, mine=lambda name: is_ours(name, names[0]),
            kind=TAKE_PROFIT,
        )  # fmt: skip
        self.reconciler = Reconciler(
            symbols, self._ours, self._in_flight, self._half_step, self.protection.says_flat, self.read_position,
            self._ask_trades, self._settle, self._give_up,
        )  # fmt: skip
        self.blind = BlindGuard(self._poll_mark, self.protection.standing, self._blind_exit, self.alarm)
        self.fees = FeePrices(sender, self.alarm)
        self.income = IncomeCheck(sender, symbols, self.fees.rate, self.alarm)
        self.wallet = Wallet(desk, self.income, self.alarm)
        self.income.missed = self.wallet.on_missed
        self.sweeps = Sweeps(sender, (self.protection, self.takes), self.reconciler, self._read, self.wallet.on_read)
        self.brackets = Brackets(sender, symbols, settings.leverage)
        self.admission = Admission(settings, instruments, marks, desk, gateway, self.brackets, self.alarm)
        self.protection.refused = self.takes.refused = self.admission.imposed
        self.kill = KillLadder(desk, gateway.cancel)
        self.foreign = Foreign(
            desk, self.protection, self.takes, self.reconciler, self._index, self.alarm, self.fees.rate, gateway.follow
        )
        gateway.fee_rate = self.fees.rate
        desk.observer = self
        desk.terms = LiveTerms(
            settings, instruments, marks, desk, gateway, (self.protection, self.takes), self.reconciler,
            lambda: self._now_ms, self.nothing_to_reduce, self.alarm,
        )  # fmt: skip
        gateway.on_event = self._to_desk
        gateway.on_evidence = self._first_fill
        gateway.on_doubt = lambda order, now_ms: self._first_fill(order, now_ms, presumed=True)
        gateway.on_silence = self._stream_silent
        gateway.on_foreign, gateway.booked = self.foreign.on_update, self.foreign.booked
        gateway.route_of = desk.exit_route

    # --- in: the private stream ---

    def on_payload(self, payload: bytes, now_ms: int) -> None:
        """Take one frame of either private socket."""
        try:
            event = decode(payload)
        except ValueError as error:
            self.malformed += 1
            log.warning("user_event_malformed", error=str(error))
            return
        if event is None or not self._once.first(event):
            return
        if self.active or not isinstance(event, OrderEvents):
            self.note_payload(payload, now_ms)
            self.on_user(event, now_ms)
        else:
            self._early.append((payload, event))

    def begin(self, now_ms: int) -> None:
        """What stood on the exchange is taken over: take what the streams told of orders while it was read.

        Before, an order of the last run was nobody's here, and its fill that of a person who closes our position.
        """
        self.active = True
        self.begin_reconcile()
        for payload, event in self._early:
            self.note_payload(payload, now_ms)
            self.on_user(event, now_ms)
        self._early.clear()

    def on_user(self, event: UserEvent, now_ms: int) -> None:
        """Take one event that was not seen before, then check the invariant."""
        self._now_ms = now_ms
        if isinstance(event, OrderUpdate):
            symbol = self._index.get(event.symbol)
            if symbol is not None and event.last_qty > 0.0:  # an order that does not fill leaves the position's time
                self.reconciler.event(symbol, event.time_ms)
            self.gateway.on_update(event, now_ms)
            if symbol is not None:
                self.reconciler.check(symbol, now_ms)
        elif isinstance(event, TradeLite):
            self.gateway.on_trade_lite(event, now_ms)
        elif isinstance(event, AccountUpdate):
            self._account(event, now_ms)
        elif isinstance(event, AlgoUpdate):
            known = self.protection.on_algo(event, now_ms) or self.takes.on_algo(event, now_ms)
            known |= event.client_algo_id.startswith(CANARY)
            if not known and event.status == "NEW":
                self.alarm("foreign_algo", self._index.get(event.symbol, -1), event.client_algo_id)
        elif isinstance(event, KeyExpired):
            self.begin_reconcile()
            self.on_key_expired()
        elif isinstance(event, ConfigUpdate):
            self.on_config(event)
        elif isinstance(event, MarginCall):
            self.alarm("margin_call", -1, ", ".join(event.symbols))
        self.check_invariant(now_ms)

    def _account(self, update: AccountUpdate, now_ms: int) -> None:
        name = update.symbol or (update.positions[0].symbol if update.positions else "")
        symbol = self._index.get(name, -1)
        self.wallet.on_account(update, symbol, now_ms)
        if update.reason == "MARGIN_TYPE_CHANGE" and symbol >= 0:
            self.admission.untraded[symbol] = "margin type changed from outside"
            self.on_config(ConfigUpdate("", 0, None, update.event_ms))
        for name in self.reconciler.on_account(update, now_ms):
            self.alarm("foreign_position", -1, name)
        self.desk.mark_account(now_ms)
        self.desk.write_account(now_ms)

    def _to_desk(self, event: OrderEvent) -> None:
        order = self.desk.orders.get(event.client_order_id)
        if event.trade_id and order is not None:
            self.foreign.remember(order.symbol, event.trade_id)
            self.reconciler.event(order.symbol, event.event_ms)  # REST may have told of it
        self.desk.on_order_event(event)
        if order is not None and order.terminal and not order.reduce_only and not order.filled_qty:
            self.protection.position_closed(order.position_id, self._now_ms)  # a stop adopted for it stands for nothing
        if order is not None and event.code:
            self.admission.refused(order, event.code, self._now_ms)

    # --- the desk's observer ---

    def _first_fill(self, order: Order, now_ms: int, presumed: bool = False) -> None:
        entry = self.desk.entries.get(order.position_id)
        if entry is None:
            return
        trigger = protect_level(entry.side, entry.sl_price, entry.atr_15m, self.gateway.steps[entry.symbol][0])
        name = client_order_id(*self._names, order.position_id, "p")
        self.protection.arm(order.position_id, entry.symbol, entry.side, trigger, name, now_ms, presumed)

    def position_opened(self, slot: int, now_ms: int) -> None:
        """Its stop is under way since the first evidence; say so if it is confirmed already."""
        symbol = int(self.desk.positions.rows[slot]["symbol"])
        if self.protection.standing(symbol):
            self._protection_changed(self.protection.slots[symbol], now_ms)

    def position_closed(self, position_id: int, symbol: int, now_ms: int) -> None:
        """Let the stop expire."""
        self.protection.position_closed(position_id, now_ms)
        self.takes.position_closed(position_id, now_ms)
        self.reconciler.check(symbol, now_ms)

    def traded(self, symbol: int, event: OrderEvent, realised_usdt: float) -> None:
        """Hold a booked trade against the income history."""
        self.income.traded(symbol, event.trade_id, realised_usdt, event.fee_usdt, event.event_ms)

    def may_enter(self, symbol: int) -> bool:
        """Whether nothing of an earlier position stands on the exchange and the exchange agrees that we are flat."""
        stated = self.reconciler.stated.get(symbol)
        flat = stated is None or stated.qty == 0.0
        free = self.protection.may_enter(symbol) and self.takes.may_enter(symbol)
        return flat and free and symbol not in self.reconciler.doubts

    def unprotected_ms(self, position_id: int, until_ms: int) -> int:
        """How long the position had no confirmed stop on the exchange; −1: an earlier run saw its beginning."""
        return -1 if position_id in self.inherited else self.protection.naked_total_ms(position_id, until_ms)

    def look(self, now_ms: int) -> None:
        """Before an input that may be decided on: a loop that stood still is a tick of its own, in the journal too."""
        if self.stood_still():
            self.tick(STALL, now_ms)

    def hold(self, now_ms: int) -> int:
        """Look at what only this process knows, before a decision; noted beside it as `engine.timers.Hold`."""
        self.admission.room = self.room(now_ms)
        return 0 if self.admission.room else RATE

    def entry_gates(self, symbol: int, side: int, qty: float, sl_price: float, atr_15m: float, now_ms: int) -> int:
        """Refuse what the exchange would, and every entry before a full reconcile or while blind."""
        gates = self.admission.gates(symbol, side, qty, sl_price, atr_15m, now_ms)
        if not self.sweeps.reconciled:
            gates |= BIT["unknown_order"]
        if symbol in self.blind.blind:
            gates |= BIT["stale_data"]
        return gates

    def _protection_changed(self, stop: Slot, now_ms: int) -> None:
        slot = self.desk.positions.slot_of_id(stop.position_id)
        if slot < 0:
            return
        self.desk.note_protection(slot, float(stop.trigger), stop.stage is Stage.STANDING, now_ms)
        if self.settings.take_profit and stop.stage is Stage.STANDING:
            row, tick = self.desk.positions.rows[slot], self.gateway.steps[stop.symbol][0]
            trigger = take_level(stop.side, float(row["tp_price"]), float(row["atr_15m"]), tick)
            name = client_order_id(*self._names, stop.position_id, "t")
            self.takes.arm(stop.position_id, stop.symbol, stop.side, trigger, name, now_ms)

    # --- reconciliation ---

    def nothing_to_reduce(self, symbol: int) -> None:
        """An exit found nothing: for what we still hold that is a second source for flat, also in a standing doubt."""
        if self.desk.positions.slot_of[symbol] >= 0:
            self.reconciler.refused(symbol, self._now_ms)
        self.read_position(symbol)

    def read_position(self, symbol: int) -> None:
        """Ask for the symbol's position."""
        self.protection.verify(symbol)
        request = Request(Call.POSITIONS, {"symbol": self.symbols[symbol]})
        self.sender.send(request, lambda reply: self._read(reply, [symbol]))

    def _ours(self, symbol: int) -> float:
        slot = self.desk.positions.slot_of[symbol]
        if slot < 0:
            return self.foreign.offsets.get(symbol, 0.0)
        row = self.desk.positions.rows[slot]
        return float(row["side"]) * float(row["qty"]) + self.foreign.offsets.get(symbol, 0.0)

    def _in_flight(self, symbol: int) -> bool:
        return any(order.symbol == symbol for order in self.desk.orders.values())

    def _half_step(self, symbol: int) -> float:
        return 0.5 * self.gateway.steps[symbol][1].size

    def _read(self, reply: Reply, asked: list[int]) -> None:
        if reply.ok and isinstance(reply.result, list):
            for name in self.reconciler.on_read(reply.result, asked, self._now_ms):
                self.alarm("foreign_position", -1, name)

    def _ask_trades(self, symbol: int, from_ms: int) -> None:
        request, asked_ms = Request(Call.TRADES, {"symbol": self.symbols[symbol], "startTime": from_ms}), self._now_ms
        self.sender.send(request, lambda reply: self.foreign.on_trades(symbol, reply, asked_ms, self._now_ms))

    def _settle(self, symbol: int, stated: Any, now_ms: int) -> None:
        self.foreign.settle(symbol, stated, self.settings.external, now_ms)

    def _give_up(self, symbol: int, text: str) -> None:
        self.admission.halt(symbol, text, self._now_ms)
        self.alarm("not_converging", symbol, text)

    # --- time ---

    def advance(self, now_ms: int) -> None:
        """Let time pass; called by the ticker every few milliseconds and after each batch of events."""
        self.tick(STALL if self.stood_still() else 0, now_ms)

    def tick(self, hold: int, now_ms: int) -> None:
        """Let time pass; hold: STALL when the loop stood still before it (replay enters here)."""
        if hold & STALL:
            self.alarm("stall", -1, "the loop stood still for more than 2 s")
            self.begin_reconcile()
        self.note_tick(hold, now_ms)
        self._now_ms = now_ms
        self.wallet.advance(now_ms)
        self.desk.advance(now_ms)
        self.protection.advance(now_ms)
        self.takes.advance(now_ms)
        self.reconciler.advance(now_ms)
        self.kill.advance(now_ms)
        self.fees.advance(now_ms)
        self.brackets.advance(now_ms)
        self.admission.advance()
        self.income.advance(now_ms)
        held = self.desk.positions.rows["symbol"][: self.desk.positions.count].tolist()
        self.blind.advance(held, self.mark_ms, self.polled_ms, now_ms)
        self.check_invariant(now_ms)
        self.sweeps.advance(held, now_ms)

    def begin_reconcile(self) -> None:
        """Refuse entries until positions and stops have been read once more."""
        self.sweeps.begin()

    def check_invariant(self, now_ms: int) -> None:
        """Position ≠ 0 ⇒ guard armed and stop confirmed, or within its two seconds, or on its way out."""
        positions = self.desk.positions
        for slot in range(positions.count if self.active else 0):
            row = positions.rows[slot]
            symbol, position_id = int(row["symbol"]), int(row["position_id"])
            stop = self.protection.slots.get(symbol)
            if stop is not None and (stop.position_id == position_id or position_id in self.desk.exits):
                continue
            self.violations += 1
            trigger = protect_level(
                int(row["side"]), float(row["sl_price"]), float(row["atr_15m"]), self.gateway.steps[symbol][0]
            )
            name = client_order_id(*self._names, position_id, "p")
            self.protection.arm(position_id, symbol, int(row["side"]), trigger, name, now_ms)

    def exit_position(self, position_id: int, reason: Reason, now_ms: int) -> None:
        """Close a position now."""
        slot = self.desk.positions.slot_of_id(position_id)
        if slot >= 0:
            self.desk.exit(slot, reason, now_ms)

    def _stream_silent(self) -> None:
        """A trade came by REST that both private streams should have told: they are not to be trusted any more."""
        if self._now_ms < self._renew_due_ms:
            return
        self._renew_due_ms = self._now_ms + RENEW_EVERY_MS
        self.alarm("private_streams_silent", -1, "a fill was learnt from REST; the streams are opened anew")
        self.begin_reconcile()
        self.on_key_expired()

    def _blind_exit(self, symbol: int, now_ms: int) -> None:
        self.desk.exit(self.desk.positions.slot_of[symbol], Reason.BLIND, now_ms)

    def _poll_mark(self, symbol: int) -> None:
        def done(reply: Reply) -> None:
            if reply.ok and isinstance(reply.result, dict):
                self.polled_ms[symbol] = int(reply.result["time"])
                streamed_ms = self.mark_ms[symbol]
                self._feed_mark(symbol, float(reply.result["markPrice"]), int(reply.result["time"]))
                self.mark_ms[symbol] = streamed_ms  # a polled price moves the guards but does not make the stream fresh

        self.sender.send(Request(Call.MARK, {"symbol": self.symbols[symbol]}), done)
