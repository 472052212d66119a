"""Live runs over sockets, with the simulated exchange's delays and faults, a crash and a restart: they replay."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from recorded_sim import RecordedSim

from engine.replay import Report, replay
from kernels.records import Kind
from tests.conftest import long_run
from tests.engine.recorded import PickyModel

FAULTS: list[tuple[str, dict[str, str]]] = [
    ("lost_acknowledgement", {"path": "order.place"}),
    ("timeout_after_acceptance", {"path": "order.place"}),  # −1007, executed
    ("unknown_503_not_executed", {"path": "algoOrder.place"}),
    ("partial_fill_then_silence", {}),
    ("cut_connections", {"route": "private"}),
    ("lost_request", {"path": "order.place"}),
    ("rate_limited", {"path": "order.place"}),
    ("drop_event", {}),
    ("listen_key_expires", {}),
    ("duplicate_event", {}),
    ("throttled", {"path": "algoOrder.place"}),
    ("cut_mid_order", {"path": "order.place"}),
]


async def entered(sim: RecordedSim) -> None:
    """Close minutes until an entry leaves; some faults make entries rest for seconds."""
    assert sim.live is not None
    desk, turns = sim.live.parts.core.desk, 0

    def decided() -> bool:
        nonlocal turns
        if turns % 20 == 0 and not desk.orders:
            sim.close_minute()
        turns += 1
        return bool(desk.orders)

    await sim.until(decided, "an entry", 20)


async def left(sim: RecordedSim) -> None:
    """Meet the target or the stop of what is held, and wait until nothing of it stands."""
    assert sim.live is not None
    live, desk = sim.live, sim.live.parts.core.desk
    await sim.until(lambda: not desk.orders, "the entries' fates are known", 20)
    for slot in range(desk.positions.count):
        row = desk.positions.rows[slot]
        sim.mark(int(row["symbol"]), float(row["sl_price" if slot else "tp_price"]))
    await sim.until(lambda: not desk.positions.count and not desk.orders, "flat", 20)
    await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled", 20)
    await sim.until(lambda: all(map(live.trading.may_enter, range(2))), "the old stops are over", 20)
    for name in sim.symbols:
        await sim.command("allow_symbol", symbol=name)


def replayed(sim: RecordedSim, run_id: int) -> Report:
    report = replay(sim.folder / "journal", "main", run_id, lambda model_id, backend: PickyModel(model_id))
    assert report.difference is None and report.complete, str(report.difference)
    return report


async def test_live_runs_over_sockets_with_faults_and_a_crash_replay(tmp_path: Path) -> None:
    faults = FAULTS[: long_run(6, len(FAULTS))]
    async with RecordedSim(tmp_path) as sim:
        live = await sim.start_engine()
        first = live.parts.journal.run_id
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled")
        for name, arguments in faults:
            sim.server.faults.begin(name, **arguments)
            await entered(sim)
            await left(sim)
            sim.server.faults.end()
        await entered(sim)
        await sim.until(lambda: live.parts.core.desk.positions.count > 0, "something to take over")
        await sim.stop_engine()  # drops it as a crash would
        live = await sim.start_engine()
        second = live.parts.journal.run_id
        await sim.until(lambda: live.trading.sweeps.reconciled, "reconciled", 20)
        await left(sim)
        await entered(sim)
        await sim.command("kill", until="flatten")
        written = live.parts.journal.counts
        await sim.stop_engine()
    reports = replayed(sim, first), replayed(sim, second)
    assert reports[0].records["trade"] >= len(faults) // 2
    assert reports[1].records["request"] == written[Kind.REQUEST] > 5
    for report in reports:
        assert {"order", "fill", "position", "twin", "gateway", "input", "tick", "signal"} <= set(report.records)
