"""`ta demo`: everything at once on a simulated exchange."""

from __future__ import annotations

import json as jsonlib
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from control.cli.app import fail, settings
from control.cli.engine import DEMO_MARKER
from control.cli.up import say, stop_on_signals

FINISH_S = 120.0
FIRST_SIGNALS = 8


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command()(demo)


def demo(
    data: Annotated[Path | None, typer.Option(help="market data to replay; default: a generated market")] = None,
    speed: Annotated[float, typer.Option(min=0.1, help="market time per wall time")] = 60.0,
    minutes: Annotated[int | None, typer.Option(min=1, help="stop after so many market minutes")] = None,
    edge: Annotated[float, typer.Option(min=0.0, help="learnable component of the generated market; 0: none")] = 1.0,
    seed: Annotated[int, typer.Option()] = 7,
    history_days: Annotated[float, typer.Option(min=9.5, help="history to learn from (8.3 days warm up)")] = 20.0,
    rounds: Annotated[int, typer.Option(min=1, help="boosting rounds of each model")] = 30,
    json: Annotated[bool, typer.Option("--json", help="print one JSON summary at the end and nothing else")] = False,
) -> None:
    """Start a simulated exchange, learn from its history, trade in shadow on its streams, and serve the dashboard."""
    from control.demo import Demo, DemoRun
    from control.supervise import Supervisor

    if json and minutes is None:
        fail("--json: needs --minutes, or it would never print")
    config = settings()
    folder = fresh_folder(config.data_dir)
    tell = (lambda text: None) if json else say
    supervisor = Supervisor([], tell, lambda child: None)
    stop_on_signals(supervisor)
    asked = Demo(
        folder, speed, minutes, None, edge, seed, config.control.port, json, history_days=history_days, rounds=rounds
    )
    try:
        run = DemoRun(asked, supervisor, tell)
        if data is not None:
            asked.source = run.import_data(data)
        run.start()
        tell(f"\n  dashboard: {run.url}\n  token:     {run.token}\n")
        watch(run, tell)
        if minutes is not None:
            document = run.finish(FINISH_S)
            tell(decided_text(document))
            if json:
                print(jsonlib.dumps(document, indent=2))
            if document["faults"]:
                fail(*document["faults"], code=1)
    except RuntimeError as error:
        if not supervisor.stopping.is_set():
            fail(str(error), code=1)
    finally:
        supervisor.stop()


def decided_text(document: dict[str, Any]) -> str:
    """Return a line that says how many closed minutes were decided on, and why others were not."""
    why = [f"{count} {name}" for name, count in document["undecided"].items() if count]
    return f"  {document['signals']:,} decisions; minutes without one: {', '.join(why) or 'none'}"


def fresh_folder(folder: Path) -> Path:
    """Return an empty data folder: one that an earlier demonstration filled is cleared, any other is refused."""
    folder = folder.resolve()
    marker = folder / DEMO_MARKER
    if folder.is_dir() and any(folder.iterdir()):
        if not marker.exists():
            fail(f"{folder}: holds other data than a demonstration's; choose another --data-dir")
        from engine.errors import ConfigError
        from engine.main import lock_folder

        try:
            lock_folder(folder).close()
        except ConfigError as error:
            fail(*error.faults)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text("{}")
    return folder


def watch(run: Any, tell: Any) -> None:
    """Show signals and trades as they come, until the market is over or somebody stops the demonstration."""
    shown_signals: set[int] = set()
    shown_trades: set[str] = set()
    open_before: set[str] = set()
    ask_at_s = 0.0
    while not run.supervisor.stopping.is_set() and not run.market_is_over():
        run.supervisor.tend()
        view = run.snapshot()
        if view is not None:
            status = view.status[0]
            if len(shown_signals) < FIRST_SIGNALS:
                show_signals(view, shown_signals, tell)
            if (
                len(shown_trades) < int(status["trades"]) and time.monotonic() >= ask_at_s
            ):  # the store follows the engine
                ask_at_s = time.monotonic() + 1.0
                show_trades(run, shown_trades, tell)
            held = {held_text(view, row) for row in view.positions[: int(status["open_positions"])]}
            for text in sorted(held - open_before):
                tell(f"  opened  {text}")
            open_before = held
        time.sleep(0.25)


def show_signals(view: Any, shown: set[int], tell: Any) -> None:
    """Show the first decisions that a model made, and the first gate that refused each."""
    from control.gates import pointer
    from control.present import gate_names

    for row in view.signals:
        seq = int(row["seq"])
        if seq and seq not in shown and row["model_id"] and len(shown) < FIRST_SIGNALS:
            shown.add(seq)
            name = bytes(view.symbols[int(row["symbol"])]["symbol"]).decode()
            best = max(float(row["predictions"][0]), float(row["predictions"][1]))
            refused = pointer(list(gate_names(int(row["gates"]))))
            outcome = "enters" if row["entered"] else f"no entry ({refused})"
            tell(f"  signal  {name}: expected net return {best:+.3%}, {outcome}")


def held_text(view: Any, row: Any) -> str:
    """Return a line that names an open position."""
    name = bytes(view.symbols[int(row["symbol"])]["symbol"]).decode()
    side = "long" if int(row["side"]) > 0 else "short"
    return f"{name} {side} {float(row['qty']):g} {name.removesuffix('USDT')} at {float(row['entry_price']):g} USDT"


def show_trades(run: Any, shown: set[str], tell: Any) -> None:
    """Show the closed trades that the store has and that were not shown yet."""
    try:
        items = run.get("/api/trades?limit=20")["items"]
    except (OSError, ValueError, KeyError):
        return  # control restarts: the next closed trade shows these as well
    for item in reversed(items):
        key = f"{item['run_id']}-{item['position_id']}"
        if key not in shown:
            shown.add(key)
            tell(
                f"  closed  {item['symbol']} {item['side']} {item['reason']}: net {item['net_usdt']:+.2f} USDT, "
                f"fees {item['fees_usdt']:.2f}"
            )
