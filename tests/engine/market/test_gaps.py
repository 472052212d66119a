"""What is missing, when to ask, what an answer proves; and what differs."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from engine.market import gaps
from engine.market.clockfit import ClockFit
from engine.market.gaps import GapWatch, Range
from engine.market.lateness import BUCKETS, Lateness
from engine.market.rings import BarFile
from kernels.features import build_bars
from kernels.records import BarFlag
from tests.market_data import generated_bars

MINUTE, QUARTER, HOUR = 60_000, 900_000, 3_600_000
DAY0 = 1_790_726_400_000  # a UTC midnight
NONE_FIRST = lambda symbol: False  # noqa: E731


def newest(now_ms: int, symbols: int) -> list[list[int]]:
    """Every series complete at now_ms."""
    return [[now_ms // step * step - step] * symbols for step in (MINUTE, QUARTER, HOUR)]


def test_a_bar_is_missing_only_three_seconds_after_its_close() -> None:
    watch = GapWatch(2, 0)
    have = newest(DAY0, 2)
    assert watch.due(have, DAY0 + MINUTE + 2_999, NONE_FIRST, 9) == []
    assert watch.due(have, DAY0 + MINUTE + 3_000, NONE_FIRST, 9) == [
        Range(0, 0, DAY0, DAY0 + MINUTE),
        Range(1, 0, DAY0, DAY0 + MINUTE),
    ]
    assert watch.suspect == {0, 1}


def test_btc_comes_first_then_symbols_with_positions_and_of_each_the_larger_bars() -> None:
    watch = GapWatch(4, 2)
    have = newest(DAY0, 4)
    ranges = watch.due(have, DAY0 + HOUR + 3_000, lambda symbol: symbol == 3, 8)
    assert [part[:2] for part in ranges] == [(2, 2), (2, 1), (2, 0), (3, 2), (3, 1), (3, 0), (0, 2), (0, 1)]
    assert ranges[0] == Range(2, 2, DAY0, DAY0 + HOUR) and ranges[2] == Range(2, 0, DAY0, DAY0 + HOUR)


def test_questions_in_vain_become_rarer_and_an_answer_ends_them() -> None:
    watch, have, asked = GapWatch(1, 0), newest(DAY0, 1), []
    have[1] = have[2] = [-1]  # no such series yet: never missing
    now_ms = DAY0 + MINUTE + 3_000
    while now_ms < DAY0 + 5 * MINUTE:
        for part in watch.due(have, now_ms, NONE_FIRST, 9):
            watch.asked(part, now_ms)
            asked.append(now_ms - DAY0 - MINUTE - 3_000)
        now_ms += 500
    assert asked[:5] == [0, 5_000, 15_000, 45_000, 105_000]
    have[0] = [now_ms // MINUTE * MINUTE - MINUTE]
    watch.look_again()
    watch.due(have, now_ms, NONE_FIRST, 9)
    assert not watch.suspect


def test_a_repaired_range_is_read_again_a_minute_later() -> None:
    watch, part = GapWatch(1, 0), Range(0, 0, DAY0, DAY0 + MINUTE)
    watch.answered(part, DAY0 + MINUTE + 3_000)
    assert watch.rereads_due(DAY0 + 2 * MINUTE + 2_999, 9) == []
    assert watch.rereads_due(DAY0 + 2 * MINUTE + 3_000, 9) == [part]
    assert watch.rereads_due(DAY0 + 9 * MINUTE, 9) == []


def test_only_a_hole_that_a_later_bar_proves_is_filled() -> None:
    bars = generated_bars(200, 1)
    start = int(bars["open_ms"][10])
    part = Range(0, 0, start, start + 20 * MINUTE)
    answer = np.concatenate([bars[10:12], bars[15:25]])  # three absent inside, five at the end
    got, count = gaps.usable(part, answer, bars[9])
    assert count == 3 and list(got["open_ms"]) == list(range(start, start + 15 * MINUTE, MINUTE))
    assert (got["flags"][2:5] & BarFlag.FILLED).all() and (got["close"][2:5] == bars["close"][11]).all()
    first_missing, count = gaps.usable(part, bars[12:13], bars[9])
    assert count == 2 and first_missing["close"][0] == bars["close"][9]
    assert len(gaps.usable(part, bars[:0], bars[9])[0]) == 0


def test_more_than_sixty_absent_bars_are_not_bridged() -> None:
    bars = generated_bars(200, 1)
    start = int(bars["open_ms"][0])
    part = Range(0, 0, start, start + 200 * MINUTE)
    assert not gaps.unbridgeable(part, bars[60:]) and gaps.unbridgeable(part, bars[61:])
    assert gaps.usable(part, bars[60:], bars[0])[1] == 60
    assert len(gaps.usable(part, bars[61:], bars[0])[0]) == 0


def test_versions_are_compared_by_value_and_nan_equals_nan() -> None:
    bar = generated_bars(3, 2)[1]
    again = bar.copy()
    again["flags"], again["arrived_ms"] = 7, 9
    assert not gaps.differs(bar, again)
    bar["taker_volume"] = again["taker_volume"] = np.nan
    assert not gaps.differs(bar, again)
    again["taker_volume"] = 1.0
    assert gaps.differs(bar, again)
    version = gaps.rest_version(bar, 77)[0]
    assert version["arrived_ms"] == 77 and version["flags"] == BarFlag.REST | BarFlag.REVISION


@pytest.mark.parametrize("field", ["open", "high", "low", "close", "volume", "quote_volume", "taker_volume", "trades"])
def test_a_larger_bar_is_held_against_its_minutes(tmp_path: Path, field: str) -> None:
    minutes = generated_bars(120, 3)
    hours = build_bars(minutes, 2)
    file = BarFile.create(tmp_path / "x.1m", "X", 0, 2_048)
    for bar in minutes[:119]:
        file.append(bar)
    assert gaps.minutes_of(file, int(hours["open_ms"][1]), 2) is None
    file.append(minutes[119])
    own = gaps.minutes_of(file, int(hours["open_ms"][0]), 2)
    assert own is not None and list(own["open_ms"]) == list(minutes["open_ms"][:60])
    assert gaps.disagreement(hours[0], own) == ""
    hours[0][field] *= 1.0 + 1e-6 if field != "trades" else 2.0
    assert gaps.disagreement(hours[0], own).startswith(field)
    assert gaps.minutes_of(file, int(minutes["open_ms"][0]) - HOUR, 2) is None


def test_lateness_is_counted_per_symbol_and_timeframe() -> None:
    lateness = Lateness(2)
    for late_ms in (0, 25, 26, 2_500, 2_501, 10**9):
        lateness.add(1, 2, late_ms)
    table = lateness.table()
    assert table.shape == (2, 3, BUCKETS) and table[0].sum() == table[1, :2].sum() == 0
    assert list(table[1, 2]) == [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1]
    assert lateness.worst(("A", "B"), 2) == [{"symbol": "B", "bars": 6, "late": 2}]


@pytest.mark.parametrize("drift_ppm", [-80.0, 0.0, 35.0])
def test_the_clock_fit_finds_offset_and_rate_under_jitter(drift_ppm: float) -> None:
    random, fit = Random(5), ClockFit()
    true_ms = lambda mono_ns: 1.79e12 + mono_ns / 1e6 * (1 + drift_ppm * 1e-6)  # noqa: E731
    mono_ns = 10**15
    for _ in range(200):
        out_ns, back_ns = (int(2e6 + random.expovariate(1 / 4e6)) for _ in range(2))
        fit.add(mono_ns, mono_ns + out_ns + back_ns, int(true_ms(mono_ns + out_ns)))
        mono_ns += 5_000_000_000
    assert abs(fit.exchange_ms(mono_ns) - true_ms(mono_ns)) < 2.0 < fit.error_ms
    assert abs(fit.drift_ppm - drift_ppm) < 8.0
    assert fit.good(mono_ns) and not fit.good(mono_ns + 200_000_000_000)


def test_the_clock_fit_ignores_one_liar_and_follows_a_step() -> None:
    fit = ClockFit()
    assert not fit.good(0) and fit.exchange_ms(5) == 0.0
    for step in range(20):
        fit.add(step * 10**9, step * 10**9 + 10**6, 1_000_000 + step * 1_000)
    fit.add(20 * 10**9, 20 * 10**9 + 10**6, 5_000_000)
    assert not fit.good(20 * 10**9) and abs(fit.exchange_ms(20 * 10**9) - 1_020_000) < 2
    fit.add(21 * 10**9, 21 * 10**9 + 10**6, 1_021_000)
    assert fit.good(21 * 10**9)
    for step in range(22, 25):
        fit.add(step * 10**9, step * 10**9 + 10**6, 2_000_000 + step * 1_000)
    assert fit.steps == 1 and abs(fit.exchange_ms(24 * 10**9) - 2_024_000) < 2
