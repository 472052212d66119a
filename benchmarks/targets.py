"""The latency budget: what `targets.toml` asks for, beside what was measured quiet and beside a training job."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

TARGETS = Path(__file__).with_name("targets.toml")
SPACED = "percentiles.py"  # the one source that is no pytest file
OF_A_LIST: dict[str, Callable[[list[float]], float]] = {"min": min, "median": median}


@dataclass(frozen=True)
class Measured:
    """A figure in its target's unit, whether it holds the target, and when it was taken: commit, date, load."""

    value: float
    met: bool
    taken: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A figure that has a target; None: not measured."""

    what: str
    case: str
    bound: float
    upper: bool
    """Whether the bound is a most, not a least."""
    unit: str
    source: str
    quiet: Measured | None
    beside: Measured | None


def load() -> list[dict[str, Any]]:
    """Return the targets."""
    return tomllib.loads(TARGETS.read_text())["target"]


def nodes(files: list[str]) -> list[str]:
    """Return the pytest names of the benchmarks that targets are about, those of `files` alone if there are any."""
    sources = dict.fromkeys(source for target in load() for _, source, _ in target["figures"])
    wanted = [source for source in sources if source.split("::")[0] != SPACED]
    return [source for source in wanted if not files or source.split("::")[0] in files]


def rows(raw: dict[str, Any]) -> list[Row]:
    """Return every figure that has a target, from what `benchmarks.report` keeps."""
    found = []
    for target in load():
        upper = "at_most" in target
        bound = target["at_most" if upper else "at_least"]
        for case, source, figure in target["figures"]:
            measured: list[Measured | None] = []
            for beside in (False, True):
                entry, taken = _entry(raw, source, beside)
                value = None if entry is None else _value(entry, figure)
                if value is None:
                    measured.append(None)
                    continue
                value *= target.get("times", 1.0)
                measured.append(Measured(value, value <= bound if upper else value >= bound, taken))
            found.append(Row(target["what"], case, bound, upper, target["unit"], source, *measured))
    return found


def _entry(raw: dict[str, Any], source: str, beside: bool) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return a source's figures, None if it was not measured, and when they were taken."""
    file, _, name = source.partition("::")
    if file == SPACED:
        cases = {(f"{x['wait']} {x['speed']}", x["training_beside"]): x for x in raw.get("spaced", [])}
        return cases.get((name, beside)), raw.get("taken", {}).get("spaced", {})
    entries = raw.get("beside" if beside else "benchmarks", [])
    entry = next((x for x in entries if (x["file"], x["name"]) == (file, name)), None)
    return (entry, entry.get("taken", {})) if entry else (None, {})


def _value(entry: dict[str, Any], figure: str) -> float | None:
    name, _, of_a_list = figure.partition(" ")
    value = entry.get(name, entry.get("extra", {}).get(name))
    return OF_A_LIST[of_a_list](value) if of_a_list and value else value
