"""A shadow trade from decision to closed round trip: prices, fees, funding and journal records worked by hand."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rig import Rig, config

from kernels.decide import BIT
from kernels.records import Kind, OrderState, PositionEvent, Reason, RunState

FEE = 0.0005


def test_take_profit_money_is_worked_by_hand(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.open_long()
    # 0.005 × 10,000 / 1.0 = 50 units at the ask 100.01
    row = rig.desk.positions.rows[0]
    assert (row["qty"], row["entry_price"], row["tp_price"], row["sl_price"]) == (50.0, 100.01, 101.5, 99.0)
    assert row["deadline_ms"] == rig.records(Kind.SIGNAL)[0]["decision_ms"] + 360 * 60_000
    assert rig.desk.account.wallet_usdt == pytest.approx(10_000 - 50 * 100.01 * FEE)
    rig.mark(0, 101.49)
    assert rig.desk.positions.count == 1
    rig.book(0, 101.48, 101.52)
    rig.mark(0, 101.5)
    assert rig.desk.positions.count == 0
    (trade,) = rig.records(Kind.TRADE)
    gross = 50 * (101.48 - 100.01)
    fees = 50 * 100.01 * FEE + 50 * 101.48 * FEE
    assert trade["reason"] == Reason.TP
    assert trade["exit_price"] == 101.48
    assert trade["gross_usdt"] == pytest.approx(gross)
    assert trade["fees_usdt"] == pytest.approx(fees)
    assert trade["net_usdt"] == pytest.approx(gross - fees)
    assert rig.desk.account.wallet_usdt == pytest.approx(10_000 + gross - fees)
    assert rig.desk.account.equity_usdt == rig.desk.account.wallet_usdt
    assert [int(o["state"]) for o in rig.records(Kind.ORDER)] == [
        OrderState.INTENT, OrderState.SENT, OrderState.ACKNOWLEDGED, OrderState.FILLED,
    ] * 2  # fmt: skip
    assert [int(p["event"]) for p in rig.records(Kind.POSITION)] == [PositionEvent.ENTRY, PositionEvent.FINAL]


@pytest.mark.parametrize(
    ("price", "after_ms", "reason"),
    [(99.0, 1_000, Reason.SL), (90.0, 1_000, Reason.SL), (101.5, 1_000, Reason.TP), (100.0, 360 * 60_000, Reason.TIME)],
)
def test_each_barrier_closes_on_the_mark_tick(tmp_path: Path, price: float, after_ms: int, reason: Reason) -> None:
    rig = Rig(tmp_path)
    rig.open_long()
    rig.mark(0, price, after_ms=after_ms)
    (trade,) = rig.records(Kind.TRADE)
    assert trade["reason"] == reason
    expected_cooldown = rig.now_ms + 5 * 60_000 if reason is Reason.SL else None
    assert rig.desk.account.cooldown_until_ms.get(0) == expected_cooldown


def test_an_exit_goes_out_once_however_many_ticks_come(tmp_path: Path) -> None:
    rig = Rig(tmp_path, config(latency_ms=5_000.0))
    rig.open_long()
    rig.mark(0, 100.0, after_ms=6_000)
    assert rig.desk.positions.count == 1
    for _ in range(4):
        rig.mark(0, 98.0)
    assert len({bytes(o["client_order_id"]) for o in rig.records(Kind.ORDER) if o["reduce_only"]}) == 1
    rig.mark(0, 98.0, after_ms=6_000)
    assert rig.desk.positions.count == 0
    assert len(rig.records(Kind.TRADE)) == 1


def test_an_exit_without_a_book_is_filled_at_the_mark(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.open_long()
    rig.books[0] = (0, 0, 0, 0, 0, rig.now_ms, 0, 1)
    rig.mark(0, 98.0)
    (trade,) = rig.records(Kind.TRADE)
    assert trade["exit_price"] == pytest.approx(98.0 * (1 - 0.0001))


def test_funding_is_paid_once_when_the_stream_moves_to_the_next_settlement(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.open_long()
    due = rig.now_ms + 5_000
    before = rig.desk.account.wallet_usdt
    rig.mark(0, 100.0, rate=0.0002, next_ms=due)
    rig.mark(0, 100.0, rate=0.0002, next_ms=due, after_ms=4_000)  # at the settlement, the stream lags
    assert rig.desk.account.wallet_usdt == before
    rig.mark(0, 100.1, rate=0.0005, next_ms=due + 8 * 3_600_000)
    rig.mark(0, 100.1, rate=0.0005, next_ms=due + 8 * 3_600_000)
    paid = 50 * 100.1 * 0.0002
    assert rig.desk.account.wallet_usdt == pytest.approx(before - paid)
    assert rig.desk.positions.rows[0]["funding_usdt"] == pytest.approx(-paid)


def test_entry_beyond_the_limit_expires_and_leaves_the_symbol_flat(tmp_path: Path) -> None:
    rig = Rig(tmp_path, config(latency_ms=100.0))
    rig.mark(0, 100.0)
    rig.book(0, 99.99, 100.01)
    rig.decide(0, 100.0, 1.0)
    assert not rig.desk.flat(0)
    rig.now_ms += 200
    rig.book(0, 100.5, 100.6)  # the market ran away: 100.6 > 100.06
    assert rig.desk.flat(0)
    assert rig.records(Kind.FILL) == []
    assert [int(o["state"]) for o in rig.records(Kind.ORDER)][-1] == OrderState.EXPIRED
    assert rig.desk.account.wallet_usdt == 10_000


def test_a_second_signal_never_adds_to_a_position(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.open_long()
    rig.decide(0, 100.0, 1.0)
    first, second = rig.records(Kind.SIGNAL)
    assert (first["gates"], first["entered"]) == (0, 1)
    assert (second["entered"], int(second["gates"]) & BIT["not_flat"]) == (0, BIT["not_flat"])
    assert len(rig.records(Kind.FILL)) == 1


def test_flatten_and_manual_close(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for symbol in (0, 1, 2):
        rig.open_long(symbol)
    assert rig.core.close_position(1, Reason.MANUAL)
    rig.core.flatten(Reason.FLATTEN)
    rig.mark(0, 100.0)
    assert rig.desk.positions.count == 0
    assert sorted(int(t["reason"]) for t in rig.records(Kind.TRADE)) == [Reason.MANUAL, Reason.FLATTEN, Reason.FLATTEN]


def test_a_restart_keeps_positions_guards_money_and_limits(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.open_long(0)
    rig.open_long(1)
    rig.book(1, 98.9, 98.92)
    rig.mark(1, 98.9)  # symbol 1 stopped out: cooldown and streak
    wallet, streak = rig.desk.account.wallet_usdt, rig.desk.account.losing_streak
    stop = float(rig.desk.positions.rows[0]["sl_price"])
    again = Rig(tmp_path)  # the first writer is simply abandoned, as after kill -9
    assert again.desk.account.wallet_usdt == pytest.approx(wallet)
    assert again.desk.account.losing_streak == streak == 1
    assert again.desk.positions.count == 1
    assert float(again.desk.positions.rows[0]["sl_price"]) == stop
    again.now_ms = rig.now_ms
    again.book(0, 98.0, 98.02)
    again.mark(0, 98.0)
    assert again.desk.positions.count == 0
    trade = again.records(Kind.TRADE)[-1]
    assert (trade["reason"], bytes(trade["model_id"])) == (Reason.SL, b"fixed")
    third = Rig(tmp_path)
    assert third.desk.positions.count == 0
    assert third.desk.account.wallet_usdt == pytest.approx(again.desk.account.wallet_usdt)
    assert third.parts.restored.account.run_state == RunState.RUNNING


def test_a_crash_forgets_no_fee_that_the_account_record_had_no_time_for(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.open_long()
    assert Rig(tmp_path).desk.account.wallet_usdt == pytest.approx(10_000 - 50 * 100.01 * FEE)


def test_a_restored_position_of_an_unconfigured_symbol_refuses_to_start(tmp_path: Path) -> None:
    import rig as bench

    rig = Rig(tmp_path)
    rig.open_long(2)
    before = list(bench.SYMBOLS)
    try:
        bench.SYMBOLS.pop()
        with pytest.raises(ValueError, match="SOLUSDT"):
            Rig(tmp_path)
    finally:
        bench.SYMBOLS[:] = before


def test_equity_is_wallet_plus_marks_and_a_new_day_resets_the_day_only(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.open_long()
    rig.mark(0, 100.5)
    rig.desk.mark_account(rig.now_ms)
    assert rig.desk.account.equity_usdt == pytest.approx(rig.desk.account.wallet_usdt + 50 * (100.5 - 100.01))
    assert rig.desk.account.day_pnl_usdt == pytest.approx(rig.desk.account.equity_usdt - 10_000)
    rig.desk.mark_account(rig.now_ms + 86_400_000)
    assert rig.desk.account.day_pnl_usdt == 0.0


def test_a_position_id_of_an_earlier_run_is_never_given_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for _ in range(20):
        rig.desk.write_account(rig.now_ms)
    rig.open_long(0)
    kept = int(rig.desk.positions.rows[0]["position_id"])
    again = Rig(tmp_path)
    again.now_ms = rig.now_ms
    again.mark(1, 100.0)
    again.book(1, 99.99, 100.01)
    while again.core.journal.seq + 2 < kept:  # the book record precedes the signal
        again.desk.write_account(again.now_ms)
    assert again.core.journal.seq + 2 == kept
    again.decide(1, 100.0, 1.0)
    again.book(1, 99.99, 100.01)
    ids = [int(row["position_id"]) for row in again.desk.positions.rows[:2]]
    assert again.desk.positions.count == 2
    assert len(set(ids)) == 2
    third = Rig(tmp_path)
    assert sorted(int(row["position_id"]) for row in third.desk.positions.rows[:2]) == sorted(ids)


def test_exits_keep_names_of_their_own_when_the_disk_is_full_to_the_last_byte(tmp_path: Path, monkeypatch) -> None:
    rig = Rig(tmp_path, config(latency_ms=5_000.0))
    for symbol in (0, 1):
        rig.open_long(symbol)
        rig.mark(symbol, 100.0, after_ms=6_000)
    assert rig.desk.positions.count == 2

    def no_space(number: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    writer = rig.parts.journal
    monkeypatch.setattr(writer, "_allocate", no_space)
    while writer.seq and not (writer.full and writer.dropped > 1):
        rig.desk.write_account(rig.now_ms)
    seq = writer.seq
    rig.mark(0, 98.0)
    rig.mark(1, 98.0)
    assert writer.seq == seq  # nothing could be recorded any more
    assert len(rig.desk.orders) == 2
    rig.mark(2, 98.0, after_ms=6_000)
    assert rig.desk.positions.count == 0  # and both are out all the same
