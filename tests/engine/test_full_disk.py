"""The disk fills in the middle of a closed bar: what is decided then is refused, and says why."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from kernels.decide import BIT
from tests.engine.recorded import Day, Market

MINUTES = 30


def test_no_entry_on_a_bar_at_whose_records_the_disk_is_found_full(tmp_path: Path) -> None:
    """The segment ends just before the bar's records, and the next one could not be allocated."""
    day = Day(tmp_path, Market(MINUTES))
    day.command("start")
    journal, core, pass_bar = day.journal, day.core, day.sink._pass
    found: list[int] = []
    assert journal._next is not None
    journal._next.result()  # the helper rests from here on
    failed: Future[Any] = Future()
    failed.set_exception(OSError(28, "no space"))

    def pass_when_full(symbol: int, timeframe: int, *rest: Any) -> int:
        armed = not timeframe and not core.desk.positions.count and not core.desk.entries
        if armed:
            journal._next, journal._end_slot = failed, journal._slot + 1
        signals, entries = core.counters.signals, core.counters.entries
        outcome = pass_bar(symbol, timeframe, *rest)
        if journal.full and core.counters.signals > signals:
            signal = core.last_signals[symbol]
            found.append(int(signal["gates"]))
            assert core.counters.entries == entries and not signal["entered"]
        journal.full, journal._end_slot = False, journal._last_slot
        return outcome

    for minute in range(MINUTES):
        day.sink._pass = pass_when_full if minute >= 3 else pass_bar  # type: ignore[method-assign]
        day.pass_minute(minute, ticks=4)
    assert len(found) > 10
    assert all(gates & BIT["journal_full"] for gates in found)
    assert any(gates == BIT["journal_full"] for gates in found), "some of them would have been entered"
