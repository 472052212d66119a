"""`ta replay` and `ta backtest`: the engine on the past, without an exchange."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from control.cli.app import console, fail, settings
from control.cli.data import open_store
from control.cli.model import FOREVER_MS, From, Json, Symbols, To, moment_ms, progress_bar


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("replay")(replay)
    app.command("backtest")(backtest)


def replay(
    run: Annotated[str, typer.Argument(help="run id, or 'last'")] = "last",
    json: Json = False,
) -> None:
    """Feed a recorded run's inputs to the engine again and compare every record; exit code 1 if one differs."""
    from engine import replay as engine_replay

    config = settings()
    folder = config.data_dir / "journal"
    known = engine_replay.runs(folder, config.engine_id) if folder.is_dir() else []
    if not known:
        fail(f"{folder}: no run of engine {config.engine_id} is recorded there")
    if run != "last" and (not run.isdigit() or int(run) not in known):
        fail(f"no such run: {run}; there are {', '.join(map(str, known))}")
    run_id = known[-1] if run == "last" else int(run)
    models = engine_replay.registry_models(config)
    with progress_bar("replay") as progress:
        report = engine_replay.replay(folder, config.engine_id, run_id, models, lambda seq: progress("records", seq, 0))
    if json:
        print(jsonlib.dumps(report.as_dict()))
    else:
        parts = ", ".join(f"{count:,} {name}" for name, count in sorted(report.records.items()))
        console.print(f"run {run_id} (version {report.version}): {parts}", highlight=False)
        if report.difference is None:
            states = f"{report.snapshots} snapshots of the state"
            console.print(f"{report.compared:,} records and {states} compared: no difference", highlight=False)
        else:
            console.print(f"[red]differs[/red] after {report.compared:,} equal records", highlight=False)
            console.print(str(report.difference), highlight=False, soft_wrap=True)
    if report.difference is not None:
        raise typer.Exit(1)


def backtest(
    symbols: Symbols = None,
    begin: From = "",
    end: To = "",
    model: Annotated[str, typer.Option(help="id, or the beginning of one (default: the production model)")] = "",
    bundle: Annotated[Path | None, typer.Option(help="a bundle's folder instead of a registered model")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the result (default: in <data-dir>/backtests)")] = None,
    json: Json = False,
) -> None:
    """Trade the stored past with the engine's own core and the shadow gateway; writes result, trades, tear sheet."""
    from control.jobs import backtest as job

    config = settings()
    request = job.Request(symbols or [], moment_ms(begin, 0), moment_ms(end, FOREVER_MS), model, bundle)
    with open_store() as store:
        result, sheet = job.run(store, config, request, out)
    if json:
        import orjson

        print(orjson.dumps(result.as_dict() | {"tear_sheet": str(sheet)}).decode())  # NaN is null
        return
    for name, value in result.statistics().items():
        console.print(f"{name:<20} {value:,.6g}", highlight=False)
    for row in result.by_symbol():
        console.print(f"{row['symbol']}: {row['trades']} trades, net {row['net_usdt']:,.2f} USDT", highlight=False)
    console.print(f"result {result.hash()}; tear sheet {sheet}", highlight=False, soft_wrap=True)
