"""Backtests: the engine's core over stored bars, what they leave, and a recorded run beside its own."""

from engine.backtest.driver import FOREVER_MS, KNOTS_MS, Driver, run
from engine.backtest.history import History
from engine.backtest.results import Result

__all__ = ["FOREVER_MS", "KNOTS_MS", "Driver", "History", "Result", "run"]
