"""`ta replay` and `ta backtest`: the engine on the past, without an exchange."""

from __future__ import annotations

import json as jsonlib
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from control.cli.app import console, fail, settings
from control.cli.data import open_store
from control.cli.model import FOREVER_MS, From, Json, Symbols, To, moment_ms, progress_bar

YEARLY = " (a year, from daily equities)"
UNITS = {
    "return": " of the start equity",
    "max_drawdown": " of the peak",
    "sharpe": YEARLY,
    "sortino": YEARLY,
    "win_rate": " of the trades",
    "profit_factor": " USDT won per USDT lost",
    "expectancy_usdt": " a trade",
}


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
        console.print(f"run {run_id} ({report.mode}, version {report.version}): {parts}", highlight=False)
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
    compare_run: Annotated[
        str, typer.Option(help="a recorded run (id, or 'last'): backtest its time and explain what differs")
    ] = "",
    json: Json = False,
) -> None:
    """Trade the stored past with the engine's own core and the shadow gateway; writes result, trades, tear sheet."""
    from control.jobs import backtest as job
    from engine.backtest.results import moment

    config = settings()
    if compare_run:
        _compare(compare_run, moment_ms(begin, 0), moment_ms(end, FOREVER_MS), bundle, out, json)
        return
    request = job.Request(symbols or [], moment_ms(begin, 0), moment_ms(end, FOREVER_MS), model, bundle)
    with open_store() as store, progress_bar("backtest") as progress:
        result, sheet = job.run(store, config, request, out, progress)
    if json:
        import orjson

        print(orjson.dumps(result.as_dict() | {"tear_sheet": str(sheet)}).decode())  # NaN is null
        return
    say = partial(console.print, highlight=False, soft_wrap=True)
    last_ms = result.first_ms + 60_000 * len(result.equity_usdt)
    period = f"{moment(result.first_ms)} to {moment(last_ms)} UTC"
    say(f"model {result.model_id}; {period}; start {result.start_equity_usdt:,.0f} USDT")
    for name, value in result.statistics().items():
        say(f"{name:<20} {value:,.6g}{UNITS.get(name, '')}")
    for row in result.by_symbol():
        say(f"{row['symbol']}: {row['trades']} trades, net {row['net_usdt']:,.2f} USDT")
    for row in result.by_month():
        say(f"{row['month']}: {row['trades']} trades, net {row['net_usdt']:,.2f} USDT")
    if result.minutes_unfunded:
        say(f"{result.minutes_unfunded:,} minutes have no funding rate stored: positions paid none", style="yellow")
    if warning := result.warning():
        say(warning, style="yellow")
    say(f"result {result.hash()}; tear sheet {sheet}")


def _compare(run: str, from_ms: int, to_ms: int, bundle: Path | None, out: Path | None, json: bool) -> None:
    from control.jobs import compare as job
    from engine.backtest.comparison import CAUSES

    with open_store() as store, progress_bar("backtest") as progress:
        compared = job.run(store, settings(), job.Request(run, from_ms, to_ms, bundle), out, progress)
    found = compared.comparison
    if json:
        import orjson

        print(orjson.dumps(compared.as_dict()).decode())
        return
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(f"run {compared.run_id}: {found.decisions:,} decisions of {compared.model_id}")
    say(
        f"  {found.predictions_equal:,} predicted alike, {found.gates_equal:,} with the same refusals, "
        f"{found.decisions_missing:,} not decided by the backtest"
    )
    say(f"trades: {found.run_trades} in the run, {found.backtest_trades} in the backtest, {len(found.pairs)} in both, ")
    say(f"  {found.same} of them with the same exit in the same minute")
    total = found.run_net_usdt - found.backtest_net_usdt
    say(f"net: run {found.run_net_usdt:,.2f}, backtest {found.backtest_net_usdt:,.2f}, difference {total:,.2f} USDT:")
    for cause, row in found.by_cause().items():
        say(f"  {cause:<13} {row['net_usdt']:>+12,.2f} USDT in {row['trades']:>5} trades: {CAUSES[cause]}")
    say(f"every trade in {compared.folder / 'comparison.json'}")
