"""`ta sql`: one statement on the store, with or without a running control process."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from control.cli.app import fail, settings
from store.errors import StoreError

if TYPE_CHECKING:
    from store.client import Store

_ANSWERS = re.compile(r"\s*(SELECT|WITH|SHOW|DESC|DESCRIBE|EXISTS|EXPLAIN|VALUES)\b|\s*\(", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("sql")(sql)


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
