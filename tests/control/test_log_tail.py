"""The end of a log over the API: whole lines, no secrets, no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from control.logs import TAIL_BYTES, tail


def test_the_newest_lines_are_given_whole_and_without_secrets(client: Any, bearer: Any, data_dir: Path) -> None:
    assert client.get("/api/logs/engine", headers=bearer()).json()["lines"] == []
    (data_dir / "logs").mkdir()
    lines = [f"line {index}" for index in range(300)] + [
        "asked with signature=deadbeef1234 of ta_0badcafe_abcdefghijkl"
    ]
    (data_dir / "logs" / "engine.log").write_text("\n".join(lines) + "\n")
    found = client.get("/api/logs/engine?lines=3", headers=bearer()).json()
    assert found["lines"][:2] == ["line 298", "line 299"] and found["path"].endswith("logs/engine.log")
    assert "deadbeef" not in found["lines"][2] and "abcdefghijkl" not in found["lines"][2]
    assert len(client.get("/api/logs/engine", headers=bearer()).json()["lines"]) == 200


@pytest.mark.parametrize("name", ["tokens", "..%2Ftokens.json", "engine.log", "%2Fetc%2Fpasswd"])
def test_nothing_but_a_log_can_be_named(client: Any, bearer: Any, name: str) -> None:
    assert client.get(f"/api/logs/{name}", headers=bearer()).status_code in (400, 404)
    assert client.get("/api/logs/engine").status_code == 401


def test_a_huge_log_is_read_from_its_end_and_a_torn_first_line_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "engine.log"
    file.write_bytes(b"x" * TAIL_BYTES + b"\n" + b"a\nb\xff\n")
    assert tail(file, 10) == ["a", "b\ufffd"]
    assert tail(file, 1) == ["b\ufffd"]
