"""`ta simulator`: a simulated exchange to rehearse on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from control.cli.app import settings

_SET = "[default: simulator."  # of the configuration
_SPEED = f"market time per wall time in a replay {_SET}speed]"
_EDGE = f"strength of the generated market's learnable component; 0: nothing to find {_SET}edge]"
_KEY = "another key of an account, with the same secret (a watchdog needs one of its own); repeatable"


def simulator(
    port: Annotated[int | None, Option(help=f"REST and WS API; streams on the next one {_SET}port]")] = None,
    host: Annotated[str, Option(help="address to listen on")] = "127.0.0.1",
    account: Annotated[list[str] | None, Option(metavar="KEY:SECRET[:USDT]", help="an account; repeatable")] = None,
    key: Annotated[list[str] | None, Option(metavar="KEY:ACCOUNT", help=_KEY)] = None,
    data: Annotated[Path | None, Option(help="folder of bar files; without it a generated market")] = None,
    symbols: Annotated[str | None, Option(help="comma-separated")] = None,
    symbol_count: Annotated[int, Option(help="generated symbols when none are named")] = 4,
    speed: Annotated[float | None, Option(help=_SPEED)] = None,
    seed: Annotated[int | None, Option(help=f"of everything random {_SET}seed]")] = None,
    edge: Annotated[float | None, Option(help=_EDGE)] = None,
    clock: Annotated[str | None, Option(help="wall or replay; default: wall with --account, else replay")] = None,
    start_ms: Annotated[int | None, Option(help="market time at which the replay begins")] = None,
    history_days: Annotated[float | None, Option(help="history before the replay begins")] = None,
    ahead_days: Annotated[float, Option(help="generated days after the start")] = 30.0,
    minutes: Annotated[int | None, Option(help="halt the market clock after so many minutes")] = None,
    hold: Annotated[bool, Option(help="the clock starts with the first market stream listened to")] = False,
    updates: Annotated[int | None, Option(help="kline and trade updates per symbol and minute")] = None,
    books: Annotated[int | None, Option(help="bookTicker updates per symbol and minute")] = None,
    weight_limit: Annotated[int | None, Option(help="request weight per minute and address")] = None,
    profile: Annotated[str, Option(help="production, or demo: unrouted addresses carry everything")] = "production",
    latency: Annotated[float, Option(help="scale of the exchange's internal delays")] = 1.0,
    tls: Annotated[bool, Option(help="serve https and wss; without --tls-cert by a self-signed one")] = False,
    tls_cert: Annotated[Path | None, Option(help="certificate chain, PEM")] = None,
    tls_key: Annotated[Path | None, Option(help="private key, PEM")] = None,
    admin_port: Annotated[int | None, Option(help="fault injection; off by default")] = None,
    scenario: Annotated[Path | None, Option(help="JSON file of faults and when they begin")] = None,
    quiet: Annotated[bool, Option(help="no progress lines")] = False,
    frames: Annotated[Path | None, Option(help="recorded frames, replayed verbatim over a generated market")] = None,
) -> None:
    """Serve a simulated exchange: REST and WS API on PORT, streams on PORT + 1. Prints one JSON line when ready."""
    from engine.errors import ConfigError
    from engine.simulator.main import run
    from engine.simulator.options import Options, check, parse_account, parse_key, self_signed

    if tls and not (tls_cert or tls_key):
        tls_cert, tls_key = self_signed()
    if clock not in (None, "wall", "replay"):
        raise ConfigError([f"--clock: expected wall or replay, got {clock}"])
    if profile not in ("production", "demo"):
        raise ConfigError([f"--profile: expected production or demo, got {profile}"])
    accounts, keys = tuple(parse_account(text) for text in account or []), tuple(parse_key(text) for text in key or [])
    chosen = settings().simulator
    names = [name.strip().upper() for name in symbols.split(",")] if symbols else None
    ticks = clock or ("wall" if accounts else "replay")
    if speed is None:
        speed = 1.0 if ticks == "wall" else chosen.speed
    port, seed = chosen.port if port is None else port, chosen.seed if seed is None else seed
    edge = chosen.edge if edge is None else edge
    options = Options(
        host, port, data, names, symbol_count, seed, edge, speed, ticks, start_ms, history_days, ahead_days, minutes,
        hold, updates, books, weight_limit, profile, accounts, keys, tls_cert, tls_key, admin_port, scenario, latency,
        quiet, frames,
    )  # fmt: skip
    check(options)
    run(options)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("simulator")(simulator)
