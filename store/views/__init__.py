"""Views for analytics: one .sql file each, named like the view behind a number that orders them.

The first line says what the view answers. `{gates}` and `{features}` stand for what the record dtypes and the feature
schema name, so that a view never lags behind them; `{lateness}` for the edges of a histogram.
"""

from __future__ import annotations

from pathlib import Path

from kernels.records import GATES
from kernels.schema import NAMES

LATENESS_MS = (25, 50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 2_500, 5_000, 10_000, 30_000, 60_000)
"""Upper edges of `v_lateness`, those of the engine's own histogram."""


def views() -> dict[str, str]:
    """Return the body of every view by name, in the order of creation (a view may use an earlier one)."""
    gates = "[" + ", ".join(f"'{name}'" for name in GATES) + "]"
    features = "[" + ", ".join(f"('{name}', `{name}`)" for name in NAMES) + "]"
    said = {"{gates}": gates, "{features}": features, "{lateness}": str(list(LATENESS_MS))}
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.sql")):
        body = file.read_text()
        for mark, text in said.items():
            body = body.replace(mark, text)
        found[file.stem.split("-", 1)[-1]] = body
    return found


def meanings() -> dict[str, str]:
    """Return what each view answers, by name."""
    return {name: body.splitlines()[0].removeprefix("-- ") for name, body in views().items()}
