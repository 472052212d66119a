"""`ta up` at a real terminal: what reaches its children on Ctrl-C, and when the terminal or the shell goes.

The supervisor is the command itself; the children are stand-ins that write down each signal they get.
"""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import os, signal, sys
names = [word for word in sys.argv if word in ("engine", "control")]
if not names:
    sys.exit(0)  # the seeding of bar files
def note(*words):
    with open(os.environ["BOOK"], "a") as book:
        print(names[0], *words, file=book)
def heard(number, frame):
    note(signal.Signals(number).name)
    if number == signal.SIGTERM:
        sys.exit(0)
for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGTSTP", "SIGCONT"):
    signal.signal(getattr(signal, name), heard)
note("began", os.getpid(), os.getpgid(0), os.getsid(0), os.getppid())
while True:
    signal.pause()
"""
UP = """
import sys
from control.cli.app import run
sys.executable = {!r}
sys.argv[1:] = ["--data-dir", {!r}, "up"]
run()
"""
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


class Terminal:
    """A terminal and the program that leads its session; what that prints is thrown away."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self._book = folder / "book"
        self._book.touch()
        self.leader, self._screen = pty.fork()
        if self.leader == 0:
            os.chdir(ROOT)
            os.execvpe(command[0], command, {**os.environ, "BOOK": str(self._book), "TERM": "dumb"})
        os.set_blocking(self._screen, False)

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._screen, text.encode())

    def hang_up(self) -> None:
        """Close the window."""
        if self._screen >= 0:
            os.close(self._screen)
            self._screen = -1

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, reading on so that nobody waits to print."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"not within 60 s: {what}; {self._book.read_text()}"
            with contextlib.suppress(OSError):
                os.read(self._screen, 4_096)
            time.sleep(0.01)

    def began(self) -> list[tuple[str, int, int, int, int]]:
        """Return name, process, group, session and parent of each child that was started, in this order."""
        lines = [line.split() for line in self._book.read_text().splitlines()]
        return [(line[0], *map(int, line[2:])) for line in lines if line[1] == "began"]  # type: ignore[misc]

    def heard(self) -> list[str]:
        """Return which child got which signal, in this order."""
        return [line for line in self._book.read_text().splitlines() if " began " not in line]

    def close(self) -> None:
        """End what a failed test left."""
        self.hang_up()
        for _, child, _, _, supervisor in self.began():
            for process in (supervisor, child):
                if not ended(process):
                    os.kill(process, signal.SIGKILL)
        if not ended(self.leader):
            os.kill(self.leader, signal.SIGKILL)
        os.waitpid(self.leader, 0)


def state(process: int) -> str:
    """Return the letter that the kernel has for what a process does; "" when it is no more."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def ended(process: int) -> bool:
    """Tell whether a process is no more, or waits for nothing but its parent's notice."""
    return state(process) in ("", "Z")


@contextlib.contextmanager
def running(folder: Path, shell: bool, ending: str = "") -> Iterator[Terminal]:
    """`ta up` in a terminal: typed into a shell, with this ending, or the only program of it (`ssh -t HOST ta up`)."""
    child = folder / "child"
    child.write_text(f"#!{sys.executable} -S\n{CHILD}")
    child.chmod(0o755)
    command = [sys.executable, "-c", UP.format(str(child), str(folder / "var"))]
    terminal = Terminal(folder, ["bash", "--norc", "-i"] if shell else command)
    try:
        if shell:
            terminal.type(f"{shlex.join(command)}{ending}\n")
        terminal.until(lambda: len(terminal.began()) == 2, "both children run")
        yield terminal
    finally:
        terminal.close()


def press_ctrl_c(terminal: Terminal) -> None:
    terminal.type("\x03")


def kill_the_leader(terminal: Terminal) -> None:
    os.kill(terminal.leader, signal.SIGKILL)


def stop_and_leave(terminal: Terminal) -> None:
    """Ctrl-Z, and `exit` until the shell obeys: it warns once that there are stopped jobs."""
    terminal.type("\x1a")
    supervisor = terminal.began()[0][-1]
    terminal.until(lambda: state(supervisor) == "T", "the supervisor is stopped")
    terminal.type("exit\nexit\n")


IN_A_SHELL = pytest.param(True, id="shell", marks=needs_bash)
ALONE = pytest.param(False, id="alone")


@pytest.mark.parametrize("shell", [IN_A_SHELL, ALONE])
def test_children_are_in_the_session_of_the_supervisor_each_in_a_group_of_its_own(tmp_path: Path, shell: bool) -> None:
    """In another session niceness would not count: the kernel shares the processor out by session first."""
    with running(tmp_path, shell) as terminal:
        assert {name for name, *_ in terminal.began()} == {"engine", "control"}
        for _, process, group, session, supervisor in terminal.began():
            assert group == process
            assert session == os.getsid(supervisor) == terminal.leader
        assert (supervisor == terminal.leader) is not shell


@pytest.mark.parametrize(
    ("shell", "act"),
    [
        pytest.param(True, press_ctrl_c, marks=needs_bash),
        (False, press_ctrl_c),
        pytest.param(True, Terminal.hang_up, marks=needs_bash),
        (False, Terminal.hang_up),
        pytest.param(True, kill_the_leader, marks=needs_bash),
        pytest.param(True, stop_and_leave, marks=needs_bash),
    ],
)
def test_what_ends_the_command_reaches_the_children_as_an_orderly_stop(
    tmp_path: Path, shell: bool, act: Callable[[Terminal], None]
) -> None:
    with running(tmp_path, shell) as terminal:
        processes = [process for child in terminal.began() for process in (child[1], child[-1])]
        act(terminal)
        terminal.until(lambda: all(map(ended, processes)), "supervisor and children have ended")
        assert terminal.heard() == ["engine SIGTERM", "control SIGTERM"]


@needs_bash
def test_a_supervisor_in_the_background_outlives_its_shell_and_goes_on_without_a_terminal(tmp_path: Path) -> None:
    with running(tmp_path, True, " &") as terminal:
        supervisor, engine = terminal.began()[0][-1], next(c for c in terminal.began() if c[0] == "engine")
        terminal.type("exit\n")
        terminal.until(lambda: ended(terminal.leader), "the shell has gone")
        terminal.hang_up()
        os.kill(engine[1], signal.SIGKILL)  # of which it would tell the terminal
        terminal.until(lambda: len(terminal.began()) == 3, "the engine runs again")
        assert terminal.heard() == []
        os.kill(supervisor, signal.SIGTERM)
        terminal.until(lambda: ended(supervisor), "the supervisor has ended")
        assert terminal.heard() == ["engine SIGTERM", "control SIGTERM"]
