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
from control.jobs.runner import NICENESS
from tests.control.test_engine_killed import System

OWN = Path("/proc/self/autogroup")
grouped = pytest.mark.skipif(
    not OWN.is_file() or not OWN.read_text(), reason="the kernel does not group sessions: no /proc/self/autogroup"
)
ASK = """
import os, sys
from control import priority
os.nice(int(sys.argv[1]))
print("asks", flush=True)
for line in sys.stdin:
    print(priority.for_requests(), open("/proc/self/autogroup").read(), flush=True)
"""


def asked(niceness: int, own_session: bool, wanted: bool) -> tuple[int, int]:
    """Return the niceness of a process and that of its session after `for_requests` answered as wanted."""
    with subprocess.Popen(
        [sys.executable, "-c", ASK, str(niceness)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=own_session,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "asks\n"
        deadline = time.monotonic() + 30
        while True:
            process.stdin.write("\n")
            process.stdin.flush()
            worked, _, _, session = process.stdout.readline().split()
            process.stdout.readline()
            if (
                worked == str(wanted) or time.monotonic() > deadline
            ):  # the kernel takes one change in 0.1 s of anybody's
                break
        found = os.getpriority(os.PRIO_PROCESS, process.pid), int(session)
        process.stdin.close()
    assert worked == str(wanted)
    return found


@grouped
def test_a_control_that_leads_its_session_lowers_it_as_itself() -> None:
    base = os.getpriority(os.PRIO_PROCESS, 0)
    expected = max(priority.REQUESTS, base)
    assert asked(0, True, True) == (expected, expected)
    assert asked(7, True, True) == (min(19, base + 7), min(19, base + 7))


@grouped
def test_the_session_of_others_is_left_alone() -> None:
    before = int(OWN.read_text().split()[-1])
    assert asked(0, False, False) == (max(priority.REQUESTS, os.getpriority(os.PRIO_PROCESS, 0)), before)
    assert int(OWN.read_text().split()[-1]) == before


@grouped
def test_a_session_is_lowered_and_never_raised() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as process:
        file = Path(f"/proc/{process.pid}/autogroup")
        for wanted, found in ((12, 12), (5, 12), (19, 19)):
            until(lambda wanted=wanted: priority.lower_session(process.pid, wanted))  # type: ignore[misc]
            assert int(file.read_text().split()[-1]) == found
        process.communicate(b"\n")
    assert not priority.lower_session(process.pid, 19), "it is no more"


def test_a_system_without_groups_of_sessions_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leader = os.getsid(0)
    monkeypatch.setattr(priority, "Path", lambda name: tmp_path / "absent")
    assert not priority.lower_session(leader, 5)
    (tmp_path / "absent").write_text("")  # what the kernel has there with sched_autogroup_enabled = 0
    assert not priority.lower_session(leader, 5) and (tmp_path / "absent").read_text() == ""


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


def test_engine_control_and_a_job_share_the_session_in_which_niceness_counts(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    system = System(tmp_path / "var")
    try:
        control = json.loads((system.folder / "control.json").read_text())["pid"]
        engine = system.status()["engine"]["pid"]
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
