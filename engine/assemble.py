"""Wires the core, the desk, the gateway and the journal together: the same way for live, shadow, replay and tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import __version__
from engine.clock import Clock
from engine.config import Config
from engine.core import Core
from engine.journal import Writer, new_run_id
from engine.latency import Latencies
from engine.market.routes import account_of
from engine.restore import Restored, pack_state, reopen, restore, write_snapshot
from engine.timers import Hold, Timer
from engine.trading.account import Account
from engine.trading.carry import complete_trades, open_state
from engine.trading.desk import Desk, DeskRules
from engine.trading.live import LiveGateway
from engine.trading.orders import Order
from engine.trading.positions import Positions
from engine.trading.shadow import ShadowGateway
from engine.trading.twin import Twins
from kernels.records import Kind, Mode

Preamble = Callable[[Writer], None]


@dataclass
class Parts:
    """One assembled engine core and what its owner must keep."""

    core: Core
    journal: Writer
    restored: Restored
    gateway: ShadowGateway | LiveGateway
    session: dict[str, Any]
    model: dict[str, str]
    state: Callable[[], bytes]  # what a snapshot of this moment holds


def assemble(
    config: Config,
    symbols: list[str],
    instruments: npt.NDArray[Any],
    books: npt.NDArray[Any],
    clock: Clock,
    journal_folder: Path,
    live: LiveGateway | None = None,
) -> Parts:
    """Build a core over a new run of the journal, with the previous run's positions and limits restored.

    live: the gateway to a real account; without it orders are filled in shadow, by a process that has no credentials.

    Raises ValueError for a restored position whose symbol is not configured, or that is on another account; DataError
    for an unreadable journal.
    """
    whose = account_of(config, config.mode == "live")
    restored = restore(journal_folder, config.engine_id, symbols, whose)
    restored.whose = whose

    def open_journal(preamble: Preamble) -> Writer:
        run_id = new_run_id(journal_folder)
        return Writer(journal_folder, config.engine_id, run_id, config.journal.segment_mib << 20, preamble)

    return wire(config, symbols, instruments, books, clock, restored, open_journal, live)


def wire(
    config: Config,
    symbols: list[str],
    instruments: npt.NDArray[Any],
    books: npt.NDArray[Any],
    clock: Clock,
    restored: Restored,
    open_journal: Callable[[Preamble], Writer],
    live: LiveGateway | None = None,
) -> Parts:
    """Build a core on a restored state and the journal that `open_journal` opens with the preamble of its segments."""
    account = restored.account or Account(config.risk.start_equity_usdt)
    for name, stopped_ms in restored.stopped_ms.items():
        if name in symbols:
            until_ms = stopped_ms + config.risk.cooldown_minutes * 60_000
            account.cooldown_until_ms[symbols.index(name)] = until_ms
    positions = Positions(len(symbols), len(symbols))  # risk.max_positions bounds entries, not what is held
    reopen(restored, positions, symbols)
    session: dict[str, Any] = {}
    desks: list[Desk] = []
    twins_of: list[Twins] = []
    model: dict[str, str] = {"path": restored.model_path}

    def state() -> bytes:
        open_orders, entries, twins = restored.open_orders, restored.entries, list(restored.twins.values())
        booked, touched_ms, closing = restored.booked, restored.touched_ms, restored.closing
        exits = restored.exits
        if desks and (live is None or restored.resumed):  # until then the desk knows less than what was restored
            open_orders, entries = open_state(desks[0], symbols)
            twins = twins_of[0].state(symbols) if twins_of else twins
            booked, closing = desks[0].booked, desks[0].closing
            exits = {i: int(run.reason) for i, run in desks[0].exits.items()}
            touched_ms = {symbols[symbol]: ms for symbol, ms in desks[0].touched_ms.items()}
        return pack_state(
            account, positions, symbols, model["path"], session, open_orders, entries, twins, booked, touched_ms,
            closing, restored.untraded, restored.half_booked, exits, restored.whose,
        )  # fmt: skip

    def preamble(writer: Writer) -> None:
        mono_ns, now_ms = time.monotonic_ns(), clock.now_ms()
        mode = int(Mode.LIVE if config.mode == "live" else Mode.SHADOW)
        writer.write(Kind.CONFIG, mono_ns, now_ms, config.hash().encode(), __version__.encode(), mode, 0)
        for index, row in enumerate(instruments):
            writer.write(Kind.INSTRUMENT, mono_ns, now_ms, index, 0, 0, *row.item())
        write_snapshot(writer, state(), mono_ns, now_ms)

    writer = open_journal(preamble)
    marks = np.full(len(symbols), np.nan)

    def note_book(symbol: int, now_ms: int, hold: int = Hold.TWIN) -> None:
        bid, bid_qty, ask, ask_qty, _, book_ms, *_ = books[symbol].item()
        mono_ns = time.monotonic_ns()
        writer.write(Kind.BOOK, mono_ns, now_ms, book_ms, bid, bid_qty, ask, ask_qty, 0, symbol, hold, 0)

    def before_fill(order: Order, now_ms: int) -> None:
        note_book(order.symbol, now_ms, 0)
        symbol, position_id = order.symbol, order.position_id
        writer.write(Kind.TIMER, time.monotonic_ns(), now_ms, Timer.SHADOW_FILL, symbol, 0, position_id)

    costs = config.costs
    gateway: ShadowGateway | LiveGateway = live or ShadowGateway(
        books, marks, costs.latency_ms, costs.taker_fee, costs.half_spread, before_fill
    )
    rules = DeskRules(
        config.barriers.time_limit_minutes * 60_000,
        config.risk.cooldown_minutes * 60_000,
        int(Mode.SHADOW if live is None else Mode.LIVE),
        0 if live is None else config.live.second_exit_ms,
        live is not None,
    )
    desk = Desk(writer, gateway, positions, account, rules)
    desk.booked |= restored.booked
    desk.closing |= restored.closing
    desk.touched_ms |= {symbols.index(name): ms for name, ms in restored.touched_ms.items() if name in symbols}
    complete_trades(restored.untraded, restored.twins, desk, symbols)
    desks.append(desk)
    core = Core(config, symbols, instruments, books, marks, clock, writer, desk, gateway, Latencies())
    if live is not None:
        core.twins = desk.twins = Twins(books, marks, costs, writer, rules.time_limit_ms, note_book)
        twins_of.append(core.twins)
    return Parts(core, writer, restored, gateway, session, model, state)
