"""`ta label`, `ta train`, `ta models`: from stored candles to the model that decides."""

from __future__ import annotations

import getpass
import json as jsonlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from control.cli.app import console, fail, settings
from control.cli.data import open_store

FOREVER_MS = 1 << 42

Symbols = Annotated[list[str] | None, typer.Option("--symbol", help="repeat for several (default: all configured)")]
From = Annotated[str, typer.Option("--from", help="UTC, as 2025-05-04 or 2025-05-04T12:00, or epoch ms")]
To = Annotated[str, typer.Option("--to", help="UTC, not included (default: everything stored)")]
Address = Annotated[
    str, typer.Option("--cluster", help="Dask scheduler, as tcp://host:8786; it must see the data folder")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document to standard output")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("label")(label)
    app.command("train")(train)
    models = typer.Typer(no_args_is_help=True, help="The registry: list, show, promote, roll back, predictor.")
    models.command("list")(list_models)
    models.command("show")(show)
    models.command("promote")(promote)
    models.command("rollback")(rollback)
    models.command("predictor")(predictor)
    app.add_typer(models, name="models")


def moment_ms(text: str, default: int) -> int:
    """Return epoch ms of a UTC date, time or number; ends the program on anything else."""
    if not text:
        return default
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"expected a UTC time such as 2025-05-04T12:00 or epoch ms, got {text!r}")
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar with the time left on standard error; yields report(what, done, total).

    As a job of control it prints `progress done/total what` lines instead.
    """
    if os.environ.get("TA_JOB"):
        yield lambda what, done, total: print(f"progress {done}/{total} {title}: {what}", file=sys.stderr, flush=True)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda what, done, total: bar.update(task, description=f"{title}: {what}", completed=done, total=total)


def actor() -> str:
    """Return who runs this command; for a job of control, who asked for it."""
    return os.environ.get("TA_ACTOR") or f"cli:{getpass.getuser()}"[:40]


def label(symbols: Symbols = None, begin: From = "", end: To = "", cluster: Address = "", json: Json = False) -> None:
    """Label stored candles: what the stops would have done to an entry at every minute, both sides."""
    from control.jobs import label as job

    config = settings()
    with open_store() as store, progress_bar("labels") as report:
        begin_ms, end_ms = moment_ms(begin, 0), moment_ms(end, FOREVER_MS)
        found = job.run(store, config, symbols or [], begin_ms, end_ms, report, cluster)
    if json:
        print(jsonlib.dumps([asdict(item) for item in found]))
        return
    for item in found:
        both = item.counts["both_in_bar_long"] + item.counts["both_in_bar_short"]
        exits = ", ".join(f"{name} {count:,}" for name, count in item.exits.items())
        left_out = ", ".join(f"{item.counts[name]:,} {name}" for name in ("no_atr", "short_path", "mark_beyond"))
        console.print(
            f"{item.symbol}: {item.rows_long:,} long and {item.rows_short:,} short labels ({item.on_mark:,} on the "
            f"mark price); {exits}; {both} hung on both barriers in one bar; minutes left out: {left_out}",
            highlight=False,
            soft_wrap=True,
        )
        if item.unfunded:
            said = f"{item.symbol}: {item.unfunded:,} minutes have no funding rate stored: net returns leave it out"
            console.print(f"[yellow]warning:[/yellow] {said}", highlight=False, soft_wrap=True)


def train(
    symbols: Symbols = None,
    begin: From = "",
    end: To = "",
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="boosting rounds per model, at most")] = 200,
    folds: Annotated[int, typer.Option(min=0, max=20, help="walking-forward folds; 0: no validation")] = 0,
    purged_groups: Annotated[
        int, typer.Option(min=0, max=12, help="combinatorial purged folds over so many groups, 2 tested; 0: off")
    ] = 0,
    holdout_days: Annotated[float, typer.Option(min=0, help="kept unseen for the promotion gate (needs 15)")] = 0.0,
    cluster: Address = "",
    resume: Annotated[
        str, typer.Option(help="id of a training that died: go on with it; other options are its own")
    ] = "",
    leaves: Annotated[int, typer.Option(min=2, max=64, help="leaves per tree")] = 31,
    learning_rate: Annotated[float, typer.Option(min=1e-4, max=1.0)] = 0.05,
    seed: Annotated[int, typer.Option()] = 7,
    threads: Annotated[int, typer.Option(min=0, help="0: all cores")] = 0,
    json: Json = False,
) -> None:
    """Train the 8 models on stored candles and labels and register the bundle as a candidate."""
    from control.jobs import train as job
    from engine.model.train import TrainSettings

    config = settings()
    chosen = TrainSettings(rounds=rounds, leaves=leaves, learning_rate=learning_rate, seed=seed, threads=threads)
    if purged_groups in (1, 2, 3) or (purged_groups and folds):
        fail("--purged-groups: expected at least 4 (train, stop set, 2 tested), and no --folds beside it")
    period = (moment_ms(begin, 0), moment_ms(end, FOREVER_MS))
    request = job.TrainRequest(
        symbols or [], *period, chosen, actor(), folds, holdout_days, purged_groups=purged_groups, cluster=cluster
    )
    if resume:
        request = job.interrupted(config, resume)
    with open_store() as store, progress_bar("train") as report:
        say = lambda text: console.print(f"[yellow]warning:[/yellow] {text}; training goes on", highlight=False)  # noqa: E731
        result = job.run(store, config, request, report, say, resume)
    if json:
        print(jsonlib.dumps(asdict(result)))
    else:
        console.print(
            f"{result.model_id}: {result.rows:,} rows, {result.independent_labels:,.0f} independent labels, "
            f"{result.seconds:.1f} s; registered as a candidate at {result.bundle_path}",
            highlight=False,
        )


def list_models(json: Json = False) -> None:
    """List registered models with their state, newest first."""
    from engine.model.registry import open_registry

    entries = open_registry(settings()).entries()
    if json:
        print(jsonlib.dumps([asdict(entry) for entry in entries]))
        return
    if not entries:
        console.print("no model is registered: `ta train` makes one")
    for entry in entries:
        since = datetime.fromtimestamp(entry.since_ms / 1_000, UTC).isoformat(timespec="seconds")
        print(f"{entry.model_id}  {entry.state:<10}  {since}  {entry.actor}  {entry.reason}".rstrip())


def show(model_id: Annotated[str, typer.Argument(help="id, or the beginning of one")], json: Json = False) -> None:
    """Show one model: its state and manifest."""
    from engine.model.opening import read_manifest
    from engine.model.registry import open_registry

    registry = open_registry(settings())
    entry = registry.entry(model_id)
    manifest = read_manifest(registry.path(entry.model_id))
    if json:
        print(jsonlib.dumps(asdict(entry) | {"manifest": manifest}))
        return
    shown: dict[str, Any] = asdict(entry) | {
        name: manifest.get(name)
        for name in (
            "symbols",
            "rows",
            "independent_labels",
            "data_hash",
            "parameters",
            "verified",
            "metrics",
            "warnings",
        )
    }
    for name, value in shown.items():
        print(f"{name:<20} {value}")


def promote(
    model_id: Annotated[str, typer.Argument(help="id, or the beginning of one")],
    force: Annotated[bool, typer.Option(help="past the gate; needs --reason")] = False,
    reason: Annotated[str, typer.Option(help="recorded with the promotion")] = "",
    json: Json = False,
) -> None:
    """Make a registered model the one that decides; a running engine swaps it between two frames."""
    from control.jobs import models as job

    with open_store() as store, progress_bar("gate") as report:
        done = job.promote(store, settings(), model_id, actor(), force=force, reason=reason, progress=report)
    _print(asdict(done), json, f"{done.model_id} is in production (engine: {done.engine})")


def rollback(reason: Annotated[str, typer.Option(help="recorded with the rollback")] = "", json: Json = False) -> None:
    """Bring back the production model before the present one."""
    from control.jobs import models as job

    with open_store() as store:
        done = job.rollback(store, settings(), actor(), reason)
    _print(asdict(done), json, f"{done.model_id} is back in production (engine: {done.engine})")


def predictor(name: Annotated[str, typer.Argument(help="auto, packed, walk or tl2cgen")], json: Json = False) -> None:
    """Serve the model in use through another predictor from now on; the configured one comes back at the next start."""
    from control.cli.local import send

    result = send(settings(), "predictor", {"predictor": name})
    _print(result, json, f"{result['model_id']} is served by {result['backend']}")


def _print(document: dict[str, Any], json: bool, text: str) -> None:
    if json:
        print(jsonlib.dumps(document))
    else:
        console.print(text, highlight=False)
