"""One data folder, another account: paper positions are no real ones, and no real position is left behind unseen."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig
from rig import SYMBOLS, Rig
from rig import config as shadow_config
from venue_model import VenueModel

from engine.config import load
from engine.market.routes import account_of
from engine.restore import restore
from kernels.records import RunState


def on_paper(folder: Path) -> Rig:
    rig = Rig(folder)
    rig.open_long()
    return rig


def test_paper_positions_and_paper_money_do_not_become_real(tmp_path: Path) -> None:
    paper = on_paper(tmp_path)
    venue = VenueModel(wallet=Decimal(1_000), now_ms=paper.now_ms + 1_000)
    venue.price[SYMBOLS[0]] = Decimal(100)
    venue.manual(SYMBOLS[0], "3")  # the owner's own position, where the paper one is
    live = LiveRig(tmp_path, venue)
    assert live.held == 0, "a paper position would be guarded, and the owner's sold by it"
    assert live.parts.restored.account is None, "so the equity's base is what the wallet holds: a fresh start"
    again = Rig(tmp_path)  # and the paper trade goes on where it was
    assert again.desk.positions.count == 1
    assert again.desk.account.wallet_usdt == pytest.approx(paper.desk.account.wallet_usdt)


def test_a_halt_outlives_a_shadow_run_in_between(tmp_path: Path) -> None:
    live = LiveRig(tmp_path)
    live.desk.account.run_state = int(RunState.HALTED)
    live.desk.write_account(live.venue.now_ms)
    on_paper(tmp_path)
    whose = account_of(live.config, live=True)
    kept = restore(tmp_path / "journal", live.config.engine_id, SYMBOLS, whose).account
    assert kept is not None and kept.run_state == RunState.HALTED
    assert kept.peak_equity_usdt == live.desk.account.peak_equity_usdt


def test_what_is_really_held_is_not_left_for_paper_or_another_exchange(tmp_path: Path) -> None:
    live = LiveRig(tmp_path)
    live.open_long()
    with pytest.raises(ValueError, match=r"traded live on 127\.0\.0\.1 and holds BTCUSDT; an engine on shadow would"):
        Rig(tmp_path)
    real = load(market={"symbols": SYMBOLS}, exchange={"name": "binance"}, mode="live", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"an engine on live on fapi\.binance\.com would leave that unguarded"):
        restore(tmp_path / "journal", real.engine_id, SYMBOLS, account_of(real, live=True))
    assert LiveRig(tmp_path, live.venue).held == 1, "its own engine goes on"
    assert account_of(shadow_config(), live=False) == "shadow"
