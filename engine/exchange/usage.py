"""How much of the exchange's limits is used, read from the files that the processes of this machine share.

Whoever looks takes no lock and writes nothing: the counts are a moment old, and nobody who trades waits for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.exchange.budget import DEFAULT_LIMIT, STATE
from engine.exchange.order_budget import SPANS_MS, WORDS

WINDOW_S = 60  # of the request weight


@dataclass(frozen=True)
class Weight:
    """Request weight of this address in the present minute. banned_s: how long the exchange wants silence."""

    used: int
    limit: int
    banned_s: float


@dataclass(frozen=True)
class OrderCount:
    """Orders of the account in one of the exchange's windows."""

    window_ms: int
    used: int
    limit: int


def weight(path: Path, wall_s: float | None = None) -> Weight:
    """Return the weight counted in the file of `engine.exchange.budget.WeightBudget`; none used where there is none."""
    now_s = time.time() if wall_s is None else wall_s
    raw = _read(path, STATE.itemsize)
    if raw is None:
        return Weight(0, DEFAULT_LIMIT, 0.0)
    state = np.frombuffer(raw, STATE)[0]
    used = int(state["used"]) if int(state["window"]) == int(now_s // WINDOW_S) else 0
    return Weight(used, int(state["limit"]), max(0.0, float(state["banned_until_s"]) - now_s))


def orders(path: Path, now_ms: int) -> list[OrderCount]:
    """Return the counts in the file of `engine.exchange.order_budget.OrderBudget`; [] where none has traded live."""
    raw = _read(path, 8 * WORDS)
    if raw is None:
        return []
    words = np.frombuffer(raw, np.int64).tolist()
    return [
        OrderCount(span_ms, words[3 * at + 1] if words[3 * at + 2] == now_ms // span_ms else 0, words[3 * at])
        for at, span_ms in enumerate(SPANS_MS)
    ]


def _read(path: Path, size: int) -> bytes | None:
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    return raw[:size] if len(raw) >= size else None
