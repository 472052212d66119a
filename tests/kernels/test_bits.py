"""The last bit: no fastmath, no contraction, the same numbers on every CPU target, from every call and ring phase."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import kernels
from kernels import features, rolling
from kernels.bars import StepCode
from kernels.compile import kernel
from kernels.records import BAR
from kernels.vector import vector_hashes
from tests import market_data

ROOT = Path(__file__).resolve().parents[2]
PRINT_HASH = """
import hashlib, sys
from kernels import features
from tests import market_data
bars, btc = (market_data.generated_bars(int(sys.argv[1]), s, p) for s, p in ((1, 0.3), (2, 6e4)))
oi = market_data.generated_samples(7_000, 3, 300_000, market_data.START_MS - 80_000_000)
_, vectors = features.fold_vectors(bars, None, None, btc, None, None, oi, None)
print(hashlib.sha256(vectors.tobytes()).hexdigest())
"""


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(np.ascontiguousarray(a).view(np.uint64), np.ascontiguousarray(b).view(np.uint64))


def hash_in_a_process(count: int, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")} | variables
    command = [sys.executable, "-W", "ignore", "-c", PRINT_HASH, str(count)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-2_000:]
    return run.stdout.strip()


def test_generic_and_native_targets_give_the_same_bits() -> None:
    assert hash_in_a_process(30_000) == hash_in_a_process(30_000, NUMBA_CPU_NAME="generic")


def test_compiled_and_interpreted_kernels_give_the_same_bits() -> None:
    """Python's own floats neither contract nor reorder: the strictest oracle of the compiled arithmetic."""
    assert hash_in_a_process(700) == hash_in_a_process(700, NUMBA_DISABLE_JIT="1")


def test_an_edited_callee_is_never_served_from_the_cache(tmp_path: Path) -> None:
    package = tmp_path / "kernels"
    shutil.copytree(ROOT / "kernels", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "probe.py").write_text(
        "import numba\nfrom kernels.compile import kernel\nfrom kernels.rolling import slope20\n\n\n"
        "@kernel(numba.float64(numba.float64[::1]))\ndef probe(w):\n    return slope20(w)\n"
    )
    environment = os.environ | {"TA_COMPILE_CACHE": str(tmp_path / "cache")}
    script = "import numpy as np; from kernels.probe import probe; print(probe(np.arange(20.0)))"

    def answer() -> str:
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stderr[-2_000:]
        return run.stdout

    assert answer().startswith("1.0")
    rolling_file = package / "rolling.py"
    rolling_file.write_text(rolling_file.read_text().replace("/ 665.0", "/ 66.5"))
    assert answer().startswith("10.0")


def every_kernel() -> dict[str, Dispatcher]:
    found = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        for name, value in vars(importlib.import_module(f"kernels.{module.name}")).items():
            if isinstance(value, Dispatcher):
                found[f"{module.name}.{name}"] = value
    return found


def test_no_kernel_asks_for_fastmath_or_python_division() -> None:
    dispatchers = every_kernel()
    assert len(dispatchers) > 40
    for name, dispatcher in dispatchers.items():
        assert not dispatcher.targetoptions.get("fastmath"), name
        assert dispatcher.targetoptions.get("error_model") == "numpy", name


def test_a_product_is_rounded_before_it_is_added() -> None:
    """(1 + e)(1 − e) − 1 is −e² when fused and 0 when the product is rounded first."""

    @kernel(numba.void(*[numba.float64[::1]] * 4), cache=False)
    def fused(a, b, c, out):
        for k in range(len(a)):
            out[k] = a[k] * b[k] + c[k]

    e, out = 2.0**-30, np.empty(9)
    fused(np.full(9, 1 + e), np.full(9, 1 - e), np.full(9, -1.0), out)
    assert (out == 0.0).all()


def test_no_fused_instruction_and_no_relaxed_flag_in_the_code() -> None:
    @kernel(numba.void(numba.float64[:, ::1], numba.types.Array(numba.from_dtype(BAR), 1, "C")), cache=False)
    def everything(states, bars):
        row = np.empty(44)
        for k in range(len(bars)):
            features.step_bar(states[0], bars[k], 0.0, 0.0, 0.0, False, row)

    (code,) = everything.inspect_asm().values()
    (text,) = everything.inspect_llvm().values()
    assert "divsd" in code or "divpd" in code
    assert not re.search(r"\bv?fn?m(add|sub)", code)
    assert not re.search(r"\bf(add|sub|mul|div|cmp) (fast|contract|reassoc|nnan|ninf|nsz|arcp|afn)", text)
    assert "llvm.fma" not in text and "llvm.fmuladd" not in text
    assert "llvm.log" not in text


@pytest.mark.parametrize("timeframe", [0, 1, 2])
def test_the_call_for_all_symbols_equals_the_folds(timeframe: int) -> None:
    step_ms, size, count = (60_000, 900_000, 3_600_000)[timeframe], 5, 700
    btc = market_data.generated_bars(count, 2, 60_000.0, timeframe)
    markets = [market_data.generated_bars(count, 10 + s, 10.0**s, timeframe) for s in range(size)]
    folded = [features.fold(bars, timeframe, btc)[0] for bars in markets]
    market = features.market_of(btc, timeframe)
    states, rows, codes = features.new_state(size), np.empty((size, 44)), np.empty(size, np.uint8)
    stage, which = np.zeros(size, BAR), np.array([3, 0, 4, 1, 2])
    for k in range(count):
        for s in range(size):
            stage[s] = markets[s][k]
        assert features.step_many(states, stage, which, size, market[k], step_ms, rows, codes) == size
        for s in range(size):
            assert same(rows[s], folded[s][k]), (k, s)


def test_btcusdt_light_state_equals_its_full_state() -> None:
    btc = np.delete(market_data.generated_bars(3_000, 2, 60_000.0), slice(1_000, 1_003))
    rows, _ = features.fold(btc, 0)
    assert same(features.market_of(btc, 0), rows[:, [4, 3, 40]])


def test_a_continued_fold_equals_an_uninterrupted_one_from_every_phase() -> None:
    bars, btc = market_data.generated_bars(900, 5), market_data.generated_bars(900, 6)
    whole, _ = features.fold(bars, 0, btc)
    market = features.market_of(btc, 0)
    for cut in range(300, 300 + 130):
        state, codes = features.new_state(), np.empty(900, np.uint8)
        rows = np.empty((900, 44))
        features.fold_bars(state, bars[:cut], btc, market, False, 60_000, rows[:cut], codes[:cut])
        features.fold_bars(state.copy(), bars[cut:], btc, market, False, 60_000, rows[cut:], codes[cut:])
        assert same(rows[:, :38], whole[:, :38]) and same(rows[:, 40:], whole[:, 40:]), cut


def test_folds_from_different_starts_meet() -> None:
    """Windowed features at once, Wilder and EMA states within about 950 bars (EMA200: 4,150)."""
    bars, btc = market_data.generated_bars(7_000, 7), market_data.generated_bars(7_000, 8)
    whole, _ = features.fold(bars, 0, btc)
    for start in (1, 37, 64, 700):
        late, _ = features.fold(bars[start:], 0, btc)
        assert same(late[950:], whole[start + 950 :])
        other, _ = features.fold(bars, 0, btc[start:])
        assert same(other[5_000:], whole[5_000:])


def test_holes_duplicates_and_bad_bars_do_not_step_silently() -> None:
    bars, btc = market_data.generated_bars(400, 9), market_data.generated_bars(400, 10)
    odd = np.concatenate([bars[:100], bars[99:100], bars[50:51], bars[100:200], bars[203:]])
    odd["low"][150] = -1.0
    rows, codes = features.fold(odd, 0, btc)
    assert codes[100] == StepCode.DUPLICATE and codes[101] == StepCode.OUT_OF_ORDER
    assert codes[150] == StepCode.BAD_LOW and codes[151] == StepCode.RESTARTED and codes[202] == StepCode.RESTARTED
    assert (np.delete(codes, [100, 101, 150, 151, 202]) == StepCode.OK).all()
    assert np.isnan(rows[[100, 101, 150]]).all()
    fresh, _ = features.fold(bars[203:], 0, btc)
    assert same(rows[202:], fresh)
    rows, codes = features.fold(bars, 0, np.delete(btc, [120]))
    assert codes[120] == StepCode.NO_BTC and codes[121] == StepCode.RESTARTED
    with pytest.raises(TypeError, match="expected one dimension"):
        features.fold(bars["close"], 0, btc)


def test_the_missing_larger_bar_is_not_known() -> None:
    bars, btc = market_data.generated_bars(6_000, 11), market_data.generated_bars(6_000, 12)
    quarters = features.build_bars(bars, 1)
    gone = 300
    _, vectors = features.fold_vectors(bars, np.delete(quarters, gone), None, btc, None, None)
    _, whole = features.fold_vectors(bars, None, None, btc, None, None)
    first = int((quarters["open_ms"][gone] + 900_000 - market_data.START_MS) // 60_000) - 1
    assert np.isnan(vectors[first : first + 15, 44:88]).all()
    assert same(vectors[:first], whole[:first]) and same(vectors[:, :44], whole[:, :44])
    assert np.isfinite(vectors[first + 15, 44 + 5])


def test_vectors_hold_one_kind_of_nan() -> None:
    bars = market_data.generated_bars(3_000, 13)
    bars["taker_volume"] = np.nan
    bars["volume"][::3] = 0.0
    _, vectors = features.fold_vectors(bars, None, None, bars, None, None)
    bits = vectors.view(np.uint64)[~np.isfinite(vectors)]
    assert len(bits) and (bits == 0x7FF8000000000000).all()


def test_the_hash_is_clickhouses_xxhash64() -> None:
    import chdb

    random = np.random.default_rng(3)
    vectors = random.normal(0, 1, (3, 132))
    vectors[1, 5] = np.nan
    hashes = np.empty(3, np.uint64)
    vector_hashes(vectors, hashes)
    values = ", ".join(f"xxHash64(unhex('{row.tobytes().hex()}'))" for row in vectors)
    theirs = [int(x) for x in str(chdb.query(f"SELECT {values}", "CSV")).strip().split(",")]
    assert hashes.tolist() == theirs
    assert int(features.vector_hash(vectors[0])) == theirs[0]


def test_ln_uses_no_library_logarithm() -> None:
    assert "log" not in rolling.ln.py_func.__code__.co_names


@pytest.mark.shared_data
def test_real_candles_live_equals_fold_equals_all_symbols(shared_data, long_run) -> None:
    """Four symbols of real minutes with their 15m and 1h bars: single calls, one call for all, and the fold."""
    import polars as pl

    count = long_run(6_000, 40_000)
    minutes = []
    for name in ("BTC", "ETH", "SOL", "XRP"):
        frame = pl.read_ipc(shared_data / "klines" / f"{name}USDT-1m-futures.2025-05.feather").tail(42_000).head(count)
        bars = np.zeros(count, BAR)
        bars["open_ms"] = frame["date"].dt.epoch("ms").to_numpy()
        for field in ("open", "high", "low", "close", "volume"):
            bars[field] = frame[field].to_numpy()
        for field in ("quote_volume", "taker_volume", "trades"):
            bars[field] = np.nan
        minutes.append(bars)
    start = max(int(bars["open_ms"][0]) for bars in minutes)
    for timeframe, step_ms in enumerate((60_000, 900_000, 3_600_000)):
        series = [bars[bars["open_ms"] >= start] for bars in minutes]
        if timeframe:
            series = [features.build_bars(bars, timeframe) for bars in series]
        size = min(len(bars) for bars in series)
        market = features.market_of(series[0], timeframe)
        folded = [features.fold(bars[:size], timeframe, series[0])[0] for bars in series[1:]]
        one, every = features.new_state(3), features.new_state(3)
        single, together = np.empty((3, 44)), np.empty((3, 44))
        stage, codes, which = np.zeros(3, BAR), np.empty(3, np.uint8), np.arange(3)
        for k in range(size):
            for s in range(3):
                stage[s] = series[s + 1][k]
                assert features.step(one, s, series[s + 1], k, market[k], False, step_ms, single) == StepCode.OK
            assert features.step_many(every, stage, which, 3, market[k], step_ms, together, codes) == 3
            assert same(single, together)
            assert same(single, np.stack([rows[k] for rows in folded])), (timeframe, k)
