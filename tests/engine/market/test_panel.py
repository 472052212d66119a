"""The live panel: whatever the order of arrival, its vectors are the fold's, and it says what may not be traded."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from engine.market.panel import FUNDING, OPEN_INTEREST, Panel, VectorBit
from engine.market.rings import BarFile, bar_path
from kernels import features
from kernels.bars import StepCode
from kernels.records import BAR, SAMPLE, TIMEFRAME_MS, BarFlag
from tests import market_data
from tests.market_data import START_MS

SYMBOLS = ("AAAUSDT", "BTCUSDT", "CCCUSDT")
BTC = 1
HISTORY = 1_500 * 60  # minutes of history: 1,500 hourly bars
LIVE = 250


class Market:
    """Bars of three symbols in all timeframes, cut into history and live."""

    def __init__(self, minutes: int = HISTORY + LIVE) -> None:
        self.bars = []
        for seed, price in enumerate((3.0, 60_000.0, 0.02)):
            one = market_data.generated_bars(minutes, seed + 11, price)
            one["flags"][-LIVE:] = BarFlag.WS
            self.bars.append([one, features.build_bars(one, 1), features.build_bars(one, 2)])
        self.live_from_ms = START_MS + (minutes - LIVE) * 60_000

    def history(self, symbol: int, timeframe: int) -> np.ndarray:
        bars = self.bars[symbol][timeframe]
        return bars[bars["open_ms"] + TIMEFRAME_MS[timeframe] <= self.live_from_ms]

    def live(self) -> list[tuple[int, int, np.void]]:
        """(symbol, timeframe, bar) of all live bars, ordered by close time."""
        found = [
            (symbol, timeframe, bar)
            for symbol, series in enumerate(self.bars)
            for timeframe, bars in enumerate(series)
            for bar in bars[bars["open_ms"] + TIMEFRAME_MS[timeframe] > self.live_from_ms]
        ]
        return sorted(found, key=lambda x: x[2]["open_ms"] + TIMEFRAME_MS[x[1]])


@pytest.fixture(scope="module")
def market() -> Market:
    return Market()


class Seen:
    """Collects what the panel emits."""

    def __init__(self) -> None:
        self.vectors: dict[tuple[int, int], tuple[np.ndarray, int, int]] = {}

    def __call__(self, symbol: int, decision_ms: int, vector: np.ndarray, vector_hash: int, bits: int) -> None:
        assert (symbol, decision_ms) not in self.vectors
        self.vectors[symbol, decision_ms] = (vector.copy(), int(vector_hash), bits)


def opened(folder: Path, market: Market, seen: Seen, **options: int) -> Panel:
    """A panel whose files hold the market's history, not yet seeded."""
    for symbol, name in enumerate(SYMBOLS):
        for timeframe in range(3):
            file = BarFile.create(bar_path(folder, name, timeframe), name, timeframe, 8_192 if symbol == BTC else 2_048)
            file.rewrite(market.history(symbol, timeframe))
            file.close()
    return Panel(folder, SYMBOLS, seen, **options)


def samples_of(panel: Panel, symbol: int, kind: int) -> np.ndarray:
    return panel.samples[symbol].held(kind)


def expected(panel: Panel, market: Market, symbol: int) -> tuple[np.ndarray, np.ndarray]:
    """The fold from the recorded first bars, with the samples as they were seen."""
    own, btc = (
        [bars[t][bars[t]["open_ms"] >= panel.first_bars(s)[t]] for t in range(3)]
        for s, bars in ((symbol, market.bars[symbol]), (BTC, market.bars[BTC]))
    )
    oi, funding = samples_of(panel, symbol, OPEN_INTEREST), samples_of(panel, symbol, FUNDING)
    other = [None] * 3 if symbol == BTC else btc
    return features.fold_vectors(*own, *other, oi, funding)


def check(panel: Panel, market: Market, seen: Seen, from_ms: int, minutes: int = LIVE) -> None:
    for symbol in range(len(SYMBOLS)):
        close_ms, vectors = expected(panel, market, symbol)
        for minute in range(minutes):
            decision_ms = from_ms + (minute + 1) * 60_000
            at = int(np.searchsorted(close_ms, decision_ms))
            vector, vector_hash, _ = seen.vectors[symbol, decision_ms]
            assert np.array_equal(vector.view(np.uint64), vectors[at].view(np.uint64)), (symbol, minute)
            assert vector_hash == int(features.vector_hash(vectors[at]))


@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_of_arrival_gives_the_fold_bit_for_bit(tmp_path: Path, market: Market, seed: int) -> None:
    random = np.random.default_rng(seed)
    seen = Seen()
    panel = opened(tmp_path, market, seen)
    for symbol in range(3):
        rates = market_data.generated_samples(130, symbol, 28_800_000, market.live_from_ms - 129 * 28_800_000, 1e-4)
        panel.seed_samples(symbol, FUNDING, rates[rates["usable_ms"] <= market.live_from_ms])
        stamps = market_data.generated_samples(220, symbol, 300_000, market.live_from_ms - 219 * 300_000)
        panel.seed_samples(symbol, OPEN_INTEREST, stamps[stamps["usable_ms"] <= market.live_from_ms])
    panel.seed()
    arrivals = [
        (int(bar["open_ms"]) + TIMEFRAME_MS[timeframe] + int(random.integers(50, 140_000)), symbol, timeframe, bar)
        for symbol, timeframe, bar in market.live()
    ]
    events: list[tuple] = [(when, 0, symbol, timeframe, bar) for when, symbol, timeframe, bar in arrivals]
    for symbol in range(3):
        stamps = range(market.live_from_ms, market.live_from_ms + LIVE * 60_000, 300_000)
        delays, values = (
            random.integers(1_000, 420_000, len(stamps)).tolist(),
            (random.random(len(stamps)) + 1).tolist(),
        )
        events += [(stamp + delay, 1, symbol, stamp, x) for stamp, delay, x in zip(stamps, delays, values, strict=True)]
    for when, what, symbol, x, y in sorted(events, key=lambda e: (e[0], e[1], e[2])):
        panel.on_time(when)
        if what == 0:
            assert panel.on_bar(symbol, x, y, when) in (StepCode.OK, StepCode.NO_BTC, StepCode.GAP)
            assert panel.on_bar(symbol, x, y, when) == StepCode.DUPLICATE
        else:
            panel.on_sample(symbol, OPEN_INTEREST, x, y, when)
    panel.on_time(market.live_from_ms + 10_000_000_000)
    assert len(seen.vectors) == 3 * LIVE
    assert panel.lost_vectors == 0
    check(panel, market, seen, market.live_from_ms)
    panel.close()


def test_restart_from_the_bar_files_continues_bit_for_bit(tmp_path: Path, market: Market) -> None:
    """Restarts after 37 and 101 live minutes: another ring phase and first bar, and still the vectors of its fold."""
    cuts = [0, 37, 138, LIVE]
    for start, stop in itertools.pairwise(cuts):
        seen = Seen()
        panel = opened(tmp_path, market, seen) if not start else Panel(tmp_path, SYMBOLS, seen)
        panel.seed()
        begin, end = (market.live_from_ms + x * 60_000 for x in (start, stop))
        for symbol, timeframe, bar in market.live():
            close_ms = int(bar["open_ms"]) + TIMEFRAME_MS[timeframe]
            if begin < close_ms <= end:
                assert panel.on_bar(symbol, timeframe, bar, close_ms + 80) in (StepCode.OK, StepCode.NO_BTC)
        check(panel, market, seen, begin, stop - start)
        assert {bits for _, _, bits in seen.vectors.values()} <= {0, VectorBit.FILLED}
        panel.close()


def feed(panel: Panel, market: Market, minutes: int, delay_ms: int = 80) -> None:
    end = market.live_from_ms + minutes * 60_000
    for symbol, timeframe, bar in market.live():
        close_ms = int(bar["open_ms"]) + TIMEFRAME_MS[timeframe]
        if close_ms <= end:
            panel.on_bar(symbol, timeframe, bar, close_ms + delay_ms)


def live_bar(market: Market, symbol: int, minute: int) -> np.ndarray:
    bars = market.bars[symbol][0]
    return bars[bars["open_ms"] == market.live_from_ms + minute * 60_000].copy()[0]


def test_a_late_bar_is_flagged_and_refused_bars_are_worded(tmp_path: Path, market: Market) -> None:
    seen = Seen()
    panel = opened(tmp_path, market, seen, deadline_ms=2_500)
    panel.seed()
    now = market.live_from_ms + 60_000
    bad = live_bar(market, 0, 0)
    bad["high"] = bad["low"] * 0.5
    assert panel.on_bar(0, 0, bad, now) == StepCode.HIGH_BELOW_LOW
    assert f"low={bad['low']}" in panel.refusal(StepCode.HIGH_BELOW_LOW, bad)
    bad = live_bar(market, 0, 0)
    bad["close"] = -1.0
    assert panel.on_bar(0, 0, bad, now) == StepCode.BAD_CLOSE
    assert "close=-1.0" in panel.refusal(StepCode.BAD_CLOSE, bad)
    assert panel.on_bar(0, 0, live_bar(market, 0, 0), now + 100) == StepCode.NO_BTC
    assert not seen.vectors
    assert panel.on_bar(BTC, 0, live_bar(market, BTC, 0), now + 2_501) == StepCode.OK
    assert seen.vectors[0, now][2] == seen.vectors[BTC, now][2] == VectorBit.LATE
    revised = live_bar(market, 0, 0)
    revised["close"] *= 1.0001
    assert panel.on_bar(0, 0, revised, now + 3_000) == StepCode.REVISION
    panel.close()


def test_a_gap_keeps_later_bars_until_it_is_repaired(tmp_path: Path, market: Market) -> None:
    seen = Seen()
    panel = opened(tmp_path, market, seen)
    panel.seed()
    for minute in (0, 1, 2, 3):
        now = market.live_from_ms + (minute + 1) * 60_000 + 90
        panel.on_bar(BTC, 0, live_bar(market, BTC, minute), now)
        if minute != 1:
            code = panel.on_bar(0, 0, live_bar(market, 0, minute), now)
            assert code == {0: StepCode.OK, 2: StepCode.GAP, 3: StepCode.NO_BTC}[minute]
    gap = market.live_from_ms + 60_000
    assert panel.missing(0, 0) == (gap, gap)
    assert panel.on_bar(0, 0, live_bar(market, 0, 1), now + 500) == StepCode.OK
    assert panel.missing(0, 0) == (-1, -1)
    assert [k[1] for k in seen.vectors if k[0] == 0] == [market.live_from_ms + k * 60_000 for k in (1, 2, 3, 4)]
    assert [v[2] for k, v in seen.vectors.items() if k[0] == 0] == [0, VectorBit.LATE, VectorBit.LATE, 0]
    panel.close()


def test_a_due_sample_is_waited_for_until_the_deadline(tmp_path: Path, market: Market) -> None:
    seen = Seen()
    panel = opened(tmp_path, market, seen)
    oi = np.zeros(200, SAMPLE)
    oi["stamp_ms"] = market.live_from_ms - 300_000 * np.arange(200, 0, -1)
    oi["usable_ms"] = oi["stamp_ms"] + 300_000
    oi["value"] = np.linspace(1_000, 1_100, 200)
    panel.seed_samples(0, OPEN_INTEREST, oi)
    panel.seed()
    feed(panel, market, 4)
    assert sum(1 for k in seen.vectors if k[0] == 0) == 4  # the sample stamped 5 min before the start serves these
    feed(panel, market, 5)
    due = market.live_from_ms + 300_000
    assert (0, due) not in seen.vectors
    assert panel.on_sample(0, OPEN_INTEREST, market.live_from_ms, 1_234.0, due + 900) == due
    assert seen.vectors[0, due][2] == 0
    assert seen.vectors[0, due][0][38] == 1_234.0 / float(oi["value"][-3]) - 1.0  # OI(t) over OI(t − 15 min)
    feed(panel, market, 10)
    panel.on_time(due + 300_000 + 2_499)
    assert (0, due + 300_000) not in seen.vectors
    panel.on_time(due + 300_000 + 2_500)
    assert seen.vectors[0, due + 300_000][2] & VectorBit.INPUT_LATE
    late = due + 300_000 + 4_000
    assert panel.on_sample(0, OPEN_INTEREST, market.live_from_ms + 300_000, 1_240.0, late) == late
    panel.on_next_funding(0, market.live_from_ms + 360_000)
    panel.on_next_funding(0, market.live_from_ms + 360_000 + 28_800_000)
    feed(panel, market, 11)
    assert (0, due + 360_000) not in seen.vectors  # the settled rate is due now
    panel.on_sample(0, FUNDING, market.live_from_ms + 360_003, 1e-4, due + 360_000 + 700)
    assert seen.vectors[0, due + 360_000][2] == 0
    panel.close()


def test_filled_bars_and_short_histories_are_flagged(tmp_path: Path, market: Market) -> None:
    seen = Seen()
    panel = opened(tmp_path, market, seen)
    file = panel.files[1][2]
    file.rewrite(file.ordered(60))
    panel.seed()
    filled = live_bar(market, 0, 0)
    filled["flags"] = BarFlag.FILLED
    now = market.live_from_ms + 60_000
    panel.on_bar(BTC, 0, live_bar(market, BTC, 0), now + 50)
    panel.on_bar(0, 0, filled, now + 90)
    panel.on_bar(2, 0, live_bar(market, 2, 0), now + 90)
    assert seen.vectors[0, now][2] == VectorBit.FILLED
    assert seen.vectors[2, now][2] == VectorBit.NOT_READY
    panel.close()


def test_a_refold_on_a_spare_state_is_swapped_in(tmp_path: Path, market: Market) -> None:
    """Symbol 0 loses an hour; the helper repairs the file while bars keep coming; behind the swap all is the fold's."""
    seen = Seen()
    panel = opened(tmp_path, market, seen)
    broken = panel.files[0][0].ordered()
    panel.files[0][0].rewrite(broken[:-60])
    panel.seed()
    feed(panel, market, 20)
    assert panel.missing(0, 0)[1] == market.live_from_ms - 60_000
    refold = panel.refold(0, 0, market.history(0, 0))
    feed(panel, market, 30)
    refold.run()
    panel.swap(refold, market.live_from_ms + 30 * 60_000 + 200)
    feed(panel, market, 60)
    close_ms, vectors = expected(panel, market, 0)
    for minute in (31, 60):
        decision_ms = market.live_from_ms + minute * 60_000
        vector = seen.vectors[0, decision_ms][0]
        assert np.array_equal(vector.view(np.uint64), vectors[np.searchsorted(close_ms, decision_ms)].view(np.uint64))
    stored = panel.files[0][0].ordered(60)
    assert np.array_equal(np.diff(stored["open_ms"]), np.full(59, 60_000))
    panel.close()


def test_no_btc_symbol_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="BTCUSDT"):
        Panel(tmp_path, ("AAAUSDT",), lambda *_: None)


def test_bar_dtype_is_what_the_kernels_compiled_for() -> None:
    assert BAR.itemsize == 96
