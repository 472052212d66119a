"""Control's side of the engine's snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.door import LinkedEngine
from engine import link


def test_a_snapshot_of_another_release_is_no_engine_yet_and_the_new_ones_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(link, "Stage", list(link.Stage)[:-2])
        link.Snapshot(tmp_path, 4, 20)
    door = LinkedEngine(tmp_path, keep_ns=0)
    assert door.snapshot() is None and door.snapshot() is None
    (tmp_path / link.SNAPSHOT_NAME).unlink()
    link.Snapshot(tmp_path, 4, 20)
    assert door.snapshot() is not None
