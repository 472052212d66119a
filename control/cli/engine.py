"""`ta engine`: the engine process by itself."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from control.cli.app import fail, settings
from engine.errors import ConfigError, FencedError, NotNowError


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command()(engine)


def engine(
    mode: Annotated[str, typer.Option(help="shadow or live")] = "",
    exchange: Annotated[str, typer.Option(help="binance, demo, sim or the REST URL of a simulator")] = "",
    symbols: Annotated[str, typer.Option(help="comma-separated; default: market.symbols")] = "",
) -> None:
    """Run the engine alone: market data, decisions, orders, the journal. Stops on SIGTERM; closes nothing."""
    from engine.main import serve

    try:
        serve(settings(**overrides(mode, exchange, symbols)))
    except ConfigError as error:
        fail(*error.faults)
    except (FencedError, NotNowError) as error:
        fail(str(error), code=1)


def overrides(mode: str, exchange: str, symbols: str) -> dict[str, Any]:
    """Return the configuration values that the common options set."""
    values: dict[str, Any] = {}
    if mode:
        values["mode"] = mode
    if exchange.startswith(("http://", "https://")):
        values["exchange"] = {"name": "sim", **simulator_urls(exchange)}
    elif exchange:
        values["exchange"] = {"name": exchange}
    if symbols:
        values["market"] = {"symbols": [name.strip().upper() for name in symbols.split(",") if name.strip()]}
    return values


def simulator_urls(rest_url: str) -> dict[str, str]:
    """Return the addresses of a simulator: streams are served on the port after REST's."""
    base, _, port = rest_url.rstrip("/").rpartition(":")
    scheme = "wss" if base.startswith("https") else "ws"
    host = base.split("://", 1)[1]
    return {
        "rest_url": rest_url.rstrip("/"),
        "stream_url": f"{scheme}://{host}:{int(port) + 1}",
        "ws_api_url": f"{scheme}://{host}:{port}/ws-fapi/v1",
    }
