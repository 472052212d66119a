"""Engine before requests before jobs, where the kernel shares the processor out by session first: real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control import priority
from control.jobs import models
from control.jobs.runner import NICENESS
from engine.config import Config
from tests.control.browser import wait_for
from tests.control.test_engine_killed import System

OWN = Path("/proc/self/autogroup")
grouped = pytest.mark.skipif(
    not OWN.is_file() or not OWN.read_text(), reason="the kernel does not group sessions: no /proc/self/autogroup"
)
ASK = """
import os, sys
from control import priority
os.nice(int(sys.argv[1]))
worked = priority.for_requests()
print(int(worked), os.getpriority(os.PRIO_PROCESS, 0), open("/proc/self/autogroup").read().split()[-1])
"""


def asked(niceness: int, own_session: bool) -> tuple[int, int, int]:
    """Return what `for_requests` says in a process so much nicer than this; its niceness, and its session's, then."""
    line = [sys.executable, "-c", ASK, str(niceness)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, start_new_session=own_session)
    worked, own, session = map(int, done.stdout.split())
    return worked, own, session


@grouped
def test_a_control_that_leads_its_session_lowers_it_as_itself() -> None:
    for more in (0, 7):
        expected = min(19, max(priority.REQUESTS, os.getpriority(os.PRIO_PROCESS, 0) + more))
        assert asked(more, True) == (1, expected, expected)


@grouped
def test_the_session_of_others_is_left_alone() -> None:
    before = int(OWN.read_text().split()[-1])
    assert asked(0, False) == (0, max(priority.REQUESTS, os.getpriority(os.PRIO_PROCESS, 0)), before)
    assert int(OWN.read_text().split()[-1]) == before


@grouped
def test_a_session_is_lowered_and_never_raised() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        file = Path(f"/proc/{process.pid}/autogroup")
        for wanted, found in ((12, 12), (5, 12), (19, 19)):
            assert priority.lower_session(process.pid, wanted)
            assert int(file.read_text().split()[-1]) == found
        process.communicate(b"\n")
    assert not priority.lower_session(process.pid, 19), "it is no more"


def test_a_system_without_groups_of_sessions_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leader = os.getsid(0)
    monkeypatch.setattr(priority, "Path", lambda name: tmp_path / "absent")
    assert not priority.lower_session(leader, 5)
    (tmp_path / "absent").write_text("")  # what the kernel has there with sched_autogroup_enabled = 0
    assert not priority.lower_session(leader, 5) and (tmp_path / "absent").read_text() == ""


SHOW = """
import os, sys, time
deadline = time.monotonic() + 30
while (group := open("/proc/self/autogroup").read().split()[-1]) != "19" and time.monotonic() < deadline: pass
with open(sys.argv[-1] + "/new", "w") as out:
    print(os.getpid(), os.getsid(0), os.getpriority(os.PRIO_PROCESS, 0), group, file=out)
os.rename(sys.argv[-1] + "/new", sys.argv[-1] + "/shown")
"""


@grouped
def test_building_a_library_yields_to_every_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A promotion is often typed in another terminal than the engine's."""
    shown, program = tmp_path / "shown", tmp_path / "program"
    program.write_text(f"#!{sys.executable} -S\n{SHOW}")
    program.chmod(0o755)
    monkeypatch.setattr(models.sys, "executable", str(program))
    monkeypatch.setattr(models, "COMPILER", "sh")
    models._compile_in_background(Config(data_dir=tmp_path), tmp_path)
    until(shown.exists)
    process, session, niceness, group = map(int, shown.read_text().split())
    assert (session, niceness, group) == (process, 19, 19)


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true within 60 s"
        time.sleep(0.01)
    return found


def process_of(job_id: str) -> int:
    """Return the process that runs a job; 0 while none does."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TA_JOB={job_id}".encode() in environment.read_bytes().split(b"\0"):
                return int(environment.parent.name)
        except OSError:  # it has gone, or is somebody else's
            continue
    return 0


@pytest.mark.timeout(900)
def test_engine_control_and_a_job_share_the_session_in_which_niceness_counts(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    system = System(tmp_path / "var")
    try:
        control = json.loads((system.folder / "control.json").read_text())["pid"]
        engine = wait_for(lambda: system.status().get("engine"))["pid"]
        request = urllib.request.Request(
            f"{system.url}/api/jobs", json.dumps({"kind": "collect", "options": {"days": 60}}).encode(),
            {"Authorization": f"Bearer {system.token}", "Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=30) as answer:
            job_id = json.load(answer)["job_id"]
        job = until(lambda: process_of(job_id))
        session = os.getsid(system.up.pid)
        assert [os.getsid(process) for process in (engine, control, job)] == [session] * 3
        assert [os.getpgid(process) for process in (engine, control, job)] == [engine, control, control]
        until(lambda: os.getpriority(os.PRIO_PROCESS, job) >= NICENESS)
        base = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, engine) == base
        assert os.getpriority(os.PRIO_PROCESS, control) == max(base, priority.REQUESTS)
    finally:
        system.close()


def test_a_kernel_that_refuses_for_now_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group = tmp_path / "autogroup"
    answers = [BlockingIOError, BlockingIOError, None]

    class Busy(type(group)):  # type: ignore[misc]
        def write_text(self, text: str) -> int:
            answer = answers.pop(0)
            if answer is not None:
                raise answer
            return super().write_text(text)

    group.write_text("/autogroup-1 nice 0\n")
    monkeypatch.setattr(priority, "Path", lambda name: Busy(group))
    assert priority.lower_session(os.getsid(0), 5) and group.read_text() == "5"
    answers[:] = [BlockingIOError] * priority.TRIES
    group.write_text("/autogroup-1 nice 0\n")
    assert not priority.lower_session(os.getsid(0), 5)
    answers[:] = [PermissionError]
    assert not priority.lower_session(os.getsid(0), 5)
