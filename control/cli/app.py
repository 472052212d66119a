"""The command tree. Each group of commands is one module with a `register(app)`; heavy imports stay inside commands."""

from __future__ import annotations

import errno
import importlib
import sys
import typing
from pathlib import Path
from typing import Annotated

import typer

from control.loopback import reach_directly
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

PANELS: dict[str, tuple[str, ...]] = {  # how `ta --help` groups the commands
    "Run": ("demo", "up", "engine", "control", "watchdog", "simulator"),
    "Operate": (
        "status",
        "top",
        "logs",
        "start",
        "stop",
        "close",
        "kill",
        "flatten",
        "halt",
        "allow",
        "market",
        "doctor",
    ),
    "Data": ("collect", "import", "seed", "features", "sql"),
    "Models and evidence": ("label", "train", "models", "backtest", "replay", "audit"),
    "Set up": ("settings", "tokens", "alerts"),
}
ALONE = ("engine", "watchdog")  # commands that stand between a crash and guarded positions: nothing else is loaded
STORAGE = frozenset(  # a folder that cannot be used is the operator's to mend
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO}
)
BEFORE_COMMAND = ("--config", "--data-dir")  # global options with a value

if typing.TYPE_CHECKING:
    from rich.console import Console

    console: Console

app = typer.Typer(name="ta", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)


class Settings:
    """What the global options say; set by the callback, read by the commands."""

    file: Path | None = None
    data_dir: Path | None = None


def __getattr__(name: str) -> typing.Any:
    """Make the console for messages when it is first asked for: the engine's process says nothing on it."""
    if name != "console":
        raise AttributeError(name)
    from rich.console import Console

    globals()["console"] = made = Console(stderr=True)
    return made


def say_error(fault: object) -> None:
    """Print a fault for a person as it is, in one line: the brackets of a path or a log are no styles."""
    from rich.text import Text

    __getattr__("console").print(Text.assemble(("error:", "red"), f" {fault}"), highlight=False, soft_wrap=True)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"ta {version('ta-engine')}")
        raise typer.Exit


@app.callback()
def _options(
    config: Annotated[Path | None, typer.Option("--config", help="configuration file (default: ta.toml)")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="folder for everything written (default: var)")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="print the version and end", callback=_version, is_eager=True)
    ] = False,
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
        say_error(fault)
    raise typer.Exit(code)


def load_groups(groups: tuple[str, ...] = GROUPS) -> None:
    """Add the groups' commands, once."""
    if not app.registered_commands:
        for group in groups:
            importlib.import_module(f"control.cli.{group}").register(app)
        panels = {name: panel for panel, names in PANELS.items() for name in names}
        order = {name: at for at, name in enumerate(panels)}
        registered: list[typing.Any] = [*app.registered_commands, *app.registered_groups]
        for command in registered:
            command.rich_help_panel = panels[command_name(command)]
        app.registered_commands.sort(key=lambda command: order[command_name(command)])


def command_name(command: typing.Any) -> str:
    """Return what a registered command or group is called by."""
    return str(command.name or command.callback.__name__.rstrip("_"))


def command_of(arguments: list[str]) -> str:
    """Return the command that a command line names, "" when it names none before its first unknown option."""
    words = iter(arguments)
    for word in words:
        if word in BEFORE_COMMAND:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in BEFORE_COMMAND)):
            return "" if word.startswith("-") else word
    return ""


def run() -> None:
    """Load the groups and run the command line; a refused input is a message, never a traceback."""
    reach_directly()
    command = command_of(sys.argv[1:])
    load_groups((command,) if command in ALONE else GROUPS)
    try:
        app()
    except (ConfigError, DataError) as error:
        say_error(error)
        sys.exit(2)
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        say_error(f"{error.filename or Settings.data_dir or 'the data folder'}: {(error.strerror or '').lower()}")
        sys.exit(1)  # a supervised process is started again: room may be made
