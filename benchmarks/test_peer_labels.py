"""Triple-barrier labels beside mlfinpy's, which runs in an environment of its own; rounds are interleaved.

mlfinpy walks closes alone, so the bars of this comparison are flat (o = h = l = c); both must then end at the same
minute. Ours also gives exit price, net return, excursion and the return without barriers, which mlfinpy's does not.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from engine.model.labels import label
from kernels.records import BAR

PYTHON = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"
MINUTES, LIMIT, ROUNDS = 1_500, 360, 3


def bars() -> np.ndarray:
    rng = np.random.default_rng(6)
    made = np.zeros(MINUTES + LIMIT, BAR)
    made["open_ms"] = 1_767_225_600_000 + 60_000 * np.arange(len(made))
    for name in ("open", "high", "low", "close"):
        made[name] = 100 * np.exp(np.cumsum(np.random.default_rng(6).normal(0, 5e-4, len(made))))
    made["volume"] = rng.gamma(2, 10, len(made))
    return made


def test_labels_against_mlfinpy(benchmark, tmp_path: Path) -> None:
    if not PYTHON.exists():
        pytest.skip("no .venv-peers: `make bench-env` makes it")
    benchmark.group = "labels"
    market = bars()
    atr = market["close"] * 7e-3
    np.save(tmp_path / "close.npy", market["close"])
    np.save(tmp_path / "target.npy", atr / market["close"])
    command = [str(PYTHON), "-W", "ignore", str(Path(__file__).with_name("mlfinpy_worker.py")), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        versions = json.loads(worker.stdout.readline())

        def theirs() -> float:
            worker.stdin.write("round\n")
            worker.stdin.flush()
            return float(json.loads(worker.stdout.readline())["ns"])

        def ours() -> float:
            started = time.perf_counter_ns()
            label(market, atr)
            return time.perf_counter_ns() - started

        found = label(market, atr)
        peer = [theirs()]
        for side, touched in zip((found.long, found.short), np.load(tmp_path / "touch.npy"), strict=True):
            assert len(side) == len(touched) == MINUTES
            assert (side["hold_minutes"] == touched - np.arange(MINUTES)).all()
        assert len(np.unique(found.long["reason"])) == 3
        mine: list[float] = []

        def round_() -> None:
            mine.extend(ours() for _ in range(20))

        benchmark.pedantic(round_, setup=lambda: peer.append(theirs()), rounds=ROUNDS)
        worker.stdin.close()
    per_label = [min(times) / (2 * MINUTES) / 1e3 for times in (mine, peer)]
    benchmark.extra_info |= {"us_per_label": round(per_label[0], 3), "peer_us_per_label": round(per_label[1], 1)}
    benchmark.extra_info |= {"peer": f"mlfinpy {versions.pop('mlfinpy')}", "peer_versions": versions}
    benchmark.extra_info["ratio_min"] = round(per_label[1] / per_label[0], 1)
    print(benchmark.extra_info)
