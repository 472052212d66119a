"""A recorded shadow run beside a backtest of what is stored of its time: same model, same configuration."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from control.jobs import backtest as job
from control.jobs import inputs
from engine.backtest import Driver, History, tearsheet
from engine.backtest.comparison import DECISION, ROUND, Comparison, Recorded, compare
from engine.backtest.results import Result
from engine.backtest.ticks import mark_bars
from engine.config import Config
from engine.errors import DataError
from engine.model import load
from engine.model.registry import open_registry
from engine.start import Start, start_path
from kernels.records import BAR
from kernels.schema import TARGETS
from store.client import Store
from store.schema import column_name

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]
MINUTE_MS = 60_000
OF_RUN = "engine_id = {engine:String} AND run_id = {run:String}"


@dataclass(frozen=True, slots=True)
class Request:
    """Which run ('last': the newest), and which of its minutes."""

    run: str = "last"
    from_ms: int = 0
    to_ms: int = 1 << 42
    bundle: Path | None = None


@dataclass
class Compared:
    """What came of it."""

    run_id: str
    model_id: str
    comparison: Comparison
    result: Result
    minutes_on_ticks: int  # minutes whose mark bars were made of the run's own ticks: none were stored
    folder: Path

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        named = {"run_id": self.run_id, "model_id": self.model_id, "minutes_on_ticks": self.minutes_on_ticks}
        return named | {"folder": str(self.folder), "backtest": self.result.hash()} | self.comparison.as_dict()


def run(
    store: Store, config: Config, request: Request, out: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Compared:  # fmt: skip
    """Backtest a recorded run's time and compare; writes the backtest and `comparison.json` into a folder.

    Raises DataError for an unknown run, one with several models, or one of another configuration without its start.
    """
    run_id = _choose(store, config, request.run)
    of_run: dict[str, Any] = {"engine": config.engine_id, "run": run_id}
    used = _configuration(store, config, of_run)
    decisions = _read(store, "signals", DECISION, of_run)
    inside = (decisions["decision_ms"] > request.from_ms) & (decisions["decision_ms"] <= request.to_ms)
    decisions = decisions[inside & (decisions["model_id"] != b"")]
    if not len(decisions):
        raise DataError(f"run {run_id}: no decision of a model in the range")
    models = np.unique(decisions["model_id"])
    if len(models) > 1:
        names = ", ".join(model.decode() for model in models)
        raise DataError(f"run {run_id}: several models decided ({names}): choose the time of one with --from and --to")
    first_ms, last_ms = int(decisions["decision_ms"].min()), int(decisions["decision_ms"].max())
    recorded = _recorded(store, decisions, of_run)
    symbols = sorted({row.decode() for row in np.unique(decisions["symbol"])})
    model = load(request.bundle or open_registry(config).path(models[0].decode()))
    histories = [inputs.history(store, symbol, last_ms) for symbol in symbols]
    minutes_on_ticks = _fill_marks(histories, config, run_id, first_ms - MINUTE_MS)
    base = used.market.btc_symbol
    btc = next((h for h in histories if h.symbol == base), None) or inputs.history(store, base, last_ms)
    driver = Driver(
        used, histories, model, job.instruments(store, symbols), btc=btc, from_ms=first_ms - MINUTE_MS, to_ms=last_ms,
        wallet_usdt=_equity(store, of_run, first_ms), progress=progress,
    )  # fmt: skip
    driver.drive()
    result = driver.result()
    comparison = compare(recorded, result, driver.grid.predictions, driver.grid.path)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    folder = out or config.data_dir / "backtests" / f"{stamp}-run-{run_id}"
    tearsheet.save(result, folder)
    compared = Compared(run_id, models[0].decode(), comparison, result, minutes_on_ticks, folder)
    (folder / "comparison.json").write_bytes(orjson.dumps(compared.as_dict(), option=orjson.OPT_INDENT_2))
    return compared


def _choose(store: Store, config: Config, wanted: str) -> str:
    rows = store.rows(
        "SELECT DISTINCT run_id FROM signals WHERE engine_id = {engine:String} ORDER BY toUInt64(run_id)",
        {"engine": config.engine_id},
    )
    known = [str(row[0]) for row in rows]
    if not known:
        raise DataError(f"no run of engine {config.engine_id} has left signals in the store")
    if wanted != "last" and wanted not in known:
        raise DataError(f"no such run: {wanted}; there are {', '.join(known[-20:])}")
    return known[-1] if wanted == "last" else wanted


def _configuration(store: Store, config: Config, of_run: dict[str, Any]) -> Config:
    """Return the configuration that the run was made with: from its start, or ours if it is the same."""
    path = start_path(config.data_dir / "journal", config.engine_id, int(of_run["run"]))
    if path.exists():
        return Start(path).config
    stated = store.rows(f"SELECT DISTINCT config_hash FROM configurations WHERE {OF_RUN}", of_run)
    if stated and str(stated[0][0]) != config.hash():
        raise DataError(
            f"run {of_run['run']}: made with configuration {str(stated[0][0])[:12]}…, this is {config.hash()[:12]}…; "
            f"its start ({path}) is no longer kept: name the run's own configuration with --config"
        )
    return config


def _recorded(store: Store, decisions: Array, of_run: dict[str, Any]) -> Recorded:
    rounds = _read(store, "trades", ROUND, of_run)
    entries = store.rows(f"SELECT position_id FROM positions WHERE {OF_RUN} AND event = 'entry'", of_run)
    first, last = int(decisions["seq"].min()), int(decisions["seq"].max())
    ids = rounds["position_id"]
    ours = (ids >= first) & (ids <= last)  # of these decisions; what was held before them counts as held_before
    held = ~np.isin(ids, decisions["seq"]) & (rounds["opened_ms"] < decisions["decision_ms"].min())
    return Recorded(decisions, rounds[ours | held], {int(row[0]) for row in entries})


def _equity(store: Store, of_run: dict[str, Any], first_ms: int) -> float:
    """Return the equity that the run stated last before its first decision; 0: none was stated."""
    rows = store.rows(
        f"SELECT equity_usdt FROM account WHERE {OF_RUN} AND toUnixTimestamp64Milli(time) < {{first:Int64}} "
        "ORDER BY seq DESC LIMIT 1",
        of_run | {"first": first_ms},
    )
    return float(rows[0][0]) if rows else 0.0


def _fill_marks(histories: list[History], config: Config, run_id: str, from_ms: int) -> int:
    """Give minutes without a stored mark bar one made of the run's own ticks; return how many."""
    ticks = mark_bars(config.data_dir / "journal", config.engine_id, int(run_id))
    made = 0
    for history in histories:
        bars = ticks.get(history.symbol, np.zeros(0, BAR))
        stored = history.mark if history.mark is not None else np.zeros(0, BAR)
        new = bars[~np.isin(bars["open_ms"], stored["open_ms"])]
        made += int((new["open_ms"] >= from_ms).sum())
        joined = np.concatenate([stored, new])
        history.mark = joined[np.argsort(joined["open_ms"], kind="stable")]
    return made


def _read(store: Store, table: str, dtype: np.dtype, of_run: dict[str, Any]) -> Array:
    """Return a run's rows of an engine table as records of `dtype`, in the order of seq."""
    columns = []
    for name, (sub, *_) in (dtype.fields or {}).items():
        if sub.shape:
            columns += [f"`{target}`" for target in TARGETS]
        elif sub.kind == "S":
            columns.append(f"toFixedString(toString(`{name}`), {sub.itemsize})")
        elif name.endswith("_ms"):
            columns.append(f"toUnixTimestamp64Milli(`{column_name(name)}`)")
        else:
            whole = {"i": "toInt", "u": "toUInt", "f": "toFloat"}[sub.kind]
            columns.append(f"{whole}{sub.itemsize * 8}(`{name}`)")
    sql = f"SELECT {', '.join(columns)} FROM `{table}` WHERE {OF_RUN} ORDER BY seq"
    return np.frombuffer(store.raw(sql, "RowBinary", of_run), dtype).copy()
