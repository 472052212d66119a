"""Folds in time, over all symbols together: walking forward, or combinatorial and purged on request.

A row belongs to a block only if [T, T + horizon] lies inside it, so no label reaches from one block into another.
Membership depends on times alone, never on values.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError

Array = npt.NDArray[Any]

MINUTE_MS = 60_000
DAY_MS = 86_400_000
EMBARGO_MS = DAY_MS  # after a test block, where training follows it: features look back that far at most in effect
MIN_TRAIN_SHARE = 0.4  # of the span: the first fold trains on at least this
STOP_SHARE = 0.15  # of a fold's training span: early stopping reads this part alone


@dataclass(frozen=True, slots=True)
class Fold:
    """Row indices (ascending) of one fold, and its test blocks [from_ms, to_ms)."""

    train: Array
    stop: Array
    test: Array
    test_blocks: tuple[tuple[int, int], ...]


def inside(time_ms: Array, blocks: list[tuple[int, int]], horizon_minutes: int) -> Array:
    """Return the indices of rows whose [T, T + horizon] lies inside one of `blocks` [from_ms, to_ms)."""
    chosen = np.zeros(len(time_ms), bool)
    for begin, end in blocks:
        chosen |= (time_ms >= begin) & (time_ms + horizon_minutes * MINUTE_MS < end)
    return np.flatnonzero(chosen)


def walk_forward(time_ms: Array, folds: int, horizon_minutes: int = 360) -> list[Fold]:
    """Return `folds` folds train | stop set | test in time order; test blocks tile the span's last part.

    Raises DataError when a block would be empty.
    """
    begin = int(time_ms[0])
    end = int(time_ms[-1]) + horizon_minutes * MINUTE_MS + 1
    first = begin + int((end - begin) * MIN_TRAIN_SHARE)
    cuts = [first + (end - first) * k // folds for k in range(folds + 1)]
    found = []
    for test_from, test_to in itertools.pairwise(cuts):
        stop_from = test_from - int((test_from - begin) * STOP_SHARE)
        fold = Fold(
            inside(time_ms, [(begin, stop_from)], horizon_minutes),
            inside(time_ms, [(stop_from, test_from)], horizon_minutes),
            inside(time_ms, [(test_from, test_to)], horizon_minutes),
            ((test_from, test_to),),
        )
        found.append(_checked(fold))
    return found


def combinatorial(time_ms: Array, groups: int, tested: int, horizon_minutes: int = 360) -> list[Fold]:
    """Return a fold per choice of `tested` test groups among `groups` (López de Prado 2018, ch. 12), purged.

    Training rows after a test group keep an embargo of 24 h. The last group that is not tested is the stop set.
    """
    begin = int(time_ms[0])
    end = int(time_ms[-1]) + horizon_minutes * MINUTE_MS + 1
    cuts = [begin + (end - begin) * k // groups for k in range(groups + 1)]
    blocks = list(itertools.pairwise(cuts))
    found = []
    for chosen in itertools.combinations(range(groups), tested):
        rest = [index for index in range(groups) if index not in chosen]
        spans = []
        for index in rest:
            start = blocks[index][0] + (EMBARGO_MS if index - 1 in chosen else 0)
            spans.append((start, blocks[index][1]))
        fold = Fold(
            inside(time_ms, spans[:-1], horizon_minutes),
            inside(time_ms, spans[-1:], horizon_minutes),
            inside(time_ms, [blocks[index] for index in chosen], horizon_minutes),
            tuple(blocks[index] for index in chosen),
        )
        found.append(_checked(fold))
    return found


def before_holdout(time_ms: Array, holdout_days: float, horizon_minutes: int = 360) -> Array:
    """Return the indices of rows whose whole horizon ends before the last `holdout_days`."""
    end = int(time_ms[-1]) + horizon_minutes * MINUTE_MS + 1 - int(holdout_days * DAY_MS)
    return inside(time_ms, [(int(time_ms[0]), end)], horizon_minutes)


def _checked(fold: Fold) -> Fold:
    sizes = {"train": len(fold.train), "stop": len(fold.stop), "test": len(fold.test)}
    if not all(sizes.values()):
        days = sum(end - begin for begin, end in fold.test_blocks) / DAY_MS
        raise DataError(
            f"too little data for these folds: rows {sizes}, test blocks of {days:.1f} days; use fewer folds"
        )
    return fold
