"""Runs the engine and control as child processes: restart with back-off, reduce-only after five crashes in 10 min."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

CRASHES, WINDOW_S = 5, 600.0
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STOP_S = 20.0
API_KEYS, WATCHDOG_KEYS = "TA_SECRETS__API_", "TA_SECRETS__WATCHDOG_"
Say = Callable[[str], None]


def environment(values: Mapping[str, Any], prefix: str = "TA_") -> dict[str, str]:
    """Return the environment variables that give a child process these configuration values."""
    out: dict[str, str] = {}
    for key, value in values.items():
        name = prefix + key.upper()
        if isinstance(value, dict):
            out |= environment(value, name + "__")
        elif isinstance(value, list):
            out[name] = json.dumps(value)
        else:
            out[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return out


@dataclass
class Child:
    """One supervised process. `refusal` is the exit code that no restart can mend (bad configuration, a taken port);
    `withheld`: beginnings of environment variables that it must not inherit, such as another process's keys.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    refusal: int = 2
    restart: bool = True
    withheld: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    crashes: deque[float] = field(default_factory=deque)
    restarts: int = 0
    restart_at: float = 0.0
    ready_line: str = ""
    _began: int = 0  # where the log of this process begins

    def spawn(self) -> None:
        """Start the process; its output goes to the log, and the line that says it is ready is kept."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.ready_line = ""
        with open(self.log, "ab") as log:
            self._began = log.tell()
            self.process = subprocess.Popen(
                self.command,
                env={k: v for k, v in os.environ.items() if not k.startswith(self.withheld)} | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C and a closed terminal reach the supervisor alone, which then stops them in order; a session of
                # its own would do that too, but niceness does not reach from one session to another (`priority`)
                process_group=0,
            )
        threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True).start()

    def _read(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        with open(self.log, "ab") as log:
            for line in stream:
                log.write(line)
                log.flush()
                if b'"ready"' in line:
                    self.ready_line = line.decode()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def tail(self, lines: int = 12) -> str:
        """Return the end of what this process logged; lines of earlier ones would mislead."""
        if not self.log.exists():
            return ""
        with open(self.log, "rb") as log:
            log.seek(self._began)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


class Supervisor:
    """Keeps children running until `stop`. `on_give_up` is told which child crashed too often."""

    def __init__(self, children: list[Child], say: Say, on_give_up: Callable[[Child], object]) -> None:
        self.children, self._say, self._on_give_up = children, say, on_give_up
        self.stopping = threading.Event()

    def start(self, child: Child, timeout_s: float = 120.0) -> str:
        """Spawn a child and wait for its ready line. Raises RuntimeError with the end of its log."""
        child.spawn()
        deadline = time.monotonic() + timeout_s
        while not child.ready_line and not self.stopping.is_set():
            if not child.running:
                raise RuntimeError(f"{child.name} did not start:\n{child.tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{child.name} is not ready after {timeout_s:g} s:\n{child.tail()}")
            time.sleep(0.02)
        return child.ready_line

    def tend(self) -> None:
        """Look after every child once: restart what ended. Called a few times a second."""
        now = time.monotonic()
        for child in self.children:
            if child.process is None or child.running or self.stopping.is_set():
                continue
            if child.restart_at == 0.0:
                self._ended(child, now)
            elif now >= child.restart_at:
                child.restart_at = 0.0
                child.restarts += 1
                try:
                    child.spawn()
                except OSError as error:  # no memory, no more processes: what ended the child may keep others out too
                    child.restart_at = now + BACKOFF_S[-2]
                    self._say(f"{child.name} could not be started: {error}; again in {BACKOFF_S[-2]:g} s")

    def _ended(self, child: Child, now: float) -> None:
        assert child.process is not None
        code = child.process.returncode
        if not child.restart or code == child.refusal:
            self._say(f"{child.name} ended with code {code}; it is not restarted:\n{child.tail()}")
            others = [other.name for other in self.children if other.process is not None and other is not child]
            if others:
                goes = f"{' and '.join(others)} {'goes' if len(others) == 1 else 'go'} on without it"
                self._say(f"{goes}. Mend what it says, end this command (Ctrl-C) and run it again.")
            child.process = None
            return
        child.crashes.append(now)
        while child.crashes and now - child.crashes[0] > WINDOW_S:
            child.crashes.popleft()
        wait_s = BACKOFF_S[min(len(child.crashes) - 1, len(BACKOFF_S) - 1)]
        self._say(f"{child.name} ended with code {code}; restart in {wait_s:g} s")
        child.restart_at = now + wait_s
        if len(child.crashes) == CRASHES:
            self._on_give_up(child)

    def stop(self) -> None:
        """Stop the children in reverse order of their start; kills what does not go in time."""
        self.stopping.set()
        for child in reversed(self.children):
            self.stop_child(child)

    @staticmethod
    def stop_child(child: Child, timeout_s: float = STOP_S) -> None:
        """Send SIGTERM and wait; SIGKILL when it does not end."""
        if child.process is None or child.process.poll() is not None:
            return
        child.process.send_signal(signal.SIGTERM)
        try:
            child.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()


def ta_command(data_dir: Path, *arguments: str, config: Path | None = None) -> list[str]:
    """Return the command line of another `ta` command on the same data folder and configuration file."""
    chosen = ["--config", str(config)] if config else []
    return [sys.executable, "-m", "control.cli", "--data-dir", str(data_dir), *chosen, *arguments]
