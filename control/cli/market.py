"""`ta market`: how the market data arrives: the league of connections, late closes, repairs, the exchange's clock."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from control.cli.app import settings

out = Console()
ORDER_WAY = ("ws_api", "private")


def register(app: typer.Typer) -> None:
    """Add the command to `ta`."""
    app.command()(market)


def market(as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False) -> None:
    """Show each connection's place in the league, what was late, missing and repaired, and the exchange's clock.

    A running engine answers; nothing is changed or recorded.
    """
    from control.cli.local import read_engine, send
    from control.connections import connections

    config = settings()
    report = send(config, "market")
    known = connections(read_engine(config), config)
    report["orders"] = msgspec.to_builtins([item for item in known.items if item.kind in ORDER_WAY])
    report["limits"] = msgspec.to_builtins({"weight": known.weight, "orders": known.orders})
    if as_json:
        print(json.dumps(report))
        return
    out.print(league(report["connections"]))
    if report["orders"]:
        out.print(order_way(report["orders"]))
    counts, repairs, clock, late = report["frames"], report["repairs"], report["clock"], report["late_1m"]
    rows = [
        ("limits", _limits(report["limits"])),
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


def order_way(lines: list[dict[str, Any]]) -> Table:
    """Return the lanes that orders leave by and the private streams that tell what became of them."""
    names = ("order side", "state", "newest message", "messages", "unanswered", "faults", "reconnects")
    table = Table(*names, box=None, pad_edge=False)
    for line in lines:
        heard = "none yet" if line["silent_ms"] is None else f"{line['silent_ms'] / 1_000:.0f} s ago"
        counts = (f"{line[name]:,}" for name in ("frames", "pending", "faults", "reconnects"))
        table.add_row(line["name"], line["state"], heard, *counts)
    return table


def _limits(limits: dict[str, Any]) -> str:
    weight = limits["weight"]
    banned = f", BANNED for {weight['banned_ms'] / 1_000:.0f} s" if weight["banned_ms"] else ""
    orders = (
        f"{row['used']:,} of {row['limit']:,} orders in {row['window_ms'] / 1_000:.0f} s" for row in limits["orders"]
    )
    return "; ".join([f"{weight['used']:,} of {weight['limit']:,} request weight this minute{banned}", *orders])


def _named(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
