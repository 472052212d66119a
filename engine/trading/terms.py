"""What an exit must know of the exchange: how much there is to exit, in which slices, at worst at which price."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import LiveConfig
from engine.trading.desk import Desk
from engine.trading.live import LiveGateway
from engine.trading.protection import Protection
from engine.trading.reconcile import Reconciler


class LiveTerms:
    """Implements the desk's Terms. now_ms(): of the last event; read(symbol) asks for a position; alarm: a person."""

    def __init__(
        self,
        settings: LiveConfig,
        instruments: npt.NDArray[Any],
        marks: npt.NDArray[np.float64],
        desk: Desk,
        gateway: LiveGateway,
        protections: tuple[Protection, Protection],
        reconciler: Reconciler,
        now_ms: Callable[[], int],
        read: Callable[[int], None],
        alarm: Callable[[str, int, str], None],
    ) -> None:
        self._settings, self._instruments, self._marks = settings, instruments, marks
        self._desk, self._gateway, self._protections, self._reconciler = desk, gateway, protections, reconciler
        self._market_max = instruments["market_max_qty"]  # a view of the same memory
        self._now_ms, self._read, self._alarm = now_ms, read, alarm

    def exit_qty(self, slot: int) -> tuple[float, str]:
        """Return the exchange's own |positionAmt| where its statement is no older than our last fill.

        What is off a changed step is left to a person; 0.0 when that is all there is.
        """
        _, symbol, side, qty = self._desk.positions.head(slot)
        step, stated = self._gateway.steps[symbol][1], self._reconciler.stated.get(symbol)
        text = ""  # our own number, which the gateway writes on the step
        if stated is not None and stated.qty * side > 0.0:
            newer = stated.time_ms >= self._reconciler.last_event_ms.get(symbol, 0) or abs(stated.qty) >= qty
            if newer if self._settings.external != "ignore" else abs(stated.qty) < qty:
                text = stated.amount.lstrip("-")
                qty = float(text)
        whole = step.floor(text or qty)
        if qty - float(whole) > 1e-6 * step.size:
            why = f"position {text or qty} is off the step {step.text}: the rest needs a person"
            if symbol not in self._desk.account.halted_symbols:
                self._alarm("dust", symbol, why)
            self._desk.halt_symbol(symbol, self._gateway.symbols[symbol], why, self._now_ms())
            return float(whole), whole
        return qty, text

    def slice_qty(self, symbol: int) -> float:
        """Return MARKET_LOT_SIZE.maxQty."""
        return float(self._market_max.item(symbol))

    def band_price(self, symbol: int, side: int) -> float:
        """Return the PERCENT_PRICE bound of the mark, on the tick; 0.0 when it is not known."""
        row, mark = self._instruments[symbol], float(self._marks[symbol])
        factor = float(row["percent_price_up"] if side > 0 else row["percent_price_down"])
        tick = self._gateway.steps[symbol][0]
        if not (mark > 0.0 and factor > 0.0):
            return 0.0
        return float(tick.floor(mark * factor) if side > 0 else tick.ceil(mark * factor))

    def stop_triggering(self, symbol: int) -> bool:
        """Whether an order of ours on the exchange has been seen triggering."""
        stop, take = self._protections
        return stop.triggering(symbol) or take.triggering(symbol)

    def read_position(self, symbol: int) -> None:
        """Ask for the symbol's position."""
        self._read(symbol)
