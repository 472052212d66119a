"""The engine's doors: a snapshot is never seen half-written, a command is answered or refused with a reason."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import link
from engine.errors import DataError

SPINNER = """
import sys, time
from pathlib import Path
from engine.link import Snapshot
snapshot = Snapshot(Path(sys.argv[1]), 600, 100)
print("ready", flush=True)
i = 0
while True:
    i += 1
    snapshot.begin()
    snapshot.view.status["frames"] = i
    snapshot.view.symbols["close_ms"] = i
    snapshot.view.positions["position_id"] = i
    snapshot.end()
    for _ in range(20_000):  # a real engine writes four times a second
        pass
"""


def test_a_snapshot_of_a_release_that_measured_other_stages_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(link, "Stage", list(link.Stage)[:-2])
        link.Snapshot(tmp_path, 4, 20)
    with pytest.raises(DataError, match="another release; restart the engine"):
        link.SnapshotReader(tmp_path).read()


def test_a_reader_never_sees_a_mixed_snapshot(tmp_path: Path, long_run) -> None:
    process = subprocess.Popen([sys.executable, "-c", SPINNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        reader = link.SnapshotReader(tmp_path)
        seen: set[int] = set()
        reads, until = 0, time.monotonic() + 60
        while reads < long_run(300, 20_000) or (len(seen) <= 10 and time.monotonic() < until):  # both may share a core
            reads += 1
            view = reader.read(attempts=1_000_000)
            i = int(view.status["frames"][0])
            assert (view.symbols["close_ms"] == i).all()
            assert (view.positions["position_id"] == i).all()
            seen.add(i)
        assert len(seen) > 10
    finally:
        process.kill()


def test_no_engine_and_a_restarted_engine(tmp_path: Path) -> None:
    reader = link.SnapshotReader(tmp_path)
    assert reader.read() is None
    with pytest.raises(ConnectionError, match="no engine runs on this data folder"):
        link.command(tmp_path, "status", actor="test")
    for run_id in (1, 2):
        snapshot = link.Snapshot(tmp_path, 4, 2)
        snapshot.view.status["run_id"] = run_id
        assert int(reader.read().status["run_id"][0]) == run_id
        assert not reader.read().alive


async def test_commands_are_answered_refused_and_survive_garbage(tmp_path: Path) -> None:
    async def handle(verb: str, actor: str, args: dict, command_id: str) -> dict:
        if verb == "refuse":
            raise ValueError("not now")
        return {"verb": verb, "actor": actor, "args": args, "id": command_id}

    server = link.CommandServer(tmp_path, handle)
    await server.start()
    try:
        answer = await asyncio.to_thread(
            link.command, tmp_path, "close", actor="anna", args={"symbol": "BTCUSDT"}, command_id="7"
        )
        assert answer["ok"]
        assert answer["result"] == {"verb": "close", "actor": "anna", "args": {"symbol": "BTCUSDT"}, "id": "7"}
        refused = await asyncio.to_thread(link.command, tmp_path, "refuse", actor="anna")
        assert (refused["ok"], refused["error"]) == (False, "not now")
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / link.SOCKET_NAME))
        writer.write(b"garbage\n[1,2]\n")
        assert b"not a command" in await reader.readline()
        assert b"not a command" in await reader.readline()
        writer.close()
        assert (await asyncio.to_thread(link.command, tmp_path, "still", actor="b"))["ok"]
    finally:
        await server.stop()
