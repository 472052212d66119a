"""Jobs: checked options, one child at a time, progress, log, failure and cancellation."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control.commands import StillRunning
from control.jobs import runner as module
from control.jobs.promotion import promotion
from control.jobs.runner import JobRunner, command_line
from control.problems import ApiError

CHILD = """
import os, sys, time
print("progress 1/4 reading", file=sys.stderr, flush=True)
print("using token=abc123secret", flush=True)
if "--symbol" in sys.argv: sys.exit(3)
if "promote" in sys.argv:
    words = sys.argv[sys.argv.index("models"):]
    if "slow" in words: time.sleep(60)
    if "bad" in words:
        print("error: bad is not promoted: not better", file=sys.stderr)
        sys.exit(2)
    while os.getpriority(os.PRIO_PROCESS, 0) < 10: time.sleep(0.01)  # given right after the start
    print('{"words": "%s", "actor": "%s", "nice": %d}' % (" ".join(words), os.environ["TA_ACTOR"],
          os.getpriority(os.PRIO_PROCESS, 0)), flush=True)
    sys.exit(0)
if "--from" in sys.argv: time.sleep(60)
while os.getpriority(os.PRIO_PROCESS, 0) < 10: time.sleep(0.01)
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
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true within 60 s"
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


async def test_a_training_that_is_done_keeps_the_row_that_it_wrote_itself(jobs: Any) -> None:
    """It names the model and the result; a row of ours, of a later version, would replace it by one that does not."""
    runner, rows = jobs
    job_id = runner.submit("train", {"rounds": 5}, "me").job_id
    await until(lambda: runner.job(job_id).state == "done")
    after = runner.submit("label", {}, "me").job_id
    await until(lambda: runner.job(after).state == "done" and len(rows) == 3)
    assert [(row["kind"], row["state"]) for row in rows] == [
        ("train", "running"), ("label", "running"), ("label", "done"),
    ]  # fmt: skip


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


async def test_a_promotion_is_a_child_of_its_own_beside_the_queue(jobs: Any) -> None:
    runner, rows = jobs
    queued = runner.submit("label", {"from": "2025-01-01"}, "me").job_id
    await until(lambda: runner.job(queued).progress == 0.25)
    done = await promotion(runner, "m1", "ops#1", True, "-x; rm", 30.0)
    assert done["words"] == "models promote m1 --json --force --reason=-x; rm"
    assert done["actor"] == "ops#1" and done["nice"] >= module.NICENESS
    assert runner.job(queued).state == "running"
    runner.cancel(queued)
    assert {(row["kind"], row["state"]) for row in rows} >= {("promote", "running"), ("promote", "done")}


async def test_a_refused_promotion_says_why_in_the_words_of_the_gate(jobs: Any) -> None:
    with pytest.raises(ApiError) as caught:
        await promotion(jobs[0], "bad", "ops#1", False, "", 30.0)
    assert (caught.value.status, caught.value.detail) == (409, "bad is not promoted: not better")


async def test_a_long_promotion_goes_on_as_a_job_and_a_second_one_waits_for_its_end(jobs: Any) -> None:
    runner, _ = jobs
    with pytest.raises(StillRunning) as caught:
        await promotion(runner, "slow", "ops#1", False, "", 0.05)
    job_id = caught.value.result["job_id"]
    await until(lambda: runner.job(job_id).progress == 0.25)
    with pytest.raises(ApiError) as second:
        await promotion(runner, "m1", "ops#1", False, "", 30.0)
    assert second.value.status == 409 and "already" in second.value.code
    assert runner.cancel(job_id)
    await until(lambda: runner.job(job_id).state == "cancelled")
    assert (await promotion(runner, "m1", "ops#1", False, "", 30.0))["actor"] == "ops#1"


async def test_a_store_that_is_slow_to_take_a_row_keeps_no_promotion_from_the_next(jobs: Any) -> None:
    runner, rows = jobs
    stored = threading.Event()
    runner._record = lambda row: stored.wait(60) if row["state"] == "done" and len(rows) == 1 else rows.append(row)
    first = asyncio.ensure_future(promotion(runner, "m1", "ops#1", False, "", 60.0))
    await until(lambda: [job.state for job in runner.jobs()] == ["done"])
    try:
        with pytest.raises(ApiError) as caught:
            await promotion(runner, "bad", "ops#1", False, "", 60.0)
        assert caught.value.code == "refused", "it ran"
    finally:
        stored.set()
    assert (await first)["actor"] == "ops#1"


async def test_when_control_ends_no_child_of_it_stays(jobs: Any) -> None:
    runner, _ = jobs
    with pytest.raises(StillRunning) as caught:
        await promotion(runner, "slow", "ops#1", False, "", 0.05)
    await until(lambda: runner.job(caught.value.result["job_id"]).progress == 0.25)
    process = runner._jobs[caught.value.result["job_id"]].process
    (serving,) = [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == "JobRunner.run"]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert process.returncode is not None


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
