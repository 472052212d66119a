"""The Dockerfile's steps, carried out in a clean folder without a container engine; the units, as systemd reads them.

The building stages run with TA_TEST_LONG=1 (they fetch every locked package); always: each step is one that can be.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "docs" / "ops" / "systemd").glob("*.service"))
BUILDING = ("dashboard", "environment")  # the last stage only copies, and adds a user
LONG = os.environ.get("TA_TEST_LONG")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return (instruction, arguments) of each stage, by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            found[name] = []
        elif word and not word.startswith("#"):
            found[name].append((word, rest.strip()))
    return found


def copy(arguments: str, here: Path, built: dict[str, Path]) -> None:
    """Do as COPY does: a folder's content, or files, into the stage's folder."""
    *sources, target = [word for word in shlex.split(arguments) if not word.startswith("--")]
    stage = next((word.partition("=")[2] for word in arguments.split() if word.startswith("--from=")), "")
    place = here / target
    for source in sources:
        path = built[stage] / source.lstrip("/") if stage else ROOT / source
        if path.is_dir():
            ignored = shutil.ignore_patterns("node_modules", "dist", "__pycache__") if not stage else None
            shutil.copytree(path, place, dirs_exist_ok=True, ignore=ignored)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


def build(name: str, folder: Path, built: dict[str, Path]) -> Path:
    """Carry out one stage below `folder`; returns its working folder."""
    here = built[name] = folder / name
    for word, rest in stages()[name]:
        if word == "WORKDIR":
            here = folder / name / rest.lstrip("/")
            here.mkdir(parents=True)
        elif word == "COPY":
            copy(rest, here, built)
        elif word == "RUN":
            variables = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
            done = subprocess.run(rest, shell=True, cwd=here, env=variables, capture_output=True, text=True)
            assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}"
    return here


def test_every_stage_uses_what_a_build_knows() -> None:
    known = {"WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert list(stages()) == [*BUILDING, "final"]
    assert {word for steps in stages().values() for word, _ in steps} <= known


@pytest.mark.skipif(not LONG, reason="fetches every locked package: TA_TEST_LONG=1")
@pytest.mark.timeout(1_200)
def test_the_building_stages_make_a_ta_that_runs(tmp_path: Path) -> None:
    built: dict[str, Path] = {}
    dist = build("dashboard", tmp_path, built) / "dist"
    assert (dist / "index.html").exists()
    place = build("environment", tmp_path, built)
    ta = place / ".venv" / "bin" / "ta"
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TA_COMPILE_CACHE": str(tmp_path / "cache")}
    shown = subprocess.run([ta, "--help"], env=variables, cwd=place, capture_output=True, text=True, check=True)
    assert "doctor" in shown.stdout
    code = "import control.routes.pages as p, websockets; print(p.BUILT, (p.BUILT / 'index.html').exists())"
    python = place / ".venv" / "bin" / "python"
    said = subprocess.run([python, "-c", code], env=variables, cwd=place, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(place / "control" / "dashboard" / "dist"), "True"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_understands_the_units(unit: Path, tmp_path: Path) -> None:
    """On a copy whose program exists: the rest of the unit is what is judged."""
    program = tmp_path / "ta"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/ta/.venv/bin/ta", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)], capture_output=True, text=True
    )
    faults = [line for line in done.stderr.splitlines() if unit.name in line]
    assert faults == [], "\n".join(faults)
