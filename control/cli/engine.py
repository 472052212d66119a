"""`ta engine`: the engine process by itself."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from control.cli.app import fail, settings
from engine.config import Config
from engine.errors import ConfigError, FencedError, NotNowError
from engine.market.origin import check_origin

DEMO_MARKER = "demo.json"  # in a folder that `ta demo` may throw away


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

    config = settings(**overrides(mode, exchange, symbols))
    refuse_other_market(config)
    try:
        serve(config)
    except ConfigError as error:
        fail(*error.faults)
    except (FencedError, NotNowError) as error:
        fail(str(error), code=1)


def refuse_other_market(config: Config) -> None:
    """End the program where one exchange's data or trades would be mixed with another's or with a demonstration's."""
    if config.exchange.name != "sim" and (config.data_dir / DEMO_MARKER).exists():
        fail(
            f"{config.data_dir}: holds the generated market and the paper trades of a demonstration, not those of "
            f"exchange '{config.exchange.name}'; choose another folder: --data-dir, or TA_DATA_DIR"
        )
    try:
        check_origin(config)
    except ConfigError as error:
        fail(*error.faults)


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
