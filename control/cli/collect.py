"""`ta collect`: history over REST into the store. `ta seed`: from the store into the engine's bar files."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import orjson
import typer

from control.cli.app import console, fail, settings
from control.cli.data import open_store
from control.cli.engine import refuse_other_market
from control.cli.model import progress_bar
from engine.config import Config
from engine.errors import ConfigError, DataError, ExchangeError
from kernels.records import TIMEFRAMES
from store.errors import StoreError


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command("collect")(collect)
    app.command("seed")(seed)


def parse_time(name: str, text: str) -> int:
    """Return milliseconds of an ISO date or time (UTC unless it says otherwise). Raises ConfigError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError([f"{name}: expected a date or time like 2025-06-01 or 2025-06-01T12:00, got {text!r}"]) from (
            error
        )
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1_000)


def collect(
    symbols: Annotated[str, typer.Option(help="comma-separated; 'configured', or 'all' trading perpetuals")] = (
        "configured"
    ),
    days: Annotated[float, typer.Option(help="history to collect, back from now", min=0.01)] = 30.0,
    from_time: Annotated[str | None, typer.Option("--from", help="begin instead at this UTC date or time")] = None,
    to_time: Annotated[str | None, typer.Option("--to", help="end before this UTC date or time")] = None,
    timeframes: Annotated[str, typer.Option(help="candles to collect")] = ",".join(TIMEFRAMES),
    mark: Annotated[bool, typer.Option(help="1m mark-price candles too")] = True,
    premium: Annotated[bool, typer.Option(help="1m premium-index candles too")] = False,
    funding: Annotated[bool, typer.Option(help="funding rates too")] = True,
    open_interest: Annotated[bool, typer.Option(help="open-interest history too (about a month exists)")] = True,
    rest_url: Annotated[str, typer.Option(help="another REST address than the configured exchange's")] = "",
    json: Annotated[bool, typer.Option("--json", help="print one JSON summary")] = False,
) -> None:
    """Collect candles, mark prices, funding and open interest into the store; what is there already is not asked for.

    Uses at most half of this address's request weight, so that a running engine always finds room for repairs.
    """
    from control.jobs import collect as job
    from engine.exchange.budget import shared_path
    from engine.market.origin import claim_origin
    from engine.market.routes import addresses

    config = settings()
    refuse_other_market(config)
    url = rest_url or addresses(config).rest_url
    frames = [name.strip() for name in timeframes.split(",") if name.strip()]
    unknown = [name for name in frames if name not in TIMEFRAMES]
    if unknown:
        fail(f"--timeframes: expected some of {', '.join(TIMEFRAMES)}, got {', '.join(unknown)}")
    chosen = (
        [] if symbols == "all" else config.market.symbols if symbols == "configured" else symbols.upper().split(",")
    )
    try:
        order = job.Order(
            days,
            parse_time("--from", from_time) if from_time else None,
            parse_time("--to", to_time) if to_time else None,
            [name.strip() for name in chosen],
            [TIMEFRAMES.index(name) for name in frames],
            mark,
            premium,
            funding,
            open_interest,
        )
        budget = shared_path(url, config.data_dir)
        with open_store() as store, progress_bar("pages") as report:
            summary = asyncio.run(
                job.collect(url, store, order, budget, lambda done, planned, what: report(what, done, planned))
            )
    except ExchangeError as error:
        fail(f"{url}: {error}" if error.status else f"{error}; {_remedy(config, url)}", code=1)
    claim_origin(config)
    if json:
        print(orjson.dumps(summary.json()).decode())
    else:
        stored = ", ".join(f"{rows:,} {table}" for table, rows in summary.rows.items())
        console.print(f"{summary.symbols} symbols in {summary.seconds:.1f} s: {stored or 'nothing new'}")
    if summary.faults:
        fail(*summary.faults, code=1)


def _remedy(config: Config, url: str) -> str:
    if config.exchange.name == "sim":
        return f"exchange.name is 'sim': `ta simulator` serves it at {url}; TA_EXCHANGE__NAME=binance is the real one"
    return f"is there a way from this machine to {url}?"


def seed(json: Annotated[bool, typer.Option("--json", help="print one JSON summary")] = False) -> None:
    """Complete the engine's bar files from the store, so that its start asks REST for the rest only.

    `ta up` does this by itself. The engine of the data folder must not be running.
    """
    from control.jobs.seed import seed as fill
    from engine.main import lock_folder

    config = settings()
    written = {"bars": 0, "rates": 0}
    config.data_dir.mkdir(parents=True, exist_ok=True)
    try:
        if config.store.url != "embedded" or (config.data_dir / "store" / "db").is_dir():
            with lock_folder(config.data_dir), open_store() as store:
                written = fill(store, config)
    except (StoreError, ConfigError, DataError) as error:
        fail(str(error), code=1)
    if json:
        print(orjson.dumps(written).decode())
    else:
        console.print(f"{written['bars']:,} candles and {written['rates']:,} funding rates from the store")
