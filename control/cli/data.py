"""`ta sql` and `ta import`: the store by hand, with or without a running control process."""

from __future__ import annotations

import json as jsons
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control.cli.app import console, fail, settings
from store.errors import ImportRefused, StoreError

if TYPE_CHECKING:
    from store.client import Store

_ANSWERS = re.compile(r"\s*(SELECT|WITH|SHOW|DESC|DESCRIBE|EXISTS|EXPLAIN|VALUES)\b|\s*\(", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("sql")(sql)
    app.command("import")(import_)


def open_store() -> Store:
    """Return the configured store; ends the program with a message when it cannot be reached."""
    from store.client import connect

    config = settings()
    try:
        return connect(config.store.url, config.data_dir, retention_days=config.store.retention_days)
    except StoreError as error:
        fail(str(error))


def sql(
    statement: Annotated[str, typer.Argument(help="one ClickHouse statement; - reads it from standard input")],
    json: Annotated[bool, typer.Option("--json", help="one JSON object per row")] = False,
    form: Annotated[str, typer.Option("--format", help="any ClickHouse output format")] = "",
) -> None:
    """Run one SQL statement on the store (tables and views: docs/sql.md)."""
    text = sys.stdin.read() if statement == "-" else statement
    text = text.strip().rstrip(";")
    wanted = form or (
        "JSONEachRow" if json else "PrettyCompactMonoBlock" if sys.stdout.isatty() else "TabSeparatedWithNames"
    )
    with open_store() as store:
        try:
            if _ANSWERS.match(text):
                sys.stdout.buffer.write(store.raw(text, wanted))
                sys.stdout.flush()
            else:
                store.command(text)
        except StoreError as error:
            fail(str(error), code=1)
        except Exception as error:  # the driver's own errors carry the server's message
            fail(str(error), code=1)


def import_(
    paths: Annotated[list[Path], typer.Argument(help="files or folders: zip, CSV, Parquet, Feather")],
    symbol: Annotated[str, typer.Option(help="the symbol, where neither file nor name says it")] = "",
    kind: Annotated[str, typer.Option(help="klines, mark, premium, funding or open_interest")] = "",
    zone: Annotated[str, typer.Option(help="time zone of times that name none")] = "UTC",
    allow: Annotated[list[str] | None, typer.Option(help="a check to skip: flat, differs, spot, shift, jump")] = None,
    force: Annotated[bool, typer.Option("--force", help="also files that are stored already")] = False,
    bar_files: Annotated[
        Path | None, typer.Option(help="write bar files for the simulator here instead of the store")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON summary")] = False,
) -> None:
    """Import market data; a file passes the quality gate whole or is refused with reason, row and remedy."""
    from control.jobs.import_ import write_bar_files
    from store.importers import Options
    from store.quality import OVERRIDES

    unknown = sorted(set(allow or []) - set(OVERRIDES))
    if unknown or kind not in ("", "klines", "mark", "premium", "funding", "open_interest"):
        fail(
            f"--allow {', '.join(unknown)}: expected {', '.join(OVERRIDES)}"
            if unknown
            else f"--kind {kind}: no such kind"
        )
    keep_days = settings().store.retention_days
    options = Options(symbol, kind, zone, frozenset(allow or []), force, keep_days)
    if bar_files is not None:
        written = write_bar_files(paths, bar_files, options)
        for name, bars in written.items():
            console.print(f"{bar_files / name}: {bars} rows")
        if json:
            print(jsons.dumps(written))
        return
    summary = _import_with_progress(paths, options)
    if json:
        print(jsons.dumps(summary))
    for table, rows in summary["rows"].items():
        console.print(f"{table}: {rows} rows")
    console.print(f"{summary['stored']} stored, {summary['unchanged']} unchanged, {summary['refused']} refused")
    if summary["refused"]:
        raise typer.Exit(1)


def _import_with_progress(paths: list[Path], options: Any) -> dict[str, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from control.jobs.import_ import run_import

    columns = (
        TextColumn("import"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with open_store() as store, Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def report(done: int, total: int, outcome: Any) -> None:
            progress.update(task, completed=done, total=total, description=Path(outcome.path).name)
            if outcome.error:
                progress.console.print(f"[red]refused[/red] {outcome.error}", highlight=False, soft_wrap=True)
            elif outcome.notes:
                progress.console.print(f"{Path(outcome.path).name}: {'; '.join(outcome.notes)}", highlight=False)

        try:
            return run_import(store, paths, options, report)
        except (ImportRefused, StoreError) as error:
            fail(str(error), code=1)
