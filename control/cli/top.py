"""`ta top`: positions, signals and latency in the terminal, from the engine's snapshot; control is not needed."""

from __future__ import annotations

import datetime
import time
from typing import Annotated

import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from control import present
from control.cli.app import fail, settings
from control.shapes import EngineStatus, Position, Signal
from control.shapes_data import StageLatency
from engine.link import SnapshotReader, SnapshotView

SIGNALS = 12  # rows; a terminal has about forty


def register(app: typer.Typer) -> None:
    """Add the command to `ta`."""
    app.command()(top)


def top(
    once: Annotated[bool, typer.Option("--once", help="print one picture and end")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one picture as JSON and end")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.2, max=60.0, help="seconds between pictures")] = 1.0,
) -> None:
    """Watch mode, positions, signals and latency in the terminal; Ctrl-C ends it."""
    reader = SnapshotReader(settings().data_dir)
    view = reader.read()
    if view is None:
        fail("no engine has run on this data folder; `ta status` says whether one is starting", code=1)
    if as_json:
        print(msgspec.json.encode(document(view)).decode())
        return
    if once:
        Console().print(picture(view))
        return
    try:
        with Live(picture(view), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every_s)
                live.update(picture(reader.read() or view), refresh=True)
    except KeyboardInterrupt:
        return


def document(view: SnapshotView) -> dict[str, object]:
    """Return everything of one snapshot as data."""
    return {
        "engine": present.engine_status(view),
        "positions": present.positions(view),
        "signals": present.latest_signals(view)[:SIGNALS],
        "latency": present.latency(view),
    }


def picture(view: SnapshotView) -> Group:
    """Return everything of one snapshot as something to print."""
    status = present.engine_status(view)
    return Group(
        _head(status),
        _positions(present.positions(view)),
        _signals(present.latest_signals(view)[:SIGNALS]),
        _latency(present.latency(view)),
    )


def _head(status: EngineStatus) -> Text:
    alive = status.alive
    beat = "alive" if alive else f"SILENT for {status.heartbeat_age_ms / 1_000:.0f} s, last seen:"
    line = Text(
        f" {status.mode.upper()} ", style="bold white on red" if status.mode == "live" else "bold black on cyan"
    )
    line.append(f" {status.state}", style="green" if alive and status.state == "running" else "yellow")
    line.append(f"  engine {beat}", style="green" if alive else "bold red")
    line.append(f"  equity {_number(status.equity_usdt)}  today {_number(status.day_pnl_usdt, sign=True)}")
    line.append(f"  model {status.model_id or 'none'}  symbols {status.symbols_ready}/{status.symbols}")
    counters = status.counters
    line.append(f"\n frames {counters.frames:,}  signals {counters.signals:,}  entries {counters.entries:,}")
    line.append(f"  trades {counters.trades:,}  malformed {counters.malformed:,}\n", style="dim")
    return line


def _positions(items: list[Position]) -> Table:
    table = Table(
        "position", "side", "qty", "entry", "mark", "result", "to SL", "to TP", title="Open positions", expand=True
    )
    for item in items:
        result = item.unrealised_usdt
        style = "green" if (result or 0) > 0 else "red"
        table.add_row(
            item.symbol, item.side, present.plain(item.qty), present.plain(item.entry_price),
            present.plain(item.mark_price),
            Text(_number(result, sign=True), style=style), _share(item.to_sl), _share(item.to_tp),
        )  # fmt: skip
    return table


def _signals(items: list[Signal]) -> Table:
    table = Table(
        "decided", "signal", "side", "er long", "er short", "why no trade?", title="Newest signals", expand=True
    )
    for item in items:
        moment = datetime.datetime.fromtimestamp(item.decision_ms / 1_000, datetime.UTC).strftime("%H:%M:%S")
        why = "entered" if item.entered else ", ".join(item.refused_by).replace("_", " ")
        predictions = item.predictions
        table.add_row(moment, item.symbol, item.side, _share(predictions.er_long), _share(predictions.er_short), why)
    return table


def _latency(items: list[StageLatency]) -> Table:
    table = Table("stage", "count", "p50 µs", "p99 µs", "max µs", title="Latency", expand=True)
    for item in items:
        row = (f"{value:,.1f}" for value in (item.p50_us, item.p99_us, item.max_us))
        table.add_row(item.stage.replace("_", " "), f"{item.count:,}", *row)
    return table


def _number(value: float | None, sign: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+,.2f}" if sign else f"{value:,.2f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3%}"
