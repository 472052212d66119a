"""What a person sees of live trading: one dictionary, made on demand."""

from __future__ import annotations

from typing import Any

from engine.trading.protection import Stage
from engine.trading.session import LiveTrading


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
