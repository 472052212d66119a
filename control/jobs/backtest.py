"""Backtest on the stored past: what `engine.backtest.run` needs, read from the store."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from control.jobs.inputs import choose_symbols, history
from engine import backtest
from engine.backtest import Result, tearsheet
from engine.backtest.history import Progress
from engine.config import Config
from engine.errors import DataError
from engine.model import load
from engine.model.gate import unseen_from
from engine.model.opening import read_manifest
from engine.model.registry import open_registry
from store import queries
from store.client import Store


@dataclass(frozen=True, slots=True)
class Request:
    """What to trade, with what, when. model: an id, or the beginning of one; empty: the production model."""

    symbols: list[str]
    from_ms: int
    to_ms: int
    model: str = ""
    bundle: Path | None = None


def run(
    store: Store, config: Config, request: Request, folder: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> tuple[Result, Path]:  # fmt: skip
    """Run a backtest and save it; returns the result and where its tear sheet is.

    Raises DataError when nothing is stored, or no model is there to trade with.
    """
    bundle = request.bundle or _registered(config, request.model)
    model = load(bundle)
    symbols = choose_symbols(store, config, request.symbols)
    histories = [history(store, symbol, request.to_ms) for symbol in symbols]
    btc_symbol = config.market.btc_symbol
    btc = next((h for h in histories if h.symbol == btc_symbol), None) or history(store, btc_symbol, request.to_ms)
    if not len(btc.bars):
        raise DataError(f"the features need {btc_symbol}'s 1m candles, and none are stored")
    result = backtest.run(
        config, histories, model, instruments(store, symbols), btc=btc, from_ms=request.from_ms, to_ms=request.to_ms,
        progress=progress,
    )  # fmt: skip
    manifest = read_manifest(bundle)
    result.learned_from_ms, result.unseen_from_ms = int(manifest["from_ms"]), unseen_from([manifest])
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{result.hash()[:8]}"
    return result, tearsheet.save(result, folder or config.data_dir / "backtests" / name)


def _registered(config: Config, model: str) -> Path:
    registry = open_registry(config)
    if model:
        return Path(registry.path(registry.entry(model).model_id))
    production = registry.production()
    if production is None:
        raise DataError("no production model: promote one, or name one with --model or --bundle")
    return Path(registry.path(production.model_id))


def instruments(store: Store, symbols: list[str]) -> npt.NDArray[Any] | None:
    """Return the stored instruments; None (nothing limits an order) unless all of them are stored."""
    table = queries.instruments(store)
    known = {bytes(name).decode() for name in table["symbol"]}
    return table if known.issuperset(symbols) else None
