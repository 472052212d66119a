"""What a validation says: figures per target, the policy's PnL with its interval, importance, drift."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.dataset import Dataset
from engine.model.policy import Earned, Market, bootstrap, earn, out_of_fold
from engine.model.validate import Validation
from kernels.schema import FEATURES, TARGETS

Array = npt.NDArray[Any]

QUANTILE = 0.05
DECILES = 10
MINUTE_MS = 60_000
PSI_FLOOR = 1e-4  # share of an empty bin: the index stays finite


def target_figures(target: str, actual: Array, predicted: Array, constant: Array, weights: Array) -> dict[str, Any]:
    """Return the out-of-fold figures of one target; all errors are weighted as in training."""
    from scipy.stats import spearmanr

    varies = predicted.min() < predicted.max() and actual.min() < actual.max()
    figures: dict[str, Any] = {
        "rank_ic": float(spearmanr(predicted, actual).statistic) if varies else 0.0,
        "calibration": calibration(actual, predicted),
    }
    if target.startswith("q05"):
        figures["pinball"] = pinball(actual, predicted, weights)
        figures["pinball_constant"] = pinball(actual, constant, weights)
        figures["coverage"] = float(np.average(actual < predicted, weights=weights))
    else:
        figures["rmse"] = float(np.sqrt(np.average((actual - predicted) ** 2, weights=weights)))
        figures["rmse_constant"] = float(np.sqrt(np.average((actual - constant) ** 2, weights=weights)))
    return figures


def pinball(actual: Array, predicted: Array, weights: Array) -> float:
    """Return the weighted mean quantile loss at 5 %."""
    error = actual - predicted
    return float(np.average(np.where(error >= 0, QUANTILE * error, (QUANTILE - 1) * error), weights=weights))


def calibration(actual: Array, predicted: Array) -> list[dict[str, float]]:
    """Return per decile of the prediction its mean and the mean and 5 % quantile of what happened."""
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, DECILES) if len(part)]
    return [
        {
            "predicted": float(predicted[part].mean()),
            "actual": float(actual[part].mean()),
            "actual_q05": float(np.quantile(actual[part], QUANTILE)),
        }
        for part in parts
    ]


def policy_figures(earned: Earned, seed: int) -> dict[str, Any]:
    """Return the policy's net PnL in fractions of the first equity, with a day-block bootstrap interval."""
    draws = bootstrap(earned.pnl, seed)
    return {
        "trades": earned.trades,
        "days": len(earned.days),
        "net": float(earned.pnl.sum()),
        "net_q05": float(np.quantile(draws, 0.05)),
        "net_q95": float(np.quantile(draws, 0.95)),
        "won": earned.won,
        "per_day": [round(float(value), 8) for value in earned.pnl],
        "first_day": int(earned.days[0]),
    }


def importance(boosters: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return per target the share of the gain of each feature that is used."""
    found = {}
    for target, booster in boosters.items():
        gain = booster.feature_importance("gain")
        total = float(gain.sum()) or 1.0
        order = np.argsort(gain)[::-1]
        found[target] = {FEATURES[i]: round(float(gain[i]) / total, 6) for i in order if gain[i] > 0}
    return found


def training_bins(x: Array) -> dict[str, Any]:
    """Return per feature the deciles of the training window and the share of NaN: the base of `drift`."""
    edges, missing = [], []
    for column in range(x.shape[1]):
        values = x[:, column].astype(np.float64)
        known = values[~np.isnan(values)]
        missing.append(float(1 - len(known) / len(values)))
        cuts = np.unique(np.quantile(known, np.linspace(0, 1, DECILES + 1)[1:-1])) if len(known) else np.zeros(0)
        shares = np.bincount(np.searchsorted(cuts, known, "left"), minlength=len(cuts) + 1) / max(1, len(values))
        edges.append({"edges": cuts.tolist(), "shares": shares.tolist()})
    return {name: part | {"nan": nan} for name, part, nan in zip(FEATURES, edges, missing, strict=True)}


def drift(bins: dict[str, Any], x: Array) -> dict[str, float]:
    """Return each feature's population stability index against the training window; NaN is a bin of its own."""
    found = {}
    for column, name in enumerate(FEATURES):
        cuts = np.array(bins[name]["edges"])
        values = x[:, column].astype(np.float64)
        known = values[~np.isnan(values)]
        now = np.bincount(np.searchsorted(cuts, known, "left"), minlength=len(cuts) + 1) / max(1, len(values))
        then = np.append(np.array(bins[name]["shares"]), bins[name]["nan"])
        now = np.append(now, 1 - len(known) / max(1, len(values)))
        p, q = np.maximum(then, PSI_FLOOR), np.maximum(now, PSI_FLOOR)
        found[name] = round(float(((q - p) * np.log(q / p)).sum()), 6)
    return found


def evaluate(data: Dataset, result: Validation, boosters: dict[str, Any], market: Market, seed: int) -> dict[str, Any]:
    """Return the evaluation that is stored with the model. Figures come from the folds' test rows only.

    market: what the policy is traded on, by backtest, with the test rows' predictions.
    """
    tested = data.rows(result.rows)
    figures = {
        target: target_figures(
            target,
            tested.targets[:, column],
            result.predictions[:, column],
            result.constants[:, column],
            tested.weights[:, column],
        )
        for column, target in enumerate(TARGETS)
    }
    first_test = int(result.rows.min())
    model = out_of_fold(tested, result.predictions)
    end_ms = int(tested.time_ms.max()) + data.horizon_minutes * MINUTE_MS  # the last position has its whole time
    earned = earn(market, model, int(tested.time_ms.min()) - MINUTE_MS, end_ms)
    bins = training_bins(np.asarray(data.x[:first_test])) if first_test else training_bins(np.asarray(data.x))
    return {
        "rows": len(result.rows),
        "from_ms": int(tested.time_ms.min()),
        "to_ms": int(tested.time_ms.max()),
        "rounds": result.rounds,
        "fold_rounds": result.fold_rounds,
        "targets": figures,
        "policy": policy_figures(earned, seed),
        "importance": importance(boosters),
        "drift": drift(bins, tested.x),
    }
