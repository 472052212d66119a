"""The listing while the engine runs: what changes is told to the core once, journalled, and holds at once."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig
from rig import Rig, instruments

from engine.core import CHANGED
from engine.exchange import filters
from engine.listing import ListingPoller
from engine.trading.brackets import cap_usdt
from engine.trading.margin import Tier
from engine.trading.takeover import steps_of
from kernels.decide import BIT
from kernels.records import Kind, Reason


class Helper:
    """Stands for the helper process: writes the table it is given."""

    def __init__(self, path: Path) -> None:
        self.path, self.table, self.before = path, instruments(), instruments()
        self.asked = 0

    async def ask(self, job: str, path: str) -> dict[str, Any]:
        self.asked += 1
        filters.save(self.path, np.sort(self.table, order="symbol"))
        now = {bytes(row["symbol"]).decode(): row.tobytes() for row in self.table}
        was = {bytes(row["symbol"]).decode(): row.tobytes() for row in self.before}
        self.before = self.table.copy()
        return {"changed": [name for name in {**was, **now} if was.get(name) != now.get(name)]}


async def poll(poller: ListingPoller, now_s: float) -> None:
    poller.tick(now_s)
    if poller._task is not None:
        await asyncio.wait_for(poller._task, 5)


async def test_a_changed_filter_and_a_delisting_reach_the_core(tmp_path: Path) -> None:
    rig, helper = Rig(tmp_path), Helper(tmp_path / "instruments.bin")
    poller = ListingPoller(helper, helper.path, rig.core)  # type: ignore[arg-type]
    await poll(poller, 0.5)
    assert helper.asked == 0, "the start has just read it"
    await poll(poller, 61.0)
    assert (helper.asked, poller.changes) == (1, 0)

    helper.table["step_size"][0] = 0.5
    await poll(poller, 122.0)
    assert poller.changes == 1
    changed = [r for r in rig.records(Kind.INSTRUMENT) if int(r["spare3"]) == CHANGED]
    assert [(int(r["index"]), float(r["step_size"])) for r in changed] == [(0, 0.5)]
    rig.open_long(0)
    assert float(rig.desk.positions.rows[0]["qty"]) % 0.5 == 0.0

    helper.table = helper.table[1:]  # BTCUSDT is not listed any more
    await poll(poller, 183.0)
    rig.core.on_account_timer(rig.now_ms)
    rig.book(0, 99.99, 100.01)
    assert rig.desk.positions.count == 0
    (trade,) = rig.records(Kind.TRADE)
    assert trade["reason"] == Reason.SETTLEMENT
    rig.open_long(0)
    assert rig.desk.positions.count == 0
    assert int(rig.core.last_signals[0]["gates"]) & BIT["delivery"]
    rig.open_long(1)
    assert rig.desk.positions.count == 1, "the others go on"


async def test_a_contract_whose_filters_are_gone_keeps_its_position_guarded_and_the_others_trading(
    tmp_path: Path,
) -> None:
    rig, helper = LiveRig(tmp_path), Helper(tmp_path / "instruments.bin")
    rig.core.on_listing = rig.trading.admission.relist
    rig.open_long(0)
    for name in ("tick_size", "step_size", "trading"):  # as the exchange lists what is not traded
        helper.table[name][0] = 0.0
    helper.table["tick_size"][1] = 0.02
    poller = ListingPoller(helper, helper.path, rig.core)  # type: ignore[arg-type]
    await poll(poller, 0.5)
    await poll(poller, 61.0)
    assert poller.changes == 2 and 0 in rig.trading.admission.unlisted and rig.gateway.steps[1][0].size == 0.02
    rig.core.on_account_timer(rig.venue.now_ms)
    rig.run(200)
    assert rig.held == 0 and float(rig.venue.held["BTCUSDT"].amount) == 0.0, "left, in the exchange's own digits"
    assert len(steps_of(helper.table)) == len(helper.table), "nor does it keep a start from the others' guards"


def test_which_contracts_may_be_traded() -> None:
    row = instruments()[0]
    assert filters.why_untradable(row, False) == ""
    row["spare"] = filters.TRADFI
    assert "live.tradfi" in filters.why_untradable(row, False)
    assert filters.why_untradable(row, True) == ""
    row["perpetual"] = 0
    assert "no perpetual" in filters.why_untradable(row, True)
    row["perpetual"], row["symbol"] = 1, b"BTCUSDC"
    assert filters.why_untradable(row, True) == "not quoted in USDT"
    row["trading"] = 0
    assert "trading" in filters.why_untradable(row, True)
    names = filters.tradable(_listed("TRADIFI_PERPETUAL"))
    assert names == [] and filters.tradable(_listed("TRADIFI_PERPETUAL"), tradfi=True) == ["TSLAUSDT"]
    assert filters.tradable(_listed("PERPETUAL")) == ["TSLAUSDT"]
    assert filters.tradable(_listed("PERPETUAL", margin="BNB")) == []


def _listed(contract: str, margin: str = "USDT") -> Any:
    entry = {"symbol": "TSLAUSDT", "contractType": contract, "status": "TRADING", "quoteAsset": "USDT",
             "marginAsset": margin, "filters": []}  # fmt: skip
    return filters.instruments({"symbols": [entry]})


def test_the_brackets_cap_the_notional_at_our_leverage() -> None:
    tiers = [Tier(0, 50_000, 0.004, 0, 125), Tier(50_000, 250_000, 0.005, 50, 50), Tier(250_000, 1e6, 0.01, 1_300, 10)]
    assert cap_usdt(tiers, 5) == 1e6
    assert cap_usdt(tiers, 20) == 250_000
    assert cap_usdt(tiers, 100) == 50_000
    assert cap_usdt([], 5) == float("inf")
