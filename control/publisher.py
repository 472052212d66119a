"""Feeds the live hub: states from the engine's snapshot each second, events as they appear in it or in the store."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import structlog

from control import present
from control.auth import now_ms
from control.connections import connections
from control.listing import Listing, Query
from control.problems import ApiError
from control.routes.records import ORDERS, TRADES
from control.routes.status import current_status
from control.services import Services
from engine.link import SnapshotView

PERIOD_S = 1.0
STORE_EVERY = 2  # periods between looks into the store
TOGETHER = 100  # signals of one message
BURST = 200  # events of one look; more than that is read over REST

STALE_WITH = {"trades": ("/api/trades", "/api/equity"), "orders": ("/api/orders", "/api/fills")}

logger = structlog.get_logger("control.publisher")


class Publisher:
    """One task on the event loop. What it publishes is what REST shows, so a page may mix both."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._hub = services.hub
        self._signal_seq: tuple[str, int] = ("", 0)
        self._closes: dict[str, int] = {}
        self._newest: dict[str, tuple[int, str, int]] = {}

    async def run(self) -> None:
        """Publish until cancelled; a fault of one round is logged and the next one tries again."""
        turn = 0
        while True:
            try:
                self._from_snapshot()
                if turn % STORE_EVERY == 0:
                    await self._from_store()
            except Exception as error:
                logger.error("live push", error=repr(error))
            turn += 1
            await asyncio.sleep(PERIOD_S)

    def _from_snapshot(self) -> None:
        now = now_ms()
        self._hub.publish("status", current_status(self._services), now)
        view = self._services.engine.snapshot()
        if view is None or not view.alive:
            return
        self._hub.publish("marks", marks(view), now)
        self._hub.publish("positions", present.positions(view), now)
        self._hub.publish("open_orders", present.open_orders(view), now)
        self._hub.publish("connections", connections(view, self._services.config), now)
        self._hub.publish("latency", present.latency(view), now)
        self._signals(view, now)
        self._candles(view, now)

    def _signals(self, view: SnapshotView, now: int) -> None:
        run = str(view.status["run_id"][0])
        newest = int(view.signals["seq"].max(initial=0))
        known_run, known = self._signal_seq
        if run == known_run and newest <= known:
            return
        after = known if run == known_run else newest  # a new run's present state is not news
        items = sorted(present.latest_signals(view, after_seq=after), key=lambda signal: signal.seq)
        for begin in range(0, len(items), TOGETHER):  # all symbols decide in the same second
            self._hub.publish("signals", items[begin : begin + TOGETHER], now)
        self._signal_seq = (run, newest)

    def _candles(self, view: SnapshotView, now: int) -> None:
        closed = []
        columns = ("symbol", "close_ms", "close")
        for raw, close_ms, close in zip(*(view.symbols[name].tolist() for name in columns), strict=True):
            name = present.text(raw)
            if close_ms > self._closes.get(name, 0):
                if name in self._closes:
                    closed.append({"symbol": name, "close_ms": close_ms, "close": present.known(close)})
                self._closes[name] = close_ms
        if closed:
            self._hub.publish("candles", closed, now)

    async def _from_store(self) -> None:
        if self._services.store.ok:
            with contextlib.suppress(ApiError):  # the reader has logged it
                await self._events("trades", TRADES)
                await self._events("orders", ORDERS)

    async def _events(self, topic: str, listing: Listing[Any]) -> None:
        found = (await self._services.page(listing, Query(limit=BURST))).items
        keys = [(getattr(row, "closed_ms", None) or row.time_ms, row.run_id, row.seq) for row in found]
        known = self._newest.get(topic)
        if keys:
            self._newest[topic] = max(keys)
        elif known is None:
            self._newest[topic] = (0, "", 0)
        if known is not None:
            for key, row in sorted(zip(keys, found, strict=True), key=lambda pair: pair[0]):
                if key > known:
                    self._services.answers.forget(*STALE_WITH[topic])  # who hears of it asks for the list
                    self._hub.publish(topic, row, now_ms())


def marks(view: SnapshotView) -> list[list[Any]]:
    """Return [symbol, mark price, bid, ask, last close, ready, halted] per symbol: small, for 600 symbols a second."""
    columns = ("symbol", "mark_price", "bid", "ask", "close", "ready", "halted")
    rows = zip(*(view.symbols[name].tolist() for name in columns), strict=True)
    # 0: nothing has arrived yet
    return [[present.text(name), *(present.known(v) or None for v in prices), bool(ready), bool(halted)]
            for name, *prices, ready, halted in rows]  # fmt: skip
