"""`ta tokens`: create, list and revoke the API's tokens."""

from __future__ import annotations

import datetime
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from control.auth import Scope, TokenBook, now_ms
from control.cli.app import fail, settings

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document")]
tokens = typer.Typer(no_args_is_help=True, help="Create, list and revoke the API's tokens.")
out = Console()


def register(app: typer.Typer) -> None:
    """Add the group to `ta`."""
    app.add_typer(tokens, name="tokens")


def book() -> TokenBook:
    """Return the token book of the data folder."""
    return TokenBook(settings().data_dir / "tokens.json")


@tokens.command()
def create(
    name: Annotated[str, typer.Argument(help="whose it is; written to the audit log")],
    scope: Annotated[Scope, typer.Option(help="read < trade < admin")] = Scope.READ,
    days: Annotated[float | None, typer.Option(help="valid this many days (default: until revoked)")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a token and print it, this once: only its hash is kept."""
    try:
        text = book().create(name, scope, days)
    except ValueError as error:
        fail(str(error))
    print(json.dumps({"token": text, "name": name, "scope": scope.value}) if as_json else text)


@tokens.command("list")
def list_(as_json: AsJson = False) -> None:
    """List tokens: id, name, scope, when they were made and whether they count."""
    now = now_ms()
    entries = book().entries()
    if as_json:
        rows = [
            {
                "id": item.id,
                "name": item.name,
                "scope": item.scope.value,
                "created_ms": item.created_ms,
                "expires_ms": item.expires_ms,
                "revoked_ms": item.revoked_ms,
                "counts": item.alive(now),
            }
            for item in entries
        ]
        print(json.dumps(rows))
        return
    table = Table("id", "name", "scope", "created", "state", box=None, pad_edge=False)
    for item in entries:
        state = "counts" if item.alive(now) else ("revoked" if item.revoked_ms is not None else "expired")
        table.add_row(item.id, item.name, item.scope.value, _date(item.created_ms), state)
    out.print(table)


@tokens.command()
def revoke(
    token_id: Annotated[str, typer.Argument(help="the id of `ta tokens list`")], as_json: AsJson = False
) -> None:
    """Revoke a token at once; a running control process notices by itself."""
    if not book().revoke(token_id):
        fail(f"no living token has the id {token_id!r}; see `ta tokens list`", code=1)
    print(json.dumps({"revoked": token_id})) if as_json else out.print(f"revoked {token_id}")


def _date(ms: int) -> str:
    return datetime.datetime.fromtimestamp(ms / 1_000, datetime.UTC).strftime("%Y-%m-%d %H:%M")
