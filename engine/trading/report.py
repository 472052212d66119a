"""What a person sees of live trading: one dictionary, made on demand, and the guards that stand on the exchange."""

from __future__ import annotations

from typing import Any

from engine.trading.protection import Slot, Stage
from engine.trading.session import LiveTrading
from kernels.records import Reason

STAGES = {stage: stage.name.lower().encode() for stage in Stage}
WHOLE = float("nan")  # such an order closes the position, whatever its size


def report(trading: LiveTrading) -> dict[str, Any]:
    """Return stops by symbol, open doubts, alarms and open tasks, resting symbols, routes and kill steps."""
    names = trading.symbols
    return {
        "reconciled": trading.sweeps.reconciled,
        "stops": {names[symbol]: slot.stage.name.lower() for symbol, slot in trading.protection.slots.items()},
        "doubts": [names[symbol] for symbol in trading.reconciler.doubts],
        "blind": [names[symbol] for symbol in trading.blind.blind],
        "resting": {names[symbol]: why for symbol, why in trading.admission.resting.items()},
        "income": {
            "totals": trading.income.totals,
            "matched": trading.income.matched,
            "differences": trading.income.differences,
        },
        "alarms": dict(trading.alarm.counts),
        "tasks": [
            {"kind": kind, "symbol": names[symbol] if symbol >= 0 else "", "text": text}
            for (kind, symbol), text in trading.alarm.open.items()
            if _stands(trading, kind, symbol)
        ],
        "routes": dict(trading.gateway.counts.routes),
        "unknown_fates": trading.gateway.counts.lost,
        "second_exits": trading.desk.second_exits,
        "kill_ms": {step.name.lower(): ms for step, ms in trading.kill.took_ms.items()},
    }


def guards(trading: LiveTrading) -> list[tuple[Any, ...]]:
    """Return the stops and take profits on the exchange, each as an `engine.link.OPEN_ORDER` by position."""
    stops, takes = trading.protection.slots.values(), trading.takes.slots.values()
    return [_guard(trading, slot, b"stop_market", Reason.SL) for slot in stops] + [
        _guard(trading, slot, b"take_profit_market", Reason.TP) for slot in takes
    ]


def _guard(trading: LiveTrading, slot: Slot, kind: bytes, reason: Reason) -> tuple[Any, ...]:
    """Return one of them; it was placed at the first sign of its position, whose age is its own."""
    positions = trading.desk.positions
    at = positions.slot_of_id(slot.position_id)
    opened_ms = int(positions.rows[at]["opened_ms"]) if at >= 0 else 0
    return (
        slot.name.encode(), slot.position_id, slot.symbol, -slot.side, 1, reason, kind, STAGES[slot.stage], b"",
        WHOLE, float(slot.trigger), 0.0, 0.0, slot.algo_id, opened_ms,
    )  # fmt: skip


def _stands(trading: LiveTrading, kind: str, symbol: int) -> bool:
    """Whether an alarm still is a person's task: some end by themselves, with their cause."""
    if kind == "blind":
        return symbol in trading.blind.blind
    if kind in ("stall", "private_streams_silent"):
        return not trading.sweeps.reconciled
    if kind in ("stop_gone", "stop_refused", "stop_exit"):
        slots = (protection.slots.get(symbol) for protection in (trading.protection, trading.takes))
        return any(slot is not None and slot.stage is not Stage.STANDING for slot in slots)
    return True
