"""`ta market`: how the market data arrives: the league of connections, late closes, repairs, the exchange's clock."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from control.cli.app import settings

out = Console()


def register(app: typer.Typer) -> None:
    """Add the command to `ta`."""
    app.command()(market)


def market(as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False) -> None:
    """Show each connection's place in the league, what was late, missing and repaired, and the exchange's clock.

    A running engine answers; nothing is changed or recorded.
    """
    from control.cli.local import send

    report = send(settings(), "market")
    if as_json:
        print(json.dumps(report))
        return
    out.print(league(report["connections"]))
    counts, repairs, clock, late = report["frames"], report["repairs"], report["clock"], report["late_1m"]
    rows = [
        ("streams", f"{report['resubscribed']} subscribed anew, {report['moved']} moved"),
        ("faults", _named(counts["faults"]) or "none"),
        ("notes", _named(counts["notes"]) or "none"),
        ("incomplete", ", ".join(repairs["incomplete"]) or "no symbol"),
        ("repairs", _named({name: n for name, n in repairs.items() if name != "incomplete"}) or "none"),
        ("late closes", ", ".join(f"{row['symbol']} {row['late']} of {row['bars']}" for row in late) or "none"),
        (
            "clock",
            f"{clock['offset_ms']:+.1f} ms from this machine's, {'good' if clock['good'] else 'BAD: no entries'}",
        ),
    ]
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(f"[dim]{name}[/dim]", value)
    out.print(table)


def league(links: list[dict[str, Any]]) -> Table:
    """Return the connections, the one with most first arrivals of its route on top."""
    names = ("#", "route", "state", "streams", "first", "second", "behind µs", "faults", "reconnects", "rolls")
    table = Table(*names, box=None, pad_edge=False)
    for link in sorted(links, key=lambda link: (link["url"], -link["first"])):
        counts = (f"{link[name]:,}" for name in ("streams", "first", "second"))
        rest = (str(link[name]) for name in ("faults", "reconnects", "rolls"))
        route = link["url"].rsplit("/", 2)[-2]
        table.add_row(str(link["link"]), route, link["state"], *counts, f"{link['mean_lag_us']:,.0f}", *rest)
    return table


def _named(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
