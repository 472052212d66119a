"""A recorded run and its backtest: trades paired, differences split to the cent, none of them unexplained."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from engine import journal
from engine.backtest import Driver, History
from engine.backtest.comparison import CAUSES, DECISION, ROUND, Comparison, Recorded, compare
from engine.backtest.ticks import mark_bars
from engine.market.samples import FUNDING, OPEN_INTEREST
from engine.start import Start, start_path
from kernels.records import RECORDS, SAMPLE, Kind, PositionEvent
from tests.conftest import long_run
from tests.engine.recorded import MINUTE_MS, SYMBOLS, Day, Market, PickyModel, instruments

MINUTES = long_run(240, 1_440)


class Undisturbed(Day):
    """A day on which nobody interferes, settled rates arrive, and no account limit ends the trading of one side."""

    limits: ClassVar[dict[str, float]] = {"max_day_loss": 1.0, "max_drawdown": 1.0, "max_losing_streak": 100_000}
    funding_minutes = 480

    def play(self, minutes: int) -> None:
        self.command("start")
        for minute in range(minutes):
            self.pass_minute(minute)
            if minute % self.funding_minutes == self.funding_minutes - 1:
                for symbol in range(len(SYMBOLS)):
                    stamp_ms = self.market.live_from_ms + (minute + 1) * MINUTE_MS
                    self.sink.on_sample(symbol, FUNDING, stamp_ms, 1e-4, 8)
        self.journal.close()


def table(folder: Path, run_id: int, kind: Kind) -> np.ndarray:
    parts = [journal.read_kind(s, kind) for s in journal.segments(folder, "main") if s.run_id == run_id]
    return np.concatenate(parts)


def as_rows(records: np.ndarray, dtype: np.dtype) -> np.ndarray:
    rows = np.zeros(len(records), dtype)
    for name in dtype.names or ():
        rows[name] = [SYMBOLS[i].encode() for i in records["symbol"]] if name == "symbol" else records[name]
    return rows


def recorded(day: Day) -> Recorded:
    folder, run_id = day.folder / "journal", day.journal.run_id
    signals, trades = table(folder, run_id, Kind.SIGNAL), table(folder, run_id, Kind.TRADE)
    events = table(folder, run_id, Kind.POSITION)
    opened = set(events["position_id"][events["event"] == PositionEvent.ENTRY].tolist())
    return Recorded(as_rows(signals, DECISION), as_rows(trades, ROUND), opened)


def backtest(day: Day, model: PickyModel, from_ms: int = 0) -> Driver:
    """Backtest the day, or what comes after `from_ms`, on its own bars, samples and mark ticks, as
    `ta backtest --compare-run` does from the store.
    """
    folder, run_id = day.folder / "journal", day.journal.run_id
    marks, start = mark_bars(folder, "main", run_id), Start(start_path(folder, "main", run_id))

    def samples(s: int, sort: int, kind: Kind) -> np.ndarray:
        arrived = table(folder, run_id, kind)
        arrived = arrived[arrived["symbol"] == s][list(SAMPLE.names or ())].astype(SAMPLE)
        return np.concatenate([start.samples(SYMBOLS[s], sort), arrived])

    histories = [
        History(
            name, *day.market.bars[s], mark=marks[name], funding=samples(s, FUNDING, Kind.FUNDING),
            settled=samples(s, FUNDING, Kind.FUNDING), open_interest=samples(s, OPEN_INTEREST, Kind.OPEN_INTEREST),
        )
        for s, name in enumerate(SYMBOLS)
    ]  # fmt: skip
    driver = Driver(
        day.config, histories, model, instruments(), btc=None, from_ms=from_ms or day.market.live_from_ms,
        to_ms=day.market.live_from_ms + MINUTES * MINUTE_MS,
    )  # fmt: skip
    driver.drive()
    return driver


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    made = Undisturbed(tmp_path_factory.mktemp("day"), Market(MINUTES))
    made.play(MINUTES)
    return made


@pytest.fixture(scope="module")
def comparison(day: Day) -> Comparison:
    driver = backtest(day, PickyModel())
    return compare(recorded(day), driver.result(), driver.grid.predictions, driver.grid.path)


def test_backtest_of_a_recorded_day_gives_its_trades(comparison: Comparison) -> None:
    found = comparison
    assert found.decisions == MINUTES * 3 and found.decisions_missing == 0
    assert found.run_trades >= 60
    assert len(found.pairs) > 0.8 * found.run_trades
    assert found.same > 0.95 * len(found.pairs)  # of them, the rest hang on the path inside a minute
    assert "unexplained" not in found.by_cause(), [pair for pair in found.pairs if pair.cause == "unexplained"]
    assert set(found.by_cause()) <= set(CAUSES)


def test_differences_add_up_to_the_cent(comparison: Comparison) -> None:
    total = sum(row["net_usdt"] for row in comparison.by_cause().values())
    assert total == pytest.approx(comparison.run_net_usdt - comparison.backtest_net_usdt, abs=1e-6)
    for pair in comparison.pairs:
        assert sum(pair.split.values()) == pytest.approx(pair.net_usdt, abs=1e-6)


def test_other_predictions_are_blamed_on_the_inputs(day: Day) -> None:
    class Other(PickyModel):
        def predict_into(self, row: np.ndarray, out: np.ndarray) -> None:
            super().predict_into(row, out)
            out[:2] = out[1::-1]

    driver = backtest(day, Other())
    found = compare(recorded(day), driver.result(), driver.grid.predictions, driver.grid.path)
    assert found.predictions_equal == 0
    assert {lone.cause for lone in found.lone} <= {"inputs", "still_open"}


def test_a_run_against_itself_differs_nowhere(day: Day) -> None:
    """The run's records beside a result that holds the same trades: every pair is equal to the last bit."""
    driver = backtest(day, PickyModel())
    result = driver.result()
    times = {}
    for row in result.orders[result.orders["reduce_only"] == 0]:
        times.setdefault(int(row["position_id"]), int(row["time_ms"]))
    rows = np.zeros(len(result.trades), DECISION)
    for row, trade in zip(rows, result.trades, strict=True):
        s, decision_ms = int(trade["symbol"]), times[int(trade["position_id"])]
        at = (decision_ms - result.first_ms) // MINUTE_MS - 1
        row["seq"], row["symbol"], row["decision_ms"] = trade["position_id"], SYMBOLS[s].encode(), decision_ms
        row["time_ms"], row["predictions"] = decision_ms, driver.grid.predictions[s, at]
    same = Recorded(rows, as_rows(result.trades, ROUND), set())
    found = compare(same, result, driver.grid.predictions, driver.grid.path)
    assert found.same == len(found.pairs) == len(result.trades) > 20
    assert all(value == 0.0 for pair in found.pairs for value in pair.split.values())
    assert found.lone == []


def test_what_a_position_of_an_earlier_run_kept_from_is_no_consequence_of_a_difference(day: Day) -> None:
    whole = recorded(day)
    decided_ms = {int(row["seq"]): int(row["decision_ms"]) for row in whole.decisions}
    longest = max(whole.rounds, key=lambda row: int(row["closed_ms"] - row["opened_ms"]))
    from_ms = decided_ms[int(longest["position_id"])] + MINUTE_MS  # as if the run had begun while it was open
    decisions = whole.decisions[whole.decisions["decision_ms"] > from_ms]
    rounds = whole.rounds[whole.rounds["closed_ms"] > from_ms]
    driver = backtest(day, PickyModel(), from_ms)
    run = Recorded(decisions, rounds, whole.opened & set(decisions["seq"].tolist()))
    found = compare(run, driver.result(), driver.grid.predictions, driver.grid.path)
    name = longest["symbol"].decode()
    own = [lone for lone in found.lone if lone.only_in == "run" and lone.symbol == name and lone.decision_ms <= 0]
    assert [lone.cause for lone in own] == ["held_before"]
    meanwhile = [
        lone for lone in found.lone
        if lone.only_in == "backtest" and lone.symbol == name and lone.decision_ms <= int(longest["closed_ms"])
    ]  # fmt: skip
    assert meanwhile and {lone.cause for lone in meanwhile} == {"held_before"}, meanwhile
    assert "unexplained" not in found.by_cause()


def test_mark_bars_are_made_of_the_ticks(day: Day) -> None:
    folder, run_id = day.folder / "journal", day.journal.run_id
    bars = mark_bars(folder, "main", run_id)["ETHUSDT"]
    ticks = table(folder, run_id, Kind.MARK)
    ticks = ticks[ticks["symbol"] == 1]
    assert RECORDS[Kind.MARK] == ticks.dtype and len(bars) == MINUTES
    for bar in bars[:: max(1, MINUTES // 40)]:
        inside = ticks["price"][ticks["event_ms"] // MINUTE_MS * MINUTE_MS == bar["open_ms"]]
        assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (
            inside[0], inside.max(), inside.min(), inside[-1],
        )  # fmt: skip
