"""`ta up`: the engine and control together, supervised."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control.cli.app import Settings, console, fail, settings
from control.cli.engine import overrides, refuse_other_market
from engine.config import Config

if TYPE_CHECKING:
    from control.supervise import Child

SEED_S = 180.0  # 600 symbols take some seconds
LATE_S = 60.0  # 50 symbols of an empty folder take less
GIVE_UP_S = 600.0  # of waiting for an engine that can be told to be reduce-only


def register(app: typer.Typer) -> None:
    """Add the commands of this group."""
    app.command()(up)


def up(
    mode: Annotated[str, typer.Option(help="shadow (default) or live")] = "",
    exchange: Annotated[str, typer.Option(help="binance, demo, sim or the REST URL of a simulator")] = "",
    symbols: Annotated[str, typer.Option(help="comma-separated; default: market.symbols")] = "",
) -> None:
    """Run the engine and control until Ctrl-C; either is restarted when it crashes. Closing it closes no position."""
    from control.auth import TokenBook, now_ms
    from control.supervise import API_KEYS, WATCHDOG_KEYS, Child, Supervisor, environment, ta_command

    values = overrides(mode, exchange, symbols)
    config = settings(**values)
    refuse_other_market(config)
    variables = environment(values)
    logs = config.data_dir / "logs"
    control = Child(
        "control",
        ta_command(config.data_dir, "control", config=Settings.file),
        variables,
        logs / "control.log",
        withheld=(API_KEYS, WATCHDOG_KEYS),
    )
    engine = Child(
        "engine",
        ta_command(config.data_dir, "engine", config=Settings.file),
        variables,
        logs / "engine.log",
        withheld=(WATCHDOG_KEYS,),
    )
    children = [control, engine]
    if config.watchdog.enabled and config.mode == "live":
        command = ta_command(config.data_dir, "watchdog", config=Settings.file)
        children.append(Child("watchdog", command, variables, logs / "watchdog.log"))
    supervisor = Supervisor(children, say, lambda child: reduce_only(config.data_dir, child.name))
    stop_on_signals(supervisor)
    try:
        seed_bar_files(ta_command(config.data_dir, "seed", config=Settings.file), variables)
        for child in children:
            child.spawn()
        say(f"control: http://{config.control.host}:{config.control.port}; logs: {logs}")
        if not any(token.alive(now_ms()) for token in TokenBook(config.data_dir / "tokens.json").entries()):
            say("nobody can log in yet: `ta tokens create NAME --scope trade` prints a token")
        teller = Ready(engine, config, time.monotonic())
        while not supervisor.stopping.is_set():
            supervisor.tend()
            if text := teller.news(time.monotonic()):
                say(text)
            if not any(child.process for child in supervisor.children):
                fail("neither engine nor control could start; see above", code=1)
            time.sleep(0.2)
    finally:
        supervisor.stop()


@dataclass
class Ready:
    """Says once that the engine is ready, or, once, that it is not and what its log says meanwhile."""

    engine: Child
    config: Config
    begun_s: float
    said: str = ""  # "", late, ready

    def news(self, now_s: float) -> str:
        """Return what the operator has not been told yet."""
        if self.engine.ready_line and self.said != "ready":
            self.said = "ready"
            auto = self.config.control
            opens = auto.live_auto_start if self.config.mode == "live" else auto.auto_start
            state = "a session is open: it trades" if opens else "no session: `ta start` opens one"
            return f"engine: ready in {now_s - self.begun_s:.0f} s, {self.config.mode} mode, {state}"
        if not self.said and not self.engine.ready_line and now_s - self.begun_s > LATE_S:
            self.said = "late"
            log = self.engine.tail(3)
            return f"engine: not ready after {LATE_S:.0f} s; `ta doctor` looks for the cause. Its log says:\n{log}"
        return ""


def seed_bar_files(command: list[str], variables: dict[str, str]) -> None:
    """Fill the engine's bar files from the store before either starts; what fails here REST brings instead."""
    try:
        done = subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=SEED_S, check=False
        )
    except subprocess.TimeoutExpired:
        say(f"bar files: not seeded from the store within {SEED_S:g} s")
    else:
        say(f"bar files: {done.stderr.strip()}")


def say(text: str, style: str = "") -> None:
    """Tell the operator, if anybody still listens: what is supervised goes on without a terminal or a pipe's reader."""
    with contextlib.suppress(OSError, SystemExit):  # the latter is what the console makes of a broken pipe
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)  # logs hold brackets


def stop_on_signals(supervisor: Any) -> None:
    """Make SIGTERM, SIGHUP and Ctrl-C end the supervisor's loop."""

    def ask(number: int, frame: FrameType | None) -> None:
        supervisor.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, ask)


def reduce_only(data_dir: Path, name: str) -> threading.Thread:
    """After too many crashes: no entries until a person has looked. Told by a thread of its own, as soon as an engine
    listens: the supervisor must go on, for it may be the engine itself that is to be restarted first.
    """
    say(f"{name} crashed five times in ten minutes: reduce-only until an operator starts a session", style="red")
    teller = threading.Thread(target=_tell_reduce_only, args=(data_dir,), name="reduce-only", daemon=True)
    teller.start()
    return teller


def _tell_reduce_only(data_dir: Path) -> None:
    from engine.link import command

    deadline = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, TimeoutError):
            command(data_dir, "reduce_only", actor="supervisor")
            return
        time.sleep(0.5)
