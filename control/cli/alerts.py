"""`ta alerts`: the alarms there are, what to do about each, and a test message to where they go."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from control.cli.app import fail, settings

alerts = typer.Typer(no_args_is_help=True, help="List the alarms; say what to do about one; send a test message.")
out = Console()


def register(app: typer.Typer) -> None:
    """Add the group to `ta`."""
    app.add_typer(alerts, name="alerts")


@alerts.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False) -> None:
    """List every alarm: severity, how long its condition must hold, what it means."""
    from control.alarms import ALARMS

    if as_json:
        rows = [{"name": a.name, "severity": a.severity, "for_s": a.for_s, "says": a.says} for a in ALARMS]
        print(json.dumps(rows))
        return
    table = Table("alarm", "severity", "after", "means", box=None, pad_edge=False)
    for alarm in ALARMS:
        table.add_row(alarm.name, alarm.severity, f"{alarm.for_s:g} s", alarm.says)
    out.print(table)


@alerts.command()
def show(
    name: Annotated[str, typer.Argument(help="the alarm's name, as `ta alerts list` has it")],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Show an alarm's page of the run-book: what it means, where to look, what to do, when it ends."""
    from control.runbook import NAMES, text

    found = text(name)
    if found is None:
        fail(f"the run-book has no page {name!r}; there are {', '.join(sorted(NAMES))}")
    print(json.dumps({"name": name, "text": found}) if as_json else found)


@alerts.command()
def test(as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False) -> None:
    """Send a test message to every address of `secrets.alert_urls`; exit code 1 unless all of them took it."""
    from control.alerts import apprise_notifier

    config = settings()
    try:
        notify = apprise_notifier(config)
    except ValueError as error:
        fail(str(error))
    if notify is None:
        fail("no address: set TA_SECRETS__ALERT_URLS to a JSON list of apprise addresses")
    if not notify("[test] alarms reach you", f"A test of engine {config.engine_id}; nothing is wrong."):
        fail("at least one address did not take the message", code=1)
    print(json.dumps({"sent": True})) if as_json else out.print("sent")
