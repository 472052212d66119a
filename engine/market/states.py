"""Feature states of all symbols and timeframes, their bar and sample files, and how they are folded at start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.market.rings import BarFile, bar_path
from engine.market.samples import MINUTE_MS, SampleFile, sample_path
from kernels import features
from kernels.closing import DEPTH, MARKET_DEPTH
from kernels.records import FEATURES_PER_TIMEFRAME, TIMEFRAME_MS, TIMEFRAMES, BarFlag
from kernels.schema import READY_BTC_BARS, READY_OWN_BARS
from kernels.state import COUNT, FIRST_MS, OPEN_MS, new_state

# DEPTH: rows kept per series: a vector completed more than 16 minutes late is lost (and counted)
# MARKET_DEPTH: closes for which BTCUSDT's values are kept: how far a symbol may lag behind it
FILLED = int(BarFlag.FILLED)
NEVER_MS = 1 << 62


class Refold:
    """A fold of repaired history on a spare state. `run` may be called from a helper thread: it releases the GIL."""

    def __init__(self, symbol: int, timeframe: int, bars: npt.NDArray[Any], btc_bars: npt.NDArray[Any] | None) -> None:
        self.symbol, self.timeframe, self.bars, self.btc_bars = symbol, timeframe, bars, btc_bars
        self.state = new_state()
        self.rows = np.empty((0, FEATURES_PER_TIMEFRAME))

    def run(self) -> Refold:
        """Fold; touches nothing that the panel uses."""
        self.rows, _ = features.fold(self.bars, self.timeframe, self.btc_bars, state=self.state)
        return self


class States:
    """What `Panel` steps. `rows[timeframe][(open_ms // step) % DEPTH]` is float64[symbols, 44] of one close time."""

    def __init__(
        self,
        folder: Path,
        symbols: Sequence[str],
        *,
        btc_symbol: str = "BTCUSDT",
        warmup_bars: int = 1_500,
        btc_warmup_bars: int = 6_000,
        ring_bars: int = 2_048,
        btc_ring_bars: int = 8_192,
    ) -> None:
        if btc_symbol not in symbols:
            raise ValueError(f"symbols: expected {btc_symbol} among them, got {len(symbols)} without it")
        size, frames = len(symbols), range(len(TIMEFRAMES))
        self.symbols, self.btc = tuple(symbols), list(symbols).index(btc_symbol)
        self.warmup = [btc_warmup_bars if s == self.btc else warmup_bars for s in range(size)]
        rings = [btc_ring_bars if s == self.btc else ring_bars for s in range(size)]
        self.files = [[_open_file(folder, name, t, rings[s]) for s, name in enumerate(symbols)] for t in frames]
        self.samples = [SampleFile(sample_path(folder, name)) for name in symbols]
        # whole arrays for the live kernel, and the same memory by timeframe (times as memoryviews: they give ints)
        self.all_states = np.stack([new_state(size) for _ in frames])
        self.all_rows = np.full((len(frames), DEPTH, size, FEATURES_PER_TIMEFRAME), np.nan)
        self.all_market = np.full((len(frames), MARKET_DEPTH, 3), np.nan)
        self.market_opens = np.full((len(frames), MARKET_DEPTH), -1, np.int64)
        self.newest = np.full((len(frames), size), -1, np.int64)
        self.filled_table = np.zeros((DEPTH, size), np.uint8)
        self.next_decision, self.ready = np.zeros(size, np.int64), np.full(size, NEVER_MS, np.int64)
        self.states = list(self.all_states)
        self.rows = [list(rows) for rows in self.all_rows]
        self.market = [list(market) for market in self.all_market]
        self.market_open_ms = [opens.data for opens in self.market_opens]
        self.filled = [row.data for row in self.filled_table]
        self.newest_open_ms = [opens.data for opens in self.newest]
        self.first = np.full((len(frames), size), -1, np.int64)
        self.first_open_ms = [opens.data for opens in self.first]
        self.next_ms = self.next_decision.data  # the decision time to complete next
        self.first_due_ms = [0] * size  # the first one that was, behind the folded history
        self.ready_ms = self.ready.data  # the first decision time at which every feature from o h l c is defined

    def fold_files(self) -> list[tuple[int, int, npt.NDArray[Any]]]:
        """Fold every series from its bar file; BTCUSDT first, at most `warmup` bars of each.

        Bars behind the newest one that could be stepped (BTCUSDT's is missing) leave the file; they are returned as
        (symbol, timeframe, BAR[]).
        """
        order = [self.btc, *(s for s in range(len(self.symbols)) if s != self.btc)]
        left: list[tuple[int, int, npt.NDArray[Any]]] = []
        for timeframe in range(len(TIMEFRAMES)):
            for symbol in order:
                file = self.files[timeframe][symbol]
                bars = file.ordered(self.warmup[symbol])
                self.install(Refold(symbol, timeframe, bars, self.btc_bars(symbol, timeframe)).run())
                newest = self.newest_open_ms[timeframe][symbol]
                if len(bars) and int(bars["open_ms"][-1]) > newest:
                    left.append((symbol, timeframe, bars[bars["open_ms"] > newest]))
                    whole = file.ordered()
                    file.rewrite(whole[whole["open_ms"] <= newest])
        for symbol, newest in enumerate(self.newest_open_ms[0]):
            self.next_ms[symbol] = self.first_due_ms[symbol] = newest + 2 * MINUTE_MS if newest >= 0 else 0
        return left

    def seed_samples(self, symbol: int, kind: int, samples: npt.NDArray[Any]) -> int:
        """Take the samples of a start-up history that are not there yet; return how many were new."""
        return self.samples[symbol].merge(kind, samples)

    def first_bars(self, symbol: int) -> tuple[int, int, int]:
        """Return the open times of the first bars that the 1m, 15m and 1h states were folded from (−1: none)."""
        minutes, quarters, hours = self.first_open_ms
        return minutes[symbol], quarters[symbol], hours[symbol]

    def row(self, symbol: int, timeframe: int) -> npt.NDArray[np.float64]:
        """Return the newest 44 features of a series, borrowed until its next bar."""
        slot = (self.newest_open_ms[timeframe][symbol] // TIMEFRAME_MS[timeframe]) % DEPTH
        return self.rows[timeframe][slot][symbol]

    def refold(self, symbol: int, timeframe: int, bars: npt.NDArray[Any]) -> Refold:
        """Prepare a fold of repaired history (BAR[], time order); call its `run` anywhere, then `swap` on the loop."""
        return Refold(symbol, timeframe, bars[-self.warmup[symbol] :], self.btc_bars(symbol, timeframe))

    def close(self) -> None:
        """Release all mappings."""
        for files in self.files:
            for file in files:
                file.close()
        for samples in self.samples:
            samples.close()

    def btc_bars(self, symbol: int, timeframe: int) -> npt.NDArray[Any] | None:
        """Return BTCUSDT's bars for the fold of a symbol; None for BTCUSDT itself."""
        return None if symbol == self.btc else self.files[timeframe][self.btc].ordered(self.warmup[self.btc])

    def install(self, refold: Refold) -> None:
        """Put a finished fold in the place of a series' state, with its newest rows."""
        symbol, timeframe, state = refold.symbol, refold.timeframe, refold.state
        step_ms = TIMEFRAME_MS[timeframe]
        self.states[timeframe][symbol] = state
        stepped = bool(state[COUNT])
        newest = int(state[OPEN_MS]) if stepped else -1
        self.newest_open_ms[timeframe][symbol] = newest
        self.begin(symbol, timeframe, int(state[FIRST_MS]) if stepped else -1)
        for rows in self.rows[timeframe]:
            rows[symbol] = np.nan
        opens = refold.bars["open_ms"]
        for back in range(min(DEPTH, int(state[COUNT]))):
            at = int(np.searchsorted(opens, newest - back * step_ms))
            slot = (newest // step_ms - back) % DEPTH
            self.rows[timeframe][slot][symbol] = refold.rows[at]
            if timeframe == 0:
                self.filled[slot][symbol] = bool(int(refold.bars["flags"][at]) & FILLED)
        if symbol == self.btc:
            for at in range(max(0, len(opens) - MARKET_DEPTH), len(opens)):
                slot = int(opens[at]) // step_ms % MARKET_DEPTH
                self.market[timeframe][slot][:] = refold.rows[at, [4, 3, 40]]
                self.market_open_ms[timeframe][slot] = int(opens[at])

    def begin(self, symbol: int, timeframe: int, first_ms: int) -> None:
        """Record the first bar of a series (−1: none) and, from it, when its symbol (BTCUSDT: all of them) is ready."""
        self.first_open_ms[timeframe][symbol] = first_ms
        for s in range(len(self.symbols)) if symbol == self.btc else (symbol,):
            ready = 0
            for step_ms, first in zip(TIMEFRAME_MS, self.first_open_ms, strict=True):
                if first[s] < 0 or first[self.btc] < 0:
                    ready = NEVER_MS
                ready = max(ready, first[s] + READY_OWN_BARS * step_ms, first[self.btc] + READY_BTC_BARS * step_ms)
            self.ready_ms[s] = ready


def _open_file(folder: Path, symbol: str, timeframe: int, capacity: int) -> BarFile:
    path = bar_path(folder, symbol, timeframe)
    return BarFile.open(path) if path.exists() else BarFile.create(path, symbol, timeframe, capacity)
