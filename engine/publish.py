"""What the engine shows of itself: the snapshot that control reads, the latency records, its own resources."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numba.core import event as numba_events

from engine.connections import Connections
from engine.core import Core
from engine.latency import Latencies
from engine.link import ORDERS, Snapshot
from engine.market.wire import Decoder
from engine.operator import Operator
from engine.trading.orders import Order, OrderType
from kernels.decide import BIT
from kernels.records import Kind, Mode, OrderState, Stage
from kernels.schema import SCHEMA_HASH

NOT_READY = np.uint64(BIT["not_ready"])
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STATE_NAMES = {state: state.name.lower().encode() for state in OrderState}
TYPE_NAMES = {kind: kind.name.lower().encode() for kind in OrderType}
OrderRow = tuple[Any, ...]
"""An `engine.link.OPEN_ORDER` by position."""
LOOK_EVERY = 4  # the connections are looked at at every fourth writing: once a second


class Compilations(numba_events.Listener):
    """Counts and times JIT compilations; after the engine reported ready there must be none."""

    def __init__(self, latencies: Latencies) -> None:
        self.count = 0
        self._latencies, self._begun_ns = latencies, 0
        numba_events.register("numba:compile", self)

    def on_start(self, event: Any) -> None:
        """A compilation begins."""
        self.count += 1
        self._begun_ns = time.monotonic_ns()

    def on_end(self, event: Any) -> None:
        """A compilation ended."""
        self._latencies.add(Stage.COMPILATION, time.monotonic_ns() - self._begun_ns)


class Collections:
    """Counts and times garbage collections: nothing else runs meanwhile."""

    def __init__(self, latencies: Latencies) -> None:
        self.count = 0
        self._latencies, self._begun_ns = latencies, 0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._begun_ns = time.monotonic_ns()
            return
        self.count += 1
        self._latencies.add(Stage.GC_PAUSE, time.monotonic_ns() - self._begun_ns)


class Switches:
    """Counts how often the calling thread left its core: by itself, to wait, or because another was let in."""

    def __init__(self) -> None:
        self._from = self._now()

    def _now(self) -> tuple[int, int]:
        used = resource.getrusage(resource.RUSAGE_THREAD)
        return used.ru_nvcsw, used.ru_nivcsw

    def since(self) -> tuple[int, int]:
        """Return (voluntary, involuntary) switches since this object was made."""
        now = self._now()
        return now[0] - self._from[0], now[1] - self._from[1]


def rss_bytes() -> int:
    """Return this process's resident memory."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE_BYTES


def since_spawn_s() -> float:
    """Return the age of this process, to a hundredth of a second."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"), 2)


def order_rows(orders: Iterable[Order]) -> list[OrderRow]:
    """Return orders as the snapshot shows them."""
    return [
        (
            order.client_order_id.encode(), order.position_id, order.symbol, order.side, order.reduce_only,
            order.reason, TYPE_NAMES[order.order_type], STATE_NAMES[order.state], order.route.encode(), order.qty,
            order.price, order.filled_qty, order.average_price, order.order_id, order.created_ms,
        )
        for order in orders
    ]  # fmt: skip


class Publisher:
    """Fills the snapshot four times a second and journals the latency of each interval.

    guards(): what stands on the exchange for open positions, as rows of open orders; none in shadow mode.
    connections: what is connected, if anything is to be shown of it.
    """

    def __init__(
        self, snapshot: Snapshot, core: Core, operator: Operator, decoder: Decoder, mode: Mode, offset_ms: Any,
        guards: Callable[[], list[OrderRow]] = list, connections: Connections | None = None,
    ) -> None:  # fmt: skip
        self._snapshot, self._core, self._operator, self._decoder = snapshot, core, operator, decoder
        self._offset_ms, self._guards, self._connections = offset_ms, guards, connections
        self._turn = 0
        self._shown_orders: list[OrderRow] = []
        self._compilations, self._collections = Compilations(core.latencies), Collections(core.latencies)
        self._switches = Switches()
        self.totals = Latencies()
        self.rss_start_bytes = 0
        status = snapshot.view.status[0]
        status["engine_id"] = core.journal.engine_id.encode()
        status["run_id"], status["pid"], status["mode"] = core.journal.run_id, os.getpid(), int(mode)
        status["started_ms"], status["schema_hash"] = core.clock.now_ms(), SCHEMA_HASH
        status["config_hash"] = core.config.hash().encode()
        for i, name in enumerate(core.symbols):
            snapshot.view.symbols[i]["symbol"] = name.encode()

    def ready(self) -> None:
        """From now on every compilation is a fault, and what holds the loop up is counted."""
        self._compilations.count = self._collections.count = 0
        for latencies in (self._core.latencies, self.totals):
            latencies.clear(Stage.GC_PAUSE, Stage.COMPILATION)
        self._switches = Switches()
        self.rss_start_bytes = rss_bytes()

    @property
    def compilations(self) -> int:
        """JIT compilations since `ready`."""
        return self._compilations.count

    def publish(self) -> None:
        """Write the snapshot."""
        view, core = self._snapshot.view, self._core
        self._snapshot.begin()
        self._write_status(view.status[0])
        symbols = view.symbols
        symbols["mark_price"], symbols["mark_ms"] = core.marks, core.mark_ms
        symbols["bid"], symbols["ask"] = self._decoder.book["bid"], self._decoder.book["ask"]
        symbols["book_ms"], symbols["funding_rate"] = self._decoder.book["event_ms"], core.funding_rate
        view.signals[:] = core.last_signals
        symbols["close"], symbols["close_ms"] = core.last_signals["close"], core.last_signals["decision_ms"]
        symbols["ready"] = (core.last_signals["seq"] > 0) & (core.last_signals["gates"] & NOT_READY == 0)
        symbols["halted"] = 0
        for index in core.desk.account.halted_symbols:
            symbols["halted"][index] = 1
        view.positions[:] = core.desk.positions.rows
        self._write_orders(view.orders)
        if self._connections is not None and self._turn % LOOK_EVERY == 0:
            self._connections.write(view.connections)
        self._turn += 1
        for stage, count, p50, p99, p999, largest, total in self.totals.rows():
            row = view.latency[stage]
            row["stage"], row["count"], row["p50_ns"], row["p99_ns"] = stage, count, p50, p99
            row["p999_ns"], row["max_ns"], row["sum_ns"] = p999, largest, total
        self._snapshot.end()

    def _write_orders(self, rows: Any) -> None:
        """Write the open orders, which most of the time are the same as before: none."""
        found = order_rows(self._core.desk.orders.values()) if self._core.desk.orders else []
        found = (found + self._guards())[:ORDERS]
        if found != self._shown_orders:
            rows[: len(found)] = found
            rows["client_order_id"][len(found) :] = b""
            self._shown_orders = found

    def _write_status(self, status: Any) -> None:
        core, counters, account = self._core, self._core.counters, self._core.desk.account
        predictor, session = self._operator.predictor, self._operator.session
        voluntary, involuntary = self._switches.since()
        values = {
            "run_state": account.run_state, "heartbeat_ns": time.monotonic_ns(), "exchange_ms": core.clock.now_ms(),
            "clock_offset_ms": self._offset_ms(), "journal_seq": core.journal.seq, "journal_full": core.journal.full,
            "open_positions": core.desk.positions.count, "session_id": session.get("id", 0),
            "session_ms": session.get("since_ms", 0), "equity_usdt": account.equity_usdt,
            "wallet_usdt": account.wallet_usdt, "peak_equity_usdt": account.peak_equity_usdt,
            "day_pnl_usdt": account.day_pnl_usdt, "model_id": predictor.model_id.encode() if predictor else b"",
            "backend": predictor.backend.encode() if predictor else b"",
            "frames": sum(self._decoder.accepted) + sum(self._decoder.notes) + sum(self._decoder.faults),
            "malformed": sum(self._decoder.faults), "marks": counters.marks,
            "books": int(self._decoder.book["updates"].sum()), "vectors": counters.vectors,
            "late_vectors": counters.late_vectors, "signals": counters.signals, "entries": counters.entries,
            "trades": core.desk.trades_closed, "gaps": counters.gaps, "compilations": self._compilations.count,
            "rss_bytes": rss_bytes(), "gc_pauses": self._collections.count,
            "voluntary_switches": voluntary, "involuntary_switches": involuntary,
        }  # fmt: skip
        for name, value in values.items():
            status[name] = value
        status["bars"] = counters.bars

    def journal_latency(self) -> None:
        """Journal the interval's histograms and add them to the totals."""
        core = self._core
        mono_ns, now_ms = time.monotonic_ns(), core.clock.now_ms()
        for row in core.latencies.rows():
            core.journal.write(Kind.LATENCY, mono_ns, now_ms, row[0], 0, 0, *row[1:])
        self.totals.merge(core.latencies)
        core.latencies.clear()

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the totals by stage, in ns."""
        self.totals.merge(self._core.latencies)
        self._core.latencies.clear()
        return {
            Stage(stage).name.lower(): {"count": count, "p50_ns": p50, "p99_ns": p99, "max_ns": largest}
            for stage, count, p50, p99, _, largest, _ in self.totals.rows()
        }
