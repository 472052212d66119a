"""`/metrics` in the Prometheus text format: a few dozen series, labels from closed sets only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from control import present
from control.commands import Commands
from control.door import EngineDoor
from control.live import Hub
from control.store_health import StoreHealth
from kernels.records import RunState

Family = GaugeMetricFamily | CounterMetricFamily
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
GAUGES = {
    "equity_usdt": "Account equity",
    "wallet_usdt": "Wallet balance",
    "drawdown": "Fraction below the highest equity",
    "day_pnl_usdt": "Result since the day's roll",
    "open_positions": "Open positions",
    "unprotected": "Live positions without a confirmed stop on the exchange",
    "mark_age_ms": "Since the newest mark price of any symbol",
    "symbols": "Symbols traded",
    "symbols_ready": "Symbols with enough history",
    "symbols_halted": "Symbols halted",
    "clock_offset_ms": "Exchange clock minus ours",
    "heartbeat_age_ms": "Time since the engine's last beat",
    "rss_bytes": "Resident memory of the engine",
}


class Metrics:
    """The process's own counters plus what the snapshot says at the moment of the scrape."""

    def __init__(self, engine: EngineDoor, store: StoreHealth, hub: Hub, commands: Commands) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "ta_http_request_seconds", "Requests by route and status", ["route", "method", "status"],
            registry=self.registry, buckets=BUCKETS_S,
        )  # fmt: skip
        self.alerts = Counter(
            "ta_alerts", "Notifications by alarm and outcome", ["alarm", "outcome"], registry=self.registry
        )
        self.registry.register(_SnapshotCollector(engine, store, hub, commands))

    def text(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)


class _SnapshotCollector(Collector):
    def __init__(self, engine: EngineDoor, store: StoreHealth, hub: Hub, commands: Commands) -> None:
        self._engine, self._store, self._hub, self._commands = engine, store, hub, commands

    def collect(self) -> Iterator[Family]:
        yield GaugeMetricFamily("ta_store_up", "1: the store answers and the tail works", value=float(self._store.ok))
        yield GaugeMetricFamily("ta_tail_behind_seconds", "Since all was stored", value=self._store.behind_s)
        yield CounterMetricFamily("ta_tail_rows", "Rows inserted by the tail", value=self._store.tail_rows)
        yield from _gauges(
            (
                ("ta_audit_compared", "Newest parity audit: items compared", self._store.audit_compared),
                ("ta_audit_differing", "Newest parity audit: items not reproduced", self._store.audit_differing),
            )
        )
        yield GaugeMetricFamily("ta_live_clients", "Connected live clients", value=self._hub.clients)
        yield CounterMetricFamily("ta_live_dropped", "Live clients dropped as too slow", value=self._hub.dropped)
        done = CounterMetricFamily("ta_commands", "Commands by verb and outcome", labels=["verb", "outcome"])
        for labels, number in self._commands.outcomes.items():
            done.add_metric(labels, number)
        yield done
        view = self._engine.snapshot()
        up = view is not None and view.alive
        yield GaugeMetricFamily("ta_engine_up", "1: the engine beat within two seconds", value=float(up))
        if view is None:
            return
        status = present.engine_status(view)
        lag = None if self._store.tail_seq is None else max(0, status.journal_seq - self._store.tail_seq)
        yield from _gauges((("ta_tail_lag_records", "Journal records not stored yet", lag),))
        blind = ("ta_blind", "Open positions without a mark price of the last 10 s", float(len(status.blind)))
        yield from _gauges((blind,))
        yield from _gauges((f"ta_{name}", text, getattr(status, name)) for name, text in GAUGES.items())
        state = GaugeMetricFamily("ta_run_state", "1 for the engine's present state", labels=["state"])
        for item in RunState:
            state.add_metric([item.name.lower()], float(status.state == item.name.lower()))
        yield state
        yield GaugeMetricFamily("ta_live_mode", "1: real money", value=float(status.mode == "live"))
        yield GaugeMetricFamily("ta_model_active", "1: a model decides", value=float(bool(status.model_id)))
        yield GaugeMetricFamily("ta_journal_full", "1: the journal's disk is full", value=float(status.journal_full))
        for name in type(status.counters).__struct_fields__:
            yield CounterMetricFamily(f"ta_{name}", f"{name} of this run", value=getattr(status.counters, name))
        stages = GaugeMetricFamily("ta_stage_microseconds", "Stage latency of this run", labels=["stage", "quantile"])
        for stage in present.latency(view):
            for quantile, value in (("0.5", stage.p50_us), ("0.99", stage.p99_us), ("0.999", stage.p999_us)):
                stages.add_metric([stage.stage, quantile], value)
        yield stages


def _gauges(items: Iterable[tuple[str, str, float | None]]) -> Iterator[Family]:
    for name, text, value in items:
        if value is not None:
            yield GaugeMetricFamily(name, text, value=float(value))
