"""The live gateway: orders to the exchange, and what the exchange says about them. Holds no socket, reads no clock.

An order ends when the exchange has said so and all of its executed quantity is booked. Executions are booked from
trades with ids alone (user stream, or own trades over REST), so none is invented and none counts twice. Whatever
leaves the fate of an order open makes it unknown; evidence resolves it: the stream, a query by client id, own trades.
An entry is handed to one transport once and never resent.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.exchange.replies import NO_SUCH_ORDER, Outcome, Reply
from engine.exchange.requests import RECV_WINDOW_MS, Call, Request, entry_order, exit_order
from engine.exchange.steps import Step
from engine.exchange.user_data import OrderUpdate, TradeLite
from engine.exchange.venue import Sender
from engine.log import get_logger
from engine.trading.gateway import OrderEvent
from engine.trading.orders import LIMIT_IOC, Event, Order
from kernels.records import OrderState

log = get_logger(__name__)

REPLY_WAIT_MS = 1_000  # no answer for this long: the fate is unknown
TRADES_WAIT_MS = 300  # executed quantity stated but no trade on the stream for this long: ask for own trades
ASK_EVERY_MS = (50, 200, 400, 800, 1_000)
ABSENT_AFTER_MS = RECV_WINDOW_MS + 2_000
PLACED, ASKED, TRADES, CANCEL = 1, 2, 3, 4  # what an answer in the journal belongs to
OURS = re.compile(r"ta-[a-z0-9]+-[a-z0-9]+-[a-z0-9]+-[ex]")
DENIALS = 3  # "no such order", at least 1 s apart and all after ABSENT_AFTER_MS: survives REST lagging 5 s
DENIALS_OF_KNOWN = 60  # of an acknowledged order: the exchange forgets those without a fill after 3 days, all after 90
TELLINGS = 60  # readings of own trades, one a second, that never add up to what was stated: the account settles it
ENDED = {
    "FILLED": Event.FILL, "CANCELED": Event.CANCELLED, "EXPIRED": Event.EXPIRE, "EXPIRED_IN_MATCH": Event.EXPIRE,
    "REJECTED": Event.REJECT,
}  # fmt: skip


@dataclass(slots=True)
class Track:
    """What is known of one open order beyond its state."""

    order: Order
    sent_ms: int
    ask_ms: int
    stated_qty: float = 0.0
    booked_qty: float = 0.0
    ended: str = ""
    detail: str = ""
    asks: int = 0
    denials: int = 0
    denied_ms: int = 0
    trades_ms: int = 0
    tellings: int = 0
    evidence: bool = False


@dataclass
class Counts:
    """What happened at the gateway; shown in metrics."""

    lost: int = 0
    absent: int = 0
    queries: int = 0
    foreign: int = 0
    routes: dict[str, int] = field(default_factory=dict)


class LiveGateway:
    """See the module. `symbols` and `steps` (price step, quantity step) are by symbol index and may be replaced.

    on_event: the desk. on_evidence(order, now_ms): the first sign that an entry has filled, before its trade is booked.
    on_doubt(order, now_ms): an entry's fate is unknown, and asking did not tell it.
    on_foreign(update, now_ms): an order event that belongs to no open order of ours; returns the name of the order that
    it belongs to after all, "" if it belongs to none. booked(symbol, trade_id): a trade is booked under another name.
    on_answer(order, which, reply, now_ms): journals an input.
    fee_rate(asset): its price in USDT at this moment.
    """

    def __init__(
        self,
        symbols: list[str],
        steps: list[tuple[Step, Step]],
        sender: Sender,
    ) -> None:
        self.on_event: Callable[[OrderEvent], None] = lambda event: None
        self.on_answer: Callable[[Order, int, Reply, int], None] = lambda order, answer, reply, now_ms: None
        self.fee_rate: Callable[[str], float] = lambda asset: 1.0 if asset in ("", "USDT") else 0.0
        self.on_silence: Callable[[], None] = lambda: None  # REST knew a trade that the stream did not tell
        self.on_evidence: Callable[[Order, int], None] = lambda order, now_ms: None
        self.on_doubt: Callable[[Order, int], None] = lambda order, now_ms: None
        self.on_foreign: Callable[[OrderUpdate, int], str] = lambda update, now_ms: ""
        self.booked: Callable[[int, int], bool] = lambda symbol, trade_id: False
        self.route_of: Callable[[Order], int] = lambda order: 0
        self.symbols, self.steps = symbols, steps
        self.counts = Counts()
        self.tracks: dict[str, Track] = {}
        self._sender = sender
        self._now_ms = 0

    # --- out ---

    def submit(self, order: Order, now_ms: int) -> None:
        """Hand an order to one transport. When none takes it, it is rejected at the next `advance`."""
        self._now_ms = now_ms
        price_step, qty_step = self.steps[order.symbol]
        symbol, name = self.symbols[order.symbol], order.client_order_id
        price = price_step.write(order.price) if order.order_type is LIMIT_IOC else ""
        qty = order.qty_text or qty_step.write(order.qty)
        if order.reduce_only:
            request = exit_order(symbol, order.side, qty, name, order.reduce_only, price)
        else:
            request = entry_order(symbol, order.side, qty, price, name)
        track = Track(order, now_ms, now_ms + REPLY_WAIT_MS)
        self.tracks[name] = track

        def done(reply: Reply) -> None:
            self._placed(name, reply)

        route = self._sender.send(request, done, self.route_of(order))
        order.route = route
        self.counts.routes[route] = self.counts.routes.get(route, 0) + 1
        if not route:
            track.ended, track.detail = "REJECTED", "no transport took it"
            track.ask_ms = now_ms

    @property
    def waiting(self) -> int:
        """Shadow orders that wait for a book: none here."""
        return 0

    def resume(self, order: Order, now_ms: int) -> None:
        """Take over an order of an earlier run: perhaps sent, perhaps not; the exchange will say."""
        self.tracks[order.client_order_id] = Track(
            order, order.created_ms, now_ms, booked_qty=order.filled_qty, evidence=order.filled_qty > 0.0
        )
        self._lose(self.tracks[order.client_order_id], now_ms, "open in the journal at restart")

    def follow(self, order: Order, now_ms: int) -> None:
        """Follow an order of somebody else that reduces our position to its end; its present event is yet to come."""
        self.tracks[order.client_order_id] = Track(order, now_ms, now_ms + REPLY_WAIT_MS)

    def rebook(
        self, name: str, trade_id: int, qty: float, price: float, fee_usdt: float, maker: bool, time_ms: int
    ) -> None:
        """Book an execution that the journal of an earlier run holds already."""
        if name in self.tracks:
            self._book(self.tracks[name], trade_id, qty, price, fee_usdt, maker, time_ms, journalled=True)

    def cancel(self, order: Order, now_ms: int) -> None:
        """Ask to cancel an open order. "Unknown order" says nothing about its fate: it is asked for."""
        name = order.client_order_id
        track = self.tracks.get(name)
        if track is None:
            return

        def done(reply: Reply) -> None:
            found = self.tracks.get(name)
            if found is None:
                return
            self.on_answer(order, CANCEL, reply, self._now_ms)
            found.ask_ms = self._now_ms
            if reply.ok and isinstance(reply.result, dict):
                self._state(found, reply.result, self._now_ms)

        if order.state in (OrderState.ACKNOWLEDGED, OrderState.PARTIALLY_FILLED):
            self._emit(track, Event.CANCEL, now_ms, "cancel asked")
        request = Request(Call.ORDER_CANCEL, {"symbol": self.symbols[order.symbol], "origClientOrderId": name})
        self._sender.send(request, done)

    def in_flight(self, symbol: int) -> bool:
        """Whether any order of the symbol has not ended."""
        return any(track.order.symbol == symbol for track in self.tracks.values())

    # --- in ---

    def _placed(self, name: str, reply: Reply) -> None:
        track = self.tracks.get(name)
        if track is None:
            return  # the stream was faster and told everything
        now_ms = self._now_ms
        self.on_answer(track.order, PLACED, reply, now_ms)
        outcome = reply.outcome
        if outcome is Outcome.OK and isinstance(reply.result, dict):
            self._state(track, reply.result, now_ms)
        elif outcome is Outcome.UNKNOWN or outcome is Outcome.OK:
            self._lose(track, now_ms, reply.message or "no answer", reply.code)
        elif track.stated_qty == 0.0 and track.booked_qty == 0.0:
            self._end(track, Event.REJECT, now_ms, reply.message, reply.code)

    def on_update(self, update: OrderUpdate, now_ms: int) -> None:
        """Take an ORDER_TRADE_UPDATE."""
        self._now_ms = now_ms
        name = update.client_order_id
        track = self.tracks.get(name)
        if track is None or track.order.order_id not in (0, update.order_id):  # others may use an id again
            self.counts.foreign += 1
            name = self.on_foreign(update, now_ms)
            track = self.tracks.get(name)
        if track is None:
            return
        track.order.order_id = update.order_id
        if update.trade_id and update.last_qty > 0.0:
            self._book(
                track, update.trade_id, update.last_qty, update.last_price,
                update.fee * self.fee_rate(update.fee_asset), update.maker, update.time_ms,
            )  # fmt: skip
        if name in self.tracks:
            detail = f"er={update.expiry_reason}" if update.expiry_reason != "0" else ""
            self._learn(track, update.status, update.filled_qty, now_ms, detail)

    def on_trade_lite(self, trade: TradeLite, now_ms: int) -> None:
        """Take a TRADE_LITE: evidence of a fill; its booking waits for the update that names the fee."""
        self._now_ms = now_ms
        track = self.tracks.get(trade.client_order_id)
        if track is not None and trade.trade_id not in track.order.trade_ids:
            self._learn(track, "PARTIALLY_FILLED", track.booked_qty + trade.qty, now_ms, "")

    def advance(self, now_ms: int) -> None:
        """Let time pass: time-outs, queries for what is open, own trades for what is stated but not booked."""
        self._now_ms = now_ms
        for track in list(self.tracks.values()):
            if now_ms < track.ask_ms and not (track.trades_ms and now_ms >= track.trades_ms):
                continue
            if track.ended and track.booked_qty >= track.stated_qty * (1.0 - 1e-9):
                self._end(track, ENDED[track.ended], now_ms, track.detail)
                continue
            if track.order.state is OrderState.SENT and now_ms >= track.sent_ms + REPLY_WAIT_MS:
                self._lose(track, now_ms, "no answer in time")
            if track.trades_ms and now_ms >= track.trades_ms:
                self._ask_trades(track, now_ms)
            if now_ms >= track.ask_ms:
                self._ask(track, now_ms)

    # --- evidence ---

    def _ask(self, track: Track, now_ms: int) -> None:
        track.ask_ms = now_ms + ASK_EVERY_MS[min(track.asks, len(ASK_EVERY_MS) - 1)]
        track.asks += 1
        self.counts.queries += 1
        order = track.order
        params: dict[str, str | int] = {"symbol": self.symbols[order.symbol]}
        if order.order_id:  # others' client ids need not be one order's alone
            params["orderId"] = order.order_id
        else:
            params["origClientOrderId"] = order.client_order_id
        request = Request(Call.ORDER_QUERY, params)
        if not self._sender.send(request, lambda reply: self._asked(order.client_order_id, reply)):
            self._doubt(track, now_ms)

    def _asked(self, name: str, reply: Reply) -> None:
        track = self.tracks.get(name)
        if track is None:
            return
        now_ms = self._now_ms
        self.on_answer(track.order, ASKED, reply, now_ms)
        if reply.ok and isinstance(reply.result, dict):
            track.denials = 0
            self._state(track, reply.result, now_ms)
        elif reply.outcome in (Outcome.NOT_DONE, Outcome.UNKNOWN):
            self._doubt(track, now_ms)
        elif reply.code == NO_SUCH_ORDER:
            self._doubt(track, now_ms)  # it may be there and not be seen yet
            if now_ms <= track.sent_ms + ABSENT_AFTER_MS or now_ms - track.denied_ms < 900:
                return
            track.denials, track.denied_ms = track.denials + 1, now_ms
            if track.denials >= DENIALS and not OURS.fullmatch(name):  # not ours: reading the account settles it
                self._end(track, Event.EXPIRE, now_ms, "denied repeatedly", reply.code)
                return
            nothing = track.stated_qty == 0.0 and track.booked_qty == 0.0 and not track.order.order_id
            if not nothing and track.denials >= DENIALS_OF_KNOWN:
                log.warning("order_forgotten", order=name, stated=track.stated_qty, booked=track.booked_qty)
                self._end(track, Event.EXPIRE, now_ms, "forgotten by the exchange", reply.code)
                return
            if track.denials >= DENIALS and nothing and track.order.state is OrderState.UNKNOWN:
                self.counts.absent += 1
                self._end(track, Event.PROVE_ABSENT, now_ms, "denied repeatedly after its time", reply.code)

    def _doubt(self, track: Track, now_ms: int) -> None:
        """Nobody can say what became of an order: an entry may have filled, and its stop needs no answer."""
        if track.order.state is OrderState.UNKNOWN and not track.evidence and not track.order.reduce_only:
            self.on_doubt(track.order, now_ms)

    def _ask_trades(self, track: Track, now_ms: int) -> None:
        track.trades_ms = now_ms + 1_000
        order = track.order
        params: dict[str, str | int] = {"symbol": self.symbols[order.symbol]}
        if order.order_id:
            params["orderId"] = order.order_id
        else:
            params["startTime"] = track.sent_ms - 1_000
        self._sender.send(Request(Call.TRADES, params), lambda reply: self._trades(order.client_order_id, reply))

    def _trades(self, name: str, reply: Reply) -> None:
        track = self.tracks.get(name)
        if track is None or not reply.ok or not isinstance(reply.result, list):
            return
        self.on_answer(track.order, TRADES, reply, self._now_ms)
        own = [row for row in reply.result if int(row["orderId"]) == track.order.order_id]
        for row in own:
            if name in self.tracks:
                if int(row["id"]) not in track.order.trade_ids:
                    self.on_silence()
                fee = float(row.get("commission") or 0) * self.fee_rate(row.get("commissionAsset", ""))
                self._book(
                    track, int(row["id"]), float(row["qty"]), float(row["price"]), fee, bool(row["maker"]),
                    int(row["time"]),
                )  # fmt: skip
        if name in self.tracks:
            # what is booked by its id counts, whatever quantity an earlier run noted beside it
            booked = sum(float(row["qty"]) for row in own if int(row["id"]) in track.order.trade_ids)
            track.booked_qty, track.tellings = max(track.booked_qty, booked), track.tellings + 1
            self._settle(track, self._now_ms)

    def _state(self, track: Track, result: dict[str, Any], now_ms: int) -> None:
        track.order.order_id = int(result.get("orderId") or track.order.order_id)
        self._learn(track, str(result.get("status", "")), float(result.get("executedQty") or 0), now_ms, "")

    def _learn(self, track: Track, status: str, executed_qty: float, now_ms: int, detail: str) -> None:
        """Take a statement about an order's status and executed quantity, from whatever source."""
        track.stated_qty = max(track.stated_qty, executed_qty)
        if status in ENDED:
            track.ended, track.detail = status, detail or track.detail
        elif not track.ended:
            track.ask_ms = max(track.ask_ms, now_ms + REPLY_WAIT_MS)
        if track.stated_qty > 0.0:
            self._evidence(track, now_ms)
        if track.order.state in (OrderState.SENT, OrderState.UNKNOWN) and status != "REJECTED":
            self._emit(track, Event.ACKNOWLEDGE, now_ms, detail)
        self._settle(track, now_ms)

    def _settle(self, track: Track, now_ms: int) -> None:
        missing = track.stated_qty - track.booked_qty
        if track.ended and missing > 0.0 and track.tellings >= TELLINGS:
            log.warning("order_unexplained", order=track.order.client_order_id, missing=missing)
            missing = 0.0
        if missing > 1e-9 * track.order.qty:
            track.trades_ms = track.trades_ms or now_ms + TRADES_WAIT_MS
        else:
            track.trades_ms = 0
            if track.ended:
                self._end(track, ENDED[track.ended], now_ms, track.detail)

    def _book(
        self, track: Track, trade_id: int, qty: float, price: float, fee_usdt: float, maker: bool, time_ms: int,
        journalled: bool = False,
    ) -> None:  # fmt: skip
        order = track.order
        if trade_id in order.trade_ids:
            return
        if self.booked(order.symbol, trade_id) and not journalled:
            order.trade_ids.add(trade_id)
            track.booked_qty += qty
            return
        track.booked_qty += qty
        track.stated_qty = max(track.stated_qty, track.booked_qty)
        self._evidence(track, self._now_ms)
        full = track.booked_qty >= order.qty * (1.0 - 1e-9)
        if full:
            del self.tracks[order.client_order_id]
        self.on_event(
            OrderEvent(
                order.client_order_id, Event.FILL if full else Event.PARTIAL_FILL, time_ms, qty, price, fee_usdt,
                0.0, maker, order.order_id, trade_id, journalled=journalled,
            )
        )  # fmt: skip

    def _evidence(self, track: Track, now_ms: int) -> None:
        if not track.evidence and not track.order.reduce_only:
            track.evidence = True
            self.on_evidence(track.order, now_ms)

    def _lose(self, track: Track, now_ms: int, detail: str, code: int = 0) -> None:
        self.counts.lost += 1
        track.ask_ms = now_ms + ASK_EVERY_MS[0]
        self._emit(track, Event.LOSE, now_ms, detail, code)

    def _end(self, track: Track, event: Event, now_ms: int, detail: str, code: int = 0) -> None:
        self.tracks.pop(track.order.client_order_id, None)
        self._emit(track, event, now_ms, detail, code)
        if not track.order.terminal:  # rejected after all, when it had been cancelled or filled in part
            self._emit(track, Event.EXPIRE, now_ms, detail, code)

    def _emit(self, track: Track, event: Event, now_ms: int, detail: str = "", code: int = 0) -> None:
        self.on_event(
            OrderEvent(
                track.order.client_order_id, event, now_ms, order_id=track.order.order_id, code=code, detail=detail
            )
        )
