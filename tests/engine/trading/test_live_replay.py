"""A live run comes out of its journal again, bit for bit: what it saw, what it decided, what it asked the exchange."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from crash_lives import Dead
from live_day import LiveDay
from rig import SYMBOLS

from engine import journal
from engine.exchange.replies import LOST, Reply
from engine.exchange.user_data import decode
from engine.replay import Report, replay
from engine.restore import from_snapshot
from engine.timers import Hold
from engine.trading.door import pack_reply, read_reply, without_key
from engine.trading.live import PLACED
from kernels.records import Kind
from tests.conftest import long_run
from tests.engine.recorded import Market, PickyModel, altered, records

MINUTES = long_run(60, 700)


def replayed(folder: Path, run_id: int) -> Report:
    return replay(folder / "journal", "main", run_id, lambda model_id, backend: PickyModel(model_id))


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> LiveDay:
    recorded = LiveDay(tmp_path_factory.mktemp("live"), Market(MINUTES))
    recorded.play(MINUTES)
    return recorded


def test_live_day_with_faults_replays_without_a_difference(day: LiveDay) -> None:
    report = replayed(day.folder, day.journal.run_id)
    assert report.difference is None, str(report.difference)
    assert report.complete and report.mode == "live"
    written = day.journal.counts
    for kind in (
        Kind.SIGNAL, Kind.ORDER, Kind.FILL, Kind.POSITION, Kind.TRADE, Kind.ACCOUNT, Kind.TWIN, Kind.REQUEST,
        Kind.GATEWAY, Kind.INPUT, Kind.TICK, Kind.BOOK, Kind.MARK, Kind.BAR, Kind.COMMAND,
    ):  # fmt: skip
        assert report.records[kind.name.lower()] == written[kind] > 0, kind.name
    assert written[Kind.TRADE] >= 10
    assert len(day.trading.alarm.counts) >= 5, "the run has met its faults"


@pytest.mark.parametrize("before_a_tick", [False, True])
def test_a_standstill_that_a_bar_without_a_decision_ends_replays(tmp_path: Path, before_a_tick: bool) -> None:
    """ETHUSDT's bar before BTCUSDT's completes no vector: whoever sees the standstill then must be in the journal."""
    day, minutes, seen = LiveDay(tmp_path, Market(20)), 20, 0
    day.faulty = False
    on_bar = day.sink.on_bar

    def hooked(symbol: int, timeframe: int, bar: np.void, event_ms: int, recv_ns: int) -> None:
        nonlocal seen
        seen += 1
        if seen == 31:
            assert (symbol, timeframe) == (1, 0)
            day.trading.stood_still = day._once_still()
            if before_a_tick:
                day.trading.advance(day.clock.now_ms())
        on_bar(symbol, timeframe, bar, event_ms, recv_ns)

    day.sink.on_bar = hooked  # type: ignore[method-assign]
    day.play(minutes)
    assert day.trading.alarm.counts["stall"] == 1
    report = replayed(tmp_path, day.journal.run_id)
    assert report.difference is None, str(report.difference)
    assert report.complete


def chosen(day: LiveDay, kind: Kind, wanted: Callable[[np.void], bool]) -> tuple[int, np.void]:
    """The first record of a kind that is wanted, and how many of its kind stand before it."""
    found = [record for k, record in records(day) if k is kind]
    return next((i, record) for i, record in enumerate(found) if wanted(record))


def text(record: np.void, field: str = "payload") -> bytes:
    return bytes(record[field].tobytes())


def test_another_price_in_a_private_event_is_found_in_the_fill(day: LiveDay, tmp_path: Path) -> None:
    number, event = chosen(day, Kind.INPUT, lambda r: b'"x":"TRADE"' in text(r) and b'-e","S"' in text(r))
    other = re.sub(rb'"L":"[0-9]', b'"L":"9', text(event))
    seq = altered(day, tmp_path, Kind.INPUT, "payload", np.void(other), number)
    difference = replayed(tmp_path, day.journal.run_id).difference
    assert difference is not None
    assert (difference.kind, difference.stage, difference.field) == ("FILL", "fill", "price")
    assert difference.input_seq == seq and "ORDER_TRADE_UPDATE" in difference.input


def test_another_answer_is_found_where_it_is_taken(day: LiveDay, tmp_path: Path) -> None:
    taken = {int(r["seq"]) - 1 for kind, r in records(day) if kind is Kind.GATEWAY and r["answer"] == PLACED}
    number, answer = chosen(day, Kind.INPUT, lambda r: int(r["seq"]) in taken and text(r).startswith(b"[200,0,"))
    other = text(answer).replace(b"[200,0,", b"[400,1,", 1)
    altered(day, tmp_path, Kind.INPUT, "payload", np.void(other), number)
    difference = replayed(tmp_path, day.journal.run_id).difference
    assert difference is not None and difference.input.startswith("INPUT(number=")
    assert (difference.kind, difference.stage, difference.field) == ("GATEWAY", "answer", "code")


def test_a_request_that_left_with_another_quantity_is_named(day: LiveDay, tmp_path: Path) -> None:
    number, order = chosen(day, Kind.REQUEST, lambda r: b"reduceOnly" in text(r, "params"))
    other = text(order, "params").replace(b'"quantity":"', b'"quantity":"1', 1)[:304]
    seq = altered(day, tmp_path, Kind.REQUEST, "params", np.void(other), number)
    difference = replayed(tmp_path, day.journal.run_id).difference
    assert difference is not None and difference.seq == seq
    assert (difference.kind, difference.stage, difference.field) == ("REQUEST", "request to the exchange", "params")
    assert '"quantity":"1' in difference.recorded and "reduceOnly" in difference.replayed


def test_a_standstill_that_was_not_there_changes_what_is_asked(day: LiveDay, tmp_path: Path) -> None:
    altered(day, tmp_path, Kind.TICK, "hold", int(Hold.STALL), 1_000)
    difference = replayed(tmp_path, day.journal.run_id).difference
    assert difference is not None and "REQUEST" in difference.replayed


def test_a_run_that_takes_over_positions_and_orders_replays(tmp_path: Path) -> None:
    market = Market(60)
    first = LiveDay(tmp_path, market)
    first.command("start")
    minute = 0
    while minute < 10 or not (first.core.desk.positions.count and first.core.desk.orders):
        first.pass_minute(minute)
        minute += 1
    first.journal.close()  # as a kill leaves it: what was under way is not told to anybody
    second = LiveDay(tmp_path, market.later(minute), first.venue)
    assert second.core.desk.positions.count and second.parts.restored.open_orders
    second.play(60 - minute)
    for recorded in (first, second):
        report = replayed(tmp_path, recorded.journal.run_id)
        assert report.difference is None and report.complete, str(report.difference)
        assert report.records["request"] == recorded.journal.counts[Kind.REQUEST] > 10


def test_a_run_that_books_what_another_one_left_half_booked_replays(tmp_path: Path) -> None:
    market = Market(60)
    first = LiveDay(tmp_path, market)
    write = first.journal.write

    def dies_behind_a_fill(kind: Kind, *values: Any) -> int:
        if first.journal.counts[Kind.FILL] == 3:
            raise Dead
        return write(kind, *values)

    first.journal.write = dies_behind_a_fill  # type: ignore[method-assign]
    first.command("start")
    minute = 0
    with pytest.raises(Dead):
        while minute < 60:
            first.pass_minute(minute)
            minute += 1
    first.journal.close()
    first.venue.forget_answers()
    second = LiveDay(tmp_path, market.later(minute + 1), first.venue)
    (begun,) = (s for s in journal.segments(tmp_path / "journal", "main") if s.run_id == second.journal.run_id)
    found = from_snapshot(journal.read_records(begun), SYMBOLS)
    assert found is not None and found.half_booked is not None, "it knows what was left, should it die as well"
    second.play(59 - minute)
    report = replayed(tmp_path, second.journal.run_id)
    assert report.difference is None and report.complete, str(report.difference)
    fills = [int(record["trade_id"]) for kind, record in records(second) if kind is Kind.FILL]  # of both runs
    assert len(fills) == len(set(fills)) > 5


def test_a_killed_live_run_replays_up_to_its_last_record(day: LiveDay, tmp_path: Path) -> None:
    shutil.copytree(day.folder / "journal", tmp_path / "journal")
    segments = journal.segments(tmp_path / "journal", "main")
    found = [
        (n, r) for n, s in enumerate(segments) for k, r in journal.read_records(s) if k is Kind.INPUT and r["part"] == 1
    ]
    at, piece = found[-1]
    raw = np.fromfile(segments[at].path, np.uint8)
    raw[raw.tobytes().index(piece.tobytes()) :] = 0  # in the midst of an input
    raw.tofile(segments[at].path)
    for segment in segments[at + 1 :]:
        segment.path.unlink()
    report = replayed(tmp_path, day.journal.run_id)
    assert report.difference is None and report.complete
    assert report.records["input"] < day.journal.counts[Kind.INPUT]


def test_no_listen_key_reaches_the_journal() -> None:
    event = b'{"e":"listenKeyExpired","E":5,"listenKey":"secret"}'
    for payload in (event, b'{"stream":"secret","data":' + event + b"}"):
        kept = without_key(payload)
        assert b"secret" not in kept
        assert decode(kept) == decode(payload)


def test_an_answer_comes_back_digit_for_digit() -> None:
    rows = [{"orderId": 12345678901234567, "avgPrice": "0.10", "x": 0.1, "y": None, "z": True}]
    for reply in (Reply(200, result=rows), Reply(503, -1007, "Timeout — unknown", retry_after_s=1.5), LOST):
        assert read_reply(pack_reply(reply)) == reply
