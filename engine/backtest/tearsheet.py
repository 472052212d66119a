"""A backtest as one HTML page with its plots inside: no other file, no script, no address."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from engine.backtest.results import DAY_MS, Result, moment
from kernels import metrics
from kernels.records import Reason

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #d0d7de;"
    "text-align:right}td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)
PLOTTED_POINTS = 4_000  # more would only make the page larger


def save(result: Result, folder: Path) -> Path:
    """Write the result's files and tear_sheet.html into `folder`; return the tear sheet's path."""
    result.save(folder)
    sheet = folder / "tear_sheet.html"
    sheet.write_text(render(result))
    return sheet


def render(result: Result) -> str:
    """Return the page of one backtest."""
    begin, end = moment(result.first_ms), moment(result.first_ms + 60_000 * len(result.equity_usdt))
    refusals = result.refusals()
    gates = sorted({name for counts in refusals.values() for name in counts})
    exits = {Reason(int(r)).name.lower(): int(n) for r, n in zip(*_counts(result.trades["reason"]), strict=True)}
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Backtest {begin} to {end}</title>",
        f"<style>{STYLE}</style><h1>Backtest {begin} to {end}</h1>",
        f"<p>{html.escape(', '.join(result.symbols))}; model {html.escape(result.model_id)}; configuration "
        f"{result.config_hash[:12]}; result hash <code>{result.hash()}</code></p>",
        f"<p><strong>{html.escape(result.warning())}</strong></p>" if result.warning() else "",
        _notes(result),
        "<h2>Figures</h2>",
        _table(["figure", "value"], [[name, value] for name, value in result.statistics().items()]),
        "<h2>Equity and drawdown</h2>",
        _plot_equity(result),
        "<h2>Trades</h2>",
        _plot_trades(result),
        _table(["exit by", "trades"], [[name, count] for name, count in exits.items()]),
        "<h2>By symbol</h2>",
        _rows(result.by_symbol()),
        "<h2>By month (UTC, of the exit)</h2>",
        _rows(result.by_month()),
        "<h2>Refused decisions by gate (a decision may meet several)</h2>",
        _table(["symbol", *gates], [[s, *(counts.get(g, 0) for g in gates)] for s, counts in refusals.items()]),
    ]
    return "\n".join(parts)


def _notes(result: Result) -> str:
    notes = ["The book is half a spread around the last price and of unlimited size; fees and latency as configured."]
    if result.minutes_on_last_price:
        notes.append(f"{result.minutes_on_last_price:,} minutes have no mark price stored: stops ran on the last one.")
    if result.minutes_unfunded:
        notes.append(f"{result.minutes_unfunded:,} minutes have no funding rate stored: positions paid none.")
    if result.open_positions:
        notes.append(f"{result.open_positions} positions were still open at the end and count in the equity alone.")
    return "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def _counts(values: Any) -> tuple[Any, Any]:
    return np.unique(values, return_counts=True)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return html.escape(f"{value:,}" if isinstance(value, int) else value)


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(name)}" for name in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{_text(value)}" for value in row) + "</tr>" for row in rows]
    return "".join(lines) + "</table>"


def _rows(rows: list[dict[str, Any]]) -> str:
    return _table(list(rows[0]), [list(row.values()) for row in rows]) if rows else "<p>None.</p>"


def _plot_equity(result: Result) -> str:
    from matplotlib.figure import Figure

    equity = result.equity_usdt
    step = max(1, len(equity) // PLOTTED_POINTS)
    at = np.arange(0, len(equity), step)
    days = (result.first_ms + 60_000 * at) / DAY_MS
    times = (days * 86_400).astype("datetime64[s]")
    figure = Figure(figsize=(10, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot(times, equity[at], linewidth=1.0)
    top.set_ylabel("equity, USDT")
    bottom.fill_between(times, -100.0 * metrics.drawdowns(equity)[at], color="tab:red", alpha=0.5, linewidth=0.0)
    bottom.set_ylabel("drawdown, %")
    return _svg(figure)


def _plot_trades(result: Result) -> str:
    from matplotlib.figure import Figure

    if not len(result.trades):
        return "<p>None.</p>"
    figure = Figure(figsize=(10, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.hist(result.trades["net_usdt"], bins=60)
    left.set_xlabel("net result of a trade, USDT")
    right.hist((result.trades["closed_ms"] - result.trades["opened_ms"]) / 60_000, bins=60)
    right.set_xlabel("minutes held")
    return _svg(figure)


def _svg(figure: Any) -> str:
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "backtest"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
