"""The configuration's decision and risk numbers as the kernels' LIMITS row."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.config import Config
from kernels.decide import LIMITS


def limits_row(config: Config) -> npt.NDArray[Any]:
    """Return LIMITS[1] of a configuration."""
    decision, barriers, risk, costs = config.decision, config.barriers, config.risk, config.costs
    row = np.zeros(1, LIMITS)
    values = {
        "min_er": decision.min_er,
        "max_tail": decision.max_tail,
        "max_mae_atr": decision.max_mae_atr,
        "min_hold_minutes": decision.min_hold_minutes,
        "max_hold_minutes": decision.max_hold_minutes,
        "tp_atr": barriers.tp_atr,
        "sl_atr": barriers.sl_atr,
        "time_limit_ms": barriers.time_limit_minutes * 60_000,
        "max_slip_bps": costs.max_slip_bps,
        "max_spread_bps": risk.max_spread_bps,
        "max_data_age_ms": risk.max_data_age_ms,
        "risk_fraction": risk.risk_fraction,
        "max_notional_usdt": risk.max_notional_usdt,
        "max_total_notional_usdt": risk.max_total_notional_usdt,
        "max_leverage": risk.max_leverage,
        "max_positions": risk.max_positions,
        "book_share": risk.book_share,
        "max_day_loss": risk.max_day_loss,
        "max_drawdown": risk.max_drawdown,
        "max_losing_streak": risk.max_losing_streak,
        "max_funding": risk.max_funding,
    }
    if set(values) != set(LIMITS.names or ()):
        raise RuntimeError(f"LIMITS and configuration differ: {set(values) ^ set(LIMITS.names or ())}")
    for name, value in values.items():
        row[name] = value
    return row
