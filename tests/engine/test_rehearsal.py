"""Rehearsals run the engine's own code to a decision, and nothing at all comes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from engine.clock import EventClock
from engine.market.events import Sink
from engine.market.wire import Decoder
from engine.rehearsal import Rehearsal
from engine.spin import AFTER_MS, BEFORE_MS, MINUTE_MS, every, near_minute, rehearse, spin
from kernels.closing import STATES
from tests.engine.recorded import SYMBOLS, Day, Market

MINUTES = 20  # past a quarter


@pytest.fixture
def day(tmp_path: Path) -> Day:
    day = Day(tmp_path, Market(MINUTES))
    day.command("start")
    return day


def everything(day: Day) -> list[Any]:
    """Return copies of all that a decision may change."""
    panel, core, journal = day.sink.panel, day.core, day.journal
    arrays = [
        panel.all_states, panel.all_rows, panel.all_market, panel.market_opens, panel.filled_table, panel.newest,
        panel.next_decision, panel.ready, panel.vectors, panel._staged, panel._settled, core.last_signals, core.books,
        core.marks, core.table, panel.table, core.latencies.counts, core.latencies.sums, day.sink.lateness.counts,
        core.desk.positions.rows, journal.words,
        *(file.ordered() for files in panel.files for file in files),
        *(series for samples in panel.samples for series in samples.series),
    ]  # fmt: skip
    return [array.tobytes() for array in arrays] + [
        repr(core.counters), core.desk.account.state(), repr(core.desk.orders), journal.seq, dict(journal.counts),
        panel.waiting_for_samples.copy(), day.sink.gap_seen, list(day.sink.last_bar_ms), len(day.sink.larger),
        core.clock.now_ms(), core.desk.observer,
    ]  # fmt: skip


def decoder_of(day: Day) -> Decoder:
    return Decoder(SYMBOLS, cast(Sink, day.sink), day.clock.now_ms())


def test_rehearsals_between_all_minutes_decide_and_change_nothing(day: Day) -> None:
    decoder = decoder_of(day)
    rehearsal, memory = Rehearsal(day.sink, decoder), decoder.memory.words.tobytes()
    for minute in range(MINUTES):
        day.pass_minute(minute, ticks=4)
        before = everything(day)
        for _ in range(2 * len(SYMBOLS)):
            rehearsal.run()
        assert everything(day) == before
    assert rehearsal.done >= MINUTES  # symbols whose vectors wait for samples are passed over
    assert day.core.counters.signals > 0
    assert decoder.memory.words.tobytes() == memory and decoder.sink is day.sink
    assert rehearsal._memory.accepted[0] >= 2 * MINUTES  # frames were decoded, on a memory of their own


def test_a_bar_that_would_be_out_of_the_ordinary_is_not_rehearsed_further(day: Day) -> None:
    """A bar behind a hole waits in every series: the panel's own door, which steps real memory, is not rehearsed."""
    day.pass_minute(0, ticks=4)
    rehearsal, panel = Rehearsal(day.sink, decoder_of(day)), day.sink.panel
    for symbol in range(len(SYMBOLS)):
        bar = panel.files[0][symbol].ordered(1)
        bar["open_ms"] += 2 * MINUTE_MS
        day.sink.on_bar(symbol, 0, bar[0], day.clock.now_ms(), 0)
    before = everything(day)
    assert not any(rehearsal.run() for _ in range(2 * len(SYMBOLS)))
    assert everything(day) == before


def test_a_rehearsal_computes_what_the_next_bar_would(day: Day) -> None:
    """The bar that follows with the last one's values: the rehearsed row is the one that a real step writes."""
    day.pass_minute(0, ticks=4)
    rehearsal, panel = Rehearsal(day.sink, decoder_of(day)), day.sink.panel
    while not rehearsal.run():
        pass
    symbol, bar = rehearsal._next, rehearsal._bars[0].copy()
    rehearsed = np.array(rehearsal._kept[0][STATES][0, 0])
    assert int(bar["open_ms"]) == panel.newest_open_ms[0][symbol] + MINUTE_MS
    slot = int(bar["open_ms"]) // MINUTE_MS % 512
    panel.market_open_ms[0][slot] = int(bar["open_ms"])  # as if BTCUSDT's had come, with the values of its last one
    panel.market[0][slot][:] = panel.market[0][slot - 1]
    bar["arrived_ms"] = 0
    panel.on_bar(symbol, 0, bar, day.clock.now_ms())
    np.testing.assert_array_equal(panel.states[0][symbol], rehearsed)


def test_nothing_is_rehearsed_while_the_day_would_roll(day: Day) -> None:
    day.pass_minute(0, ticks=4)
    rehearsal = Rehearsal(day.sink, decoder_of(day))
    assert any(rehearsal.run() for _ in SYMBOLS)
    day.core.desk.account.day_ms -= 86_400_000
    assert not any(rehearsal.run() for _ in SYMBOLS)


def test_a_day_that_rolls_in_the_middle_of_a_rehearsal_rolls_at_the_next_bar(day: Day) -> None:
    """The clock passes midnight between a rehearsal's own look at it and the reading that the rehearsed bar takes."""
    day.pass_minute(0, ticks=4)
    rehearsal, account = Rehearsal(day.sink, decoder_of(day)), day.core.desk.account
    midnight_ms, looks, before = account.day_ms + 86_400_000, 0, everything(day)

    def now_ms() -> int:
        nonlocal looks
        looks += 1
        return midnight_ms - 1 if looks == 1 else midnight_ms

    day.clock.now_ms, real = now_ms, day.clock.now_ms  # type: ignore[method-assign]
    for _ in SYMBOLS:
        looks = 0
        rehearsal.run()
    assert looks > 1
    day.clock.now_ms = real  # type: ignore[method-assign]
    assert everything(day) == before and not day.core.desk.new_day


def test_each_rehearsal_decides_on_the_close_of_its_bar(day: Day) -> None:
    day.pass_minute(0, ticks=4)
    rehearsal = Rehearsal(day.sink, decoder_of(day))
    for _ in range(4 * len(SYMBOLS)):
        if rehearsal.run():
            assert rehearsal._signal["close"][0] == rehearsal._bars["close"][0] > 0.0
    assert rehearsal.done >= 4


def test_the_engine_rehearses_around_the_end_of_a_minute() -> None:
    clock, due = EventClock(), []
    for ms in range(0, 2 * MINUTE_MS, 10):
        clock.observe(1_800_000_000_000 + ms)
        if near_minute(clock):
            due.append(ms % MINUTE_MS)
    assert min(x for x in due if x > AFTER_MS) == MINUTE_MS - BEFORE_MS
    assert max(x for x in due if x < MINUTE_MS // 2) < AFTER_MS


def test_the_loop_sleeps_between_rehearsals_and_a_fault_is_told_once() -> None:
    """Ticks come from a timer that wakes the loop: no turn of the loop is without one; after a fault none follows."""
    ticks, told, turns = [], [], 0

    def tick() -> None:
        ticks.append(turns)
        if len(ticks) == 5:
            raise ValueError

    async def run() -> None:
        nonlocal turns
        loop = asyncio.get_running_loop()
        fault: asyncio.Future[None] = loop.create_future()

        def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            told.append(context["exception"])
            if not fault.done():
                fault.set_result(None)

        loop.set_exception_handler(tell)
        select = loop._selector.select  # type: ignore[attr-defined]

        def counted(timeout: float | None) -> Any:
            nonlocal turns
            turns += 1
            return select(timeout)

        loop._selector.select = counted  # type: ignore[attr-defined]
        with every(100_000, tick) as ticking:
            assert ticking
            await asyncio.wait_for(fault, 60)
            await asyncio.sleep(0.02)  # a hundred ticks more, were there any

    asyncio.run(run())
    assert len(ticks) == 5 and len(told) == 1
    assert turns < 30  # a loop that polls turns some thousand times meanwhile


@pytest.mark.parametrize("polling", [False, True])
def test_both_ways_of_waiting_rehearse_until_they_are_stopped(day: Day, polling: bool) -> None:
    day.pass_minute(0, ticks=4)
    rehearsal, stop = Rehearsal(day.sink, decoder_of(day)), asyncio.Event()

    def due() -> bool:
        if rehearsal.done >= 5:
            stop.set()
        return True

    async def run() -> None:
        async with asyncio.timeout(60):
            await (spin(rehearsal, stop, due) if polling else rehearse(rehearsal, stop, due))

    asyncio.run(run())
    assert rehearsal.done >= 5
