"""The command tree. Each group of commands is one module with a `register(app)`; heavy imports stay inside commands."""

from __future__ import annotations

import importlib
import sys
import typing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine.config import Config, load
from engine.errors import ConfigError, DataError

GROUPS: tuple[str, ...] = (
    "data",
    "demo",
    "engine",
    "watchdog",
    "up",
    "collect",
    "ops",
    "tokens",
    "top",
    "market",
    "alerts",
    "simulator",
    "model",
    "audit",
    "doctor",
    "replay",
)

console = Console(stderr=True)
app = typer.Typer(name="ta", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)


class Settings:
    """What the global options say; set by the callback, read by the commands."""

    file: Path | None = None
    data_dir: Path | None = None


@app.callback()
def _options(
    config: Annotated[Path | None, typer.Option("--config", help="configuration file (default: ta.toml)")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="folder for everything written")] = None,
) -> None:
    """Automated trading for Binance USD-M perpetual futures."""
    Settings.file, Settings.data_dir = config, data_dir


def settings(**overrides: object) -> Config:
    """Return the validated configuration, or end the program with exit code 2 and every fault."""
    if Settings.data_dir is not None:
        overrides["data_dir"] = Settings.data_dir
    try:
        return load(Settings.file, **overrides)
    except ConfigError as error:
        fail(*error.faults)


def fail(*faults: str, code: int = 2) -> typing.NoReturn:
    """Print each fault and end the program."""
    for fault in faults:
        console.print(f"[red]error:[/red] {fault}", highlight=False)
    raise typer.Exit(code)


def load_groups() -> None:
    """Add every group's commands, once."""
    if not app.registered_commands:
        for group in GROUPS:
            importlib.import_module(f"control.cli.{group}").register(app)


def run() -> None:
    """Load the groups and run the command line; a refused input is a message, never a traceback."""
    load_groups()
    try:
        app()
    except (ConfigError, DataError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        sys.exit(2)
