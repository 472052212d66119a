"""Backtest of one symbol-year of 1m bars: features, 8 × 200 trees, trading. Training is not part of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engine import backtest, model
from engine.backtest import History
from engine.config import Config, load
from engine.model.bundle import write_bundle
from engine.model.dataset import SymbolData, build
from engine.model.labels import label
from engine.model.train import TrainSettings, describe, train
from kernels.features import fold_vectors
from kernels.records import SAMPLE
from kernels.schema import INDEX
from tests.market_data import generated_bars

WARM_UP, YEAR = 20_000, 525_600
LIMIT_S = 5.0
EVERY = 20  # of the minutes, one is trained on
HOUR_MS = 3_600_000
SETTINGS = TrainSettings(rounds=200, threads=0)


@dataclass
class Year:
    """What the backtest is given; market data is generated, the models are trained on it."""

    config: Config
    history: History
    btc: History
    predictor: model.Predictor
    from_ms: int


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Year:
    bars = {name: generated_bars(WARM_UP + YEAR, seed) for seed, name in enumerate(("BTCUSDT", "ETHUSDT"))}
    own, btc = bars["ETHUSDT"], bars["BTCUSDT"]
    close_ms, vectors = fold_vectors(own, None, None, btc, None, None)
    labels = label(own, vectors[:, INDEX["atr_15m"]])
    some = SymbolData("ETHUSDT", close_ms[::EVERY], vectors[::EVERY], labels.long, labels.short)
    data = build([some])
    boosters = train(data, settings=SETTINGS)
    folder = tmp_path_factory.mktemp("year")
    bundle = write_bundle(folder, boosters, data, describe(SETTINGS), 1_764_000_000_000)
    mark = own.copy()
    for name in ("open", "high", "low", "close"):
        mark[name] *= 1.0001
    stamps = np.arange(int(own["open_ms"][0]), int(own["open_ms"][-1]), 8 * HOUR_MS)
    settled = np.zeros(len(stamps), SAMPLE)
    settled["stamp_ms"], settled["usable_ms"], settled["value"] = stamps, stamps + 300_000, 1e-4
    config = load(Path("/dev/null"), market={"symbols": ["BTCUSDT", "ETHUSDT"]}, risk={"max_losing_streak": 100_000})
    history = History("ETHUSDT", own, mark=mark, settled=settled, funding=settled)
    return Year(config, history, History("BTCUSDT", btc), model.load(bundle), int(own["open_ms"][WARM_UP]))


def test_a_symbol_year_of_minutes(benchmark, year: Year) -> None:
    benchmark.group = "backtest"
    cpu, results = [], []

    def once() -> None:
        start = time.process_time()
        results.append(
            backtest.run(year.config, [year.history], year.predictor, btc=year.btc, from_ms=year.from_ms)
        )  # fmt: skip
        cpu.append(time.process_time() - start)

    benchmark.pedantic(once, rounds=3, warmup_rounds=1)
    found = results[-1]
    assert len({result.hash() for result in results}) == 1
    assert found.decided.sum() > 0.99 * YEAR
    assert len(found.trades) > 200
    benchmark.extra_info |= {"cpu_s_min": min(cpu), "trades": len(found.trades), "strided": found.minutes_strided}
    print(
        f"a symbol-year: {min(cpu):.2f} s of CPU; {len(found.trades):,} trades, "
        f"{found.minutes_strided:,} of {YEAR:,} minutes strided; backend {year.predictor.backend}"
    )
    assert min(cpu) <= LIMIT_S
