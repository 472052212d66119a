"""`ta watchdog`: the process that protects open positions when the live engine is gone."""

from __future__ import annotations

from typing import Annotated

import typer

from control.cli.app import fail, settings
from control.cli.engine import overrides
from engine.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command()(watchdog)


def watchdog(
    exchange: Annotated[str, typer.Option(help="binance, demo, sim or the REST URL of a simulator")] = "",
    symbols: Annotated[str, typer.Option(help="comma-separated; default: market.symbols")] = "",
) -> None:
    """Watch the live engine of this data folder; fence it and protect its positions when it is gone too long."""
    from engine.watchdog import serve

    try:
        serve(settings(**overrides("", exchange, symbols)))
    except ConfigError as error:
        fail(*error.faults)
