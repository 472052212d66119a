"""Jobs: checked options, one child at a time, progress, log, failure and cancellation."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control.jobs import runner as module
from control.jobs.runner import JobRunner, command_line
from control.problems import ApiError

CHILD = """
import os, sys, time
print("progress 1/4 reading", file=sys.stderr, flush=True)
print("using token=abc123secret", flush=True)
if "--symbol" in sys.argv: sys.exit(3)
if "--from" in sys.argv: time.sleep(60)
print("nice", os.getpriority(os.PRIO_PROCESS, 0), os.environ["TA_JOB"], flush=True)
"""


@pytest.fixture
async def jobs(tmp_path: Path, monkeypatch: Any) -> AsyncIterator[tuple[JobRunner, list[dict[str, Any]]]]:
    script = tmp_path / "child"
    script.write_text(f"#!{sys.executable}\n{CHILD}")
    script.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(script))
    rows: list[dict[str, Any]] = []
    runner = JobRunner(tmp_path, None, rows.append)
    task = asyncio.ensure_future(runner.run())
    yield runner, rows
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true within 10 s"
        await asyncio.sleep(0.01)


async def test_a_job_runs_at_low_priority_with_its_log_redacted(jobs: Any) -> None:
    runner, rows = jobs
    job_id = runner.submit("label", {}, "me").job_id
    await until(lambda: len(rows) == 2)
    job = runner.job(job_id)
    assert job.state == "done" and job.exit_code == 0 and job.progress == 1.0
    assert job.log[-1].endswith(job_id)
    assert "using token=[redacted]" in job.log
    assert [row["state"] for row in rows] == ["running", "done"] and rows[0]["actor"] == "me"


async def test_a_failed_job_says_its_last_line(jobs: Any) -> None:
    runner, rows = jobs
    job_id = runner.submit("train", {"symbol": ["BTCUSDT", "ETHUSDT"], "rounds": 5}, "me").job_id
    await until(lambda: len(rows) == 2)
    job = runner.job(job_id)
    assert job.state == "failed" and job.exit_code == 3 and "using token" in job.error
    assert job.arguments == ["--symbol", "BTCUSDT", "--symbol", "ETHUSDT", "--rounds", "5"]


async def test_a_running_job_can_be_cancelled_and_the_next_one_runs(jobs: Any) -> None:
    runner, _rows = jobs
    first = runner.submit("label", {"from": "2025-01-01"}, "me").job_id
    second = runner.submit("label", {}, "me").job_id
    await until(lambda: runner.job(first).progress == 0.25)
    assert runner.job(second).state == "queued"
    assert runner.cancel(first) and not runner.cancel("label-0-none")
    await until(lambda: runner.job(second).state == "done")
    assert runner.job(first).state == "cancelled" and not runner.cancel(first)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rm", {}),
        ("train", {"config": "x"}),
        ("label", {"symbol": "--config"}),
        ("label", {"symbol": "../../etc/passwd"}),
        ("label", {"from": "$(id)"}),
        ("label", {"from": ["a", "b"]}),
        ("label", {"symbol": ["A"] * 1_001}),
        ("label", {"symbol": ""}),
    ],
)
def test_unknown_kinds_options_and_values_are_refused(kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        command_line(kind, options)
    assert caught.value.status == 400


def test_collect_gets_its_symbols_as_one_list() -> None:
    assert command_line("collect", {"symbol": ["BTCUSDT", "ETHUSDT"], "days": 3}) == [
        "--symbols", "BTCUSDT,ETHUSDT", "--days", "3",
    ]  # fmt: skip


def test_jobs_need_the_admin_scope(client: Any, bearer: Any) -> None:
    assert client.post("/api/jobs", headers=bearer("trade"), json={"kind": "label"}).status_code == 403
    assert client.post("/api/jobs", headers=bearer("admin"), json={"kind": "shell"}).status_code == 400
