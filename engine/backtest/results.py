"""What a backtest leaves: trades, equity, refusals, tables, a hash over all of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from kernels import metrics
from kernels.records import GATES, Reason

DAY_MS, MINUTE_MS = 86_400_000, 60_000
DAYS_PER_YEAR = 365.0  # crypto trades every day
UNHASHED = ("seq", "check", "kind", "slots", "mono_ns")

Array = npt.NDArray[Any]


@dataclass
class Result:
    """A backtest's result. Tables of records as the journal's (`kernels.records`), arrays [S, N] by symbol and minute.

    equity_usdt float64[N]: marked to market at each minute's close; gates uint64[S, N]: refusals of each decision
    (`decided`), 0: entered; minutes_strided: how many were passed without the core, for interest.
    """

    symbols: list[str]
    model_id: str
    config_hash: str
    first_ms: int
    start_equity_usdt: float
    trades: Array
    fills: Array
    orders: Array
    equity_usdt: Array
    sides: Array
    gates: Array
    decided: Array
    open_positions: int
    minutes_on_last_price: int
    minutes_strided: int
    minutes_unfunded: int = 0  # no funding rate is stored near them: positions paid none
    learned_from_ms: int = 0  # what the model learned from, as far as it is known: its first decision ...
    unseen_from_ms: int = 0  # ... and the first decision that is no neighbour of its last label

    def learned(self) -> dict[str, Any]:
        """Return how much of this period the model had learned from, and what the rest alone brought.

        share: in [0, 1], of the minutes; unseen_days, unseen_trades, unseen_net_usdt: after `unseen_from_ms`. Figures
        of a period that a model has seen measure its memory: they say nothing about what it will earn.
        """
        last_ms = self.first_ms + MINUTE_MS * len(self.equity_usdt)
        overlap = min(last_ms, self.unseen_from_ms) - max(self.first_ms, self.learned_from_ms)
        unseen = self.trades[self.trades["opened_ms"] >= self.unseen_from_ms]
        return {
            "from_ms": self.learned_from_ms,
            "unseen_from_ms": self.unseen_from_ms,
            "share": max(0, overlap) / (last_ms - self.first_ms),
            "unseen_days": max(0, last_ms - max(self.first_ms, self.unseen_from_ms)) / DAY_MS,
            "unseen_trades": len(unseen),
            "unseen_net_usdt": float(unseen["net_usdt"].sum()),
        }

    def warning(self) -> str:
        """Return what a reader of the figures must know first: that the model had seen the period; "" if it had not."""
        found = self.learned()
        if not found["share"]:
            return ""
        begin, end = moment(self.learned_from_ms), moment(self.unseen_from_ms)
        return (
            f"IN SAMPLE: the model learned from {begin} to {end} UTC (its last label and a day), {found['share']:.0%} "
            "of this period; the figures show its memory, not what it will earn. "
            f"Of the rest: {found['unseen_days']:.1f} days after that, {found['unseen_trades']} trades, "
            f"net {found['unseen_net_usdt']:,.2f} USDT"
        )

    def hash(self) -> str:
        """Return the hex SHA-256 over model, configuration, trades, fills, equity and every decision."""
        digest = hashlib.sha256(f"{self.symbols}|{self.model_id}|{self.config_hash}|{self.first_ms}".encode())
        for table in (self.trades, self.fills):
            for name in table.dtype.names or ():
                if name not in UNHASHED:
                    digest.update(np.ascontiguousarray(table[name]).tobytes())
        for array in (self.equity_usdt, self.sides, self.gates):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def daily_equity(self) -> tuple[Array, Array]:
        """Return (day's first ms int64[d], equity float64[d] at its last minute)."""
        times = self.first_ms + MINUTE_MS * np.arange(len(self.equity_usdt))
        days = times // DAY_MS
        last = np.concatenate([np.flatnonzero(np.diff(days)), [len(days) - 1]])
        return days[last] * DAY_MS, self.equity_usdt[last]

    def statistics(self) -> dict[str, float]:
        """Return the figures of the whole backtest. Ratios are annualised from daily equities."""
        net = self.trades["net_usdt"]
        days = np.concatenate([[self.start_equity_usdt], self.daily_equity()[1]])
        daily = metrics.returns(days)
        return {
            "trades": len(net),
            "net_usdt": float(net.sum()),
            "gross_usdt": float(self.trades["gross_usdt"].sum()),
            "fees_usdt": float(self.trades["fees_usdt"].sum()),
            "funding_usdt": float(self.trades["funding_usdt"].sum()),
            "final_equity_usdt": float(self.equity_usdt[-1]),
            "return": float(self.equity_usdt[-1] / self.start_equity_usdt - 1.0),
            "sharpe": metrics.sharpe(daily, DAYS_PER_YEAR),
            "sortino": metrics.sortino(daily, DAYS_PER_YEAR),
            "max_drawdown": metrics.max_drawdown(np.concatenate([[self.start_equity_usdt], self.equity_usdt])),
            "profit_factor": metrics.profit_factor(net),
            "expectancy_usdt": metrics.expectancy(net),
            "win_rate": metrics.win_rate(net),
            "mean_hold_minutes": float(
                np.mean(self.trades["closed_ms"] - self.trades["opened_ms"]) / MINUTE_MS if len(net) else np.nan
            ),
        }

    def refusals(self) -> dict[str, dict[str, int]]:
        """Return per symbol how many decisions each gate refused (a decision may meet several)."""
        table: dict[str, dict[str, int]] = {}
        for s, symbol in enumerate(self.symbols):
            gates = self.gates[s][self.decided[s]]
            counts = {name: int(((gates >> np.uint64(i)) & np.uint64(1)).sum()) for i, name in enumerate(GATES)}
            table[symbol] = {name: count for name, count in counts.items() if count}
        return table

    def by_symbol(self) -> list[dict[str, Any]]:
        """Return a row per symbol."""
        rows = []
        for s, symbol in enumerate(self.symbols):
            trades = self.trades[self.trades["symbol"] == s]
            decided = int(self.decided[s].sum())
            rows.append({"symbol": symbol, "decisions": decided} | _sums(trades))
        return rows

    def by_month(self) -> list[dict[str, Any]]:
        """Return a row per UTC month in which a trade was closed."""
        months = np.array(
            [datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m") for ms in self.trades["closed_ms"].tolist()]
        )
        return [{"month": str(month)} | _sums(self.trades[months == month]) for month in np.unique(months)]

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the arrays."""
        return {
            "symbols": self.symbols, "model_id": self.model_id, "config_hash": self.config_hash,
            "first_ms": self.first_ms, "last_ms": self.first_ms + MINUTE_MS * len(self.equity_usdt),
            "hash": self.hash(), "statistics": self.statistics(), "by_symbol": self.by_symbol(),
            "by_month": self.by_month(), "refusals": self.refusals(), "open_positions": self.open_positions,
            "minutes_on_last_price": self.minutes_on_last_price, "minutes_strided": self.minutes_strided,
            "minutes_unfunded": self.minutes_unfunded,
            "learned": self.learned(), "start_equity_usdt": self.start_equity_usdt,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write result.json, trades.csv and equity.npy into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_bytes(orjson.dumps(self.as_dict(), option=orjson.OPT_INDENT_2))
        (folder / "trades.csv").write_text(self.trades_csv())
        np.save(folder / "equity.npy", self.equity_usdt)

    def trades_csv(self) -> str:
        """Return the trades as CSV, a line each, symbols and reasons by name, times in epoch ms."""
        names = [n for n in self.trades.dtype.names or () if n not in (*UNHASHED, "time_ms", "mode", "unprotected_ms")]
        lines = [",".join(names)]
        for row in self.trades:
            values = {name: row[name].item() for name in names}
            values["symbol"] = self.symbols[values["symbol"]]
            values["reason"] = Reason(values["reason"]).name.lower()
            values["model_id"] = values["model_id"].decode()
            lines.append(",".join(str(values[name]) for name in names))
        return "\n".join(lines) + "\n"


def moment(time_ms: int) -> str:
    """Return a UTC time to the minute, for people."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M")


def _sums(trades: Array) -> dict[str, Any]:
    net = trades["net_usdt"]
    return {
        "trades": len(net),
        "net_usdt": float(net.sum()),
        "fees_usdt": float(trades["fees_usdt"].sum()),
        "funding_usdt": float(trades["funding_usdt"].sum()),
        "win_rate": metrics.win_rate(net),
        "profit_factor": metrics.profit_factor(net),
        "expectancy_usdt": metrics.expectancy(net),
    }
