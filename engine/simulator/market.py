"""The market's data: minutes of every symbol on one grid, in integers, from bar files or generated; nothing
later than asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ConfigError, DataError
from engine.market.rings import BarFile, bar_path
from engine.simulator import generate
from engine.simulator.instruments import Instrument, instrument, start_price
from engine.simulator.jit import compiled
from engine.simulator.path import (
    CLOSE,
    COLUMNS,
    FIRST_ID,
    HIGH,
    LOW,
    MINUTE_MS,
    OPEN,
    QUOTE,
    TAKER,
    TAKER_QUOTE,
    TRADES,
    VOLUME,
    uniform,
)
from kernels.records import MAX_SYMBOLS, SAMPLE

WEEK_MS = 604_800_000
GENERATED_DEFAULT = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
GENERATED_MORE = ("BNBUSDT", "DOGEUSDT", "ADAUSDT", "LINKUSDT")
GENERATED_START_MS = 1_767_571_200_000  # Monday 2026-01-05 00:00 UTC
MAX_MINUTES = 60_000_000  # symbols × minutes: 80 bytes each

Ints = npt.NDArray[np.int64]


@dataclass
class Market:
    """Minutes `bars` int64[COLUMNS, S, N] from `first_ms`; a symbol begins at its `begin` index.

    `keys` uint64[S] seed everything that is a function of the symbol; `typical` int64[S] is the median minute volume.
    """

    instruments: list[Instrument]
    bars: Ints
    first_ms: int
    keys: npt.NDArray[np.uint64]
    begin: Ints
    seed: int
    source: str
    synthesised: list[str] = field(default_factory=list)
    funding: dict[int, npt.NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.symbols = [item.symbol for item in self.instruments]
        self.index = {symbol: s for s, symbol in enumerate(self.symbols)}
        self.count = int(self.bars.shape[2])
        newest = self.bars[VOLUME, :, -min(self.count, 10_000) :]
        self.typical: Ints = np.maximum(np.median(newest, axis=1), 4).astype(np.int64)
        self.ticks: Ints = np.array([item.tick for item in self.instruments], np.int64)
        self.units: Ints = np.array([10 ** (8 - item.price_decimals) for item in self.instruments], np.int64)

    @property
    def end_ms(self) -> int:
        """Close time of the last minute."""
        return self.first_ms + self.count * MINUTE_MS

    def minute_index(self, time_ms: int) -> int:
        """Return the index of the minute that holds `time_ms` (may lie outside the data)."""
        return (time_ms - self.first_ms) // MINUTE_MS

    def shift(self, by_ms: int) -> None:
        """Move all data in time; used once, before anything is shown."""
        self.first_ms += by_ms
        for samples in self.funding.values():
            samples["stamp_ms"] += by_ms


@compiled
def _uniforms(key: Any, first: Any, salt: Any, out: Any) -> None:
    for i in range(len(out)):
        out[i] = uniform(key, first + i, salt)


def symbol_key(symbol: str, seed: int) -> int:
    """Return the 64-bit key that seeds everything random about `symbol`."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{symbol}".encode(), digest_size=8).digest(), "little")


def generated_symbols(count: int) -> list[str]:
    """Return `count` names: the well-known ones, then invented ones."""
    names = [*GENERATED_DEFAULT, *GENERATED_MORE]
    return (names + [f"GEN{i:03d}USDT" for i in range(count)])[:count]


def generate_market(
    symbols: list[str], first_ms: int, count: int, seed: int, edge: float, prices: dict[str, float] | None = None
) -> Market:
    """Return a generated market of `count` minutes from `first_ms` (see generate.py for its law).

    `prices`: first prices by symbol, in USDT; default: the listing table's.
    """
    if len(symbols) > MAX_SYMBOLS or count * len(symbols) > MAX_MINUTES:
        limit = f"{MAX_SYMBOLS} symbols and {MAX_MINUTES:,} symbol-minutes"
        raise ConfigError([f"generated market: {len(symbols)} symbols × {count} minutes; at most {limit}"])
    given = prices or {}
    starts = np.array([given.get(symbol) or start_price(symbol, i) for i, symbol in enumerate(symbols)])
    items = [instrument(symbol, float(price)) for symbol, price in zip(symbols, starts, strict=True)]
    for item in items:
        if item.symbol.startswith("GEN"):
            item.funding_hours = 4
    keys = np.array([symbol_key(symbol, seed) for symbol in symbols], np.uint64)
    volatility = np.array([0.0006 if i == 0 else 0.0008 + 0.0002 * (i % 3) for i in range(len(symbols))])
    lots = np.array([10.0**item.qty_decimals for item in items])
    depth = 4e6 / (1 + np.arange(len(symbols)) % 20) / starts * lots
    units = np.array([10.0**item.price_decimals for item in items])
    ticks = np.array([item.tick for item in items], np.int64)
    bars = np.zeros((COLUMNS, len(symbols), count), np.int64)
    generate.minutes(first_ms, keys, starts * units, volatility, depth, ticks, float(edge), bars)
    begin = np.zeros(len(symbols), np.int64)
    return Market(items, bars, first_ms, keys, begin, seed, f"generated, seed {seed}, edge {edge:g}")


def load_market(folder: Path, symbols: list[str] | None, seed: int) -> Market:
    """Return the market of a folder of bar files `<SYMBOL>.1m`. Raises DataError naming what does not fit."""
    names = symbols or sorted(path.stem for path in folder.glob("*.1m"))
    if not names:
        raise DataError(f"{folder}: expected bar files <SYMBOL>.1m, found none")
    histories = []
    for name in names:
        path = bar_path(folder, name, 0)
        if not path.exists():
            raise DataError(f"{path}: no such bar file")
        file = BarFile.open(path)
        rows = file.ordered()
        file.close()
        if not len(rows):
            raise DataError(f"{path}: no bars")
        _check(path, rows)
        histories.append(rows)
    first_ms = min(int(rows["open_ms"][0]) for rows in histories)
    end_ms = min(int(rows["open_ms"][-1]) for rows in histories) + MINUTE_MS
    count = (end_ms - first_ms) // MINUTE_MS
    if count < 2:
        raise DataError(f"{folder}: the symbols have no common time")
    bars = np.zeros((COLUMNS, len(names), count), np.int64)
    begin = np.zeros(len(names), np.int64)
    keys = np.array([symbol_key(name, seed) for name in names], np.uint64)
    items, notes = [], set()
    for s, (name, rows) in enumerate(zip(names, histories, strict=True)):
        kept = rows[rows["open_ms"] < end_ms]
        item = instrument(name, float(kept["close"][-1]), _decimals(kept))
        begin[s] = (int(kept["open_ms"][0]) - first_ms) // MINUTE_MS
        item.onboard_ms = int(kept["open_ms"][0])
        notes |= _fill(bars[:, s], kept, first_ms, item, keys[s])
        items.append(item)
    market = Market(items, bars, first_ms, keys, begin, seed, f"bar files of {folder.name}", sorted(notes))
    for s, name in enumerate(names):
        samples = folder / f"{name}.funding"
        if samples.exists():
            market.funding[s] = np.fromfile(samples, SAMPLE)
    if len(market.funding) < len(names):
        market.synthesised.append("funding rates")
    market.synthesised += ["mark price", "index price", "best bid and ask", "open interest"]
    return market


def _check(path: Path, rows: npt.NDArray[Any]) -> None:
    stamps = rows["open_ms"]
    bad = np.flatnonzero((np.diff(stamps) <= 0) | (stamps[1:] % MINUTE_MS != 0))
    if len(bad):
        raise DataError(f"{path}: row {int(bad[0]) + 1}: expected rising whole minutes, got {int(stamps[bad[0] + 1])}")
    for name in ("open", "high", "low", "close", "volume"):
        wrong = np.flatnonzero(~(np.isfinite(rows[name]) & (rows[name] >= 0)))
        if len(wrong):
            value = float(rows[name][wrong[0]])
            raise DataError(f"{path}: row {int(wrong[0])}: expected a finite {name} of 0 or more, got {value}")
    body_high, body_low = np.maximum(rows["open"], rows["close"]), np.minimum(rows["open"], rows["close"])
    wrong = np.flatnonzero((rows["high"] < body_high) | (rows["low"] > body_low) | (rows["low"] <= 0))
    if len(wrong):
        raise DataError(f"{path}: row {int(wrong[0])}: expected 0 < low <= open, close <= high")


def _decimals(rows: npt.NDArray[Any]) -> int:
    """Return how many decimals the prices need (0…8)."""
    values = np.concatenate([rows[name][-20_000:] for name in ("open", "high", "low", "close")])
    for decimals in range(8):
        scaled = values * 10**decimals
        if np.all(np.abs(scaled - np.rint(scaled)) < 1e-6 * np.maximum(1.0, scaled * 1e-6)):
            return decimals
    return 8


def _fill(out: Ints, rows: npt.NDArray[Any], first_ms: int, item: Instrument, key: np.uint64) -> set[str]:
    """Write one symbol's minutes into `out` int64[COLUMNS, N]; absent minutes become idle ones. Returns what
    was invented."""
    unit, lot = 10**item.price_decimals, 10**item.qty_decimals
    at = (rows["open_ms"] - first_ms) // MINUTE_MS
    notes: set[str] = set()
    for column, name in ((OPEN, "open"), (HIGH, "high"), (LOW, "low"), (CLOSE, "close")):
        out[column, at] = np.rint(rows[name] * unit).astype(np.int64)
    volume = np.rint(rows["volume"] * lot).astype(np.int64)
    out[VOLUME, at] = volume
    average = (out[OPEN, at] + out[HIGH, at] + out[LOW, at] + out[CLOSE, at]) / 4
    draws = np.empty((2, len(rows)))
    for salt in (0, 1):
        _uniforms(key, int(at[0]), 40 + salt, draws[salt])

    def given_or(name: str, invented: npt.NDArray[Any], scale: float) -> Ints:
        given = rows[name] * scale
        unknown = np.isnan(given)
        if unknown.any():
            notes.add(name.replace("_", " "))
        return np.rint(np.where(unknown, invented, given)).astype(np.int64)

    out[QUOTE, at] = given_or("quote_volume", volume * average, unit * lot)
    tilt = np.clip(0.5 + 0.3 * (draws[0] - 0.5), 0.05, 0.95)
    out[TAKER, at] = np.minimum(given_or("taker_volume", volume * tilt, lot), volume)
    out[TAKER_QUOTE, at] = np.rint(out[TAKER, at] * (out[QUOTE, at] / np.maximum(volume, 1))).astype(np.int64)
    typical = max(float(np.median(volume)), 1.0)
    invented = np.minimum(volume, 5 + 400 * (volume / typical) * (0.7 + 0.6 * draws[1]))
    trades = np.maximum(given_or("trades", invented, 1.0), (volume > 0).astype(np.int64))
    out[TRADES, at] = np.where(volume > 0, np.minimum(trades, volume), 0)
    _bridge(out, at, rows, notes)
    return notes


def _bridge(out: Ints, at: Ints, rows: npt.NDArray[Any], notes: set[str]) -> None:
    """Give absent minutes the previous close, and number the trades."""
    present = np.zeros(out.shape[1], bool)
    present[at] = True
    begin = int(at[0])
    idle = np.flatnonzero(~present[begin:]) + begin
    if len(idle):
        notes.add(f"{len(idle)} absent minutes (idle)")
        newest = np.maximum.accumulate(np.where(present, np.arange(out.shape[1]), 0))
        for column in (OPEN, HIGH, LOW, CLOSE):
            out[column, idle] = out[CLOSE, newest[idle]]
    given = rows["last_trade_id"]
    numbered = bool(np.all(given > 0)) and not len(idle)
    first = int(given[0]) - int(out[TRADES, begin]) + 1 if numbered else 1_000_000_000
    if not numbered:
        notes.add("trade ids")
    running = np.concatenate(([0], np.cumsum(out[TRADES, begin:])[:-1]))
    out[FIRST_ID, begin:] = first + running
