"""`ta doctor`: is everything as it must be, and if not, what to do."""

from __future__ import annotations

import json as jsons
from dataclasses import asdict
from typing import Annotated

import typer

from control.cli.app import console, settings

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("doctor")(doctor)


def doctor(json: Annotated[bool, typer.Option("--json", help="one JSON object per line")] = False) -> None:
    """Check clock, disk, ports, store, permissions, schema, gaps, model, exchange; exit code 1 if one fails."""
    from control.doctor import examine

    failed = False
    for line in examine(settings()):
        failed |= line.state == "fail"
        if json:
            print(jsons.dumps(asdict(line)), flush=True)
            continue
        colour = COLOURS[line.state]
        console.print(
            f"[{colour}]{line.state:4}[/{colour}] {line.check:11} {line.detail}", highlight=False, soft_wrap=True
        )
        if line.state != "ok" and line.remedy:
            console.print(f"     {'':11} → {line.remedy}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)
