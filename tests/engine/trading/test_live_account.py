"""Live mode over an exchange in memory: what bounds entries, what the exchange imposes, money, and the kill ladder."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

import orjson
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from live_rig import LiveRig, agree, entries, exits, sent
from rig import SYMBOLS

from engine.exchange.requests import Call
from engine.restore import restore
from engine.trading.account_watch import AccountWatch
from engine.trading.kill import Step as KillStep
from engine.trading.margin import Tier
from engine.trading.report import report
from kernels.decide import BIT
from kernels.records import Kind, Reason, RunState


def test_funding_comes_from_the_event_alone(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.pay_funding("BTCUSDT", "-1.25")
    rig.deliver()
    assert float(rig.desk.positions.rows[0]["funding_usdt"]) == -1.25
    due = rig.venue.now_ms + 5
    rig.core.on_mark(0, 100.0, 0.01, due, due, 1)
    rig.core.on_mark(0, 100.0, 0.01, due + 28_800_000, due + 1, 1)
    assert float(rig.desk.positions.rows[0]["funding_usdt"]) == -1.25
    agree(rig)


def test_funding_that_is_told_after_the_exit_is_known_and_no_difference(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.core.close_position(0, Reason.MANUAL)
    rig.run(400)
    assert rig.held == 0
    rig.venue.pay_funding("BTCUSDT", "-1.25")  # of the moment before, when it was held
    rig.deliver()
    assert rig.desk.account.wallet_usdt == float(rig.venue.wallet)
    assert rig.trading.income.totals["FUNDING_FEE"][0] == -1.25, "the income history will tell of it too"


def test_a_restart_values_what_is_held_at_its_last_marks(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long()
    rig.venue.price[SYMBOLS[0]] = Decimal("99.5")
    rig.run(100)
    rig.parts.journal.close()
    (held,) = restore(tmp_path / "journal", rig.config.engine_id, SYMBOLS).positions
    assert held["mark_price"] == 99.5 != held["entry_price"]


IMPOSED = [(code, RunState.REDUCE_ONLY) for code in (-4087, -4105, -4106, -4107, -4189, -4400, -4401)] + [
    (code, RunState.HALTED) for code in (-4088, -4192)
]


@pytest.mark.parametrize("refused", [Call.ORDER_PLACE, Call.ALGO_PLACE])
@pytest.mark.parametrize(("code", "state"), IMPOSED)
def test_what_the_exchange_imposes_ends_entries_and_never_exits(
    tmp_path: Path, code: int, state: RunState, refused: Call
) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long(1)
    rig.venue.faults[refused].append(f"code {code}")
    rig.decide(0)
    rig.run(100)
    assert rig.desk.account.run_state == state
    assert rig.desk.account.halted_symbols == set(), "the account is restricted, not the symbol"
    rig.decide(2)
    assert int(rig.core.last_signals[2]["gates"]) & BIT["reduce_only"]
    rig.venue.faults[Call.ORDER_PLACE].append(f"code {code}")  # an exit that is refused so goes on by the next route
    rig.venue.price[SYMBOLS[1]] = Decimal("98.9")
    rig.run(400)
    assert rig.venue.held[SYMBOLS[1]].amount == 0 and len(exits(rig)) == 2
    rig.parts.journal.close()
    kept = restore(tmp_path / "journal", rig.config.engine_id, SYMBOLS).account
    assert kept is not None and kept.run_state == state, "a restart does not lift it"


@pytest.mark.parametrize(
    ("limit", "gate"),
    [({"max_day_loss": 0.001}, "day_loss"), ({"max_drawdown": 0.001}, "drawdown"),
     ({"max_losing_streak": 1}, "losing_streak")],
)  # fmt: skip
def test_a_restart_clears_no_limit(tmp_path: Path, limit: dict[str, float], gate: str) -> None:
    rig = LiveRig(tmp_path, risk=limit)
    rig.open_long()
    rig.venue.price[SYMBOLS[0]] = Decimal("98.9")
    rig.run(100)
    rig.parts.journal.close()
    again = LiveRig(tmp_path, rig.venue, risk=limit)
    again.run(100)
    again.decide(1)
    assert int(again.core.last_signals[1]["gates"]) & BIT[gate]
    assert len(entries(again)) == 1


def test_a_transfer_moves_the_base_and_not_the_result(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path, risk={"max_day_loss": 0.02, "max_drawdown": 0.02})
    account = rig.desk.account
    rig.venue.transfer("-5000")
    rig.run(100)
    assert account.wallet_usdt == account.equity_usdt == account.peak_equity_usdt == 5_000.0
    assert account.day_pnl_usdt == 0.0
    rig.open_long()
    assert rig.held == 1, "half of the money is gone and none of it lost"
    rig.venue.transfer("7000")
    rig.run(100)
    paid = float(rig.desk.positions.rows[0]["fees_usdt"])
    assert account.day_pnl_usdt == pytest.approx(-paid)
    assert account.peak_equity_usdt == pytest.approx(12_000.0)


def test_a_transfer_that_no_stream_told_of_is_no_result_either(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path, risk={"max_day_loss": 0.02, "max_drawdown": 0.02})
    account = rig.desk.account
    rig.core.on_account_timer(rig.venue.now_ms)  # the day has begun
    rig.run(100)
    rig.venue.transfer("-3000", silent=True)
    rig.run(1_000)
    rig.venue.transfer("-1000")
    rig.run(400_000, 1_000)  # the income history is read every five minutes
    assert account.equity_usdt == account.peak_equity_usdt == account.day_start_equity_usdt == 6_000.0
    assert account.day_pnl_usdt == 0.0 and rig.trading.alarm.counts["transfer_missed"] == 1
    rig.venue.transfer("500", silent=True)
    rig.run(400_000, 1_000)
    assert account.day_start_equity_usdt == account.peak_equity_usdt == 6_500.0 and account.day_pnl_usdt == 0.0
    rig.open_long()
    assert rig.held == 1


def test_an_unlisted_code_rejects_the_entry_and_takes_the_symbol_off(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ORDER_PLACE].append("code -7777")
    rig.decide()
    rig.step()
    assert rig.held == 0
    assert 0 in rig.desk.account.halted_symbols
    rig.venue.price["ETHUSDT"] = Decimal(100)
    rig.open_long(1)
    rig.venue.faults[Call.ORDER_PLACE].append("code -7777")
    rig.venue.price["ETHUSDT"] = Decimal("98.9")
    rig.step()
    rig.step()
    assert rig.held == 0  # an exit goes on by the next route at once


def test_a_fee_in_bnb_is_booked_at_its_price(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.price["BNBUSDT"] = Decimal(600)
    rig.trading.fees.watch("BNB")
    rig.step()
    rig.venue.fee_asset = "BNB"
    rig.open_long()
    (fill,) = rig.records(Kind.FILL)
    assert fill["fee_usdt"] == pytest.approx(50 * 100 * 0.0005 * 600)  # the model charges the same number of BNB


def test_the_kill_ladder_flattens_and_measures_each_step(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.open_long(0)
    rig.open_long(1)
    rig.venue.faults[Call.ORDER_PLACE].append("silence")
    rig.decide(2)  # an entry whose fate is open
    kill = rig.trading.kill
    kill.begin(KillStep.FLATTEN, rig.venue.now_ms)
    assert rig.desk.account.run_state == RunState.REDUCE_ONLY
    assert list(kill.took_ms) == [KillStep.PAUSE, KillStep.REDUCE_ONLY]
    rig.run(200)
    assert rig.held == 0
    assert KillStep.FLATTEN not in kill.took_ms  # the third symbol's entry may still have filled
    rig.run(8_000, 100)
    assert list(kill.took_ms) == list(KillStep)
    assert report(rig.trading)["kill_ms"].keys() == {"pause", "reduce_only", "cancel", "flatten"}
    with pytest.raises(ValueError, match="flatten"):
        kill.step("burn")
    assert kill.took_ms[KillStep.FLATTEN] > 4_000
    rig.decide(0)
    assert int(rig.records(Kind.SIGNAL)[-1]["gates"]) & BIT["reduce_only"]
    assert sent(rig, Call.ORDER_CANCEL) == [
        {"symbol": "SOLUSDT", "origClientOrderId": entries(rig)[2]["newClientOrderId"]}
    ]


def test_a_crash_lifts_neither_a_halted_symbol_nor_a_cooldown(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.venue.faults[Call.ORDER_PLACE].append("code -9999")
    rig.decide(0)
    rig.step()
    assert rig.desk.account.halted_symbols == {0}
    rig.open_long(1)
    rig.venue.move(SYMBOLS[1], "98.9")
    rig.run(400)
    assert rig.held == 0
    cooldown_ms = rig.desk.account.cooldown_until_ms[1]
    rig.parts.journal.close()
    again = LiveRig(tmp_path, rig.venue)
    assert again.desk.account.halted_symbols == {0}
    assert again.desk.account.cooldown_until_ms[1] == pytest.approx(cooldown_ms, abs=1_000)
    again.decide(1)
    assert int(again.core.last_signals[1]["gates"]) & BIT["cooldown"]
    again.decide(0)
    assert int(again.core.last_signals[0]["gates"]) & BIT["symbol_halted"]


@pytest.mark.parametrize(("margin_type", "leverage", "refused"), [("CROSSED", 5, False), ("ISOLATED", 5, False),
                                                                  ("ISOLATED", 75, True)])  # fmt: skip
def test_a_stop_beyond_the_liquidation_price_refuses_the_entry(
    tmp_path: Path, margin_type: str, leverage: int, refused: bool
) -> None:
    rig = LiveRig(tmp_path, margin_type=margin_type, leverage=leverage)
    tiers = [Tier(0.0, 1e9, 0.004, 0.0, 125)]
    rig.trading.brackets.take({name: tiers for name in SYMBOLS}, rig.venue.now_ms)
    rig.step()
    rig.decide(0)  # the stop stands 1.15 % away; at 75x isolated margin is 1.33 %, less 0.4 % maintenance: 0.93 %
    gates = int(rig.core.last_signals[0]["gates"])
    assert bool(gates & BIT["liquidation"]) is refused


def test_what_other_positions_bind_brings_liquidation_nearer(tmp_path: Path) -> None:
    rig = LiveRig(tmp_path)
    rig.trading.brackets.take({name: [Tier(0.0, 1e9, 0.004, 0.0, 125)] for name in SYMBOLS}, rig.venue.now_ms)
    rig.open_long(1)
    rig.step()
    row = rig.desk.positions.rows[0]
    assert rig.trading.admission.maintenance_usdt == pytest.approx(0.004 * float(row["qty"]) * 100.0)


def test_a_margin_type_changed_from_outside_rests_the_symbol_until_it_is_set_right(tmp_path: Path) -> None:
    rig, checks = LiveRig(tmp_path), []
    watch = AccountWatch(rig.trading, rig.config.live, lambda: checks.append(1))
    rig.trading.on_config = watch
    event = {
        "e": "ACCOUNT_UPDATE", "E": rig.venue.now_ms, "T": rig.venue.now_ms,
        "a": {"m": "MARGIN_TYPE_CHANGE", "B": [], "P": [{"s": "ETHUSDT", "pa": "0", "ep": "0", "mt": "isolated"}]},
    }  # fmt: skip
    rig.trading.on_payload(orjson.dumps(event), rig.venue.now_ms)
    assert checks and list(rig.trading.admission.untraded) == [1]
    rig.decide(1)
    assert int(rig.records(Kind.SIGNAL)[-1]["gates"]) & BIT["symbol_halted"]
    watch.checked(orjson.dumps([[], {}]))
    rig.decide(1)
    rig.step()
    assert rig.held == 1
