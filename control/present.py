"""From the engine's records to the API's structures: pure functions over a snapshot."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import numpy as np

from control.alarms import SILENT_MS
from control.shapes import Counters, EngineStatus, OpenOrder, Position, Predictions, Signal
from control.shapes_data import Disturbances, StageLatency
from engine.config import Config
from engine.link import SnapshotView
from kernels.records import GATES, Mode, Reason, RunState, Side, Stage


def text(value: bytes) -> str:
    """Decode a fixed-width field; what is not ASCII becomes a replacement character."""
    return value.decode("ascii", "replace")


def known(value: float) -> float | None:
    """Return None for a value that is not finite."""
    return float(value) if math.isfinite(value) else None


@functools.lru_cache(1_024)
def gate_names(bits: int) -> tuple[str, ...]:
    """Return the names of the gates whose bit is set, in the order of `GATES`."""
    return tuple(name for index, name in enumerate(GATES) if bits >> index & 1)


def shown(config: Config) -> dict[str, Any]:
    """Return a configuration as it may be shown: without secrets, and without the password of the store's address."""
    values: dict[str, Any] = config.model_dump(mode="json", exclude={"secrets"})
    url = values["store"]["url"]
    if "@" in url:
        values["store"]["url"] = url.split("://", 1)[0] + "://[redacted]@" + url.rsplit("@", 1)[1]
    return values


def meanings() -> dict[str, str]:
    """Return what each key of the configuration means, by its dotted name."""
    found = {}
    for name, field in Config.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for key, item in (inner or {"": field}).items():
            found[f"{name}.{key}".rstrip(".")] = item.description or ""
    return found


def side_name(value: int) -> Any:
    """Return long, short or none."""
    return Side(value).name.lower()


def engine_status(view: SnapshotView) -> EngineStatus:
    """Return the status block of a snapshot."""
    row = view.status[0]
    peak, equity = known(row["peak_equity_usdt"]), known(row["equity_usdt"])
    bars = row["bars"]
    return EngineStatus(
        alive=view.alive,
        engine_id=text(row["engine_id"]),
        run_id=str(row["run_id"]),
        pid=int(row["pid"]),
        mode="live" if row["mode"] == Mode.LIVE else "shadow",
        state=RunState(int(row["run_state"])).name.lower(),  # type: ignore[arg-type]
        heartbeat_age_ms=max(0, (time.monotonic_ns() - int(row["heartbeat_ns"])) // 1_000_000),
        started_ms=int(row["started_ms"]),
        exchange_ms=int(row["exchange_ms"]),
        clock_offset_ms=known(row["clock_offset_ms"]),
        session_id=int(row["session_id"]),
        session_ms=int(row["session_ms"]),
        model_id=text(row["model_id"]),
        backend=text(row["backend"]),
        schema_hash=f"{int(row['schema_hash']):016x}",
        config_hash=text(row["config_hash"]),
        equity_usdt=equity,
        wallet_usdt=known(row["wallet_usdt"]),
        peak_equity_usdt=peak,
        drawdown=None if not peak or equity is None else 1.0 - equity / peak,
        day_pnl_usdt=known(row["day_pnl_usdt"]),
        open_positions=int(row["open_positions"]),
        unprotected=_unprotected(view),
        mark_age_ms=_mark_age_ms(view),
        blind=_blind(view),
        symbols=len(view.symbols),
        symbols_ready=int(np.count_nonzero(view.symbols["ready"])),
        symbols_halted=int(np.count_nonzero(view.symbols["halted"])),
        halted=[text(name) for name in view.symbols["symbol"][view.symbols["halted"] != 0].tolist()],
        journal_seq=int(row["journal_seq"]),
        journal_full=bool(row["journal_full"]),
        rss_bytes=int(row["rss_bytes"]),
        counters=Counters(
            bars_1m=int(bars[0]),
            bars_15m=int(bars[1]),
            bars_1h=int(bars[2]),
            **{name: int(row[name]) for name in Counters.__struct_fields__ if not name.startswith("bars_")},
        ),
    )


def _mark_age_ms(view: SnapshotView) -> int:
    row = view.status[0]
    newest_ms = max(int(row["started_ms"]), int(view.symbols["mark_ms"].max(initial=0)))
    return max(0, int(row["exchange_ms"]) - newest_ms)


def _blind(view: SnapshotView) -> list[str]:
    row = view.status[0]
    held = view.symbols[view.positions["symbol"][: int(row["open_positions"])]]
    newest_ms = np.maximum(held["mark_ms"], row["started_ms"])
    return sorted(text(name) for name in held["symbol"][row["exchange_ms"] - newest_ms > SILENT_MS].tolist())


def _unprotected(view: SnapshotView) -> int:
    row = view.status[0]
    held = view.positions[: int(row["open_positions"])]
    return int(np.count_nonzero(held["protected"] == 0)) if row["mode"] == Mode.LIVE else 0


def signal(row: Any, symbol: str) -> Signal:
    """Return one SIGNAL record, its fields by name, as the API shows it."""
    took_ns = int(row["decide_ns"])  # since the frame, not an instant
    return Signal(
        seq=int(row["seq"]),
        symbol=symbol,
        decision_ms=int(row["decision_ms"]),
        side=side_name(int(row["side"])),
        entered=bool(row["entered"]),
        late=bool(row["late"]),
        refused_by=list(gate_names(int(row["gates"]))),
        predictions=Predictions(*(known(value) for value in row["predictions"])),
        model_id=text(row["model_id"]),
        close=known(row["close"]),
        mark_price=known(row["mark_price"]),
        atr_15m=known(row["atr_15m"]),
        bid=known(row["bid"]),
        ask=known(row["ask"]),
        qty=known(row["qty"]),
        tp_price=known(row["tp_price"]),
        sl_price=known(row["sl_price"]),
        frame_to_decision_us=took_ns / 1_000 if row["frame_ns"] > 0 else None,
        vector_hash=f"{int(row['vector_hash']):016x}",
    )


def latest_signals(view: SnapshotView, symbol: str | None = None, after_seq: int = 0) -> list[Signal]:
    """Return the newest signal of each symbol (or of one), if after `after_seq`, newest first, then by name."""
    names = [text(name) for name in view.symbols["symbol"].tolist()]
    chosen = np.flatnonzero(view.signals["seq"] > after_seq).tolist()
    if symbol is not None:
        chosen = [index for index in chosen if names[index] == symbol]
    # one conversion for all rows: reading 25 fields of 600 records one by one would hold the loop for 20 ms
    fields = view.signals.dtype.names or ()
    rows = view.signals[chosen].tolist()
    found = [signal(dict(zip(fields, row, strict=True)), names[at]) for row, at in zip(rows, chosen, strict=True)]
    return sorted(found, key=lambda item: (-item.decision_ms, item.symbol))


def positions(view: SnapshotView) -> list[Position]:
    """Return the open positions, by symbol."""
    rows = view.positions[: int(view.status["open_positions"][0])]
    return sorted((_position(view, row) for row in rows), key=lambda item: item.symbol)


def _position(view: SnapshotView, row: Any) -> Position:
    state = view.symbols[int(row["symbol"])]
    mark = known(state["mark_price"])
    if mark is not None and mark <= 0:
        mark = known(row["mark_price"])
    side, qty, entry = int(row["side"]), float(row["qty"]), float(row["entry_price"])

    def distance(price: float, sign: int) -> float | None:
        return None if not mark or not np.isfinite(price) or price <= 0 else sign * side * (price - mark) / mark

    return Position(
        position_id=int(row["position_id"]),
        symbol=text(state["symbol"]),
        side="long" if side > 0 else "short",
        qty=qty,
        entry_price=entry,
        mark_price=mark,
        notional_usdt=None if mark is None else qty * mark,
        unrealised_usdt=None if mark is None else side * qty * (mark - entry),
        tp_price=float(row["tp_price"]),
        sl_price=float(row["sl_price"]),
        protect_price=known(row["protect_price"]) or None,
        to_tp=distance(float(row["tp_price"]), 1),
        to_sl=distance(float(row["sl_price"]), -1),
        to_liquidation=_to_liquidation(view, side, qty, mark),
        protected=bool(row["protected"]),
        opened_ms=int(row["opened_ms"]),
        deadline_ms=int(row["deadline_ms"]),
        fees_usdt=float(row["fees_usdt"]),
        funding_usdt=float(row["funding_usdt"]),
        mae=known(row["mae"]),
        mfe=known(row["mfe"]),
    )


def _to_liquidation(view: SnapshotView, side: int, qty: float, mark: float | None) -> float | None:
    """Return the adverse move of this symbol alone that would eat the whole cross-margin equity.

    Maintenance margin comes on top and makes the true distance a little shorter (0.4–2.5 % of notional by bracket).
    """
    equity = known(view.status["equity_usdt"][0])
    if equity is None or not mark or qty <= 0:
        return None
    move = equity / (qty * mark)
    return min(move, 1.0) if side > 0 else move


def open_orders(view: SnapshotView) -> list[OpenOrder]:
    """Return the orders that have not ended, oldest first, then the guards on the exchange."""
    rows = view.orders[view.orders["client_order_id"] != b""]
    names = view.symbols["symbol"]
    return [
        OpenOrder(
            client_order_id=text(row["client_order_id"]),
            position_id=int(row["position_id"]),
            symbol=text(names[int(row["symbol"])]),
            side=side_name(int(row["side"])),
            reduce_only=bool(row["reduce_only"]),
            reason=Reason(int(row["reason"])).name.lower(),
            type=text(row["type"]),
            state=text(row["state"]),
            route=text(row["route"]),
            qty=known(row["qty"]),
            price=known(row["price"]) or None,
            filled_qty=float(row["filled_qty"]),
            average_price=known(row["average_price"]) or None,
            order_id=int(row["order_id"]),
            created_ms=int(row["created_ms"]) or None,
        )
        for row in rows
    ]


def latency(view: SnapshotView) -> list[StageLatency]:
    """Return the histograms of the stages that were measured; LATE_* stages are exchange time, the others monotonic."""
    return [
        StageLatency(
            stage=stage.name.lower(),
            count=int(view.latency[stage]["count"]),
            p50_us=int(view.latency[stage]["p50_ns"]) / 1_000,
            p99_us=int(view.latency[stage]["p99_ns"]) / 1_000,
            p999_us=int(view.latency[stage]["p999_ns"]) / 1_000,
            max_us=int(view.latency[stage]["max_ns"]) / 1_000,
            mean_us=int(view.latency[stage]["sum_ns"]) / max(1, int(view.latency[stage]["count"])) / 1_000,
        )
        for stage in Stage
        if view.latency[stage]["count"] > 0
    ]


def disturbances(view: SnapshotView) -> Disturbances:
    """Return what held the engine's loop up since it was ready."""
    row = view.status[0]
    return Disturbances(**{name: int(row[name]) for name in Disturbances.__struct_fields__})


def plain(value: float | None) -> str:
    """Return a price or quantity for a person: nine significant digits, never an exponent, "–" where not known."""
    return "–" if value is None else np.format_float_positional(value, precision=9, fractional=False, trim="-")
