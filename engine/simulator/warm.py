"""Compile everything before the first client: a request must not wait for a compiler."""

from __future__ import annotations

import numpy as np

from engine.simulator import depth, render, rest_market
from engine.simulator.exchange import Exchange
from engine.simulator.params import Params
from engine.simulator.pump import Pump
from engine.simulator.tape import Tape


class _Everything:
    """A listener to every stream that keeps nothing."""

    combined = True

    def __init__(self, pump: Pump) -> None:
        self.mask = np.ones(len(pump.stream_ids), np.uint8)

    def write(self, frames: bytes) -> None:
        """Drop the frames."""

    def backlog(self) -> int:
        """Never behind."""
        return 0


def warm(exchange: Exchange) -> None:
    """Run each compiled function once on a tape of its own."""
    market = exchange.market
    first_ms = market.first_ms + 60_000 * int(market.begin.max())
    tape = Tape(market, (12, 12), min(first_ms + 1, market.end_ms - 60_001))
    pump = Pump(tape)
    pump.listeners.add(_Everything(pump))
    pump.changed()
    pump.advance(tape.now_ms + 65_000)
    symbol = market.symbols[0]
    for kind in rest_market.KINDS:
        query = f"symbol={symbol}&pair={symbol}&interval=1m&limit=2&contractType=PERPETUAL"
        rest_market.klines(tape, kind, Params(query))
    depth.levels(tape, 0)
    rest_market.open_interest_history(tape, Params(f"symbol={symbol}&period=5m"))
    render.put_int(np.zeros(24, np.uint8), 0, -1)
